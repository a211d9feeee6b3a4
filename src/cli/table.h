/*
 * table: rows of text in columns, spaced as kubectl does: every column as wide as its widest cell, three
 * blanks between, nothing after the last. Pure.
 *
 * Cells come in order: table_row() begins a row, table_cell() fills the next column. What a cell holds may
 * come from a peer: control bytes are printed as '?', so that no text can steer the terminal.
 */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

enum table_style { TABLE_PLAIN, TABLE_GOOD, TABLE_WARN, TABLE_BAD, TABLE_FAINT };

struct table_column {
    const char *title; /* NULL ends a list of columns */
    bool wide;         /* only in wide tables */
    bool right;        /* aligned to the right: numbers of a table that refreshes */
};

struct table_cell;
struct table {
    const struct table_column *columns;
    int column_count;
    struct table_cell *cells; /* row after row */
    size_t count, capacity;
    int next; /* column of the next cell */
};

void table_init(struct table *t, const struct table_column *columns); /* columns live as long as the table */
void table_free(struct table *t);

void table_row(struct table *t);
/* "" is printed as "-"; more cells than columns are dropped. */
void table_cell(struct table *t, const char *text);
void table_cellf(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The style of the cell filled last. */
void table_paint(struct table *t, enum table_style style);

struct table_look {
    bool wide, color, no_header;
    size_t *widths; /* NULL, or one for each column: at least so wide; grows with what is printed */
};
void table_print(const struct table *t, const struct table_look *look, struct buf *out);
size_t table_rows(const struct table *t);
/* "-" for a cell that was not filled. */
const char *table_get(const struct table *t, size_t row, int column);

/* Columns of a terminal that a text takes: code points, control bytes count as one. */
size_t table_width(const char *text);
/* The text without control bytes, within the escape codes of its style. */
void table_print_text(struct buf *out, const char *text, enum table_style style, bool color);

#endif
