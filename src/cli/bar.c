#include <stdio.h>
#include <string.h>

#include "cli/bar.h"
#include "cli/human.h"
#include "cli/table.h"

#define PARTS_MAX 9
#define BAR_LEAST 10
#define BAR_MOST  30
#define GAP       2

/* What may stand behind the bar, the most telling first. */
struct parts {
    char text[PARTS_MAX][80];
    int count;
};

static void add_amount(struct parts *p, const char *done, double total, const char *total_text,
                       const char *unit, const char *of)
{
    if (total > 0)
        snprintf(p->text[p->count++], sizeof p->text[0], "%s%s%s%s", done, of, total_text, unit);
    else
        snprintf(p->text[p->count++], sizeof p->text[0], "%s%s", done, unit);
}

static void add_one(struct parts *p, const char *before, const char *text, const char *after)
{
    snprintf(p->text[p->count++], sizeof p->text[0], "%s%s%s", before, text, after);
}

static void collect(const struct bar_facts *f, const char *of, struct parts *p)
{
    char a[HUMAN_SIZE], b[HUMAN_SIZE];
    bool running = f->status == NULL || strcmp(f->status, "running") == 0;
    p->count = 0;
    if (!running && f->elapsed_seconds >= 0)
        add_one(p, "in ", human_duration(f->elapsed_seconds, a), "");
    if (!running && f->block_seconds > 0)
        add_one(p, "writes blocked ", human_duration(f->block_seconds, a), "");
    if (running && f->eta_seconds >= 0)
        add_one(p, "ETA ", human_age(f->eta_seconds + 0.5, a), "");
    if (running && f->throttle_rate > 0)
        add_one(p, "throttled to ", human_bytes(f->throttle_rate, a), "/s");
    if (f->bytes > 0)
        add_amount(p, human_bytes(f->bytes, a), running ? f->total_bytes : -1, human_bytes(f->total_bytes, b),
                   "", of);
    if (f->rows > 0)
        add_amount(p, human_count(f->rows, a), running ? f->total_rows : -1, human_count(f->total_rows, b),
                   " rows", of);
    if (running && f->bytes_rate > 0)
        add_one(p, "", human_bytes(f->bytes_rate, a), "/s");
    if (running && f->rows_rate > 0)
        add_one(p, "", human_count(f->rows_rate, a), " rows/s");
    if (running && f->lag_seconds > 0)
        add_one(p, "lag ", human_duration(f->lag_seconds, a), "");
}

static enum table_style style_of(const struct bar_facts *f)
{
    const char *status = f->status != NULL ? f->status : "running";
    if (strcmp(status, "done") == 0)
        return TABLE_GOOD;
    return strcmp(status, "running") == 0 ? TABLE_PLAIN : TABLE_BAD;
}

/* What it is doing, or how it ended. */
static const char *phase_of(const struct bar_facts *f)
{
    if (f->status != NULL && strcmp(f->status, "running") != 0)
        return f->status;
    return f->phase != NULL && f->phase[0] != '\0' ? f->phase : "starting";
}

static double clamp(double share)
{
    return share > 0 ? (share < 1 ? share : 1) : 0;
}

static void draw(struct buf *out, double share, unsigned width, bool utf8)
{
    static const char *const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    unsigned steps = (unsigned)(clamp(share) * width * 8 + 0.5), full = steps / 8;
    buf_add_text(out, utf8 ? "▕" : "[");
    for (unsigned i = 0; i < full; i++)
        buf_add_text(out, utf8 ? "█" : "=");
    if (full < width) {
        buf_add_text(out, utf8 ? eighths[steps % 8] : steps % 8 != 0 ? ">" : " ");
        if (utf8 && steps % 8 == 0)
            buf_addc(out, ' ');
        buf_printf(out, "%*s", (int)(width - full - 1), "");
    }
    buf_add_text(out, utf8 ? "▏" : "]");
}

/* Text cut to so many columns, padded to `pad`. */
static unsigned fit(struct buf *out, const char *text, unsigned most, unsigned pad, enum table_style style,
                    bool color)
{
    char cut[128];
    unsigned width = 0;
    size_t n = 0;
    while (text[n] != '\0' && n + 1 < sizeof cut &&
           (width < most || ((unsigned char)text[n] & 0xc0) == 0x80)) {
        width += ((unsigned char)text[n] & 0xc0) != 0x80;
        n++;
    }
    memcpy(cut, text, n);
    cut[n] = '\0';
    table_print_text(out, cut, style, color);
    if (width < pad)
        buf_printf(out, "%*s", (int)(pad - width), "");
    return width > pad ? width : pad;
}

void bar_print(const struct bar_facts *f, const struct bar_look *look, struct buf *out)
{
    struct parts parts;
    char percent[HUMAN_SIZE];
    unsigned left = look->width;
    collect(f, "/", &parts);
    left -= fit(out, f->what != NULL ? f->what : "operation", left, 0, TABLE_PLAIN, false);
    if (left < GAP + 9)
        return;
    buf_add_text(out, "  ");
    left -= GAP + fit(out, phase_of(f), left - GAP, 9, style_of(f), look->color);
    if (left < BAR_LEAST + GAP + 8)
        return;
    unsigned width = left / 3;
    width = width < BAR_LEAST ? BAR_LEAST : width > BAR_MOST ? BAR_MOST : width;
    snprintf(percent, sizeof percent, " %3.0f%%", clamp(f->progress) * 100);
    buf_addc(out, ' ');
    draw(out, f->progress, width, look->utf8);
    buf_add_text(out, percent);
    left -= 1 + width + 2 + (unsigned)strlen(percent);
    for (int i = 0; i < parts.count; i++) {
        unsigned need = (unsigned)table_width(parts.text[i]) + GAP;
        if (need > left)
            continue;
        buf_printf(out, "  %s", parts.text[i]);
        left -= need;
    }
}

void bar_line(const struct bar_facts *f, struct buf *out)
{
    struct parts parts;
    struct buf line = {0};
    bool running = f->status == NULL || strcmp(f->status, "running") == 0;
    bool throttled = running && f->throttle != NULL && f->throttle[0] != '\0';
    struct bar_facts said = *f;
    if (throttled)
        said.throttle_rate = -1; /* the sentence at the end says it */
    collect(&said, " of ", &parts);
    if (f->id != NULL && f->id[0] != '\0')
        buf_printf(&line, "%s ", f->id);
    buf_printf(&line, "%s: %s", f->what != NULL ? f->what : "operation", phase_of(f));
    if (running && f->progress > 0)
        buf_printf(&line, ", %.0f%%", clamp(f->progress) * 100);
    for (int i = 0; i < parts.count; i++)
        buf_printf(&line, ", %s", parts.text[i]);
    if (f->error != NULL && f->error[0] != '\0')
        buf_printf(&line, ": %s", f->error);
    else if (throttled)
        buf_printf(&line, ": %s", f->throttle);
    table_print_text(out, buf_text(&line), TABLE_PLAIN, false);
    buf_free(&line);
}
