/* Reading a ShardedDatabase; printing it is in database_spec_print.c. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"
#include "fleet/range.h"
#include "fleet/routing.h"
#include "manager/config.h"
#include "manager/config_key.h"
#include "manager/config_node.h"

#define IDENTIFIER_MAX      63 /* NAMEDATALEN - 1 */
#define INSTANCE_NAMES_MOST 53 /* of both names in "shop-s1-0"; slots are named after it */

struct parsing {
    const char *source;
    struct database_spec *spec;
    struct err *err;
};

void database_spec_free(struct database_spec *spec)
{
    for (int i = 0; i < spec->shard_count; i++) {
        free(spec->shards[i].name);
        free(spec->shards[i].instance);
    }
    for (int i = 0; i < spec->table_count; i++) {
        free(spec->tables[i].name);
        free(spec->tables[i].key);
    }
    free(spec->shards);
    free(spec->tables);
    free(spec->name);
    free(spec->schema);
    free(spec->owner);
    *spec = (struct database_spec){0};
}

/* ---- words ---- */

/* A required text of a mapping; what: "spec.shards[1].name". */
static int want_member(const struct parsing *p, const struct config_node *map, const char *key,
                       const char *what, const struct config_node **ret)
{
    *ret = config_node_get(map, key);
    if (*ret == NULL)
        return config_node_fail(map, p->source, p->err, "%s is missing: add it", what);
    return config_node_want_text(*ret, p->source, what, p->err);
}

static int want_name(const struct parsing *p, const struct config_node *node, const char *what)
{
    char shown[CONFIG_SHOW_SIZE];
    if (text_is_name(node->text) && strlen(node->text) <= DATABASE_NAME_MAX)
        return 0;
    config_show(node->text, shown);
    return config_node_fail(node, p->source, p->err,
                            "%s: \"%s\" is not a name: at most %d lower-case letters, digits and - inside",
                            what, shown, DATABASE_NAME_MAX);
}

static int want_word(const struct parsing *p, const struct config_node *root, const char *key,
                     const char *word)
{
    const struct config_node *node;
    char shown[CONFIG_SHOW_SIZE];
    int rc = want_member(p, root, key, key, &node);
    if (rc != 0 || strcmp(node->text, word) == 0)
        return rc;
    config_show(node->text, shown);
    return config_node_fail(node, p->source, p->err, "%s: \"%s\" is not known here: write %s", key, shown,
                            word);
}

static bool is_identifier_byte(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80 ||
           (!first && ((c >= '0' && c <= '9') || c == '$'));
}

/* One SQL identifier: what follows it, or NULL. Adds it as PostgreSQL prints it: folded, or quoted. */
static const char *add_identifier(const char *at, struct buf *out)
{
    size_t length = 0;
    if (*at != '"') {
        for (; is_identifier_byte(at[length], length == 0); length++)
            buf_addc(out, at[length] >= 'A' && at[length] <= 'Z' ? (char)(at[length] + 32) : at[length]);
        return length > 0 && length <= IDENTIFIER_MAX ? at + length : NULL;
    }
    buf_addc(out, *at++);
    for (; *at != '"' || at[1] == '"'; at++, length++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return NULL;
        if (*at == '"')
            buf_addc(out, *at++);
        buf_addc(out, *at);
    }
    buf_addc(out, '"');
    return length > 0 && length <= IDENTIFIER_MAX ? at + 1 : NULL;
}

/* "Orders" is public.orders. NULL if it is not the name of a table. */
static char *table_name(const char *text)
{
    struct buf first = {0}, second = {0};
    char *name = NULL;
    const char *rest = add_identifier(text, &first);
    if (rest != NULL && *rest == '\0')
        name = mem_printf("public.%s", buf_text(&first));
    else if (rest != NULL && *rest == '.' && (rest = add_identifier(rest + 1, &second)) != NULL &&
             *rest == '\0')
        name = mem_printf("%s.%s", buf_text(&first), buf_text(&second));
    buf_free(&first);
    buf_free(&second);
    return name;
}

