#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "store/etcd_message.h"

/* ---- keys ---- */

char *etcd_prefix_end(const char *prefix, size_t length, size_t *ret_length)
{
    while (length > 0 && (unsigned char)prefix[length - 1] == 0xff)
        length--;
    if (length == 0) {
        *ret_length = 1;
        return mem_zalloc(2);
    }
    char *end = mem_strndup(prefix, length);
    end[length - 1] = (char)((unsigned char)end[length - 1] + 1);
    *ret_length = length;
    return end;
}

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void etcd_add_base64(struct buf *b, const char *bytes, size_t length)
{
    char *out = buf_reserve(b, (length + 2) / 3 * 4 + 1);
    if (out == NULL)
        return;
    char *begin = out;
    for (size_t i = 0; i < length; i += 3) {
        const unsigned char *p = (const unsigned char *)bytes + i;
        size_t n = length - i < 3 ? length - i : 3;
        unsigned bits =
            (unsigned)p[0] << 16 | (n > 1 ? (unsigned)p[1] << 8 : 0) | (n > 2 ? (unsigned)p[2] : 0);
        *out++ = base64_digits[bits >> 18];
        *out++ = base64_digits[bits >> 12 & 63];
        *out++ = n > 1 ? base64_digits[bits >> 6 & 63] : '=';
        *out++ = n > 2 ? base64_digits[bits & 63] : '=';
    }
    *out = '\0';
    b->length += (size_t)(out - begin);
}

static int base64_value(char c)
{
    const char *at = c != '\0' ? strchr(base64_digits, c) : NULL;
    return at != NULL ? (int)(at - base64_digits) : -1;
}

