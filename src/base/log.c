#include "base/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/env.h"

/* kept free for the end of a cut value, of its pair and of the line */
#define TAIL_ROOM 80

static enum log_level least_level = LOG_INFO;
static enum log_format line_format = LOG_LOGFMT;
static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_setup(enum log_level least, enum log_format format)
{
    least_level = least;
    line_format = format;
}

int log_level_parse(const char *text)
{
    for (int i = 0; i <= LOG_ERROR; i++)
        if (strcmp(text, level_names[i]) == 0)
            return i;
    return -1;
}

/* Quotes with JSON's escapes, which logfmt readers take as well. */
static void add_quoted(struct buf *b, const char *value)
{
    buf_addc(b, '"');
    for (const unsigned char *p = (const unsigned char *)value; *p != '\0' && b->length < LOG_LINE_MAX - 64;
         p++) {
        if (*p == '"' || *p == '\\')
            buf_printf(b, "\\%c", *p);
        else if (*p == '\n')
            buf_add_text(b, "\\n");
        else if (*p == '\t')
            buf_add_text(b, "\\t");
        else if (*p < 0x20 || *p == 0x7f)
            buf_printf(b, "\\u%04x", *p);
        else
            buf_addc(b, (char)*p);
    }
    if (b->length >= LOG_LINE_MAX - 64)
        buf_add_text(b, "...");
    buf_addc(b, '"');
}

/* Blanks and control characters (a terminal would obey them) and what logfmt itself uses. */
static bool needs_quotes(const char *value)
{
    const unsigned char *p = (const unsigned char *)value;
    while (*p > 0x20 && *p != 0x7f && *p != '"' && *p != '=' && *p != '\\')
        p++;
    return *p != '\0' || value[0] == '\0';
}

static void add_pair(struct buf *b, const char *key, const char *value)
{
    if (b->length + strlen(key) + TAIL_ROOM > LOG_LINE_MAX)
        return; /* a longer value before it has taken the line */
    if (line_format == LOG_JSON) {
        buf_printf(b, "%s\"%s\":", b->length > 1 ? "," : "", key);
        add_quoted(b, value);
        return;
    }
    buf_printf(b, "%s%s=", b->length > 0 ? " " : "", key);
    if (needs_quotes(value) || b->length + strlen(value) + TAIL_ROOM > LOG_LINE_MAX)
        add_quoted(b, value); /* cuts what is too long */
    else
        buf_add_text(b, value);
}

void log_event(enum log_level level, const char *message, ...)
{
    if (level < least_level)
        return;
    struct buf line = {.limit = LOG_LINE_MAX};
    char now[ENV_TIME_SIZE];
    struct env *env = env_system();
    env_format_time(env->wall_us(env), now);
    if (line_format == LOG_JSON)
        buf_addc(&line, '{');
    add_pair(&line, "ts", now);
    add_pair(&line, "level", level_names[level]);
    add_pair(&line, "msg", message);
    va_list args;
    va_start(args, message);
    for (const char *key = va_arg(args, const char *); key != NULL; key = va_arg(args, const char *)) {
        const char *value = va_arg(args, const char *);
        if (value != NULL)
            add_pair(&line, key, value);
    }
    va_end(args);
    if (line_format == LOG_JSON)
        buf_addc(&line, '}');
    buf_addc(&line, '\n');
    ssize_t ignored = write(STDERR_FILENO, line.data, line.length);
    (void)ignored; /* nowhere left to report it */
    buf_free(&line);
}

static char *next_slot(void)
{
    static _Thread_local char slots[16][32];
    static _Thread_local unsigned turn;
    return slots[turn++ % 16];
}

const char *log_num(long long value)
{
    char *slot = next_slot();
    snprintf(slot, 32, "%lld", value);
    return slot;
}

const char *log_real(double value, int decimals)
{
    char *slot = next_slot();
    snprintf(slot, 32, "%.*f", decimals, value);
    return slot;
}