/* ---- shards ---- */

static void name_shards(struct database_spec *spec, int count)
{
    struct range *ranges = mem_array((size_t)count, sizeof *ranges);
    spec->shards = mem_array((size_t)count, sizeof *spec->shards);
    spec->shard_count = count;
    range_split_evenly((size_t)count, ranges);
    for (int i = 0; i < count; i++)
        spec->shards[i] = (struct spec_shard){.name = mem_printf("s%d", i + 1), .range = ranges[i]};
    free(ranges);
}

static int shards_by_count(const struct parsing *p, const struct config_node *node)
{
    int64_t count;
    char shown[CONFIG_SHOW_SIZE];
    config_show(node->text, shown);
    if (!text_to_int64(node->text, &count) || count < 1 || count > ROUTING_SHARDS_MAX)
        return config_node_fail(
            node, p->source, p->err,
            "spec.shards: \"%s\" is neither a number from 1 to %d nor a list of shards: write "
            "e.g. 2",
            shown, ROUTING_SHARDS_MAX);
    name_shards(p->spec, (int)count);
    return 0;
}

static int shard_range(const struct parsing *p, const struct config_node *node, const char *what,
                       struct range *ret)
{
    struct err local = {0};
    int rc = config_node_want_text(node, p->source, what, p->err);
    if (rc != 0)
        return rc;
    if (range_parse(node->text, ret, &local) == 0)
        return 0;
    char shown[CONFIG_SHOW_SIZE];
    config_show(node->text, shown);
    return config_node_fail(node, p->source, p->err,
                            "%s: \"%s\" is not a range: write \"LO..HI\", both inclusive, LO not above HI",
                            what, shown);
}

static int shard_instance(const struct parsing *p, const struct config_node *node, const char *what,
                          struct spec_shard *shard)
{
    char shown[CONFIG_SHOW_SIZE];
    int rc = config_node_want_text(node, p->source, what, p->err);
    if (rc != 0)
        return rc;
    config_show(node->text, shown);
    if (!text_is_name(node->text))
        return config_node_fail(
            node, p->source, p->err,
            "%s: \"%s\" cannot be an instance: write the name of an entry of discovery.static", what, shown);
    shard->instance = mem_strdup(node->text);
    return 0;
}

static int shard_parse(const struct parsing *p, const struct config_node *node, int index)
{
    static const char *const known[] = {"name", "range", "instance", NULL};
    struct spec_shard *shard = &p->spec->shards[index];
    const struct config_node *name;
    char what[64];
    snprintf(what, sizeof what, "spec.shards[%d]", index);
    int rc = config_node_want_map(node, p->source, what, p->err);
    if (rc == 0)
        rc = config_node_want_keys(node, p->source, known, p->err);
    snprintf(what, sizeof what, "spec.shards[%d].name", index);
    if (rc == 0)
        rc = want_member(p, node, "name", what, &name);
    if (rc == 0)
        rc = want_name(p, name, what);
    if (rc != 0)
        return rc;
    shard->name = mem_strdup(name->text);
    const struct config_node *range = config_node_get(node, "range");
    const struct config_node *instance = config_node_get(node, "instance");
    snprintf(what, sizeof what, "spec.shards[%d].range", index);
    if (range != NULL)
        rc = shard_range(p, range, what, &shard->range);
    snprintf(what, sizeof what, "spec.shards[%d].instance", index);
    return rc == 0 && instance != NULL ? shard_instance(p, instance, what, shard) : rc;
}

