/* The routing table as JSON. Syntax and types are judged here, meaning by routing_check(). */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/text.h"
#include "fleet/routing.h"

#define HASH_NAME  "postgres-extended-0"
#define PLACE_SIZE 160

/* ---- reading values, each error with its place ---- */

/* A JSON value and where it stands: "shards[2].ranges[0]"; "" is the document. */
struct item {
    yyjson_val *value;
    char place[PLACE_SIZE];
};

static int item_fault(const struct item *item, struct err *err, const char *what)
{
    return err_set(err, ERRC_INVALID, "%s: %s", item->place[0] != '\0' ? item->place : "document", what);
}

/* Tells apart and counts the members that are allowed; `names` ends with NULL. */
static int object_check(const struct item *object, const char *const *names, struct err *err)
{
    if (!yyjson_is_obj(object->value))
        return item_fault(object, err, "not an object");
    unsigned seen = 0;
    size_t i, max;
    yyjson_val *key, *value;
    yyjson_obj_foreach(object->value, i, max, key, value)
    {
        unsigned n = 0;
        while (names[n] != NULL && !yyjson_equals_str(key, names[n]))
            n++;
        if (names[n] == NULL || (seen & 1u << n) != 0) {
            err_set(err, ERRC_INVALID, "%s: %s member \"%.40s\"",
                    object->place[0] != '\0' ? object->place : "document",
                    names[n] == NULL ? "unknown" : "repeated", yyjson_get_str(key));
            return ERRC_INVALID;
        }
        seen |= 1u << n;
    }
    return 0;
}

static struct item item_member(const struct item *object, const char *name)
{
    struct item item = {.value = yyjson_obj_get(object->value, name)};
    snprintf(item.place, sizeof item.place, "%.100s%s%s", object->place, object->place[0] != '\0' ? "." : "",
             name);
    return item;
}

static struct item item_element(const struct item *array, size_t index, yyjson_val *value)
{
    struct item item = {.value = value};
    snprintf(item.place, sizeof item.place, "%.100s[%zu]", array->place, index);
    return item;
}

/* A text without zero bytes; *ret belongs to the JSON document. */
static int read_text(const struct item *object, const char *name, const char **ret, struct err *err)
{
    struct item item = item_member(object, name);
    if (item.value == NULL)
        return item_fault(&item, err, "missing");
    const char *text = yyjson_get_str(item.value);
    if (text == NULL || strlen(text) != yyjson_get_len(item.value))
        return item_fault(&item, err, "not a text");
    *ret = text;
    return 0;
}

static int read_int64(const struct item *object, const char *name, int64_t *ret, struct err *err)
{
    const char *text;
    int rc = read_text(object, name, &text, err);
    if (rc != 0)
        return rc;
    struct item item = item_member(object, name);
    return text_to_int64(text, ret) ? 0 : item_fault(&item, err, "not a 64-bit number in quotes");
}

static int read_uint64(const struct item *object, const char *name, uint64_t *ret, struct err *err)
{
    const char *text;
    int rc = read_text(object, name, &text, err);
    if (rc != 0)
        return rc;
    struct item item = item_member(object, name);
    return text_to_uint64(text, ret) ? 0 : item_fault(&item, err, "not an unsigned 64-bit number in quotes");
}

static int read_array(const struct item *object, const char *name, size_t max, struct item *ret,
                      struct err *err)
{
    *ret = item_member(object, name);
    if (!yyjson_is_arr(ret->value))
        return item_fault(ret, err, ret->value == NULL ? "missing" : "not an array");
    if (yyjson_arr_size(ret->value) > max)
        return err_set(err, ERRC_LIMIT, "%s: %zu elements, more than %zu", ret->place,
                       yyjson_arr_size(ret->value), max);
    return 0;
}

/* ---- parts of the document ---- */

