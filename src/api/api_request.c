/* The body of POST .../operations: what it says, and which range that means. No I/O. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <yyjson.h>

#include "api/api_impl.h"
#include "base/text.h"
#include "operation/move.h"

/* ---- what it says ---- */

static const struct member {
    const char *name;
    enum { TEXT, HASH, FLAG, DURATION } type;
    size_t offset, size; /* of the text, or of the number */
    size_t given;        /* offset of the bool that says it is there; 0 = none: "" says it is not */
} members[] = {
#define AT(m)   offsetof(struct api_move_body, m)
#define SIZE(m) sizeof((struct api_move_body *)NULL)->m
    {"kind", TEXT, AT(kind), SIZE(kind), 0},
    {"shard", TEXT, AT(shard), SIZE(shard), 0},
    {"target", TEXT, AT(target), SIZE(target), 0},
    {"table", TEXT, AT(table), SIZE(table), 0},
    {"key", TEXT, AT(key), SIZE(key), AT(has_key)},
    {"at", HASH, AT(at), SIZE(at), AT(has_at)},
    {"lo", HASH, AT(lo), SIZE(lo), AT(has_lo)},
    {"hi", HASH, AT(hi), SIZE(hi), AT(has_hi)},
    {"dryRun", FLAG, AT(dry_run), SIZE(dry_run), 0},
    {"allowDdl", FLAG, AT(allow_ddl), SIZE(allow_ddl), 0},
    {"bake", DURATION, AT(bake_ns), SIZE(bake_ns), AT(has_bake)},
#undef AT
#undef SIZE
};
#define MEMBER_COUNT (sizeof members / sizeof members[0])

static int set_text(const struct member *m, yyjson_val *value, char *at, struct err *err)
{
    const char *text = yyjson_get_str(value);
    size_t length = yyjson_get_len(value);
    if (text == NULL)
        return err_set(err, ERRC_INVALID, "\"%s\" is to be a string", m->name);
    if (strlen(text) != length)
        return err_set(err, ERRC_INVALID, "\"%s\" holds a NUL character", m->name);
    if (length >= m->size)
        return err_set(err, ERRC_INVALID, "\"%s\" is longer than %zu bytes", m->name, m->size - 1);
    memcpy(at, text, length + 1);
    return 0;
}

static int set_member(const struct member *m, yyjson_val *value, struct api_move_body *body, struct err *err)
{
    char *at = (char *)body + m->offset;
    const char *text = yyjson_get_str(value);
    int64_t hash;
    uint64_t ns;
    switch (m->type) {
    case TEXT:
        return set_text(m, value, at, err);
    case HASH:
        if (text == NULL || !text_to_int64(text, &hash))
            return err_set(err, ERRC_INVALID, "\"%s\" is to be a 64-bit number in quotes", m->name);
        memcpy(at, &hash, sizeof hash);
        return 0;
    case DURATION:
        if (text == NULL || !text_to_duration(text, &ns))
            return err_set(err, ERRC_INVALID, "\"%s\" is to be a duration in quotes, as \"5s\" or \"15m\"",
                           m->name);
        memcpy(at, &ns, sizeof ns);
        return 0;
    case FLAG:
        if (!yyjson_is_bool(value))
            return err_set(err, ERRC_INVALID, "\"%s\" is to be true or false", m->name);
        memcpy(at, &(bool){yyjson_get_bool(value)}, sizeof(bool));
        return 0;
    }
    return 0;
}

static const struct member *member_find(yyjson_val *name)
{
    for (size_t i = 0; i < MEMBER_COUNT; i++)
        if (yyjson_equals_str(name, members[i].name))
            return &members[i];
    return NULL;
}