static int shards_unique(const struct parsing *p, const struct config_node *list)
{
    const struct spec_shard *shards = p->spec->shards;
    for (int i = 0; i < p->spec->shard_count; i++)
        for (int j = 0; j < i; j++) {
            if (strcmp(shards[i].name, shards[j].name) == 0)
                return config_node_fail(
                    config_node_get(&list->items[i], "name"), p->source, p->err,
                    "spec.shards[%d].name: shard %s is there already, in line %d: give it "
                    "another name",
                    i, shards[i].name, list->items[j].line);
            if (shards[i].instance != NULL && shards[j].instance != NULL &&
                strcmp(shards[i].instance, shards[j].instance) == 0)
                return config_node_fail(
                    config_node_get(&list->items[i], "instance"), p->source, p->err,
                    "spec.shards[%d].instance: %s is used by shard %s already: take another", i,
                    shards[i].instance, shards[j].name);
        }
    return 0;
}

/* The ranges in order, with the list's index. */
struct placed {
    struct range range;
    int index;
};

static int by_lo(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    if (x->range.lo != y->range.lo)
        return x->range.lo < y->range.lo ? -1 : 1;
    return x->index - y->index;
}

static int hole_fail(const struct parsing *p, const struct config_node *at, int64_t lo, int64_t hi)
{
    char text[RANGE_TEXT_SIZE];
    range_format(&(struct range){lo, hi}, text);
    return config_node_fail(at, p->source, p->err, "spec.shards: no shard has %s: give it to one of them",
                            text);
}

static int ranges_cover(const struct parsing *p, const struct config_node *list, const struct placed *all,
                        int count)
{
    const struct config_node *first = config_node_get(&list->items[all[0].index], "range");
    const struct config_node *last = config_node_get(&list->items[all[count - 1].index], "range");
    if (all[0].range.lo != INT64_MIN)
        return hole_fail(p, first, INT64_MIN, all[0].range.lo - 1);
    for (int i = 1; i < count; i++) {
        const struct config_node *at = config_node_get(&list->items[all[i].index], "range");
        if (all[i].range.lo <= all[i - 1].range.hi)
            return config_node_fail(
                at, p->source, p->err,
                "spec.shards[%d].range: it overlaps the range of shard %s: begin it behind "
                "that one's end",
                all[i].index, p->spec->shards[all[i - 1].index].name);
        if (all[i].range.lo != all[i - 1].range.hi + 1)
            return hole_fail(p, at, all[i - 1].range.hi + 1, all[i].range.lo - 1);
    }
    if (all[count - 1].range.hi != INT64_MAX)
        return hole_fail(p, last, all[count - 1].range.hi + 1, INT64_MAX);
    return 0;
}

/* None has a range: equal parts. All have: they must cover everything. */
static int shards_ranges(const struct parsing *p, const struct config_node *list)
{
    int count = p->spec->shard_count, given = 0, without = 0;
    for (int i = 0; i < count; i++) {
        bool has = config_node_get(&list->items[i], "range") != NULL;
        given += has;
        if (!has)
            without = i;
    }
    if (given != 0 && given != count)
        return config_node_fail(&list->items[without], p->source, p->err,
                                "spec.shards[%d] has no range and others have: give all a range, or none",
                                without);
    if (given == 0) {
        struct range *ranges = mem_array((size_t)count, sizeof *ranges);
        range_split_evenly((size_t)count, ranges);
        for (int i = 0; i < count; i++)
            p->spec->shards[i].range = ranges[i];
        free(ranges);
        return 0;
    }
    struct placed *all = mem_array((size_t)count, sizeof *all);
    for (int i = 0; i < count; i++)
        all[i] = (struct placed){p->spec->shards[i].range, i};
    qsort(all, (size_t)count, sizeof *all, by_lo);
    int rc = ranges_cover(p, list, all, count);
    free(all);
    return rc;
}

