#include "manager/kube_spec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <yyjson.h>

#include "base/mem.h"

const char *kube_condition_name(enum kube_condition_type type)
{
    static const char *const names[KUBE_CONDITION_COUNT] = {"Available", "Ready", "Reconciling", "Stalled"};
    return names[type];
}

static const char *text_of(yyjson_val *object, const char *name)
{
    return yyjson_get_str(yyjson_obj_get(object, name));
}

/* ---- what is kept of an object ---- */

/* "2026-11-21T07:15:00Z", with or without a fraction; 0 if it is none. */
static int64_t time_of(const char *text)
{
    struct tm tm = {0};
    if (text == NULL || strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) == NULL)
        return 0;
    return (int64_t)timegm(&tm) * 1000000;
}

static enum kube_truth truth_of(const char *text)
{
    if (text == NULL)
        return KUBE_ABSENT;
    return strcmp(text, "True") == 0 ? KUBE_TRUE : strcmp(text, "False") == 0 ? KUBE_FALSE : KUBE_UNKNOWN;
}

static void keep_condition(struct kube_object_kept *kept, yyjson_val *item)
{
    const char *type = text_of(item, "type");
    for (int i = 0; type != NULL && i < KUBE_CONDITION_COUNT; i++) {
        struct kube_condition *c = &kept->conditions[i];
        if (strcmp(type, kube_condition_name((enum kube_condition_type)i)) != 0)
            continue;
        c->truth = truth_of(text_of(item, "status"));
        c->since_us = time_of(text_of(item, "lastTransitionTime"));
        snprintf(c->reason, sizeof c->reason, "%s",
                 text_of(item, "reason") != NULL ? text_of(item, "reason") : "");
        snprintf(c->message, sizeof c->message, "%s",
                 text_of(item, "message") != NULL ? text_of(item, "message") : "");
    }
}

static void keep_status(struct kube_object_kept *kept, yyjson_val *status)
{
    yyjson_val *item, *observed = yyjson_obj_get(status, "observedGeneration");
    size_t i, max;
    kept->observed_generation = observed != NULL ? yyjson_get_sint(observed) : -1;
    kept->requested_shards = yyjson_get_int(yyjson_obj_get(status, "requestedShards"));
    yyjson_arr_foreach(yyjson_obj_get(status, "conditions"), i, max, item) keep_condition(kept, item);
}

static bool has_finalizer(yyjson_val *metadata)
{
    yyjson_val *item;
    size_t i, max;
    yyjson_arr_foreach(yyjson_obj_get(metadata, "finalizers"), i, max,
                       item) if (yyjson_equals_str(item, KUBE_FINALIZER)) return true;
    return false;
}

static void keep_schema(struct kube_object_kept *kept, yyjson_val *schema)
{
    yyjson_val *map = yyjson_obj_get(schema, "configMap"), *secret = yyjson_obj_get(schema, "secret");
    kept->config_map = mem_strdup(text_of(map, "name"));
    kept->secret = mem_strdup(text_of(secret, "name"));
    kept->key = mem_strdup(text_of(map != NULL ? map : secret, "key"));
}

static bool own_certificates(yyjson_val *spec)
{
    yyjson_val *tls = yyjson_obj_get(spec, "tls");
    return !yyjson_equals_str(yyjson_obj_get(tls, "mode"), "off") && yyjson_obj_get(tls, "secret") == NULL &&
           yyjson_obj_get(tls, "clientSecret") == NULL && yyjson_obj_size(yyjson_obj_get(spec, "adopt")) == 0;
}

/* The object without managed fields, status and what else nobody here reads. */
static void keep_json(struct kube_object_kept *kept, yyjson_val *metadata, yyjson_val *spec)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "apiVersion", "shardherd.io/v1alpha1");
    yyjson_mut_obj_add_str(doc, root, "kind", "ShardedDatabase");
    yyjson_mut_val *to = yyjson_mut_obj_add_obj(doc, root, "metadata");
    yyjson_mut_obj_add_str(doc, to, "name", kept->name);
    yyjson_mut_obj_add_str(doc, to, "namespace", kept->name_space);
    yyjson_mut_obj_add_str(doc, to, "uid", kept->uid);
    if (yyjson_obj_get(metadata, "generation") != NULL)
        yyjson_mut_obj_add_int(doc, to, "generation", kept->generation);
    if (kept->deleting)
        yyjson_mut_obj_add_val(doc, to, "deletionTimestamp",
                               yyjson_val_mut_copy(doc, yyjson_obj_get(metadata, "deletionTimestamp")));
    yyjson_mut_obj_add_val(doc, root, "spec", yyjson_val_mut_copy(doc, spec));
    kept->json = yyjson_mut_write(doc, 0, &kept->length);
    yyjson_mut_doc_free(doc);
}

