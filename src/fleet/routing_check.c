/* What every routing table must satisfy before it is published or believed. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "fleet/routing.h"

#define TABLE_NAME_MAX 260 /* two quoted identifiers of 63 bytes, every quote doubled, and the dot */
#define COLUMN_MAX     63
#define HOST_MAX       255

/* Length of the UTF-8 sequence at p without control characters, 0 if there is none. */
static size_t character(const unsigned char *p)
{
    if (p[0] >= 0x20 && p[0] < 0x7f)
        return 1;
    size_t n = p[0] >= 0xc2 && p[0] < 0xe0   ? 2
               : (p[0] & 0xf0) == 0xe0       ? 3
               : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
                                             : 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    bool surrogate = p[0] == 0xed && p[1] >= 0xa0;
    bool beyond = p[0] == 0xf4 && p[1] >= 0x90;
    return overlong || surrogate || beyond ? 0 : n;
}

static bool is_printable(const char *text, size_t max)
{
    if (text == NULL || text[0] == '\0' || strlen(text) > max)
        return false;
    size_t n;
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p += n)
        if ((n = character(p)) == 0)
            return false;
    return true;
}

static bool is_qualified(const char *table)
{
    const char *dot = strchr(table, '.');
    return dot != NULL && dot != table && dot[1] != '\0';
}

static int check_order(const char *kind, const char *before, const char *name, struct err *err)
{
    int order = before != NULL ? strcmp(before, name) : -1;
    if (order == 0)
        return err_set(err, ERRC_INVALID, "%s %s is there twice", kind, name);
    return order < 0 ? 0 : err_set(err, ERRC_INVALID, "%s %s and %s are not in order", kind, before, name);
}