static int parse_table(struct routing *r, const struct item *item, const char *name, struct err *err)
{
    static const char *const members[] = {"key", "type", NULL};
    const char *key, *type;
    int rc = object_check(item, members, err);
    if (rc != 0 || (rc = read_text(item, "key", &key, err)) != 0 ||
        (rc = read_text(item, "type", &type, err)) != 0)
        return rc;
    int known = key_type_parse(type);
    if (known < 0)
        return err_set(err, ERRC_INVALID, "%s.type: \"%.40s\" cannot be a shard key", item->place, type);
    routing_add_table(r, name, key, (enum key_type)known);
    return 0;
}

static int parse_tables(struct routing *r, const struct item *document, struct err *err)
{
    struct item tables = item_member(document, "tables");
    if (!yyjson_is_obj(tables.value))
        return item_fault(&tables, err, tables.value == NULL ? "missing" : "not an object");
    if (yyjson_obj_size(tables.value) > ROUTING_TABLES_MAX)
        return err_set(err, ERRC_LIMIT, "tables: %zu members, more than %d", yyjson_obj_size(tables.value),
                       ROUTING_TABLES_MAX);
    size_t i, max;
    yyjson_val *key, *value;
    yyjson_obj_foreach(tables.value, i, max, key, value)
    {
        const char *name = yyjson_get_str(key);
        struct item item = {.value = value};
        snprintf(item.place, sizeof item.place, "tables[\"%.64s\"]", name);
        if (strlen(name) != yyjson_get_len(key))
            return item_fault(&item, err, "its name holds a zero byte");
        int rc = parse_table(r, &item, name, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int parse_address(const struct item *item, bool replica, struct routing_address *ret, struct err *err)
{
    static const char *const members[] = {"host", "port", "lag_bytes", NULL};
    static const char *const primary_members[] = {"host", "port", NULL};
    const char *host;
    int rc = object_check(item, replica ? members : primary_members, err);
    if (rc != 0 || (rc = read_text(item, "host", &host, err)) != 0)
        return rc;
    struct item port = item_member(item, "port");
    if (!yyjson_is_uint(port.value) || yyjson_get_uint(port.value) > 65535)
        return item_fault(&port, err, "not a port number");
    uint64_t lag = 0;
    if (replica && (rc = read_uint64(item, "lag_bytes", &lag, err)) != 0)
        return rc;
    *ret = (struct routing_address){mem_strdup(host), (int)yyjson_get_uint(port.value), lag};
    return 0;
}

static int parse_replicas(struct routing_shard *shard, const struct item *item, struct err *err)
{
    struct item replicas;
    int rc = read_array(item, "replicas", ROUTING_REPLICAS_MAX, &replicas, err);
    if (rc != 0)
        return rc;
    size_t i, max;
    yyjson_val *value;
    yyjson_arr_foreach(replicas.value, i, max, value)
    {
        struct item element = item_element(&replicas, i, value);
        struct routing_address address;
        if ((rc = parse_address(&element, true, &address, err)) != 0)
            return rc;
        routing_add_replica(shard, address.host, address.port, address.lag_bytes);
        free(address.host);
    }
    return 0;
}

/* A range and its number in the document, to name it once they are sorted. */
struct numbered {
    struct range range;
    size_t index;
};

static int numbered_compare(const void *a, const void *b)
{
    const struct numbered *x = a, *y = b;
    return (x->range.lo > y->range.lo) - (x->range.lo < y->range.lo);
}

static int read_ranges(const struct item *ranges, struct numbered *out, struct err *err)
{
    static const char *const members[] = {"lo", "hi", NULL};
    size_t i, max;
    yyjson_val *value;
    yyjson_arr_foreach(ranges->value, i, max, value)
    {
        struct item element = item_element(ranges, i, value);
        int rc = object_check(&element, members, err);
        if (rc != 0 || (rc = read_int64(&element, "lo", &out[i].range.lo, err)) != 0 ||
            (rc = read_int64(&element, "hi", &out[i].range.hi, err)) != 0)
            return rc;
        out[i].index = i;
    }
    return 0;
}

static int parse_ranges(struct routing_shard *shard, const struct item *item, struct err *err)
{
    struct item ranges;
    int rc = read_array(item, "ranges", ROUTING_RANGES_MAX, &ranges, err);
    if (rc != 0)
        return rc;
    size_t count = yyjson_arr_size(ranges.value);
    struct numbered *all = mem_array(count, sizeof *all);
    rc = read_ranges(&ranges, all, err);
    /* Sorted first, so that many ranges in a bad order do not cost the square of their number. */
    if (rc == 0)
        qsort(all, count, sizeof *all, numbered_compare);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        struct err fault = {0};
        if (range_set_add(&shard->ranges, &all[i].range, &fault) != 0)
            rc = err_set(err, ERRC_INVALID, "%s[%zu]: %s", ranges.place, all[i].index, fault.message);
    }
    free(all);
    return rc;
}

static int parse_state(struct routing_shard *shard, const struct item *item, struct err *err)
{
    const char *name;
    int rc = read_text(item, "state", &name, err);
    if (rc != 0)
        return rc;
    int state = shard_state_parse(name);
    if (state < 0)
        return err_set(err, ERRC_INVALID, "%s.state: no such state: \"%.40s\"", item->place, name);
    shard->state = (enum shard_state)state;
    return 0;
}

static int parse_shard(struct routing *r, const struct item *item, struct err *err)
{
    static const char *const members[] = {"name", "epoch", "ranges", "primary", "replicas", "state", NULL};
    const char *name;
    struct routing_address primary;
    int rc = object_check(item, members, err);
    if (rc != 0 || (rc = read_text(item, "name", &name, err)) != 0)
        return rc;
    struct item address = item_member(item, "primary");
    if ((rc = parse_address(&address, false, &primary, err)) != 0)
        return rc;
    struct routing_shard *shard = routing_add_shard(r, name, primary.host, primary.port);
    free(primary.host);
    if ((rc = read_uint64(item, "epoch", &shard->epoch, err)) != 0 ||
        (rc = parse_ranges(shard, item, err)) != 0 || (rc = parse_replicas(shard, item, err)) != 0)
        return rc;
    return parse_state(shard, item, err);
}

static int parse_shards(struct routing *r, const struct item *document, struct err *err)
{
    struct item shards;
    int rc = read_array(document, "shards", ROUTING_SHARDS_MAX, &shards, err);
    if (rc != 0)
        return rc;
    size_t i, max;
    yyjson_val *value;
    yyjson_arr_foreach(shards.value, i, max, value)
    {
        struct item element = item_element(&shards, i, value);
        if ((rc = parse_shard(r, &element, err)) != 0)
            return rc;
    }
    return 0;
}

/* Documents of older versions have none. */
static int read_term(const struct item *document, uint64_t *ret, struct err *err)
{
    *ret = 0;
    return yyjson_obj_get(document->value, "term") != NULL ? read_uint64(document, "term", ret, err) : 0;
}

static int parse_document(const struct item *document, struct routing **ret, struct err *err)
{
    static const char *const members[] = {"database", "epoch", "term", "hash", "tables", "shards", NULL};
    const char *database, *hash;
    int rc = object_check(document, members, err);
    if (rc != 0 || (rc = read_text(document, "database", &database, err)) != 0 ||
        (rc = read_text(document, "hash", &hash, err)) != 0)
        return rc;
    if (strcmp(hash, HASH_NAME) != 0)
        return err_set(err, ERRC_INVALID, "hash: \"%.40s\" is not known, only \"" HASH_NAME "\" is", hash);
    struct routing *r = routing_new(database);
    if ((rc = read_uint64(document, "epoch", &r->epoch, err)) == 0 &&
        (rc = read_term(document, &r->term, err)) == 0 && (rc = parse_tables(r, document, err)) == 0 &&
        (rc = parse_shards(r, document, err)) == 0)
        rc = routing_check(r, err);
    if (rc == 0)
        *ret = r;
    else
        routing_free(r);
    return rc;
}

int routing_parse(const char *json, size_t length, struct routing **ret, struct err *err)
{
    if (length > ROUTING_DOC_MAX)
        return err_set(err, ERRC_LIMIT, "routing table: %zu bytes, more than %d", length, ROUTING_DOC_MAX);
    yyjson_read_err fault;
    /* Without YYJSON_READ_INSITU the text is only read, whatever the parameter's type says. */
    yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)json, length, YYJSON_READ_NOFLAG, NULL, &fault);
    if (doc == NULL)
        return err_set(err, ERRC_INVALID, "routing table: not JSON: %s at byte %zu", fault.msg, fault.pos);
    struct item document = {.value = yyjson_doc_get_root(doc)};
    int rc = parse_document(&document, ret, err);
    yyjson_doc_free(doc);
    if (rc != 0)
        err_wrap(err, "routing table");
    return rc;
}