struct kube_object_kept *kube_kept_new(struct yyjson_val *object)
{
    yyjson_val *metadata = yyjson_obj_get(object, "metadata"), *spec = yyjson_obj_get(object, "spec");
    const char *name = text_of(metadata, "name"), *space = text_of(metadata, "namespace");
    const char *uid = text_of(metadata, "uid");
    if (name == NULL || space == NULL || uid == NULL || !yyjson_is_obj(spec))
        return NULL;
    struct kube_object_kept *kept = mem_zalloc(sizeof *kept);
    kept->name = mem_strdup(name);
    kept->name_space = mem_strdup(space);
    kept->uid = mem_strdup(uid);
    kept->version = mem_strdup(text_of(metadata, "resourceVersion"));
    kept->generation = yyjson_get_sint(yyjson_obj_get(metadata, "generation"));
    kept->deleting = yyjson_obj_get(metadata, "deletionTimestamp") != NULL;
    kept->finalizer = has_finalizer(metadata);
    kept->suspended = yyjson_get_bool(yyjson_obj_get(spec, "suspended"));
    kept->instances = (unsigned)yyjson_get_int(yyjson_obj_get(spec, "instances"));
    if (kept->instances < 1)
        kept->instances = 1;
    kept->shards = yyjson_get_int(yyjson_obj_get(spec, "shards"));
    const char *major = text_of(yyjson_obj_get(spec, "postgresql"), "version");
    kept->major = major != NULL ? atoi(major) : 0;
    kept->rolls = !yyjson_equals_str(yyjson_obj_get(yyjson_obj_get(spec, "update"), "strategy"), "OnDelete");
    kept->own_certificates = own_certificates(spec);
    keep_schema(kept, yyjson_obj_get(spec, "schema"));
    keep_status(kept, yyjson_obj_get(object, "status"));
    keep_json(kept, metadata, spec);
    return kept;
}

void kube_kept_free(struct kube_object_kept *kept)
{
    if (kept == NULL)
        return;
    free(kept->name);
    free(kept->name_space);
    free(kept->uid);
    free(kept->version);
    free(kept->json);
    free(kept->config_map);
    free(kept->secret);
    free(kept->key);
    free(kept);
}

/* ---- translation ---- */

struct printing {
    yyjson_mut_doc *doc;
    yyjson_mut_val *body; /* spec */
};

static void print_ranges(struct printing *p, yyjson_val *ranges)
{
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(p->doc, p->body, "shards");
    yyjson_val *item;
    size_t i, max;
    yyjson_arr_foreach(ranges, i, max, item)
    {
        yyjson_mut_val *to = yyjson_mut_arr_add_obj(p->doc, list);
        char range[64];
        snprintf(range, sizeof range, "%s..%s", text_of(item, "lo"), text_of(item, "hi"));
        yyjson_mut_obj_add_strcpy(p->doc, to, "name", text_of(item, "name"));
        yyjson_mut_obj_add_strcpy(p->doc, to, "range", range);
    }
}

static void print_copy(struct printing *p, yyjson_val *from, const char *name)
{
    yyjson_val *value = yyjson_obj_get(from, name);
    if (value != NULL)
        yyjson_mut_obj_add_val(p->doc, p->body, name, yyjson_val_mut_copy(p->doc, value));
}

static void print_new(struct printing *p, yyjson_val *spec, const char *schema)
{
    const char *sql = schema != NULL ? schema : text_of(yyjson_obj_get(spec, "schema"), "inline");
    if (yyjson_obj_get(spec, "ranges") != NULL)
        print_ranges(p, yyjson_obj_get(spec, "ranges"));
    else
        print_copy(p, spec, "shards");
    if (sql != NULL)
        yyjson_mut_obj_add_strcpy(p->doc, p->body, "schema", sql);
}

static void print_spec(struct printing *p, yyjson_val *spec, yyjson_val *stored, const char *schema)
{
    if (stored != NULL) {
        print_copy(p, stored, "shards");
        print_copy(p, stored, "schema");
    } else
        print_new(p, spec, schema);
    print_copy(p, spec, "tables");
    print_copy(p, spec, "owner");
    print_copy(p, spec, "balance");
}

int kube_spec_print(const struct kube_object_kept *kept, const char *stored, const char *schema, bool members,
                    struct buf *ret, struct err *err)
{
    yyjson_doc *object = yyjson_read(kept->json, kept->length, 0);
    yyjson_doc *old = stored != NULL ? yyjson_read(stored, strlen(stored), 0) : NULL;
    yyjson_val *spec = yyjson_obj_get(yyjson_doc_get_root(object), "spec");
    yyjson_val *old_spec = yyjson_obj_get(yyjson_doc_get_root(old), "spec");
    struct printing p = {.doc = yyjson_mut_doc_new(NULL)};
    yyjson_mut_val *root = yyjson_mut_obj(p.doc);
    yyjson_mut_doc_set_root(p.doc, root);
    yyjson_mut_obj_add_str(p.doc, root, "apiVersion", "shardherd.io/v1alpha1");
    yyjson_mut_obj_add_str(p.doc, root, "kind", "ShardedDatabase");
    yyjson_mut_val *metadata = yyjson_mut_obj_add_obj(p.doc, root, "metadata");
    yyjson_mut_obj_add_str(p.doc, metadata, "name", kept->name);
    p.body = yyjson_mut_obj_add_obj(p.doc, root, "spec");
    print_spec(&p, spec, old_spec, schema);
    if (members)
        print_copy(&p, spec, "instances");
    if (members && yyjson_is_arr(yyjson_obj_get(spec, "members")))
        print_copy(&p, spec, "members");
    size_t length = 0;
    char *text = yyjson_mut_write(p.doc, 0, &length);
    if (text != NULL)
        buf_add(ret, text, length);
    free(text);
    yyjson_mut_doc_free(p.doc);
    yyjson_doc_free(object);
    yyjson_doc_free(old);
    return text != NULL ? 0 : err_set(err, ERRC_INVALID, "%s: it cannot be written as JSON", kept->name);
}