static int check_tables(const struct routing *r, struct err *err)
{
    if (r->table_count > ROUTING_TABLES_MAX)
        return err_set(err, ERRC_LIMIT, "%zu tables, more than %d", r->table_count, ROUTING_TABLES_MAX);
    for (size_t i = 0; i < r->table_count; i++) {
        const struct routing_table_key *t = &r->tables[i];
        if (!is_printable(t->table, TABLE_NAME_MAX) || !is_qualified(t->table))
            return err_set(err, ERRC_INVALID, "table %zu: its name is not of the form schema.table", i);
        if (!is_printable(t->key, COLUMN_MAX))
            return err_set(err, ERRC_INVALID,
                           "table %s: the key column's name is not 1 to %d printable bytes", t->table,
                           COLUMN_MAX);
        if ((unsigned)t->type >= KEY_TYPE_MAX)
            return err_set(err, ERRC_INVALID, "table %s: no such key type: %d", t->table, (int)t->type);
        int rc = check_order("table", i > 0 ? r->tables[i - 1].table : NULL, t->table, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int check_address(const struct routing_address *a, const char *shard, const char *role,
                         struct err *err)
{
    if (!is_printable(a->host, HOST_MAX) || strchr(a->host, ' ') != NULL)
        return err_set(err, ERRC_INVALID, "shard %s: the host of a %s is not a name or an address", shard,
                       role);
    if (a->port < 1 || a->port > 65535)
        return err_set(err, ERRC_INVALID, "shard %s: %d is no port (%s)", shard, a->port, role);
    return 0;
}

static int check_shard(const struct routing *r, size_t i, struct err *err)
{
    const struct routing_shard *s = &r->shards[i];
    if (s->name == NULL || !text_is_name(s->name))
        return err_set(err, ERRC_INVALID, "shard %zu: its name is not a lower-case DNS label", i);
    int rc = check_order("shard", i > 0 ? r->shards[i - 1].name : NULL, s->name, err);
    if (rc != 0)
        return rc;
    if (s->epoch > r->epoch)
        return err_set(err, ERRC_INVALID, "shard %s: epoch %" PRIu64 " is above the document's, %" PRIu64,
                       s->name, s->epoch, r->epoch);
    if ((unsigned)s->state >= SHARD_STATE_MAX)
        return err_set(err, ERRC_INVALID, "shard %s: no such state: %d", s->name, (int)s->state);
    if (s->replica_count > ROUTING_REPLICAS_MAX)
        return err_set(err, ERRC_LIMIT, "shard %s: %zu replicas, more than %d", s->name, s->replica_count,
                       ROUTING_REPLICAS_MAX);
    rc = check_address(&s->primary, s->name, "primary", err);
    for (size_t n = 0; rc == 0 && n < s->replica_count; n++)
        rc = check_address(&s->replicas[n], s->name, "replica", err);
    return rc;
}

struct owned {
    struct range range;
    const char *shard;
};

static int owned_compare(const void *a, const void *b)
{
    const struct owned *x = a, *y = b;
    return (x->range.lo > y->range.lo) - (x->range.lo < y->range.lo);
}

static int hole(int64_t lo, int64_t hi, struct err *err)
{
    char text[RANGE_TEXT_SIZE];
    range_format(&(struct range){lo, hi}, text);
    return err_set(err, ERRC_INVALID, "no shard owns range %s", text);
}

/* The ranges, ordered by lo, must follow each other from one end of the space to the other. */
static int check_cover(const struct owned *all, size_t count, struct err *err)
{
    if (count == 0)
        return hole(INT64_MIN, INT64_MAX, err);
    for (size_t i = 0; i < count; i++) {
        const struct range *r = &all[i].range;
        char text[RANGE_TEXT_SIZE];
        range_format(r, text);
        if (r->lo > r->hi)
            return err_set(err, ERRC_INVALID, "shard %s: range %s ends before it begins", all[i].shard, text);
        if (i == 0 && r->lo > INT64_MIN)
            return hole(INT64_MIN, r->lo - 1, err);
        if (i > 0 && r->lo <= all[i - 1].range.hi)
            return err_set(err, ERRC_INVALID, "shards %s and %s overlap at range %s", all[i - 1].shard,
                           all[i].shard, text);
        if (i > 0 && r->lo > all[i - 1].range.hi + 1)
            return hole(all[i - 1].range.hi + 1, r->lo - 1, err);
    }
    return all[count - 1].range.hi == INT64_MAX ? 0 : hole(all[count - 1].range.hi + 1, INT64_MAX, err);
}

static int check_ranges(const struct routing *r, struct err *err)
{
    size_t count = 0;
    for (size_t i = 0; i < r->shard_count; i++)
        count += r->shards[i].ranges.count;
    if (count > ROUTING_RANGES_MAX)
        return err_set(err, ERRC_LIMIT, "%zu ranges, more than %d", count, ROUTING_RANGES_MAX);
    struct owned *all = mem_array(count, sizeof *all);
    size_t at = 0;
    for (size_t i = 0; i < r->shard_count; i++)
        for (size_t n = 0; n < r->shards[i].ranges.count; n++)
            all[at++] = (struct owned){r->shards[i].ranges.items[n], r->shards[i].name};
    qsort(all, count, sizeof *all, owned_compare);
    int rc = check_cover(all, count, err);
    free(all);
    return rc;
}

int routing_check(const struct routing *r, struct err *err)
{
    if (r->database == NULL || !text_is_name(r->database))
        return err_set(err, ERRC_INVALID, "the database's name is not a lower-case DNS label");
    if (r->epoch == 0)
        return err_set(err, ERRC_INVALID, "epoch 0: epochs begin with 1");
    if (r->shard_count > ROUTING_SHARDS_MAX)
        return err_set(err, ERRC_LIMIT, "%zu shards, more than %d", r->shard_count, ROUTING_SHARDS_MAX);
    int rc = check_tables(r, err);
    for (size_t i = 0; rc == 0 && i < r->shard_count; i++)
        rc = check_shard(r, i, err);
    return rc == 0 ? check_ranges(r, err) : rc;
}
