#include "load/load_compare.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "load/load_keys.h"

/* two bits a row */
#define SEEN_OWNER     1u
#define SEEN_ELSEWHERE 2u

struct load_compare {
    const struct load_state *state;
    const struct routing *routing;
    struct load_findings *findings;
    uint16_t *owner;        /* index of the shard that owns each customer */
    uint64_t *first_order;  /* place of each customer's first expected order among the bits */
    uint8_t *customer_bits; /* four rows a byte */
    uint8_t *order_bits;    /* of the orders in [first, next] : the one in doubt included */
    uint64_t rows;
    uint64_t doubt_applied, doubt_open;
    uint64_t unclean; /* newer by one, by a run that did not end */
};

static void bits_set(uint8_t *bits, uint64_t place, unsigned value)
{
    bits[place / 4] = (uint8_t)(bits[place / 4] | value << place % 4 * 2);
}

static unsigned bits_get(const uint8_t *bits, uint64_t place)
{
    return (unsigned)(bits[place / 4] >> place % 4 * 2) & 3u;
}

struct load_compare *load_compare_new(const struct load_state *state, const struct routing *routing,
                                      struct load_findings *findings)
{
    struct load_compare *c = mem_zalloc(sizeof *c);
    uint32_t customers = state->shape.customers;
    c->state = state;
    c->routing = routing;
    c->findings = findings;
    c->owner = mem_array(customers, sizeof *c->owner);
    c->first_order = mem_array((size_t)customers + 1, sizeof *c->first_order);
    for (uint32_t i = 0; i < customers; i++) {
        const struct routing_shard *owner = routing_owner(routing, load_key_hash(state->shape.key_type, i));
        c->owner[i] = owner != NULL ? (uint16_t)(owner - routing->shards) : UINT16_MAX;
        c->first_order[i + 1] = c->first_order[i] + (state->next[i] - state->first[i]) + 1;
    }
    c->customer_bits = mem_array(customers / 4 + 1, 1);
    c->order_bits = mem_array(c->first_order[customers] / 4 + 1, 1);
    for (int kind = 0; kind < FINDING_MAX; kind++) {
        if (state->found[kind] <= findings->counts[kind])
            continue; /* by this run: listed already */
        load_findings_add(findings, (enum finding_kind)kind, "%llu in all, found while the load ran",
                          (unsigned long long)state->found[kind]);
        findings->counts[kind] = state->found[kind];
    }
    return c;
}

void load_compare_free(struct load_compare *c)
{
    if (c == NULL)
        return;
    free(c->owner);
    free(c->first_order);
    free(c->customer_bits);
    free(c->order_bits);
    free(c);
}

/* ---- one row ---- */

#define FIELD_MAX 64
struct row {
    char key[FIELD_MAX];
    size_t key_length;
    int64_t a; /* version or order_id */
    int64_t b; /* balance or amount */
};

static bool take_text(const char **at, const char *end, char *out, size_t *ret_length)
{
    const char *p = *at;
    while (p < end && *p != '\t' && *p != '\n')
        p++;
    size_t n = (size_t)(p - *at);
    if (n + 1 > FIELD_MAX)
        return false;
    memcpy(out, *at, n);
    out[n] = '\0';
    *ret_length = n;
    *at = p < end && *p == '\t' ? p + 1 : p;
    return true;
}

static bool take_int(const char **at, const char *end, int64_t *ret)
{
    const char *p = *at;
    bool negative = p < end && *p == '-';
    uint64_t value = 0;
    p += negative;
    const char *digits = p;
    for (; p < end && *p >= '0' && *p <= '9'; p++)
        value = value * 10 + (uint64_t)(*p - '0');
    if (p == digits || p - digits > 18)
        return false;
    *ret = negative ? -(int64_t)value : (int64_t)value;
    *at = p < end && *p == '\t' ? p + 1 : p;
    return true;
}

static const char *shard_name(const struct load_compare *c, size_t shard)
{
    return shard < c->routing->shard_count ? c->routing->shards[shard].name : "?";
}

