#include "discovery/kubernetes_read.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/list.h"
#include "base/mem.h"
#include "k8s/client.h"
#include "loop/loop.h"

#define DEFAULT_PERIOD_NS (60 * ENV_NS_PER_S)
#define RETRY_NS          (10 * ENV_NS_PER_S)
#define CALL_NS           (5 * ENV_NS_PER_S)
#define CALLS_MAX         8
#define OBJECT_MAX        (2u * 1024u * 1024u) /* Kubernetes allows 1 MiB of data; base64 and metadata */

struct read_value {
    struct list node;
    char *key, *text; /* text NULL: no such key, or nothing kept */
    bool asked, present;
};

struct read_object {
    struct list node;
    struct kubernetes_reads *reads;
    enum read_kind kind;
    char *name_space, *name;
    struct list values;
    struct k8s_call *call;
    struct err err; /* of the last read */
    uint64_t read_ns;
    bool here;     /* was read once */
    bool wanted;   /* in this or the last round */
    bool new_keys; /* a key was asked for that the last read did not look at */
};

struct kubernetes_reads {
    struct kubernetes_reads_options o;
    struct loop *loop;
    struct list objects;
    struct loop_timer timer;
    struct loop_task task;
    int calls;
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
};

/* ---- values ---- */

static void value_free(struct read_value *v)
{
    list_remove(&v->node);
    mem_wipe_free(v->text);
    free(v->key);
    free(v);
}

static struct read_value *value_find(struct read_object *o, const char *key)
{
    list_each(node, &o->values)
    {
        struct read_value *v = list_item(node, struct read_value, node);
        if (strcmp(v->key, key) == 0)
            return v;
    }
    return NULL;
}

static struct read_value *value_of(struct read_object *o, const char *key)
{
    struct read_value *v = value_find(o, key);
    if (v != NULL)
        return v;
    v = mem_zalloc(sizeof *v);
    v->key = mem_strdup(key);
    list_append(&o->values, &v->node);
    return v;
}

