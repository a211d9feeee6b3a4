#include "agent/order.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

#include "agent/agent_files.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"

static const char *const roles[] = {"none", "primary", "standby", "fenced", "stopped"};
static const char *const rejoins[] = {"auto", "rewind", "clone"};

const char *order_role_name(enum order_role role)
{
    return roles[role];
}

/* ---- reading ---- */

struct reader {
    struct err *err;
    int rc;
};

static void bad(struct reader *r, const char *key, const char *wanted)
{
    if (r->rc == 0)
        r->rc = err_set(r->err, ERRC_INVALID, "\"%s\" is to be %s", key, wanted);
}

/* A number, or a number as text, as all 64-bit numbers of our documents are. */
static uint64_t number_of(struct reader *r, yyjson_val *value, const char *key)
{
    uint64_t number = 0;
    if (yyjson_is_uint(value))
        return yyjson_get_uint(value);
    if (!yyjson_is_str(value) || !text_to_uint64(yyjson_get_str(value), &number))
        bad(r, key, "a number");
    return number;
}

static int small_of(struct reader *r, yyjson_val *value, const char *key)
{
    uint64_t number = number_of(r, value, key);
    if (number > 65535)
        bad(r, key, "at most 65535");
    return number > 65535 ? 0 : (int)number;
}

static void text_copy(struct reader *r, yyjson_val *value, const char *key, const char *letters, char *out,
                      size_t size)
{
    const char *text = yyjson_is_str(value) ? yyjson_get_str(value) : "";
    size_t length = strlen(text);
    if (length == 0 || length >= size || strspn(text, letters) != length)
        bad(r, key, "a name without special characters");
    else
        memcpy(out, text, length + 1);
}

#define LOWER   "abcdefghijklmnopqrstuvwxyz0123456789"
#define SLOT    LOWER "_"
#define MEMBER  LOWER "-."
#define ADDRESS MEMBER "ABCDEFGHIJKLMNOPQRSTUVWXYZ:_"