/* False (and found) if the row cannot be one of ours. */
static bool row_parse(struct load_compare *c, const char *table, size_t shard, const char *line,
                      size_t length, struct row *row, uint32_t *ret_number)
{
    const char *at = line, *end = line + length;
    const struct load_shape *shape = &c->state->shape;
    c->rows++;
    bool right = take_text(&at, end, row->key, &row->key_length) && take_int(&at, end, &row->a) &&
                 take_int(&at, end, &row->b) && (at == end || *at == '\n');
    if (right && load_key_parse(shape->key_type, row->key, row->key_length, ret_number) &&
        *ret_number < shape->customers)
        return true;
    int shown = length > 100 ? 100 : (int)length;
    while (shown > 0 && line[shown - 1] == '\n')
        shown--;
    load_findings_add(c->findings, FINDING_UNEXPECTED, "%s on %s: \"%.*s\" is no row of this workload", table,
                      shard_name(c, shard), shown, line);
    return false;
}

static void find_misplaced(struct load_compare *c, const char *what, size_t shard, uint32_t number)
{
    load_findings_add(c->findings, FINDING_MISPLACED, "%s is on %s, its owner is %s", what,
                      shard_name(c, shard), shard_name(c, c->owner[number]));
}

static void count_newer(struct load_compare *c, unsigned pending_bit, uint32_t number, const char *what)
{
    if ((c->state->pending[number] & pending_bit) != 0)
        c->doubt_applied++;
    else if (c->unclean < 2ull * c->state->unclean_clients)
        c->unclean++;
    else
        load_findings_add(c->findings, FINDING_UNEXPECTED, "%s is newer than anything acknowledged", what);
}

void load_compare_customer(struct load_compare *c, size_t shard, const char *line, size_t length)
{
    struct row row;
    uint32_t n;
    char what[FIELD_MAX + 64];
    if (!row_parse(c, "customers", shard, line, length, &row, &n))
        return;
    (void)snprintf(what, sizeof what, "customer %s", row.key);
    if (shard != c->owner[n]) {
        bits_set(c->customer_bits, n, SEEN_ELSEWHERE);
        find_misplaced(c, what, shard, n);
        return;
    }
    if ((bits_get(c->customer_bits, n) & SEEN_OWNER) != 0)
        load_findings_add(c->findings, FINDING_DUPLICATED, "%s is twice on %s", what, shard_name(c, shard));
    bits_set(c->customer_bits, n, SEEN_OWNER);
    int64_t expected = c->state->version[n];
    if (row.a < expected)
        load_findings_add(c->findings, FINDING_LOST, "%s on %s has version %lld, acknowledged was %lld", what,
                          shard_name(c, shard), (long long)row.a, (long long)expected);
    else if (row.a == expected + 1)
        count_newer(c, PENDING_VERSION, n, what);
    else if (row.a > expected)
        load_findings_add(c->findings, FINDING_UNEXPECTED, "%s on %s has version %lld, last written was %lld",
                          what, shard_name(c, shard), (long long)row.a, (long long)expected);
    else if ((c->state->pending[n] & PENDING_VERSION) != 0)
        c->doubt_open++;
    if (row.a >= 0 && row.a <= expected + 1 && row.b != load_balance_of(n, (uint32_t)row.a))
        load_findings_add(c->findings, FINDING_UNEXPECTED,
                          "%s on %s, version %lld: balance is %lld, not %lld", what, shard_name(c, shard),
                          (long long)row.a, (long long)row.b, (long long)load_balance_of(n, (uint32_t)row.a));
}

/* An order at home. True if it is one of those that have a bit. */
static bool compare_order(struct load_compare *c, size_t shard, uint32_t n, const struct row *row,
                          const char *what)
{
    int64_t first = c->state->first[n], next = c->state->next[n];
    if (row->a < first) {
        load_findings_add(c->findings, FINDING_RESURRECTED, "%s is on %s, its delete was acknowledged", what,
                          shard_name(c, shard));
        return false;
    }
    if (row->a > next) {
        load_findings_add(c->findings, FINDING_UNEXPECTED, "%s is on %s, it was never written", what,
                          shard_name(c, shard));
        return false;
    }
    if (row->b != load_amount_of(n, (uint32_t)row->a))
        load_findings_add(c->findings, FINDING_UNEXPECTED, "%s on %s: amount is %lld, not %lld", what,
                          shard_name(c, shard), (long long)row->b,
                          (long long)load_amount_of(n, (uint32_t)row->a));
    if (row->a == next)
        count_newer(c, PENDING_NEXT, n, what);
    return true;
}