static int shards_parse(const struct parsing *p, const struct config_node *spec)
{
    const struct config_node *node = config_node_get(spec, "shards");
    if (node == NULL)
        return config_node_fail(spec, p->source, p->err,
                                "spec.shards is missing: write how many, or a list of them");
    if (node->kind == CONFIG_NODE_TEXT)
        return shards_by_count(p, node);
    int rc = config_node_want_list(node, p->source, "spec.shards", p->err);
    if (rc != 0)
        return rc;
    if (node->count < 1 || node->count > ROUTING_SHARDS_MAX)
        return config_node_fail(node, p->source, p->err, "spec.shards has %d shards: write 1 to %d",
                                node->count, ROUTING_SHARDS_MAX);
    p->spec->shards = mem_array((size_t)node->count, sizeof *p->spec->shards);
    p->spec->shard_count = node->count;
    for (int i = 0; i < node->count && rc == 0; i++)
        rc = shard_parse(p, &node->items[i], i);
    if (rc == 0)
        rc = shards_unique(p, node);
    return rc != 0 ? rc : shards_ranges(p, node);
}

/* ---- instances ---- */

static int instances_parse(const struct parsing *p, const struct config_node *spec)
{
    const struct config_node *node = config_node_get(spec, "instances");
    int64_t count;
    char shown[CONFIG_SHOW_SIZE];
    p->spec->instances = 1;
    if (node == NULL)
        return 0;
    int rc = config_node_want_text(node, p->source, "spec.instances", p->err);
    if (rc != 0)
        return rc;
    config_show(node->text, shown);
    if (!text_to_int64(node->text, &count) || count < 1)
        return config_node_fail(node, p->source, p->err,
                                "spec.instances: \"%s\" is not a number of instances: write 1", shown);
    if (count > DATABASE_INSTANCES_MAX)
        return config_node_fail(node, p->source, p->err,
                                "spec.instances is %s: there can be %d at most for each shard", shown,
                                DATABASE_INSTANCES_MAX);
    for (int i = 0; i < p->spec->shard_count && count > 1; i++)
        if (p->spec->shards[i].instance != NULL)
            return config_node_fail(node, p->source, p->err,
                                    "spec.instances is %s, and shard %s names an instance: servers that are "
                                    "there already have no standbys here, write 1",
                                    shown, p->spec->shards[i].name);
    p->spec->instances = (int)count;
    return 0;
}

/* ---- tags of instances ---- */

#define PRIORITY_MOST 1000
#define DELAY_LEAST   ENV_NS_PER_S
#define DELAY_MOST    (30ull * 24 * 3600 * ENV_NS_PER_S)

static int flag_parse(const struct parsing *p, const struct config_node *node, const char *what, bool *ret)
{
    int rc = node != NULL ? config_node_want_text(node, p->source, what, p->err) : 0;
    if (rc != 0 || node == NULL)
        return rc;
    *ret = strcmp(node->text, "true") == 0;
    return *ret || strcmp(node->text, "false") == 0
               ? 0
               : config_node_fail(node, p->source, p->err, "%s is neither true nor false", what);
}

static int number_parse(const struct parsing *p, const struct config_node *node, const char *what,
                        int64_t least, int64_t most, int64_t *ret)
{
    int rc = node != NULL ? config_node_want_text(node, p->source, what, p->err) : 0;
    if (rc != 0 || node == NULL)
        return rc;
    return text_to_int64(node->text, ret) && *ret >= least && *ret <= most
               ? 0
               : config_node_fail(node, p->source, p->err, "%s is no number from %d to %d", what, (int)least,
                                  (int)most);
}

static int delay_parse(const struct parsing *p, const struct config_node *node, const char *what,
                       uint64_t *ret)
{
    int rc = node != NULL ? config_node_want_text(node, p->source, what, p->err) : 0;
    if (rc != 0 || node == NULL)
        return rc;
    return text_to_duration(node->text, ret) && *ret >= DELAY_LEAST && *ret <= DELAY_MOST
               ? 0
               : config_node_fail(node, p->source, p->err, "%s is no duration from 1s to 720h", what);
}