static bool same(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* ---- objects ---- */

static void object_free(struct read_object *o)
{
    list_remove(&o->node);
    list_each(node, &o->values)
    {
        value_free(list_item(node, struct read_value, node));
    }
    free(o->name_space);
    free(o->name);
    free(o);
}

static struct read_object *object_of(struct kubernetes_reads *r, enum read_kind kind, const char *name_space,
                                     const char *name)
{
    list_each(node, &r->objects)
    {
        struct read_object *o = list_item(node, struct read_object, node);
        if (o->kind == kind && strcmp(o->name, name) == 0 && strcmp(o->name_space, name_space) == 0) {
            o->wanted = true;
            return o;
        }
    }
    struct read_object *o = mem_zalloc(sizeof *o);
    o->reads = r;
    o->kind = kind;
    o->name = mem_strdup(name);
    o->name_space = mem_strdup(name_space);
    o->wanted = true;
    list_init(&o->values);
    list_append(&r->objects, &o->node);
    return o;
}

/* ---- parsing ---- */

/* NUL-terminated, or NULL when it is no base64 or holds a NUL. mem_wipe_free() it. */
static char *decode(const char *text, size_t length)
{
    size_t padding = 0;
    if (length % 4 != 0 || length > OBJECT_MAX)
        return NULL;
    while (padding < 2 && padding < length && text[length - 1 - padding] == '=')
        padding++;
    char *out = mem_zalloc(length / 4 * 3 + 1);
    int n = EVP_DecodeBlock((unsigned char *)out, (const unsigned char *)text, (int)length);
    size_t real = n > 0 ? (size_t)n - padding : 0;
    if (n < 0 || memchr(out, '\0', real) != NULL) {
        OPENSSL_cleanse(out, length / 4 * 3);
        free(out);
        return NULL;
    }
    out[real] = '\0';
    return out;
}

bool kubernetes_read_parse(enum read_kind kind, const char *json, size_t length,
                           void (*each)(const char *key, const char *value, void *data), void *data)
{
    yyjson_doc *doc = yyjson_read(json, length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc), *values = yyjson_obj_get(root, "data"), *key, *value;
    size_t i, max;
    bool ok = yyjson_is_obj(root);
    if (values == NULL) { /* an object without any is fine; the loops below do not take it */
        yyjson_doc_free(doc);
        return ok;
    }
    yyjson_obj_foreach(values, i, max, key, value)
    {
        if (!yyjson_is_str(value))
            continue;
        char *text = kind == READ_SECRET ? decode(yyjson_get_str(value), yyjson_get_len(value))
                                         : mem_strdup(yyjson_get_str(value));
        if (text != NULL)
            each(yyjson_get_str(key), text, data);
        mem_wipe_free(text);
    }
    yyjson_obj_foreach(values, i, max, key, value)
    {
        union {
            const char *read;
            char *write;
        } inside = {.read = yyjson_get_str(value)};
        if (inside.read != NULL)
            OPENSSL_cleanse(inside.write, yyjson_get_len(value));
    }
    yyjson_doc_free(doc);
    return ok;
}

struct taking {
    struct read_object *object;
    bool changed;
};

static void take_value(const char *key, const char *text, void *data)
{
    struct taking *t = data;
    const struct kubernetes_reads_options *o = &t->object->reads->o;
    struct read_value *v = value_find(t->object, key);
    bool asked = v != NULL && v->asked;
    char *kept = o->keep != NULL ? o->keep(t->object->kind, key, text, asked, o->data)
                 : asked         ? mem_strdup(text)
                                 : NULL;
    if (kept == NULL && v == NULL)
        return;
    v = value_of(t->object, key);
    t->changed = t->changed || !same(v->text, kept);
    mem_wipe_free(v->text);
    v->text = kept;
    v->present = true;
}

/* ---- reading ---- */

static void look(struct kubernetes_reads *r);

static void reads_gone(struct loop_task *task, void *data)
{
    struct kubernetes_reads *r = data;
    void (*closed)(void *data) = r->closed;
    void *closed_data = r->closed_data;
    (void)task;
    list_each(node, &r->objects)
    {
        object_free(list_item(node, struct read_object, node));
    }
    free(r);
    if (closed != NULL)
        closed(closed_data);
}

static void check_closed(struct kubernetes_reads *r)
{
    if (r->closing && r->calls == 0)
        loop_defer(r->loop, &r->task);
}

static bool take_answer(struct read_object *o, const struct k8s_answer *answer)
{
    struct taking t = {.object = o, .changed = !o->here || o->new_keys || o->err.code != ERRC_NONE};
    list_each(node, &o->values)
    {
        list_item(node, struct read_value, node)->present = false;
    }
    if (!kubernetes_read_parse(o->kind, answer->body, answer->body_length, take_value, &t)) {
        (void)err_set(&o->err, ERRC_PROTOCOL, "the API server's answer is no object");
        return true;
    }
    list_each(node, &o->values)
    {
        struct read_value *v = list_item(node, struct read_value, node);
        if (v->present || v->text == NULL)
            continue;
        mem_wipe_free(v->text);
        v->text = NULL;
        t.changed = true;
    }
    err_clear(&o->err);
    o->here = true;
    o->new_keys = false;
    return t.changed;
}

static void read_done(const struct k8s_answer *answer, void *data)
{
    struct read_object *o = data;
    struct kubernetes_reads *r = o->reads;
    bool changed;
    o->call = NULL;
    r->calls--;
    if (r->closing) {
        check_closed(r);
        return;
    }
    o->read_ns = loop_now(r->loop);
    if (answer->err == NULL)
        changed = take_answer(o, answer);
    else {
        changed = strcmp(o->err.message, answer->err->message) != 0;
        o->err = *answer->err;
    }
    look(r);
    if (changed)
        r->o.changed(r->o.data);
}

/* Names come from annotations too, and become part of a path. */
static bool is_object_name(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length <= 253 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") == length &&
           name[0] != '.' && name[0] != '-';
}

static int read_start(struct read_object *o)
{
    struct kubernetes_reads *r = o->reads;
    if (!is_object_name(o->name) || !is_object_name(o->name_space))
        return err_set(&o->err, ERRC_INVALID, "\"%.80s\" cannot be the name of an object", o->name);
    char *path = mem_printf("/api/v1/namespaces/%s/%s/%s", o->name_space,
                            o->kind == READ_SECRET ? "secrets" : "configmaps", o->name);
    const struct k8s_request request = {
        .method = "GET", .path = path, .timeout_ns = CALL_NS, .body_limit = OBJECT_MAX};
    int rc = k8s_call_start(r->o.client, &request, read_done, o, &o->call, &o->err);
    free(path);
    r->calls += rc == 0;
    return rc;
}

static uint64_t due_ns(const struct read_object *o)
{
    if (o->read_ns == 0 || (o->new_keys && o->err.code == ERRC_NONE))
        return 0;
    return o->read_ns + (o->err.code != ERRC_NONE ? RETRY_NS : o->reads->o.period_ns);
}

/* Starts what is due, and sets the timer for what will be. */
static void look(struct kubernetes_reads *r)
{
    uint64_t now = loop_now(r->loop), next = UINT64_MAX;
    list_each(node, &r->objects)
    {
        struct read_object *o = list_item(node, struct read_object, node);
        if (o->call != NULL || !o->wanted)
            continue;
        uint64_t due = due_ns(o);
        if (due <= now && r->calls < CALLS_MAX && read_start(o) != 0)
            o->read_ns = now, due = now + RETRY_NS; /* no connection could be begun: later */
        if (o->call == NULL && due > now && due < next)
            next = due;
    }
    if (next != UINT64_MAX)
        loop_timer_start_at(&r->timer, next);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    look(data);
}

/* ---- interface ---- */

struct kubernetes_reads *kubernetes_reads_new(const struct kubernetes_reads_options *options)
{
    struct kubernetes_reads *r = mem_zalloc(sizeof *r);
    r->o = *options;
    r->loop = k8s_client_loop(options->client);
    if (r->o.period_ns == 0)
        r->o.period_ns = DEFAULT_PERIOD_NS;
    list_init(&r->objects);
    r->task = (struct loop_task){.run = reads_gone, .data = r};
    list_init(&r->task.node);
    loop_timer_init(r->loop, &r->timer, on_timer, r);
    return r;
}

void kubernetes_reads_close(struct kubernetes_reads *r, void (*closed)(void *data), void *data)
{
    r->closing = true;
    r->closed = closed;
    r->closed_data = data;
    loop_timer_stop(&r->timer);
    list_each(node, &r->objects)
    {
        struct read_object *o = list_item(node, struct read_object, node);
        if (o->call != NULL)
            k8s_call_cancel(o->call);
    }
    check_closed(r);
}

void kubernetes_reads_begin(struct kubernetes_reads *r)
{
    list_each(node, &r->objects)
    {
        list_item(node, struct read_object, node)->wanted = false;
    }
}

void kubernetes_reads_end(struct kubernetes_reads *r)
{
    list_each(node, &r->objects)
    {
        struct read_object *o = list_item(node, struct read_object, node);
        if (!o->wanted && o->call == NULL)
            object_free(o);
    }
    look(r);
}

static enum read_state state_of(const struct read_object *o, const struct err **ret_err)
{
    if (o->here && !o->new_keys)
        return READ_HERE;
    if (o->err.code == ERRC_NONE)
        return READ_PENDING;
    *ret_err = &o->err;
    return READ_FAILED;
}

enum read_state kubernetes_reads_get(struct kubernetes_reads *r, enum read_kind kind, const char *name_space,
                                     const char *name, const char *key, const char **ret,
                                     const struct err **ret_err)
{
    struct read_object *o = object_of(r, kind, name_space, name);
    struct read_value *v = value_of(o, key);
    if (!v->asked && o->here && v->text == NULL)
        o->new_keys = true;
    v->asked = true;
    enum read_state state = state_of(o, ret_err);
    *ret = state == READ_HERE ? v->text : NULL;
    return state;
}

enum read_state kubernetes_reads_all(struct kubernetes_reads *r, enum read_kind kind, const char *name_space,
                                     const char *name,
                                     void (*each)(const char *key, const char *value, void *data), void *data,
                                     const struct err **ret_err)
{
    struct read_object *o = object_of(r, kind, name_space, name);
    enum read_state state = state_of(o, ret_err);
    if (state != READ_HERE)
        return state;
    list_each(node, &o->values)
    {
        const struct read_value *v = list_item(node, struct read_value, node);
        if (v->text != NULL)
            each(v->key, v->text, data);
    }
    return state;
}
