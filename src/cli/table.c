#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/table.h"

#define GAP 3

struct table_cell {
    char *text; /* NULL = not filled */
    enum table_style style;
};

void table_init(struct table *t, const struct table_column *columns)
{
    memset(t, 0, sizeof *t);
    t->columns = columns;
    while (columns[t->column_count].title != NULL)
        t->column_count++;
    t->next = t->column_count;
}

void table_free(struct table *t)
{
    for (size_t i = 0; i < t->count; i++)
        free(t->cells[i].text);
    free(t->cells);
    memset(t, 0, sizeof *t);
}

void table_row(struct table *t)
{
    size_t wanted = t->count + (size_t)t->column_count;
    if (wanted > t->capacity) {
        t->capacity = wanted * 2;
        t->cells = mem_resize(t->cells, t->capacity, sizeof *t->cells);
    }
    memset(t->cells + t->count, 0, (size_t)t->column_count * sizeof *t->cells);
    t->count = wanted;
    t->next = 0;
}

void table_cell(struct table *t, const char *text)
{
    if (t->next == t->column_count)
        return;
    struct table_cell *cell = &t->cells[t->count - (size_t)t->column_count + (size_t)t->next++];
    cell->text = mem_strdup(text != NULL && text[0] != '\0' ? text : "-");
}

void table_cellf(struct table *t, const char *fmt, ...)
{
    struct buf text = {0};
    va_list args;
    va_start(args, fmt);
    buf_vprintf(&text, fmt, args);
    va_end(args);
    table_cell(t, buf_text(&text));
    buf_free(&text);
}

void table_paint(struct table *t, enum table_style style)
{
    if (t->count > 0 && t->next > 0)
        t->cells[t->count - (size_t)t->column_count + (size_t)t->next - 1].style = style;
}

size_t table_rows(const struct table *t)
{
    return t->count / (size_t)t->column_count;
}

size_t table_width(const char *text)
{
    size_t width = 0;
    for (; *text != '\0'; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

/* U+0080 to U+009F are control characters as well. */
static bool is_c1(const char *p)
{
    return (unsigned char)p[0] == 0xc2 && (unsigned char)p[1] >= 0x80 && (unsigned char)p[1] < 0xa0;
}

void table_print_text(struct buf *out, const char *text, enum table_style style, bool color)
{
    static const char *const codes[] = {[TABLE_GOOD] = "\033[32m",
                                        [TABLE_WARN] = "\033[33m",
                                        [TABLE_BAD] = "\033[31m",
                                        [TABLE_FAINT] = "\033[2m"};
    bool paint = color && style != TABLE_PLAIN;
    if (paint)
        buf_add_text(out, codes[style]);
    for (const char *p = text; *p != '\0'; p++) {
        if (is_c1(p)) {
            buf_addc(out, '?');
            p++;
        } else
            buf_addc(out, (unsigned char)*p < 0x20 || *p == 0x7f ? '?' : *p);
    }
    if (paint)
        buf_add_text(out, "\033[0m");
}

static const char *cell_text(const struct table_cell *cell)
{
    return cell->text != NULL ? cell->text : "-";
}

const char *table_get(const struct table *t, size_t row, int column)
{
    return cell_text(&t->cells[row * (size_t)t->column_count + (size_t)column]);
}

static size_t column_width(const struct table *t, int column, bool header)
{
    size_t width = header ? table_width(t->columns[column].title) : 0;
    for (size_t at = (size_t)column; at < t->count; at += (size_t)t->column_count) {
        size_t w = table_width(cell_text(&t->cells[at]));
        width = w > width ? w : width;
    }
    return width;
}

static void print_line(const struct table *t, const struct table_cell *cells, const size_t *widths, int last,
                       const struct table_look *look, struct buf *out)
{
    for (int c = 0; c <= last; c++) {
        const struct table_column *column = &t->columns[c];
        if (column->wide && !look->wide)
            continue;
        const char *text = cells != NULL ? cell_text(&cells[c]) : column->title;
        size_t pad = widths[c] - table_width(text);
        if (column->right)
            buf_printf(out, "%*s", (int)pad, "");
        table_print_text(out, text, cells != NULL ? cells[c].style : TABLE_PLAIN, look->color);
        if (c != last)
            buf_printf(out, "%*s", (int)(GAP + (column->right ? 0 : pad)), "");
    }
    buf_addc(out, '\n');
}

void table_print(const struct table *t, const struct table_look *look, struct buf *out)
{
    size_t *widths = mem_array((size_t)t->column_count, sizeof *widths);
    int last = 0;
    for (int c = 0; c < t->column_count; c++) {
        widths[c] = column_width(t, c, !look->no_header);
        if (look->widths != NULL && look->widths[c] > widths[c])
            widths[c] = look->widths[c];
        if (look->widths != NULL)
            look->widths[c] = widths[c];
        if (!t->columns[c].wide || look->wide)
            last = c;
    }
    if (!look->no_header)
        print_line(t, NULL, widths, last, look, out);
    for (size_t at = 0; at < t->count; at += (size_t)t->column_count)
        print_line(t, t->cells + at, widths, last, look, out);
    free(widths);
}