void load_compare_order(struct load_compare *c, size_t shard, const char *line, size_t length)
{
    struct row row;
    uint32_t n;
    char what[FIELD_MAX + 64];
    if (!row_parse(c, "orders", shard, line, length, &row, &n))
        return;
    (void)snprintf(what, sizeof what, "order %s/%lld", row.key, (long long)row.a);
    bool home = shard == c->owner[n];
    if (!home)
        find_misplaced(c, what, shard, n);
    bool expected = row.a >= (int64_t)c->state->first[n] && row.a <= (int64_t)c->state->next[n];
    if (home && !compare_order(c, shard, n, &row, what))
        return;
    if (!expected)
        return;
    uint64_t place = c->first_order[n] + (uint64_t)(row.a - (int64_t)c->state->first[n]);
    if (home && (bits_get(c->order_bits, place) & SEEN_OWNER) != 0)
        load_findings_add(c->findings, FINDING_DUPLICATED, "%s is twice on %s", what, shard_name(c, shard));
    bits_set(c->order_bits, place, home ? SEEN_OWNER : SEEN_ELSEWHERE);
}

/* ---- the end ---- */

/* Bits of one row that must be there: lost or duplicated? */
static void finish_row(struct load_compare *c, unsigned bits, uint32_t n, const char *what)
{
    if (bits == (SEEN_OWNER | SEEN_ELSEWHERE))
        load_findings_add(c->findings, FINDING_DUPLICATED, "%s is on its owner %s and elsewhere", what,
                          shard_name(c, c->owner[n]));
    else if ((bits & SEEN_OWNER) == 0)
        load_findings_add(c->findings, FINDING_LOST, "%s is not on its owner %s%s", what,
                          shard_name(c, c->owner[n]), bits != 0 ? ", only elsewhere" : "");
}

static void finish_orders(struct load_compare *c, uint32_t n, const char *key)
{
    char what[FIELD_MAX + 64];
    uint8_t pending = c->state->pending[n];
    for (uint32_t order = c->state->first[n]; order <= c->state->next[n]; order++) {
        unsigned bits = bits_get(c->order_bits, c->first_order[n] + (order - c->state->first[n]));
        if (bits == SEEN_OWNER && order != c->state->first[n])
            continue; /* nearly all */
        (void)snprintf(what, sizeof what, "order %s/%u", key, order);
        bool doubt_next = order == c->state->next[n];
        bool doubt_first = order == c->state->first[n] && (pending & PENDING_FIRST) != 0;
        if (doubt_next && bits == 0) {
            c->doubt_open += (pending & PENDING_NEXT) != 0 ? 1 : 0;
        } else if (doubt_first && (bits & SEEN_OWNER) == 0) {
            c->doubt_applied++;
        } else if (order == c->state->first[n] && bits == 0 && order < c->state->next[n] &&
                   c->unclean < 2ull * c->state->unclean_clients) {
            c->unclean++;
        } else if (!doubt_next || bits == (SEEN_OWNER | SEEN_ELSEWHERE)) {
            c->doubt_open += doubt_first ? 1 : 0;
            finish_row(c, bits, n, what);
        }
    }
}

void load_compare_finish(struct load_compare *c)
{
    char key[LOAD_KEY_SIZE];
    char what[FIELD_MAX + 64];
    for (uint32_t n = 0; n < c->state->shape.customers; n++) {
        unsigned bits = bits_get(c->customer_bits, n);
        load_key_format(c->state->shape.key_type, n, key);
        if (bits != SEEN_OWNER) {
            (void)snprintf(what, sizeof what, "customer %s", key);
            finish_row(c, bits, n, what);
        }
        finish_orders(c, n, key);
    }
}

uint64_t load_compare_rows(const struct load_compare *c)
{
    return c->rows;
}

void load_compare_doubts(const struct load_compare *c, uint64_t *ret_applied, uint64_t *ret_open)
{
    *ret_applied = c->doubt_applied;
    *ret_open = c->doubt_open;
}