static int choice_of(struct reader *r, yyjson_val *value, const char *key, const char *const *names,
                     int count, const char *wanted)
{
    const char *text = yyjson_is_str(value) ? yyjson_get_str(value) : "";
    for (int i = 0; i < count; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    bad(r, key, wanted);
    return 0;
}

static int names_of(struct reader *r, yyjson_val *value, const char *key, const char *letters,
                    char out[][ORDER_NAME_SIZE])
{
    size_t count = yyjson_arr_size(value);
    if (!yyjson_is_arr(value) || count > ORDER_MEMBERS_MAX) {
        bad(r, key, "a list of at most 16 names");
        return 0;
    }
    for (size_t i = 0; i < count; i++)
        text_copy(r, yyjson_arr_get(value, i), key, letters, out[i], ORDER_NAME_SIZE);
    return (int)count;
}

static void read_upstream(struct reader *r, yyjson_val *value, struct order *o)
{
    yyjson_obj_iter iter = yyjson_obj_iter_with(value);
    if (yyjson_is_null(value))
        return;
    if (!yyjson_is_obj(value))
        bad(r, "upstream", "an object with host, port and perhaps slot");
    for (yyjson_val *key; (key = yyjson_obj_iter_next(&iter)) != NULL;) {
        yyjson_val *item = yyjson_obj_iter_get_val(key);
        const char *name = yyjson_get_str(key);
        if (strcmp(name, "host") == 0)
            text_copy(r, item, "upstream.host", ADDRESS, o->host, sizeof o->host);
        else if (strcmp(name, "port") == 0)
            o->port = small_of(r, item, "upstream.port");
        else if (strcmp(name, "slot") == 0)
            text_copy(r, item, "upstream.slot", SLOT, o->slot, sizeof o->slot);
        else if (strcmp(name, "tls") == 0 && yyjson_is_bool(item))
            o->upstream_plain = yyjson_is_false(item);
        else
            bad(r, name, strcmp(name, "tls") == 0 ? "true or false" : "absent from upstream");
    }
    if (o->host[0] == '\0' || o->port == 0)
        bad(r, "upstream", "an object with host, port and perhaps slot");
}

static void read_sync(struct reader *r, yyjson_val *value, struct order *o)
{
    yyjson_obj_iter iter = yyjson_obj_iter_with(value);
    if (yyjson_is_null(value))
        return;
    if (!yyjson_is_obj(value))
        bad(r, "sync", "an object with need and members");
    for (yyjson_val *key; (key = yyjson_obj_iter_next(&iter)) != NULL;) {
        yyjson_val *item = yyjson_obj_iter_get_val(key);
        const char *name = yyjson_get_str(key);
        if (strcmp(name, "need") == 0)
            o->sync_need = small_of(r, item, "sync.need");
        else if (strcmp(name, "members") == 0)
            o->sync_count = names_of(r, item, "sync.members", MEMBER, o->sync);
        else
            bad(r, name, "absent from sync");
    }
    if (o->sync_need > o->sync_count)
        bad(r, "sync.need", "at most the number of sync.members");
}

static void read_key(struct reader *r, const char *key, yyjson_val *value, struct order *o)
{
    if (strcmp(key, "term") == 0)
        o->term = number_of(r, value, key);
    else if (strcmp(key, "seq") == 0)
        o->seq = number_of(r, value, key);
    else if (strcmp(key, "role") == 0)
        o->role = (enum order_role)(
            choice_of(r, value, key, roles + 1, 4, "primary, standby, fenced or stopped") + 1);
    else if (strcmp(key, "upstream") == 0)
        read_upstream(r, value, o);
    else if (strcmp(key, "timeline") == 0)
        o->timeline = (uint32_t)number_of(r, value, key);
    else if (strcmp(key, "timeline_term") == 0)
        o->timeline_term = number_of(r, value, key);
    else if (strcmp(key, "rejoin") == 0)
        o->rejoin = (enum order_rejoin)choice_of(r, value, key, rejoins, 3, "auto, rewind or clone");
    else if (strcmp(key, "delay_ms") == 0)
        o->delay_ms = number_of(r, value, key);
    else if (strcmp(key, "initialize") == 0)
        o->initialize = yyjson_is_true(value);
    else if (strcmp(key, "closed") == 0) {
        o->closed = yyjson_is_true(value);
        o->closed_said = true;
    } else if (strcmp(key, "held") == 0)
        o->held = yyjson_is_true(value);
    else if (strcmp(key, "sync") == 0)
        read_sync(r, value, o);
    else if (strcmp(key, "slots") == 0)
        o->slot_count = names_of(r, value, key, SLOT, o->slots);
    else if (strcmp(key, "lease_ms") == 0)
        o->lease_ms = number_of(r, value, key);
    else if (strcmp(key, "heard") == 0)
        o->heard = number_of(r, value, key);
    else
        bad(r, key, "absent: there is no such key");
}

static void check(struct reader *r, const struct order *o)
{
    if (o->term == 0)
        bad(r, "term", "a number above 0");
    if (o->role == ORDER_NONE)
        bad(r, "role", "primary, standby, fenced or stopped");
    if (o->timeline != 0 && o->host[0] == '\0')
        bad(r, "timeline", "absent: it is that of an upstream");
    if (o->timeline_term != 0 && (o->timeline == 0 || o->timeline_term >= o->term))
        bad(r, "timeline_term", "absent: it is that of a timeline, and below the order's own");
    if (o->role != ORDER_STANDBY && (o->host[0] != '\0' || o->rejoin != ORDER_AUTO))
        bad(r, "role", "standby, as upstream and rejoin are of a standby only");
    if (o->delay_ms != 0 && o->host[0] == '\0')
        bad(r, "delay_ms", "absent: who follows nobody replays all it has");
    if (o->delay_ms > INT32_MAX) /* of PostgreSQL */
        bad(r, "delay_ms", "at most 2147483647");
    if (o->role != ORDER_PRIMARY && (o->initialize || o->held || o->sync_count > 0 || o->lease_ms > 0))
        bad(r, "role", "primary, as initialize, held, sync and lease_ms are of a primary only");
    if (o->slot_count > 0 && o->role != ORDER_PRIMARY && (o->role != ORDER_STANDBY || o->host[0] == '\0'))
        bad(r, "slots", "absent: they are of a primary, or of a standby with an upstream");
    if (o->closed && o->role != ORDER_STOPPED && o->role != ORDER_FENCED)
        bad(r, "role", "stopped or fenced, as closed is of these only");
    for (int i = 0; i < o->slot_count; i++)
        if (!text_starts_with(o->slots[i], "shardherd_"))
            bad(r, "slots", "names that begin with shardherd_: others are not made, and not dropped");
    if (o->lease_ms != 0 && (o->lease_ms < 1000 || o->lease_ms > 600000))
        bad(r, "lease_ms", "between 1000 and 600000, or 0 for none");
}

int order_parse(const char *json, size_t length, struct order *ret, struct err *err)
{
    struct reader r = {.err = err};
    struct order o = {0};
    yyjson_doc *doc = yyjson_read(json, length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    yyjson_obj_iter iter = yyjson_obj_iter_with(root);
    if (!yyjson_is_obj(root))
        r.rc = err_set(err, ERRC_INVALID, "the order is no JSON object");
    for (yyjson_val *key; r.rc == 0 && (key = yyjson_obj_iter_next(&iter)) != NULL;)
        read_key(&r, yyjson_get_str(key), yyjson_obj_iter_get_val(key), &o);
    if (r.rc == 0)
        check(&r, &o);
    yyjson_doc_free(doc);
    if (r.rc == 0)
        *ret = o;
    return r.rc;
}

/* ---- writing: names need no quoting, see above ---- */

static void add_names(struct buf *b, const char names[][ORDER_NAME_SIZE], int count)
{
    (void)buf_addc(b, '[');
    for (int i = 0; i < count; i++)
        (void)buf_printf(b, "%s\"%s\"", i > 0 ? "," : "", names[i]);
    (void)buf_addc(b, ']');
}

char *order_text(const struct order *o)
{
    struct buf b = {0};
    (void)buf_printf(&b, "{\"term\":\"%llu\",\"seq\":\"%llu\",\"role\":\"%s\"", (unsigned long long)o->term,
                     (unsigned long long)o->seq, roles[o->role]);
    if (o->host[0] != '\0') {
        (void)buf_printf(&b, ",\"upstream\":{\"host\":\"%s\",\"port\":%d", o->host, o->port);
        if (o->slot[0] != '\0')
            (void)buf_printf(&b, ",\"slot\":\"%s\"", o->slot);
        if (o->upstream_plain)
            (void)buf_add_text(&b, ",\"tls\":false");
        (void)buf_addc(&b, '}');
    }
    if (o->timeline != 0)
        (void)buf_printf(&b, ",\"timeline\":%u", (unsigned)o->timeline);
    if (o->timeline_term != 0)
        (void)buf_printf(&b, ",\"timeline_term\":\"%llu\"", (unsigned long long)o->timeline_term);
    if (o->role == ORDER_STANDBY)
        (void)buf_printf(&b, ",\"rejoin\":\"%s\"", rejoins[o->rejoin]);
    if (o->delay_ms != 0)
        (void)buf_printf(&b, ",\"delay_ms\":%llu", (unsigned long long)o->delay_ms);
    if (o->closed)
        (void)buf_add_text(&b, ",\"closed\":true");
    if (o->role == ORDER_PRIMARY) {
        (void)buf_printf(&b, ",\"initialize\":%s,\"lease_ms\":%llu,\"sync\":{\"need\":%d,\"members\":",
                         o->initialize ? "true" : "false", (unsigned long long)o->lease_ms, o->sync_need);
        add_names(&b, o->sync, o->sync_count);
        (void)buf_addc(&b, '}');
    }
    if (o->role == ORDER_PRIMARY || o->slot_count > 0) {
        (void)buf_add_text(&b, ",\"slots\":");
        add_names(&b, o->slots, o->slot_count);
    }
    if (o->held)
        (void)buf_add_text(&b, ",\"held\":true");
    (void)buf_addc(&b, '}');
    return buf_take(&b);
}

bool order_same(const struct order *a, const struct order *b)
{
    char *first = order_text(a), *second = order_text(b);
    bool same = strcmp(first, second) == 0;
    free(first);
    free(second);
    return same;
}

int order_compare(const struct order *a, const struct order *b)
{
    if (a->term != b->term)
        return a->term > b->term ? 1 : -1;
    return a->seq == b->seq ? 0 : a->seq > b->seq ? 1 : -1;
}

/* ---- files ---- */

static int save(const char *data, const char *suffix, const char *text, struct err *err)
{
    char *path = mem_printf("%s.%s", data, suffix);
    struct buf b = {0};
    (void)buf_printf(&b, "%s\n", text);
    int rc = agent_file_write(path, &b, err);
    if (rc == 0)
        rc = agent_parent_sync(path, err);
    buf_free(&b);
    free(path);
    return rc;
}

/* NULL = there is none. */
static int load(const char *data, const char *suffix, char **ret, struct err *err)
{
    char *path = mem_printf("%s.%s", data, suffix);
    *ret = agent_file_read(path);
    int rc = *ret == NULL && access(path, F_OK) == 0 ? err_set(err, ERRC_IO, "cannot read %s", path) : 0;
    free(path);
    return rc;
}

int order_save(const char *data, const char *text, struct err *err)
{
    return save(data, "order", text, err);
}

int order_load(const char *data, struct order *ret, struct err *err)
{
    char *text;
    int rc = load(data, "order", &text, err);
    memset(ret, 0, sizeof *ret);
    if (rc == 0 && text != NULL && order_parse(text, strlen(text), ret, err) != 0)
        rc = err_set(err, ERRC_CORRUPT,
                     "%s.order is damaged: write the last term into it, as in {\"term\":"
                     "\"7\",\"role\":\"stopped\"}",
                     data);
    free(text);
    return rc;
}

void marks_label(struct marks *m, uint32_t timeline, uint64_t term)
{
    unsigned n = m->label_count;
    if (n > 0 && m->labels[n - 1].timeline == timeline && m->labels[n - 1].term == term)
        return;
    if (n == ORDER_LABELS_MAX)
        memmove(&m->labels[0], &m->labels[1], --n * sizeof m->labels[0]);
    m->labels[n].timeline = timeline;
    m->labels[n].term = term;
    m->label_count = n + 1;
}

uint64_t marks_term(const struct marks *m, uint32_t timeline)
{
    for (unsigned i = m->label_count; i-- > 0;)
        if (m->labels[i].timeline == timeline)
            return m->labels[i].term;
    return m->primary ? m->primary_term : 0;
}

bool marks_cloned(const struct marks *m, const struct order *o)
{
    return m->cloned == o->term && (m->cloned_seq == UINT64_MAX || m->cloned_seq >= o->seq);
}

int marks_save(const char *data, const struct marks *m, struct err *err)
{
    struct buf b = {0};
    (void)buf_printf(&b,
                     "{\"primary\":%s,\"rewinding\":%s,\"rewound\":\"%llu\",\"cloned\":\"%llu\","
                     "\"cloned_seq\":\"%llu\",\"primary_term\":\"%llu\",\"labels\":[",
                     m->primary ? "true" : "false", m->rewinding ? "true" : "false",
                     (unsigned long long)m->rewound, (unsigned long long)m->cloned,
                     (unsigned long long)m->cloned_seq, (unsigned long long)m->primary_term);
    for (unsigned i = 0; i < m->label_count; i++)
        (void)buf_printf(&b, "%s[\"%u\",\"%llu\"]", i > 0 ? "," : "", (unsigned)m->labels[i].timeline,
                         (unsigned long long)m->labels[i].term);
    (void)buf_add_text(&b, "]}");
    int rc = save(data, "marks", buf_text(&b), err);
    buf_free(&b);
    return rc;
}

/* An older agent wrote neither. */
static void read_labels(struct reader *r, yyjson_val *root, struct marks *ret)
{
    yyjson_val *term = yyjson_obj_get(root, "primary_term"), *labels = yyjson_obj_get(root, "labels"), *item;
    yyjson_arr_iter iter = yyjson_arr_iter_with(labels);
    if (term != NULL)
        ret->primary_term = number_of(r, term, "primary_term");
    while ((item = yyjson_arr_iter_next(&iter)) != NULL)
        marks_label(ret, (uint32_t)number_of(r, yyjson_arr_get(item, 0), "labels"),
                    number_of(r, yyjson_arr_get(item, 1), "labels"));
}

int marks_load(const char *data, struct marks *ret, struct err *err)
{
    struct reader r = {.err = err};
    char *text;
    int rc = load(data, "marks", &text, err);
    memset(ret, 0, sizeof *ret);
    if (rc != 0 || text == NULL)
        return rc;
    yyjson_doc *doc = yyjson_read(text, strlen(text), 0);
    yyjson_val *root = yyjson_doc_get_root(doc), *primary = yyjson_obj_get(root, "primary");
    ret->primary = yyjson_is_true(primary);
    ret->rewinding = yyjson_is_true(yyjson_obj_get(root, "rewinding"));
    ret->rewound = number_of(&r, yyjson_obj_get(root, "rewound"), "rewound");
    ret->cloned = number_of(&r, yyjson_obj_get(root, "cloned"), "cloned");
    ret->cloned_seq = UINT64_MAX;
    if (yyjson_obj_get(root, "cloned_seq") != NULL)
        ret->cloned_seq = number_of(&r, yyjson_obj_get(root, "cloned_seq"), "cloned_seq");
    read_labels(&r, root, ret);
    if (!yyjson_is_bool(primary) || r.rc != 0)
        rc = err_set(err, ERRC_CORRUPT,
                     "%s.marks is damaged: delete the data directory and it, and have it cloned anew", data);
    yyjson_doc_free(doc);
    free(text);
    return rc;
}

void control_read(const char *data, struct control *ret)
{
    struct {
        uint64_t system_id;
        uint32_t version, catalog, state;
        uint64_t time, checkpoint, redo;
    } head;
    char *path = mem_printf("%s/global/pg_control", data);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    memset(ret, 0, sizeof *ret);
    if (fd >= 0 && read(fd, &head, sizeof head) == (ssize_t)sizeof head) {
        ret->system_id = head.system_id;
        ret->state = head.state;
        ret->redo = head.redo;
    }
    if (fd >= 0)
        (void)close(fd);
    free(path);
}