/* ---- printing ---- */

static void add_number(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, bool is_signed,
                       uint64_t value)
{
    char text[24];
    if (is_signed)
        snprintf(text, sizeof text, "%" PRId64, (int64_t)value);
    else
        snprintf(text, sizeof text, "%" PRIu64, value);
    yyjson_mut_obj_add_strcpy(doc, object, name, text);
}

static yyjson_mut_val *print_address(yyjson_mut_doc *doc, const struct routing_address *a, bool replica)
{
    yyjson_mut_val *object = yyjson_mut_obj(doc);
    yyjson_mut_obj_add_str(doc, object, "host", a->host);
    yyjson_mut_obj_add_int(doc, object, "port", a->port);
    if (replica)
        add_number(doc, object, "lag_bytes", false, a->lag_bytes);
    return object;
}

static yyjson_mut_val *print_shard(yyjson_mut_doc *doc, const struct routing_shard *s)
{
    yyjson_mut_val *object = yyjson_mut_obj(doc);
    yyjson_mut_obj_add_str(doc, object, "name", s->name);
    add_number(doc, object, "epoch", false, s->epoch);
    yyjson_mut_val *ranges = yyjson_mut_obj_add_arr(doc, object, "ranges");
    for (size_t i = 0; i < s->ranges.count; i++) {
        yyjson_mut_val *range = yyjson_mut_arr_add_obj(doc, ranges);
        add_number(doc, range, "lo", true, (uint64_t)s->ranges.items[i].lo);
        add_number(doc, range, "hi", true, (uint64_t)s->ranges.items[i].hi);
    }
    yyjson_mut_obj_add_val(doc, object, "primary", print_address(doc, &s->primary, false));
    yyjson_mut_val *replicas = yyjson_mut_obj_add_arr(doc, object, "replicas");
    for (size_t i = 0; i < s->replica_count; i++)
        yyjson_mut_arr_append(replicas, print_address(doc, &s->replicas[i], true));
    yyjson_mut_obj_add_str(doc, object, "state", shard_state_name(s->state));
    return object;
}

void routing_print(const struct routing *r, struct buf *out)
{
    assert(routing_check(r, NULL) == 0);
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "database", r->database);
    add_number(doc, root, "epoch", false, r->epoch);
    if (r->term != 0)
        add_number(doc, root, "term", false, r->term);
    yyjson_mut_obj_add_str(doc, root, "hash", HASH_NAME);
    yyjson_mut_val *tables = yyjson_mut_obj_add_obj(doc, root, "tables");
    for (size_t i = 0; i < r->table_count; i++) {
        yyjson_mut_val *table = yyjson_mut_obj_add_obj(doc, tables, r->tables[i].table);
        yyjson_mut_obj_add_str(doc, table, "key", r->tables[i].key);
        yyjson_mut_obj_add_str(doc, table, "type", key_type_name(r->tables[i].type));
    }
    yyjson_mut_val *shards = yyjson_mut_obj_add_arr(doc, root, "shards");
    for (size_t i = 0; i < r->shard_count; i++)
        yyjson_mut_arr_append(shards, print_shard(doc, &r->shards[i]));
    size_t length;
    char *text = yyjson_mut_write(doc, 0, &length);
    if (text != NULL)
        buf_add(out, text, length);
    free(text);
    yyjson_mut_doc_free(doc);
}