static int parse_object(yyjson_val *root, struct api_move_body *body, struct err *err)
{
    bool seen[MEMBER_COUNT] = {false};
    size_t i, max;
    yyjson_val *name, *value;
    if (!yyjson_is_obj(root))
        return err_set(err, ERRC_INVALID, "the body is to be a JSON object");
    yyjson_obj_foreach(root, i, max, name, value)
    {
        const struct member *m = member_find(name);
        if (m == NULL)
            return err_set(err, ERRC_INVALID,
                           "unknown member \"%.64s\"; known: kind, shard, target, at, lo, hi, key, "
                           "table, dryRun, allowDdl, bake",
                           yyjson_get_str(name));
        if (seen[m - members])
            return err_set(err, ERRC_INVALID, "member \"%s\" is given twice", m->name);
        seen[m - members] = true;
        int rc = set_member(m, value, body, err);
        if (rc != 0)
            return rc;
        if (m->given != 0)
            memset((char *)body + m->given, true, sizeof(bool));
    }
    if (body->kind[0] == '\0' || body->shard[0] == '\0')
        return err_set(err, ERRC_INVALID, "member \"%s\" is missing",
                       body->kind[0] == '\0' ? "kind" : "shard");
    return 0;
}

int api_move_parse(const char *text, size_t length, struct api_move_body *ret, struct err *err)
{
    struct api_move_body body;
    yyjson_read_err wrong = {0};
    memset(&body, 0, sizeof body);
    yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)text, length, YYJSON_READ_NOFLAG, NULL, &wrong);
    if (doc == NULL) {
        size_t line = 1, column = 1;
        for (size_t i = 0; i < wrong.pos && i < length; i++, column++)
            if (text[i] == '\n') {
                line++;
                column = 0;
            }
        return err_set(err, ERRC_INVALID, "JSON: line %zu, column %zu: %s", line, column, wrong.msg);
    }
    int rc = parse_object(yyjson_doc_get_root(doc), &body, err);
    yyjson_doc_free(doc);
    if (rc == 0)
        *ret = body;
    return rc;
}

/* ---- which range that means ---- */

static const struct range *range_with(const struct routing_shard *shard, int64_t hash)
{
    for (size_t i = 0; i < shard->ranges.count; i++)
        if (range_contains(&shard->ranges.items[i], hash))
            return &shard->ranges.items[i];
    return NULL;
}

static int find_range(const struct routing_shard *shard, int64_t hash, const struct range **ret,
                      struct err *err)
{
    *ret = range_with(shard, hash);
    return *ret != NULL
               ? 0
               : err_set(err, ERRC_REFUSED, "shard \"%s\" does not own hash %" PRId64, shard->name, hash);
}

/* The upper part of the range that holds `at`, from `at` on. */
static int plan_cut(const struct routing_shard *shard, int64_t at, struct range *ret, struct err *err)
{
    const struct range *whole;
    if (find_range(shard, at, &whole, err) != 0)
        return (int)err->code;
    *ret = (struct range){at, whole->hi};
    return 0;
}

/* NULL if it has none. */
static const struct range *widest_of(const struct range_set *set)
{
    const struct range *best = NULL;
    for (size_t i = 0; i < set->count; i++)
        if (best == NULL || range_width_minus_one(&set->items[i]) > range_width_minus_one(best))
            best = &set->items[i];
    return best;
}

static int plan_half(const struct routing_shard *shard, struct range *ret, struct err *err)
{
    const struct range *widest = widest_of(&shard->ranges);
    if (widest == NULL || widest->lo == widest->hi)
        return err_set(err, ERRC_REFUSED, "shard \"%s\" owns %s: there is nothing to cut", shard->name,
                       widest == NULL ? "no range" : "only single hashes");
    int64_t middle = (int64_t)((uint64_t)widest->lo + range_width_minus_one(widest) / 2 + 1);
    *ret = (struct range){middle, widest->hi};
    return 0;
}

static int plan_bounds(const struct routing_shard *shard, const struct api_move_body *body, struct range *ret,
                       struct err *err)
{
    const struct range *whole;
    if (find_range(shard, body->has_lo ? body->lo : body->hi, &whole, err) != 0)
        return (int)err->code;
    struct range range = {body->has_lo ? body->lo : whole->lo, body->has_hi ? body->hi : whole->hi};
    if (range.lo > range.hi)
        return err_set(err, ERRC_INVALID, "\"lo\" is above \"hi\"");
    if (range.hi > whole->hi)
        return err_set(err, ERRC_REFUSED, "shard \"%s\" does not own all of that range", shard->name);
    *ret = range;
    return 0;
}