static int tags_parse(const struct parsing *p, const struct config_node *node, int index, unsigned *seen)
{
    static const char *const known[] = {"number",      "noFailover", "noSync", "priority",
                                        "replayDelay", "follows",    NULL};
    static const char *const names[] = {"number",   "noFailover",  "noSync",
                                        "priority", "replayDelay", "follows"};
    const struct config_node *values[6] = {0};
    char what[6][64];
    int64_t number = 0, priority = 0, follows = -1;
    struct instance_tags tags = {0};
    snprintf(what[0], sizeof what[0], "spec.members[%d]", index);
    int rc = config_node_want_map(node, p->source, what[0], p->err);
    if (rc == 0)
        rc = config_node_want_keys(node, p->source, known, p->err);
    for (int i = 0; i < 6 && rc == 0; i++) {
        snprintf(what[i], sizeof what[i], "spec.members[%d].%s", index, names[i]);
        values[i] = config_node_get(node, names[i]);
    }
    if (rc == 0 && values[0] == NULL)
        rc = config_node_fail(node, p->source, p->err, "%s is missing: add it", what[0]);
    if (rc == 0)
        rc = number_parse(p, values[0], what[0], 0, p->spec->instances - 1, &number);
    if (rc == 0 && (*seen & 1u << number) != 0)
        rc = config_node_fail(values[0], p->source, p->err, "%s: %d is there already: one entry for each",
                              what[0], (int)number);
    if (rc == 0)
        rc = flag_parse(p, values[1], what[1], &tags.no_failover);
    if (rc == 0)
        rc = flag_parse(p, values[2], what[2], &tags.no_sync);
    if (rc == 0)
        rc = number_parse(p, values[3], what[3], -PRIORITY_MOST, PRIORITY_MOST, &priority);
    if (rc == 0)
        rc = delay_parse(p, values[4], what[4], &tags.delay_ns);
    if (rc == 0 && values[5] != NULL)
        rc = number_parse(p, values[5], what[5], 0, p->spec->instances - 1, &follows);
    if (rc != 0)
        return rc;
    *seen |= 1u << number;
    tags.priority = (int)priority;
    tags.follows = (int)follows + 1;
    p->spec->members[number] = tags;
    return 0;
}

/* Who is followed follows the primary: so there is no circle, and a standby's end touches those below it
 * alone. */
static int upstreams_hold(const struct parsing *p, const struct config_node *list)
{
    const struct instance_tags *all = p->spec->members;
    for (int i = 0; i < p->spec->instances; i++) {
        int upstream = all[i].follows - 1;
        if (upstream == i)
            return config_node_fail(list, p->source, p->err, "spec.members: %d follows itself", i);
        if (upstream >= 0 && all[upstream].follows != 0)
            return config_node_fail(
                list, p->source, p->err,
                "spec.members: %d follows %d, which follows %d: only one that follows the "
                "primary can be followed",
                i, upstream, all[upstream].follows - 1);
    }
    return 0;
}

/* The first is the primary of a new shard, and somebody has to be able to follow it, and to help it. */
static int members_hold(const struct parsing *p, const struct config_node *list)
{
    const struct instance_tags *all = p->spec->members;
    int heirs = 0, helpers = 0;
    for (int i = 0; i < p->spec->instances; i++) {
        heirs += !all[i].no_failover && all[i].delay_ns == 0 && all[i].follows == 0;
        helpers += !all[i].no_sync && all[i].delay_ns == 0 && all[i].follows == 0;
    }
    if (all[0].no_failover || all[0].delay_ns != 0 || all[0].follows != 0)
        return config_node_fail(list, p->source, p->err,
                                "spec.members: 0 is the primary of a new shard: tag another one");
    if (heirs < 2 || helpers < 2)
        return config_node_fail(
            list, p->source, p->err,
            "spec.members: at least two instances have to be without %s, replayDelay and follows",
            heirs < 2 ? "noFailover" : "noSync");
    return upstreams_hold(p, list);
}

static int members_parse(const struct parsing *p, const struct config_node *spec)
{
    const struct config_node *node = config_node_get(spec, "members");
    unsigned seen = 0;
    if (node == NULL)
        return 0;
    if (p->spec->instances < 2)
        return config_node_fail(node, p->source, p->err,
                                "spec.members: shards of one instance have no members: leave it out");
    int rc = config_node_want_list(node, p->source, "spec.members", p->err);
    for (int i = 0; i < node->count && rc == 0; i++)
        rc = tags_parse(p, &node->items[i], i, &seen);
    return rc != 0 || seen == 0 ? rc : members_hold(p, node);
}

