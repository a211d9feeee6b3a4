#include "cli/demo_story.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LINE_PERIOD (5 * ENV_NS_PER_S)
#define WIDTH_MAX   100
#define INDENT      10
#define HIDE_CURSOR "\033[?25l"
#define SHOW_CURSOR "\033[?25h"
#define CLEAR_BELOW "\033[J"
#define NO_WRAP     "\033[?7l"
#define WRAP        "\033[?7h"

static bool says_utf8(struct env *env)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    const char *value = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && (value == NULL || *value == '\0'); i++)
        value = env->get(env, names[i]);
    return value != NULL && (strcasestr(value, "utf-8") != NULL || strcasestr(value, "utf8") != NULL);
}

static void measure(struct demo_story *story)
{
    struct winsize size = {0};
    story->look.width = WIDTH_MAX;
    if (story->live && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        story->look.width = size.ws_col;
}

void demo_story_init(struct demo_story *story, struct env *env, bool color)
{
    const char *term = env->get(env, "TERM"), *no_color = env->get(env, "NO_COLOR");
    memset(story, 0, sizeof *story);
    story->env = env;
    story->started_ns = env->monotonic_ns(env);
    story->live = isatty(STDOUT_FILENO) == 1 && term != NULL && strcmp(term, "dumb") != 0;
    story->look.color = story->live && color && (no_color == NULL || *no_color == '\0');
    story->look.utf8 = says_utf8(env);
    measure(story);
}

double demo_story_seconds(const struct demo_story *story)
{
    return (double)(story->env->monotonic_ns(story->env) - story->started_ns) / 1e9;
}

/* One write for what belongs together, so that nothing flickers. */
static void put(const struct buf *text)
{
    (void)fwrite(text->data, 1, text->length, stdout);
    (void)fflush(stdout);
}

static void erase_block(struct demo_story *story, struct buf *out)
{
    if (story->block_lines > 0)
        buf_printf(out, "\r\033[%uA" CLEAR_BELOW, story->block_lines);
    story->block_lines = 0;
}

static const char *tone_code(enum demo_tone tone)
{
    static const char *const codes[] = {[TONE_PLAIN] = "",
                                        [TONE_HEAD] = "\033[1m",
                                        [TONE_GOOD] = "\033[32m",
                                        [TONE_HOT] = "\033[33m",
                                        [TONE_BAD] = "\033[31m"};
    return codes[tone];
}

void demo_story_say(struct demo_story *story, enum demo_tone tone, const char *fmt, ...)
{
    struct buf out = {0}, text = {0};
    va_list args;
    char line[1024];
    va_start(args, fmt);
    (void)vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    measure(story);
    erase_block(story, &out);
    demo_view_wrap(line, story->look.width < WIDTH_MAX ? story->look.width : WIDTH_MAX, INDENT, &text);
    buf_printf(&out, "%s%6.1f s%s  ", story->look.color ? "\033[2m" : "", demo_story_seconds(story),
               story->look.color ? "\033[0m" : "");
    if (story->look.color)
        buf_add_text(&out, tone_code(tone));
    buf_add_text(&out, buf_text(&text));
    buf_add_text(&out, story->look.color ? "\033[0m\n" : "\n");
    put(&out);
    buf_free(&text);
    buf_free(&out);
}

void demo_story_print(struct demo_story *story, const char *text)
{
    struct buf out = {0};
    erase_block(story, &out);
    buf_add_text(&out, text);
    put(&out);
    buf_free(&out);
}

void demo_story_error(struct demo_story *story, const char *text)
{
    demo_story_end_block(story);
    (void)fflush(stdout);
    (void)fputs(text, stderr);
}

static unsigned count_lines(const char *text)
{
    unsigned lines = 0;
    for (; (text = strchr(text, '\n')) != NULL; text++)
        lines++;
    return lines;
}

static void show_line(struct demo_story *story, const struct demo_view *view)
{
    struct buf line = {0};
    uint64_t now = story->env->monotonic_ns(story->env);
    if (story->line_ns == 0)
        story->line_ns = now;
    if (now - story->line_ns < LINE_PERIOD)
        return;
    story->line_ns = now;
    demo_view_line(view, &line);
    if (line.length > 0)
        demo_story_say(story, TONE_PLAIN, "  %s", buf_text(&line));
    buf_free(&line);
}

void demo_story_show(struct demo_story *story, const struct demo_view *view)
{
    struct buf out = {0}, block = {0};
    if (!story->live) {
        show_line(story, view);
        return;
    }
    measure(story);
    erase_block(story, &out);
    demo_view_block(view, &story->look, &block);
    if (block.length > 0) {
        buf_add_text(&out, HIDE_CURSOR NO_WRAP "\n");
        buf_add_text(&out, buf_text(&block));
        buf_add_text(&out, WRAP);
        story->block_lines = 1 + count_lines(buf_text(&block));
    }
    put(&out);
    buf_free(&block);
    buf_free(&out);
}

void demo_story_end_block(struct demo_story *story)
{
    struct buf out = {0};
    if (!story->live)
        return;
    erase_block(story, &out);
    buf_add_text(&out, SHOW_CURSOR);
    put(&out);
    buf_free(&out);
}
