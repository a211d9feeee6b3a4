/*
 * render: a query's answer as the samples of its metric families, and their text. No I/O.
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

/*
 * The samples of several families, small: each label set and each value is there once, and no names. Their
 * text is some ten times as long and written when somebody asks for it. Never changed.
 */
struct samples {
    unsigned users;
    unsigned families;
    const struct query *query;              /* whose columns the families are, ... */
    const struct dynamic_families *dynamic; /* ... or what they are; outlives the samples' readers */
    uint32_t *lengths;                      /* of each family's text, 0 = it has no samples */
    uint32_t *ends;                         /* of the label sets in `bytes` */
    const char *values;                     /* in `bytes`, after the label sets */
    char bytes[];
};

struct samples *samples_keep(struct samples *s); /* one more user */
void samples_free(struct samples *s);            /* one less, the last frees; NULL is fine */

/* Writes the families' texts, one after the other. */
struct samples_reader {
    const struct samples *samples;
    unsigned family; /* the next one */
    const char *at;
};
void samples_reader_init(struct samples_reader *r, const struct samples *s);
/* The next family's lines go to where lengths[family] bytes have room; no NUL follows. Returns their length.
 */
uint32_t samples_reader_next(struct samples_reader *r, char *to);

/* Families whose names come from the servers (pg_settings_*); numbered in the order of their appearance. */
struct dynamic_families;
struct dynamic_families *dynamic_families_new(void);
void dynamic_families_free(struct dynamic_families *d);
unsigned dynamic_families_count(const struct dynamic_families *d);
const struct metric_family *dynamic_family(const struct dynamic_families *d, unsigned number);

/*
 * Takes a result. member_labels (rendered text) stand on every sample. A value that is no number, a label
 * set that occurred before in the result, and what does not fit are left out and counted in *dropped (P17);
 * SQL NULL is left out silently. For dynamic queries family k of the samples is dynamic family k; each line
 * of the answer's one text is "name TAB unit TAB value", the unit may be empty.
 */
struct samples *render_result(const struct query *query, const PGresult *result, const char *member_labels,
                              struct dynamic_families *dynamic, uint64_t *dropped);

#endif
