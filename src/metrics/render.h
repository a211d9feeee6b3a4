/*
 * render: a query's answer as the text of its metric families. No I/O.
 */
#ifndef METRICS_RENDER_H
#define METRICS_RENDER_H

#include <libpq-fe.h>
#include <stddef.h>
#include <stdint.h>

#include "metrics/metric_text.h"
#include "metrics/query.h"

#define RENDER_TEXT_MAX    (1024u * 1024u) /* of one query of one instance; what is beyond is dropped */
#define RENDER_DYNAMIC_MAX 2000u           /* families named by servers, over the whole fleet */

/* The samples of several families; family k is text[offsets[k]] up to text[offsets[k + 1]]. Never changed. */
struct samples {
    unsigned users;
    unsigned families;
    uint32_t *offsets; /* families + 1 */
    char text[];
};

/* Collects families in order: samples_add() into `text`, samples_end() after each family. */
struct samples_builder {
    struct buf text;
    uint32_t *offsets;
    unsigned families, capacity;
};
void samples_begin(struct samples_builder *b);
void samples_end(struct samples_builder *b); /* the family that was being written is complete */
struct samples *samples_take(struct samples_builder *b);
struct samples *samples_keep(struct samples *s); /* one more user */
void samples_free(struct samples *s);            /* one less, the last frees; NULL is fine */

/* Families whose names come from the servers (pg_settings_*); numbered in the order of their appearance. */
struct dynamic_families;
struct dynamic_families *dynamic_families_new(void);
void dynamic_families_free(struct dynamic_families *d);
unsigned dynamic_families_count(const struct dynamic_families *d);
const struct metric_family *dynamic_family(const struct dynamic_families *d, unsigned number);

/*
 * Renders a result. member_labels (rendered text) stand on every sample. A value that is no number, a label
 * set that occurred before in the result, and what does not fit are left out and counted in *dropped (P17);
 * SQL NULL is left out silently. For dynamic queries family k of the samples is dynamic family k; each line
 * of the answer's one text is "name TAB unit TAB value", the unit may be empty.
 */
struct samples *render_result(const struct query *query, const PGresult *result, const char *member_labels,
                              struct dynamic_families *dynamic, uint64_t *dropped);

#endif