/* The shard that a merge goes to unless told: the owner of the hashes beside the range. */
static const char *neighbour(const struct routing *routing, const struct routing_shard *shard,
                             const struct range *range)
{
    const struct routing_shard *above = range->hi < INT64_MAX ? routing_owner(routing, range->hi + 1) : NULL;
    const struct routing_shard *below = range->lo > INT64_MIN ? routing_owner(routing, range->lo - 1) : NULL;
    if (above != NULL && above != shard)
        return above->name;
    return below != NULL && below != shard ? below->name : NULL;
}

/* The refusal names the moves that make it possible, the first REMEDIES of them. */
static int refuse_many(const struct routing *routing, const struct routing_shard *shard, const char *target,
                       struct err *err)
{
    enum { REMEDIES = 3 };
    struct buf text = {0};
    const struct range *stays = widest_of(&shard->ranges);
    size_t named = 0;
    for (size_t i = 0; i < shard->ranges.count && named < REMEDIES; i++) {
        const struct range *r = &shard->ranges.items[i];
        const char *to = target != NULL ? target : neighbour(routing, shard, r);
        if (r != stays && to != NULL)
            buf_printf(&text, "%s\"shardherd move %s/%s --to %s --lo %" PRId64 " --hi %" PRId64 "\"",
                       named++ > 0 ? ", " : "", routing->database, shard->name, to, r->lo, r->hi);
    }
    if (shard->ranges.count - 1 > named)
        buf_printf(&text, " and %zu more", shard->ranges.count - 1 - named);
    int rc = err_set(err, ERRC_REFUSED,
                     "shard \"%s\" owns %zu ranges and a merge moves one: first give the others away, one "
                     "after the other: %s",
                     shard->name, shard->ranges.count, buf_text(&text));
    buf_free(&text);
    return rc;
}

static int plan_all(const struct routing *routing, const struct routing_shard *shard, enum move_kind kind,
                    const struct api_move_body *body, struct range *ret, struct err *err)
{
    if (shard->ranges.count == 1) {
        *ret = shard->ranges.items[0];
        return 0;
    }
    if (kind == MOVE_KIND_MERGE && shard->ranges.count > 1)
        return refuse_many(routing, shard, body->target[0] != '\0' ? body->target : NULL, err);
    return err_set(err, ERRC_REFUSED,
                   kind == MOVE_KIND_UPGRADE
                       ? "shard \"%s\" owns %zu ranges and an upgrade moves one: first move the others away"
                       : "shard \"%s\" owns %zu ranges and one is moved at a time: give \"lo\" and \"hi\"",
                   shard->name, shard->ranges.count);
}

static int hash_of_body(const struct routing *routing, const struct api_move_body *body, int64_t *ret,
                        struct err *err)
{
    if (body->has_at) {
        *ret = body->at;
        return 0;
    }
    const struct routing_table_key *table = api_find_table(routing, body->table, err);
    return table == NULL ? (int)err->code : hash_key(table->type, body->key, strlen(body->key), ret, err);
}

static int plan_range(const struct routing *routing, const struct routing_shard *shard, enum move_kind kind,
                      const struct api_move_body *body, struct range *ret, struct err *err)
{
    const struct range *whole;
    int64_t hash;
    if (body->has_lo || body->has_hi)
        return plan_bounds(shard, body, ret, err);
    if (!body->has_at && !body->has_key)
        return kind == MOVE_KIND_MERGE || kind == MOVE_KIND_MOVE || kind == MOVE_KIND_UPGRADE
                   ? plan_all(routing, shard, kind, body, ret, err)
                   : plan_half(shard, ret, err);
    if (hash_of_body(routing, body, &hash, err) != 0)
        return (int)err->code;
    if (kind != MOVE_KIND_ISOLATE)
        return plan_cut(shard, hash, ret, err);
    if (find_range(shard, hash, &whole, err) != 0)
        return (int)err->code;
    *ret = (struct range){hash, hash};
    return 0;
}