/* Four digits to n bytes; false if one is none. */
static bool base64_group(const char *text, size_t n, char *out)
{
    unsigned bits = 0;
    for (size_t i = 0; i < 4; i++) {
        int value = i <= n ? base64_value(text[i]) : 0;
        if (value < 0)
            return false;
        bits = bits << 6 | (unsigned)value;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = (char)(bits >> (16 - 8 * i) & 255);
    return true;
}

char *etcd_base64_text(const char *text, bool *ret_clean)
{
    size_t length = strlen(text);
    if (length % 4 != 0)
        return NULL;
    size_t padding = 0;
    while (padding < 2 && padding < length && text[length - 1 - padding] == '=')
        padding++;
    char *out = mem_alloc(length / 4 * 3 + 1), *end = out;
    for (size_t i = 0; i < length; i += 4) {
        size_t n = i + 4 == length ? 3 - padding : 3;
        if (!base64_group(text + i, n, end)) {
            free(out);
            return NULL;
        }
        end += n;
    }
    *end = '\0';
    *ret_clean = strlen(out) == (size_t)(end - out);
    return out;
}

/* ---- requests ---- */

static void add_bytes(struct buf *b, const char *name, const char *bytes, size_t length)
{
    (void)buf_printf(b, "\"%s\":\"", name);
    etcd_add_base64(b, bytes, length);
    (void)buf_addc(b, '"');
}

static void add_number(struct buf *b, const char *name, int64_t number)
{
    if (number != 0)
        (void)buf_printf(b, ",\"%s\":\"%lld\"", name, (long long)number);
}

void etcd_add_range(struct buf *b, const struct etcd_range *r)
{
    (void)buf_addc(b, '{');
    add_bytes(b, "key", r->key, strlen(r->key));
    if (r->end != NULL) {
        (void)buf_addc(b, ',');
        add_bytes(b, "range_end", r->end, r->end_length);
    }
    add_number(b, "limit", r->limit);
    add_number(b, "revision", r->revision);
    add_number(b, "min_mod_revision", r->min_mod_revision);
    (void)buf_add_text(b, r->keys_only ? ",\"keys_only\":true}" : "}");
}

static void add_compare(struct buf *b, const struct etcd_compare *c)
{
    (void)buf_addc(b, '{');
    add_bytes(b, "key", c->key, strlen(c->key));
    (void)buf_printf(b, ",\"target\":\"%s\",\"%s\":\"%lld\"}", c->create ? "CREATE" : "MOD",
                     c->create ? "create_revision" : "mod_revision", (long long)c->revision);
}

static void add_change(struct buf *b, const struct etcd_change *c)
{
    (void)buf_printf(b, "{\"%s\":{", c->value != NULL ? "request_put" : "request_delete_range");
    add_bytes(b, "key", c->key, strlen(c->key));
    if (c->value != NULL) {
        (void)buf_addc(b, ',');
        add_bytes(b, "value", c->value, strlen(c->value));
    }
    add_number(b, "lease", c->lease);
    (void)buf_add_text(b, "}}");
}

void etcd_add_txn(struct buf *b, const struct etcd_txn *txn)
{
    (void)buf_add_text(b, "{\"compare\":[");
    for (int i = 0; i < txn->compare_count; i++) {
        (void)buf_add_text(b, i > 0 ? "," : "");
        add_compare(b, &txn->compares[i]);
    }
    (void)buf_add_text(b, "],\"success\":[");
    for (int i = 0; i < txn->change_count; i++) {
        (void)buf_add_text(b, i > 0 ? "," : "");
        add_change(b, &txn->changes[i]);
    }
    (void)buf_add_text(b, "],\"failure\":[");
    for (int i = 0; i < txn->read_count; i++) {
        const struct etcd_range r = {.key = txn->reads[i], .keys_only = (txn->values >> i & 1) == 0};
        (void)buf_add_text(b, i > 0 ? ",{\"request_range\":" : "{\"request_range\":");
        etcd_add_range(b, &r);
        (void)buf_addc(b, '}');
    }
    (void)buf_add_text(b, "]}");
}

/* ---- answers ---- */

int64_t etcd_number(yyjson_val *object, const char *name)
{
    yyjson_val *v = yyjson_obj_get(object, name);
    int64_t number = 0;
    uint64_t big = 0;
    if (yyjson_is_str(v)) {
        if (!text_to_int64(yyjson_get_str(v), &number) && text_to_uint64(yyjson_get_str(v), &big))
            number = (int64_t)big; /* identities of clusters and members are unsigned */
    } else if (yyjson_is_sint(v)) {
        number = yyjson_get_sint(v);
    } else if (yyjson_is_uint(v)) {
        number = (int64_t)yyjson_get_uint(v);
    }
    return number;
}

int64_t etcd_revision(yyjson_val *answer)
{
    return etcd_number(yyjson_obj_get(answer, "header"), "revision");
}

int64_t etcd_cluster(yyjson_val *answer)
{
    return etcd_number(yyjson_obj_get(answer, "header"), "cluster_id");
}

static char *bytes_of(yyjson_val *object, const char *name, bool *ret_clean)
{
    const char *text = yyjson_get_str(yyjson_obj_get(object, name));
    return etcd_base64_text(text != NULL ? text : "", ret_clean); /* left out = empty */
}

bool etcd_kv_read(yyjson_val *kv, bool with_value, struct etcd_kv *ret)
{
    bool clean_key = false, clean_value = false;
    *ret = (struct etcd_kv){
        .key = bytes_of(kv, "key", &clean_key),
        .value = with_value ? bytes_of(kv, "value", &clean_value) : NULL,
        .create = etcd_number(kv, "create_revision"),
        .mod = etcd_number(kv, "mod_revision"),
        .lease = etcd_number(kv, "lease"),
    };
    if (!clean_value) {
        free(ret->value);
        ret->value = NULL;
    }
    return ret->key != NULL && clean_key && ret->mod > 0;
}

void etcd_kv_free(struct etcd_kv *kv)
{
    free(kv->key);
    free(kv->value);
    *kv = (struct etcd_kv){0};
}

bool etcd_txn_succeeded(yyjson_val *answer)
{
    return yyjson_is_true(yyjson_obj_get(answer, "succeeded"));
}

yyjson_val *etcd_txn_read(yyjson_val *answer, size_t index)
{
    yyjson_val *response = yyjson_arr_get(yyjson_obj_get(answer, "responses"), index);
    return yyjson_arr_get(yyjson_obj_get(yyjson_obj_get(response, "response_range"), "kvs"), 0);
}

int etcd_watch_read(yyjson_val *line, struct etcd_watch_message *ret, struct err *err)
{
    yyjson_val *result = yyjson_obj_get(line, "result");
    int64_t code;
    *ret = (struct etcd_watch_message){0};
    if (etcd_error_read(line, &code, &ret->reason)) {
        ret->ended = true;
        ret->compacted = etcd_fault_of(0, code, ret->reason) == ETCD_FAULT_COMPACTED;
        return 0;
    }
    if (!yyjson_is_obj(result))
        return err_set(err, ERRC_PROTOCOL, "etcd's watch said what is no watch response");
    ret->created = yyjson_is_true(yyjson_obj_get(result, "created"));
    ret->fragment = yyjson_is_true(yyjson_obj_get(result, "fragment"));
    ret->compacted = etcd_number(result, "compact_revision") != 0;
    ret->ended = ret->compacted || yyjson_is_true(yyjson_obj_get(result, "canceled"));
    ret->reason = yyjson_get_str(yyjson_obj_get(result, "cancel_reason"));
    ret->revision = etcd_revision(result);
    ret->cluster = etcd_cluster(result);
    ret->events = yyjson_obj_get(result, "events");
    return 0;
}

bool etcd_event_read(yyjson_val *event, struct etcd_kv *ret, bool *ret_deleted)
{
    yyjson_val *type = yyjson_obj_get(event, "type"); /* left out = PUT; a name or its number */
    const char *name = yyjson_get_str(type);
    *ret_deleted = (name != NULL && strcmp(name, "DELETE") == 0) || yyjson_get_int(type) == 1;
    return etcd_kv_read(yyjson_obj_get(event, "kv"), !*ret_deleted, ret);
}

/* ---- errors ---- */

static bool has(const char *message, const char *part)
{
    return strstr(message, part) != NULL;
}

/* 'not a primary lessor' comes as Unknown and means: ask the leader (etcd#21671). */
static bool member_cannot(const char *m)
{
    static const char *const parts[] = {"not a primary lessor",
                                        "leader changed",
                                        "no leader",
                                        "request timed out",
                                        "server stopped",
                                        "not capable",
                                        "Closing",
                                        "stopping",
                                        "not ready",
                                        "member not found",
                                        "connection error",
                                        "transport is closing"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (has(m, parts[i]))
            return true;
    return false;
}

static bool token_is_bad(const char *m)
{
    return has(m, "invalid auth token") || has(m, "user name is empty") ||
           has(m, "revision of auth store is old");
}

enum etcd_fault etcd_fault_of(int status, int64_t code, const char *m)
{
    if (status == 200 && code < 0)
        return ETCD_FAULT_NONE;
    if (token_is_bad(m))
        return ETCD_FAULT_TOKEN;
    if (has(m, "authentication is not enabled"))
        return ETCD_FAULT_NO_AUTH;
    if (has(m, "space exceeded"))
        return ETCD_FAULT_NO_SPACE;
    if (has(m, "request is too large") || has(m, "larger than max"))
        return ETCD_FAULT_TOO_LARGE;
    if (has(m, "lease not found"))
        return ETCD_FAULT_NO_LEASE;
    if (has(m, "revision has been compacted"))
        return ETCD_FAULT_COMPACTED;
    if (has(m, "authentication failed") || has(m, "permission denied"))
        return ETCD_FAULT_DENIED;
    if (member_cannot(m))
        return ETCD_FAULT_ENDPOINT;
    switch (code) {
    case 7: /* PERMISSION_DENIED */
        return ETCD_FAULT_DENIED;
    case 8: /* RESOURCE_EXHAUSTED: too many requests */
        return ETCD_FAULT_BUSY;
    case 16: /* UNAUTHENTICATED */
        return ETCD_FAULT_TOKEN;
    case 1:  /* CANCELLED */
    case 2:  /* UNKNOWN */
    case 4:  /* DEADLINE_EXCEEDED */
    case 13: /* INTERNAL */
    case 14: /* UNAVAILABLE */
        return ETCD_FAULT_ENDPOINT;
    default:
        /* Without a gRPC code it is not etcd that speaks but something between, or before its time. */
        return code >= 0 || status == 404 ? ETCD_FAULT_OTHER : ETCD_FAULT_ENDPOINT;
    }
}

/* Three shapes: {code,message}, {error:"text",code} of 3.4, and {error:{grpc_code,message}} in streams. */
bool etcd_error_read(yyjson_val *answer, int64_t *ret_code, const char **ret_message)
{
    yyjson_val *e = yyjson_obj_get(answer, "error");
    yyjson_val *holder = yyjson_is_obj(e) ? e : answer;
    yyjson_val *code = yyjson_obj_get(holder, "grpc_code");
    const char *message = yyjson_get_str(yyjson_obj_get(holder, "message"));
    if (code == NULL)
        code = yyjson_obj_get(holder, "code");
    if (message == NULL)
        message = yyjson_get_str(e);
    if (!yyjson_is_int(code) || yyjson_get_sint(code) <= 0)
        return false;
    *ret_code = yyjson_get_sint(code);
    *ret_message = message != NULL ? message : "no reason given";
    return true;
}

enum err_code etcd_fault_code(enum etcd_fault fault)
{
    static const enum err_code codes[] = {
        [ETCD_FAULT_NONE] = ERRC_NONE,          [ETCD_FAULT_ENDPOINT] = ERRC_UNAVAILABLE,
        [ETCD_FAULT_BUSY] = ERRC_UNAVAILABLE,   [ETCD_FAULT_TOKEN] = ERRC_AUTH,
        [ETCD_FAULT_DENIED] = ERRC_AUTH,        [ETCD_FAULT_NO_AUTH] = ERRC_AUTH,
        [ETCD_FAULT_NO_SPACE] = ERRC_LIMIT,     [ETCD_FAULT_TOO_LARGE] = ERRC_LIMIT,
        [ETCD_FAULT_NO_LEASE] = ERRC_NOT_FOUND, [ETCD_FAULT_COMPACTED] = ERRC_STALE,
        [ETCD_FAULT_OTHER] = ERRC_REFUSED,
    };
    return codes[fault];
}