int database_spec_makeable(const struct database_spec *spec, bool kept, struct err *err)
{
    size_t longest = 2; /* of shards that moves make */
    if (spec->instances < 2)
        return 0;
    if (!kept)
        return err_set(err, ERRC_UNSUPPORTED,
                       "spec.instances is %d: shards with standbys are made by the local runtime and in "
                       "Kubernetes (runtime.kind: local, kubernetes) only as yet: write 1",
                       spec->instances);
    for (int i = 0; i < spec->shard_count; i++) {
        size_t length = strlen(spec->shards[i].name);
        longest = length > longest ? length : longest;
    }
    if (strlen(spec->name) + longest > INSTANCE_NAMES_MOST)
        return err_set(err, ERRC_INVALID,
                       "spec.instances is %d: the names of the database and of a shard may then have %d "
                       "characters together",
                       spec->instances, INSTANCE_NAMES_MOST);
    return 0;
}

/* ---- tables ---- */

static int table_key(const struct parsing *p, const struct config_node *node, const char *what)
{
    bool printable = true;
    for (const char *c = node->text; *c != '\0'; c++)
        printable = printable && (unsigned char)*c >= 0x20 && *c != 0x7f;
    if (printable && node->text[0] != '\0' && strlen(node->text) <= IDENTIFIER_MAX)
        return 0;
    return config_node_fail(node, p->source, p->err,
                            "%s is not a column: write its name, 1 to %d bytes, without quotes", what,
                            IDENTIFIER_MAX);
}

static int table_parse(const struct parsing *p, const struct config_node *node, int index)
{
    static const char *const known[] = {"name", "key", NULL};
    const struct config_node *name, *key;
    char what[64], shown[CONFIG_SHOW_SIZE];
    snprintf(what, sizeof what, "spec.tables[%d]", index);
    int rc = config_node_want_map(node, p->source, what, p->err);
    if (rc == 0)
        rc = config_node_want_keys(node, p->source, known, p->err);
    snprintf(what, sizeof what, "spec.tables[%d].name", index);
    if (rc == 0)
        rc = want_member(p, node, "name", what, &name);
    if (rc != 0)
        return rc;
    config_show(name->text, shown);
    p->spec->tables[index].name = table_name(name->text);
    if (p->spec->tables[index].name == NULL)
        return config_node_fail(
            name, p->source, p->err,
            "%s: \"%s\" is not a table: write schema.table, other than letters, digits and _ "
            "in double quotes",
            what, shown);
    snprintf(what, sizeof what, "spec.tables[%d].key", index);
    rc = want_member(p, node, "key", what, &key);
    if (rc == 0)
        rc = table_key(p, key, what);
    if (rc == 0)
        p->spec->tables[index].key = mem_strdup(key->text);
    return rc;
}

struct named {
    const char *name;
    int index;
};

static int by_name(const void *a, const void *b)
{
    const struct named *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : x->index - y->index;
}

static int tables_unique(const struct parsing *p, const struct config_node *list)
{
    int count = p->spec->table_count, first = -1, second = -1;
    struct named *names = mem_array((size_t)count, sizeof *names);
    for (int i = 0; i < count; i++)
        names[i] = (struct named){p->spec->tables[i].name, i};
    qsort(names, (size_t)count, sizeof *names, by_name);
    for (int i = 1; i < count && second < 0; i++)
        if (strcmp(names[i - 1].name, names[i].name) == 0) {
            first = names[i - 1].index;
            second = names[i].index;
        }
    free(names);
    if (second < 0)
        return 0;
    return config_node_fail(&list->items[second], p->source, p->err,
                            "spec.tables[%d]: table %s is there already, in line %d: remove one of them",
                            second, p->spec->tables[second].name, list->items[first].line);
}

