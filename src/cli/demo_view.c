#include "cli/demo_view.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/human.h"
#include "cli/table.h"

#define BAR_MIN 12
#define BAR_MAX 44
#define SHARD   46 /* columns of a shard's line without its bar */
#define TASK    61 /* of a task's line */

#define PLAIN  "\033[0m"
#define FAINT  "\033[2m"
#define BOLD   "\033[1m"
#define RED    "\033[31m"
#define GREEN  "\033[32m"
#define YELLOW "\033[33m"
#define CYAN   "\033[36m"

char *demo_view_number(uint64_t value, char out[32])
{
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%" PRIu64, value), n = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            out[n++] = ',';
        out[n++] = digits[i];
    }
    out[n] = '\0';
    return out;
}

static const char *rate_text(double rate, char out[32])
{
    if (isnan(rate))
        return "-";
    return demo_view_number((uint64_t)llround(fmax(rate, 0)), out);
}

static void paint(struct buf *out, const struct demo_look *look, const char *code)
{
    if (look->color)
        buf_add_text(out, code);
}

/* `cells` columns, share of them full; mark: a cell that shows a limit, -1 = none. */
static void bar(struct buf *out, const struct demo_look *look, unsigned cells, double share, int mark,
                const char *code)
{
    static const char *const eighths[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    double filled = fmin(fmax(share, 0), 1) * cells;
    unsigned whole = (unsigned)filled;
    unsigned part = (unsigned)((filled - whole) * 8);
    paint(out, look, code);
    for (unsigned i = 0; i < cells; i++) {
        if (i < whole)
            buf_add_text(out, look->utf8 ? "█" : "#");
        else if ((int)i == mark)
            buf_add_text(out, look->utf8 ? "╎" : "|");
        else if (i == whole && look->utf8)
            buf_add_text(out, eighths[part]);
        else
            buf_addc(out, ' ');
    }
    paint(out, look, PLAIN);
}

static void state_text(const struct demo_view *v, const struct demo_shard *s, char *out, size_t size)
{
    if (s->role[0] != '\0')
        snprintf(out, size, "%s", s->role);
    else if (s->hot > 0)
        snprintf(out, size, "hot, %u of %u s", s->hot, v->window);
    else
        snprintf(out, size, "%s", s->state);
}

static void shard_line(const struct demo_view *v, const struct demo_look *look, const struct demo_shard *s,
                       unsigned cells, struct buf *out)
{
    char rate[32], bytes[HUMAN_SIZE] = "-", state[96];
    double full = v->threshold * 2; /* the bar's right end */
    bool limited = v->member_count == 0, hot = limited && s->rate > v->threshold;
    state_text(v, s, state, sizeof state);
    if (!isnan(s->bytes))
        human_bytes(s->bytes, bytes);
    buf_add_text(out, "  ");
    paint(out, look, BOLD);
    buf_printf(out, "%-6s", s->name);
    paint(out, look, PLAIN);
    buf_printf(out, "%7s  ", rate_text(s->rate, rate));
    bar(out, look, cells, isnan(s->rate) || full <= 0 ? 0 : s->rate / full, limited ? (int)(cells / 2) : -1,
        hot ? RED : GREEN);
    buf_printf(out, " %10s  ", bytes);
    paint(out, look, s->role[0] != '\0' ? CYAN : s->hot > 0 ? YELLOW : "");
    buf_add_text(out, state);
    paint(out, look, PLAIN);
    buf_addc(out, '\n');
}

static unsigned bar_cells(const struct demo_look *look, unsigned fixed)
{
    unsigned cells = look->width > fixed + BAR_MIN ? look->width - fixed : BAR_MIN;
    return cells > BAR_MAX ? BAR_MAX : cells;
}

static void shards_block(const struct demo_view *v, const struct demo_look *look, struct buf *out)
{
    unsigned cells = bar_cells(look, SHARD);
    char threshold[32], mark[64];
    if (v->shard_count == 0)
        return;
    snprintf(mark, sizeof mark, "%s threshold %s/s", look->utf8 ? "╎" : "|",
             rate_text(v->threshold, threshold));
    if (v->member_count > 0)
        mark[0] = '\0';
    paint(out, look, FAINT);
    buf_printf(out, "  %-6s%7s  %*s%s", "shard", "tx/s", (int)(cells / 2), "", mark);
    for (size_t i = cells / 2 + table_width(mark); i < cells; i++)
        buf_addc(out, ' ');
    buf_printf(out, " %10s  %s\n", "size", "state");
    paint(out, look, PLAIN);
    for (int i = 0; i < v->shard_count; i++)
        shard_line(v, look, &v->shards[i], cells, out);
}

/* What each instance is to be and what it says it is, side by side. */
static void member_line(const struct demo_look *look, const struct demo_member *m, struct buf *out)
{
    char bytes[HUMAN_SIZE], behind[64] = "";
    bool silent = m->reported[0] == '\0', agrees = strcmp(m->assigned, m->reported) == 0;
    if (!m->primary && !silent && !isnan(m->lag_bytes))
        snprintf(behind, sizeof behind, "%s behind%s", human_bytes(m->lag_bytes, bytes),
                 m->sync ? ", commits wait for it" : "");
    buf_add_text(out, "  ");
    paint(out, look, m->primary ? BOLD : "");
    buf_printf(out, "%-14s", m->name);
    paint(out, look, PLAIN);
    buf_printf(out, "%-10s", silent ? "-" : m->assigned);
    paint(out, look, silent ? RED : !agrees ? YELLOW : m->primary ? GREEN : "");
    buf_printf(out, "%-12s", silent ? "not heard" : m->reported);
    paint(out, look, PLAIN);
    buf_printf(out, "%s\n", behind);
}

static void members_block(const struct demo_view *v, const struct demo_look *look, struct buf *out)
{
    if (v->member_count == 0)
        return;
    paint(out, look, FAINT);
    buf_printf(out, "  %-14s%-10s%s\n", "instance", "is to be", "is");
    paint(out, look, PLAIN);
    for (int i = 0; i < v->member_count; i++)
        member_line(look, &v->members[i], out);
}

static void load_lines(const struct demo_view *v, struct buf *out)
{
    char operations[32], acked[32], refused[32];
    buf_printf(out, "  load   %s operations/s; writes p50 %.1f ms, p99 %.1f ms\n",
               rate_text(v->operations, operations), v->p50_ms, v->p99_ms);
    buf_printf(out, "         %s writes acknowledged, %s sent again; no pause over %.1f ms\n",
               demo_view_number(v->acked, acked), demo_view_number(v->refused, refused), v->gap_ms);
}

/* "catch_up" as people write it. */
static void task_name(const struct demo_view *v, char out[32])
{
    snprintf(out, 32, "%s", v->task);
    for (char *p = out; *p != '\0'; p++)
        *p = *p == '_' ? ' ' : *p;
}

static void task_line(const struct demo_view *v, const struct demo_look *look, struct buf *out)
{
    char percent[16], task[32];
    task_name(v, task);
    snprintf(percent, sizeof percent, "%3.0f %%", fmin(fmax(v->task_share, 0), 1) * 100);
    buf_printf(out, "  %-13s  ", task);
    bar(out, look, bar_cells(look, TASK), v->task_share, -1, CYAN);
    buf_printf(out, " %s  %s\n", percent, v->task_text);
}

void demo_view_block(const struct demo_view *v, const struct demo_look *look, struct buf *out)
{
    shards_block(v, look, out);
    members_block(v, look, out);
    if (v->loading)
        load_lines(v, out);
    if (v->task != NULL)
        task_line(v, look, out);
}

void demo_view_line(const struct demo_view *v, struct buf *out)
{
    char rate[32];
    const char *separator = "";
    for (int i = 0; i < v->shard_count; i++) {
        const struct demo_shard *s = &v->shards[i];
        char state[96];
        buf_printf(out, "%s%s %s tx/s", separator, s->name, rate_text(s->rate, rate));
        state_text(v, s, state, sizeof state);
        if (strcmp(state, "serving") != 0)
            buf_printf(out, " (%s)", state);
        separator = ", ";
    }
    if (v->loading)
        buf_printf(out, "%swrites p99 %.1f ms", *separator != '\0' ? "; " : "", v->p99_ms);
    if (v->task != NULL) {
        char task[32];
        task_name(v, task);
        buf_printf(out, "%s%s %.0f %%", out->length > 0 ? "; " : "", task, v->task_share * 100);
        if (v->task_text[0] != '\0')
            buf_printf(out, ", %s", v->task_text);
    }
}

void demo_view_wrap(const char *text, unsigned width, unsigned indent, struct buf *out)
{
    unsigned column = indent;
    while (*text != '\0') {
        size_t length = strcspn(text, " ");
        char word[256];
        snprintf(word, sizeof word, "%.*s", (int)(length < sizeof word ? length : sizeof word - 1), text);
        unsigned columns = (unsigned)table_width(word);
        if (column > indent && column + 1 + columns > width) {
            buf_printf(out, "\n%*s", (int)indent, "");
            column = indent;
        } else if (column > indent) {
            buf_addc(out, ' ');
            column++;
        }
        buf_add_text(out, word);
        column += columns;
        text += length;
        text += strspn(text, " ");
    }
}
