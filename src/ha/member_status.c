#include "ha/member_status.h"

#include <stdio.h>
#include <string.h>
#include <yyjson.h>

#include "base/env.h"
#include "base/text.h"

static void text_of(yyjson_val *root, const char *key, char *out, size_t size)
{
    yyjson_val *value = yyjson_obj_get(root, key);
    (void)snprintf(out, size, "%s", yyjson_is_str(value) ? yyjson_get_str(value) : "");
}

static bool number_at(yyjson_val *root, const char *key, uint64_t *ret)
{
    yyjson_val *value = yyjson_obj_get(root, key);
    return yyjson_is_str(value) && text_to_uint64(yyjson_get_str(value), ret);
}

static uint64_t number_of(yyjson_val *root, const char *key)
{
    uint64_t number = 0;
    (void)number_at(root, key, &number);
    return number;
}

static uint64_t lsn_of(yyjson_val *root, const char *key)
{
    yyjson_val *value = yyjson_obj_get(root, key);
    uint64_t lsn = 0;
    if (yyjson_is_str(value))
        (void)text_to_lsn(yyjson_get_str(value), &lsn);
    return lsn;
}

static bool flag_of(yyjson_val *root, const char *key)
{
    return yyjson_is_true(yyjson_obj_get(root, key));
}

static void read_standbys(yyjson_val *list, struct member_status *s)
{
    yyjson_arr_iter iter = yyjson_arr_iter_with(list);
    char state[32];
    for (yyjson_val *item; (item = yyjson_arr_iter_next(&iter)) != NULL;) {
        if (s->standby_count == MEMBER_STANDBYS_MAX)
            return;
        struct member_standby *standby = &s->standbys[s->standby_count++];
        text_of(item, "name", standby->name, sizeof standby->name);
        text_of(item, "state", state, sizeof state);
        standby->streams = strcmp(state, "streaming") == 0;
        standby->flushed = lsn_of(item, "flushed");
    }
}

static void read_server(yyjson_val *root, struct member_status *s)
{
    char role[16];
    uint64_t silent_ms = 0;
    text_of(root, "role", role, sizeof role);
    s->known = role[0] != '\0';
    s->primary = strcmp(role, "primary") == 0;
    s->timeline = (uint32_t)number_of(root, "timeline");
    s->wal_term = number_of(root, "wal_term");
    s->flushed = lsn_of(root, "flushed");
    s->wal_from = lsn_of(root, "wal_from");
    s->waits_at = lsn_of(root, "waits_at");
    text_of(root, "receiver", s->receiver, sizeof s->receiver);
    text_of(root, "upstream", s->upstream, sizeof s->upstream);
    s->heard = number_at(root, "receiver_age_ms", &silent_ms) && silent_ms < UINT32_MAX;
    s->beat = number_of(root, "beat");
    s->silent_ns = s->heard ? silent_ms * ENV_NS_PER_MS : 0;
    read_standbys(yyjson_obj_get(root, "standbys"), s);
}

static void read_order(yyjson_val *root, struct member_status *s)
{
    yyjson_val *order = yyjson_obj_get(root, "order");
    s->term = number_of(root, "term");
    s->seq = number_of(root, "seq");
    text_of(root, "assigned", s->assigned, sizeof s->assigned);
    text_of(root, "reported", s->reported, sizeof s->reported);
    s->nobody = strcmp(s->assigned, "standby") == 0 && yyjson_is_obj(order) &&
                yyjson_obj_get(order, "upstream") == NULL;
    s->plain = yyjson_is_false(yyjson_obj_get(root, "tls"));
    s->tls = flag_of(root, "tls");
    s->retired = flag_of(root, "closed");
    s->leaving = flag_of(root, "leaving");
    s->confirmed = flag_of(root, "confirmed");
    s->settled = flag_of(root, "settled");
}

static void read_container(yyjson_val *root, struct member_status *s)
{
    s->contained = number_at(root, "cpu_us", &s->cpu_us) && number_at(root, "memory_bytes", &s->memory_bytes);
    s->memory_limit = number_of(root, "memory_limit_bytes");
    s->cpu_limit = yyjson_get_num(yyjson_obj_get(root, "cpu_limit"));
}

int member_status_parse(const char *json, size_t length, struct member_status *ret, struct err *err)
{
    struct member_status s = {0};
    yyjson_doc *doc = yyjson_read(json, length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    text_of(root, "member", s.member, sizeof s.member);
    text_of(root, "life", s.life, sizeof s.life);
    text_of(root, "next_password", s.next_password, sizeof s.next_password);
    bool good = s.member[0] != '\0' && s.life[0] != '\0' && number_at(root, "clock", &s.clock);
    if (good) {
        read_order(root, &s);
        read_server(root, &s);
        read_container(root, &s);
        s.checkpoints = number_of(root, "checkpoints");
        s.diverged = flag_of(root, "may_have_diverged");
        s.system_id = number_of(root, "system_id");
        text_of(root, "error", s.error, sizeof s.error);
        *ret = s;
    }
    yyjson_doc_free(doc);
    return good ? 0 : err_set(err, ERRC_PROTOCOL, "what came is no status of a member's agent");
}

static bool same_standbys(const struct member_status *a, const struct member_status *b)
{
    bool same = a->standby_count == b->standby_count;
    for (unsigned i = 0; same && i < a->standby_count; i++)
        same = a->standbys[i].streams == b->standbys[i].streams &&
               strcmp(a->standbys[i].name, b->standbys[i].name) == 0;
    return same;
}

static bool same_order(const struct member_status *a, const struct member_status *b)
{
    return a->term == b->term && a->seq == b->seq && strcmp(a->assigned, b->assigned) == 0 &&
           strcmp(a->reported, b->reported) == 0 && a->nobody == b->nobody && a->retired == b->retired &&
           a->leaving == b->leaving && a->confirmed == b->confirmed && a->settled == b->settled;
}

static bool same_server(const struct member_status *a, const struct member_status *b)
{
    return a->known == b->known && a->primary == b->primary && a->timeline == b->timeline &&
           a->wal_term == b->wal_term && a->diverged == b->diverged && a->system_id == b->system_id &&
           a->checkpoints == b->checkpoints && strcmp(a->receiver, b->receiver) == 0 &&
           strcmp(a->upstream, b->upstream) == 0 && same_standbys(a, b);
}

bool member_status_same(const struct member_status *a, const struct member_status *b)
{
    return strcmp(a->member, b->member) == 0 && strcmp(a->life, b->life) == 0 && same_order(a, b) &&
           same_server(a, b) && strcmp(a->error, b->error) == 0;
}

enum ha_server member_status_server(const struct member_status *s)
{
    if (strcmp(s->reported, "primary") == 0)
        return HA_SERVER_PRIMARY;
    if (strcmp(s->reported, "standby") == 0)
        return HA_SERVER_STANDBY;
    if (strcmp(s->reported, "starting") == 0 || strcmp(s->reported, "promoting") == 0)
        return HA_SERVER_STARTING;
    return s->reported[0] != '\0' ? HA_SERVER_DOWN : HA_SERVER_UNKNOWN;
}

const struct member_standby *member_status_standby(const struct member_status *s, const char *name)
{
    for (unsigned i = 0; i < s->standby_count; i++)
        if (strcmp(s->standbys[i].name, name) == 0)
            return &s->standbys[i];
    return NULL;
}