/* A split that leaves nothing behind is a move, and most likely a mistake. */
static int check_rest(const struct routing_shard *shard, enum move_kind kind, const struct range *range,
                      struct err *err)
{
    const struct range *first = shard->ranges.items;
    bool all = shard->ranges.count == 1 && first->lo == range->lo && first->hi == range->hi;
    if (!all || (kind != MOVE_KIND_SPLIT && kind != MOVE_KIND_ISOLATE))
        return 0;
    return err_set(err, ERRC_REFUSED, "that is all that shard \"%s\" owns: nothing would stay on it",
                   shard->name);
}

/* All of a shard goes, and then the shard. */
static bool retires(enum move_kind kind)
{
    return kind == MOVE_KIND_MERGE || kind == MOVE_KIND_UPGRADE;
}

/* Members that contradict each other, or that the kind has no use for. */
static int check_members(const struct api_move_body *b, enum move_kind kind, struct err *err)
{
    int ways = (b->has_key ? 1 : 0) + (b->has_at ? 1 : 0) + (b->has_lo || b->has_hi ? 1 : 0);
    if (ways > 1)
        return err_set(err, ERRC_INVALID, "give either \"key\", or \"at\", or \"lo\" and \"hi\"");
    if (b->table[0] != '\0' && !b->has_key)
        return err_set(err, ERRC_INVALID, "\"table\" only says how \"key\" is to be hashed");
    if (retires(kind) && ways > 0)
        return err_set(err, ERRC_INVALID,
                       "%s moves all of the shard: \"key\", \"at\", \"lo\" and \"hi\" have no place",
                       kind == MOVE_KIND_MERGE ? "a merge" : "an upgrade");
    if (kind == MOVE_KIND_UPGRADE && b->target[0] != '\0')
        return err_set(err, ERRC_INVALID, "an upgrade makes a new shard: \"target\" has no place");
    if (kind == MOVE_KIND_ISOLATE && !b->has_key && !b->has_at)
        return err_set(err, ERRC_INVALID, "an isolation needs \"key\" or \"at\"");
    if (kind == MOVE_KIND_REBALANCE && b->target[0] == '\0')
        return err_set(err, ERRC_INVALID, "a rebalance needs \"target\", a shard that exists");
    return 0;
}

static int kind_parse(const char *name, enum move_kind *ret, struct err *err)
{
    for (int k = 0; k < MOVE_KIND_COUNT; k++)
        if (strcmp(name, move_kind_name((enum move_kind)k)) == 0) {
            *ret = (enum move_kind)k;
            return 0;
        }
    return err_set(err, ERRC_INVALID,
                   "\"kind\" is one of split, move, merge, drain, isolate, rebalance, upgrade");
}

int api_move_plan(const struct routing *routing, const struct api_move_body *body, struct api_move_plan *ret,
                  struct err *err)
{
    enum move_kind kind = MOVE_KIND_SPLIT;
    struct api_move_plan plan = {.target = body->target[0] != '\0' ? body->target : NULL};
    const struct routing_shard *shard = routing_find_shard(routing, body->shard);
    if (kind_parse(body->kind, &kind, err) != 0 || check_members(body, kind, err) != 0)
        return (int)err->code;
    const char *missing = shard == NULL ? body->shard : NULL;
    if (missing == NULL && plan.target != NULL && routing_find_shard(routing, plan.target) == NULL)
        missing = plan.target;
    if (missing != NULL)
        return err_set(err, ERRC_NOT_FOUND, "database \"%s\" has no shard \"%s\"", routing->database,
                       missing);
    if (plan_range(routing, shard, kind, body, &plan.range, err) != 0 ||
        check_rest(shard, kind, &plan.range, err) != 0)
        return (int)err->code;
    plan.kind = (int)kind;
    plan.retire = retires(kind);
    if (kind == MOVE_KIND_MERGE && plan.target == NULL)
        plan.target = neighbour(routing, shard, &plan.range);
    if (kind == MOVE_KIND_MERGE && plan.target == NULL)
        return err_set(err, ERRC_REFUSED, "shard \"%s\" has no neighbour to merge with", shard->name);
    *ret = plan;
    return 0;
}