static int tables_parse(const struct parsing *p, const struct config_node *spec)
{
    const struct config_node *node = config_node_get(spec, "tables");
    if (node == NULL)
        return config_node_fail(
            spec, p->source, p->err,
            "spec.tables is missing: list the tables to distribute, each with its key column");
    int rc = config_node_want_list(node, p->source, "spec.tables", p->err);
    if (rc != 0)
        return rc;
    if (node->count < 1 || node->count > ROUTING_TABLES_MAX)
        return config_node_fail(node, p->source, p->err, "spec.tables has %d tables: write 1 to %d",
                                node->count, ROUTING_TABLES_MAX);
    p->spec->tables = mem_array((size_t)node->count, sizeof *p->spec->tables);
    p->spec->table_count = node->count;
    for (int i = 0; i < node->count && rc == 0; i++)
        rc = table_parse(p, &node->items[i], i);
    return rc != 0 ? rc : tables_unique(p, node);
}

/* ---- the rest ---- */

static int schema_parse(const struct parsing *p, const struct config_node *spec)
{
    const struct config_node *node = config_node_get(spec, "schema");
    if (node == NULL)
        return 0;
    int rc = config_node_want_text(node, p->source, "spec.schema", p->err);
    if (rc == 0 && node->text[0] != '\0')
        p->spec->schema = mem_strdup(node->text);
    return rc;
}

/* The role is made by shardherd and must not be one that has a meaning of its own. */
static int owner_parse(const struct parsing *p, const struct config_node *spec)
{
    const struct config_node *node = config_node_get(spec, "owner");
    if (node == NULL) {
        p->spec->owner = mem_strdup("app");
        return 0;
    }
    int rc = config_node_want_text(node, p->source, "spec.owner", p->err);
    if (rc != 0)
        return rc;
    const char *text = node->text;
    char shown[CONFIG_SHOW_SIZE];
    config_show(text, shown);
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");
    if (n == 0 || n > IDENTIFIER_MAX || text[n] != '\0' || (text[0] >= '0' && text[0] <= '9'))
        return config_node_fail(
            node, p->source, p->err,
            "spec.owner: \"%s\" is not a role: at most %d lower-case letters, digits and _, a "
            "letter first",
            shown, IDENTIFIER_MAX);
    if (text_starts_with(text, "pg_") || strcmp(text, "postgres") == 0 || strcmp(text, "shardherd") == 0 ||
        strcmp(text, "public") == 0 || strcmp(text, "none") == 0)
        return config_node_fail(node, p->source, p->err,
                                "spec.owner: %s has a meaning of its own: take another", shown);
    p->spec->owner = mem_strdup(text);
    return 0;
}

static int balance_parse(const struct parsing *p, const struct config_node *spec)
{
    const struct config_node *node = config_node_get(spec, "balance");
    const char *names[32] = {0};
    size_t count;
    const struct config_key *keys = config_balance_keys(&count);
    if (node == NULL)
        return 0;
    for (size_t i = 0; i < count; i++)
        names[i] = keys[i].path;
    int rc = config_node_want_map(node, p->source, "spec.balance", p->err);
    if (rc == 0)
        rc = config_node_want_keys(node, p->source, names, p->err);
    for (size_t i = 0; i < count && rc == 0; i++) {
        const struct config_node *value = config_node_get(node, keys[i].path);
        struct err local = {0};
        char what[64];
        if (value == NULL)
            continue;
        snprintf(what, sizeof what, "spec.balance.%s", keys[i].path);
        rc = config_node_want_text(value, p->source, what, p->err);
        if (rc == 0 && config_key_set(&keys[i], &p->spec->balance, value->text, &local) != 0)
            rc = config_node_fail(value, p->source, p->err, "%s: %s", what, local.message);
        p->spec->balance_given |= 1u << i;
    }
    return rc;
}

static int metadata_parse(const struct parsing *p, const struct config_node *root)
{
    static const char *const known[] = {"name", NULL};
    const struct config_node *node = config_node_get(root, "metadata"), *name;
    if (node == NULL)
        return config_node_fail(root, p->source, p->err, "metadata is missing: add metadata: {name: shop}");
    int rc = config_node_want_map(node, p->source, "metadata", p->err);
    if (rc == 0)
        rc = config_node_want_keys(node, p->source, known, p->err);
    if (rc == 0)
        rc = want_member(p, node, "name", "metadata.name", &name);
    if (rc == 0)
        rc = want_name(p, name, "metadata.name");
    if (rc != 0)
        return rc;
    if (strcmp(name->text, "postgres") == 0 || strcmp(name->text, "template0") == 0 ||
        strcmp(name->text, "template1") == 0)
        return config_node_fail(name, p->source, p->err,
                                "metadata.name: %s is a database that every server has: take another name",
                                name->text);
    p->spec->name = mem_strdup(name->text);
    return 0;
}

static int spec_parse(const struct parsing *p, const struct config_node *root)
{
    static const char *const known[] = {"shards", "instances", "members", "tables",
                                        "schema", "owner",     "balance", NULL};
    const struct config_node *node = config_node_get(root, "spec");
    if (node == NULL)
        return config_node_fail(root, p->source, p->err, "spec is missing: add spec with shards and tables");
    int rc = config_node_want_map(node, p->source, "spec", p->err);
    if (rc == 0)
        rc = config_node_want_keys(node, p->source, known, p->err);
    if (rc == 0)
        rc = shards_parse(p, node);
    if (rc == 0)
        rc = instances_parse(p, node);
    if (rc == 0)
        rc = members_parse(p, node);
    if (rc == 0)
        rc = tables_parse(p, node);
    if (rc == 0)
        rc = schema_parse(p, node);
    if (rc == 0)
        rc = owner_parse(p, node);
    return rc != 0 ? rc : balance_parse(p, node);
}

static int document_parse(const struct parsing *p, const struct config_node *root)
{
    static const char *const known[] = {"apiVersion", "kind", "metadata", "spec", NULL};
    int rc = config_node_is_null(root)
                 ? config_node_fail(root, p->source, p->err, "it is empty: a ShardedDatabase is expected")
                 : config_node_want_map(root, p->source, "the specification", p->err);
    if (rc == 0)
        rc = config_node_want_keys(root, p->source, known, p->err);
    if (rc == 0)
        rc = want_word(p, root, "apiVersion", "shardherd.io/v1alpha1");
    if (rc == 0)
        rc = want_word(p, root, "kind", "ShardedDatabase");
    if (rc == 0)
        rc = metadata_parse(p, root);
    return rc != 0 ? rc : spec_parse(p, root);
}

/* What is printed must be readable again, and escapes make it longer. */
static int check_length(const struct parsing *p)
{
    struct buf json = {0};
    database_spec_print(p->spec, &json);
    size_t length = json.length;
    buf_free(&json);
    if (length > 0 && length <= CONFIG_TEXT_MAX)
        return 0;
    return err_set(p->err, ERRC_INVALID,
                   "%s:1:1: as JSON it has %zu bytes, more than %d: shorten spec.schema", p->source, length,
                   CONFIG_TEXT_MAX);
}

int database_spec_parse(const char *text, size_t length, const char *source,
                        const struct balance_policy *defaults, struct database_spec *ret, struct err *err)
{
    struct config_node root;
    struct database_spec spec = {0};
    struct parsing p = {source, &spec, err};
    int rc = config_node_parse(text, length, source, &root, err);
    if (rc != 0)
        return rc;
    if (defaults != NULL)
        spec.balance = *defaults;
    else
        balance_policy_defaults(&spec.balance);
    rc = document_parse(&p, &root);
    config_node_free(&root);
    if (rc == 0)
        rc = check_length(&p);
    if (rc == 0)
        *ret = spec;
    else
        database_spec_free(&spec);
    return rc;
}
