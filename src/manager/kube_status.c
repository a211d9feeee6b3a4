#include "manager/kube_status.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"

#define NAMED_MAX 3 /* shards that a sentence names */

void kube_condition_set(struct kube_condition *c, int64_t now_us, enum kube_truth truth, const char *reason,
                        const char *message)
{
    if (c->truth != truth || c->since_us == 0)
        c->since_us = now_us;
    c->truth = truth;
    snprintf(c->reason, sizeof c->reason, "%s", reason);
    if (message != c->message)
        snprintf(c->message, sizeof c->message, "%s", message);
}

/* ---- serves? ---- */

struct census {
    unsigned up, down, unknown;
    struct buf down_names;
};

static void count_shards(const struct kube_facts *f, struct census *ret)
{
    const struct routing *r = f->db->routing;
    for (size_t i = 0; i < r->shard_count; i++) {
        if (r->shards[i].ranges.count == 0)
            continue;
        const struct fleet_instance *primary = fleet_primary(f->fleet, f->db->name, r->shards[i].name);
        enum instance_health health = primary != NULL ? primary->facts.health : HEALTH_UNKNOWN;
        ret->up += health == HEALTH_UP || health == HEALTH_SUSPECT;
        ret->unknown += health == HEALTH_UNKNOWN;
        ret->down += health == HEALTH_DOWN;
        if (health == HEALTH_DOWN && ret->down <= NAMED_MAX)
            buf_printf(&ret->down_names, "%s%s", ret->down > 1 ? ", " : "", r->shards[i].name);
    }
    if (ret->down > NAMED_MAX)
        buf_printf(&ret->down_names, " and %u more", ret->down - NAMED_MAX);
}

static void judge_available(const struct kube_facts *f, struct kube_condition *c)
{
    struct census all = {0};
    char text[256];
    if (f->db == NULL || f->db->routing == NULL) {
        kube_condition_set(c, f->now_us, KUBE_FALSE, f->deleting ? "Deleting" : "NotProvisioned",
                           "there is no routing table: nobody can be served");
        return;
    }
    count_shards(f, &all);
    snprintf(text, sizeof text, "%s %.100s: their primaries do not answer",
             all.down == 1 ? "shard" : "shards", buf_text(&all.down_names));
    if (f->suspended)
        kube_condition_set(c, f->now_us, KUBE_FALSE, "Suspended", "every shard is scaled to zero");
    else if (all.down > 0)
        kube_condition_set(c, f->now_us, KUBE_FALSE, "ShardsDown", text);
    else if (all.unknown > 0 && c->truth == KUBE_ABSENT)
        kube_condition_set(c, f->now_us, KUBE_UNKNOWN, "NotSeenYet", "the shards were not polled yet");
    else if (all.unknown == 0)
        kube_condition_set(c, f->now_us, KUBE_TRUE, "ShardsServe", "the primary of every shard answers");
    buf_free(&all.down_names); /* unknown: a manager that has just started; what was said before stays */
}

/* ---- as specified? ---- */

struct verdict {
    enum kube_truth ready;
    const char *reason;
    char message[512];
    bool moving; /* something is done about it */
};

static void say(struct verdict *v, const char *reason, bool moving, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void say(struct verdict *v, const char *reason, bool moving, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(v->message, sizeof v->message, fmt, args);
    va_end(args);
    v->ready = KUBE_FALSE;
    v->reason = reason;
    v->moving = moving;
}

int kube_shards_of(const struct fleet_database *db)
{
    int count = 0;
    for (size_t i = 0; db != NULL && db->routing != NULL && i < db->routing->shard_count; i++)
        count += db->routing->shards[i].ranges.count > 0;
    return count;
}

const struct routing_shard *kube_older_shard(const struct fleet *fleet, const struct fleet_database *db,
                                             int major, int *count)
{
    const struct routing_shard *first = NULL;
    int found = 0;
    for (size_t i = 0; db != NULL && db->routing != NULL && i < db->routing->shard_count; i++) {
        const struct routing_shard *s = &db->routing->shards[i];
        const struct fleet_instance *primary = fleet_primary(fleet, db->name, s->name);
        int version = primary != NULL ? primary->facts.server_version / 10000 : 0;
        if (s->ranges.count == 0 || version == 0 || version >= major)
            continue;
        first = first != NULL ? first : s;
        found++;
    }
    if (count != NULL)
        *count = found;
    return first;
}

static int shards_of(const struct kube_facts *f)
{
    return kube_shards_of(f->db);
}

/* An older PostgreSQL than is asked for. Where a person is to say when it goes, that is as specified. */
static void judge_version(const struct kube_facts *f, const char *colon, struct verdict *v)
{
    int older;
    const struct routing_shard *s = kube_older_shard(f->fleet, f->db, f->major, &older);
    if (s == NULL)
        return;
    if (f->rolls) {
        say(v, "Upgrading", true, "%d of %d shards run PostgreSQL %d%s%s", shards_of(f) - older, shards_of(f),
            f->major, colon, f->progress);
        return;
    }
    say(v, "OlderVersion", false,
        "shard %s%s an older PostgreSQL than %d (update.strategy OnDelete): "
        "ShardOperations of kind upgrade move them to it",
        s->name, older > 1 ? " and others run" : " runs", f->major);
    v->ready = KUBE_TRUE;
}

static void judge(const struct kube_facts *f, const struct kube_condition *available, struct verdict *v)
{
    const char *colon = f->progress[0] != '\0' ? ": " : "";
    *v = (struct verdict){.ready = KUBE_TRUE, .reason = "AsSpecified"};
    snprintf(v->message, sizeof v->message, "%d shard%s serve%s", shards_of(f), shards_of(f) == 1 ? "" : "s",
             shards_of(f) == 1 ? "s" : "");
    if (f->trouble_reason[0] != '\0')
        say(v, f->trouble_reason, !f->trouble_final, "%s", f->trouble_message);
    else if (f->deleting)
        say(v, "Deleting", true, "its shards are removed%s%s", colon, f->progress);
    else if (shards_of(f) == 0)
        say(v, "Provisioning", true, "its shards are made%s%s", colon, f->progress);
    else if (f->suspended)
        say(v, "Suspended", !f->current, "%s",
            f->current ? "every shard is scaled to zero" : "its shards are scaled to zero");
    else if (!f->current)
        say(v, "Updating", true, "its shards follow a new specification%s%s", colon, f->progress);
    else if (f->resizing)
        say(v, "Resizing", true, "its shards get %u instance%s each%s%s", f->instances,
            f->instances == 1 ? "" : "s", colon, f->progress);
    else if (f->wanted > f->requested && f->requested > 0 && shards_of(f) < f->wanted)
        say(v, "Scaling", true, "%d of %d shards%s%s", shards_of(f), f->wanted, colon, f->progress);
    else if (available->truth != KUBE_TRUE) {
        say(v, available->reason, false, "%s", available->message);
        v->ready = available->truth;
    } else
        judge_version(f, colon, v);
}

void kube_status_judge(const struct kube_facts *f, struct kube_condition conditions[KUBE_CONDITION_COUNT])
{
    struct verdict v;
    bool stalled = f->trouble_reason[0] != '\0' && f->trouble_final;
    judge_available(f, &conditions[KUBE_AVAILABLE]);
    judge(f, &conditions[KUBE_AVAILABLE], &v);
    kube_condition_set(&conditions[KUBE_READY], f->now_us, v.ready, v.reason, v.message);
    kube_condition_set(&conditions[KUBE_RECONCILING], f->now_us, v.moving ? KUBE_TRUE : KUBE_ABSENT, v.reason,
                       v.message);
    kube_condition_set(&conditions[KUBE_STALLED], f->now_us, stalled ? KUBE_TRUE : KUBE_ABSENT,
                       f->trouble_reason, f->trouble_message);
}

/* ---- as an object ---- */

void kube_condition_print(struct yyjson_mut_doc *doc, struct yyjson_mut_val *list, const char *type,
                          const struct kube_condition *c, int64_t generation)
{
    static const char *const truths[] = {"", "False", "True", "Unknown"};
    char time[ENV_TIME_SIZE];
    if (c->truth == KUBE_ABSENT)
        return;
    yyjson_mut_val *item = yyjson_mut_arr_add_obj(doc, list);
    env_format_time(c->since_us, time);
    snprintf(time + strlen("2026-11-21T07:15:00"), 2, "Z");
    yyjson_mut_obj_add_str(doc, item, "type", type);
    yyjson_mut_obj_add_str(doc, item, "status", truths[c->truth]);
    yyjson_mut_obj_add_sint(doc, item, "observedGeneration", generation);
    yyjson_mut_obj_add_strcpy(doc, item, "lastTransitionTime", time);
    yyjson_mut_obj_add_str(doc, item, "reason", c->reason[0] != '\0' ? c->reason : "Unknown");
    yyjson_mut_obj_add_str(doc, item, "message", c->message);
}

static void print_routing(yyjson_mut_doc *doc, yyjson_mut_val *status, const struct routing *routing,
                          int shards)
{
    struct buf json = {0};
    char epoch[24];
    routing_print(routing, &json);
    yyjson_doc *table = yyjson_read(buf_text(&json), json.length, 0);
    snprintf(epoch, sizeof epoch, "%" PRIu64, routing->epoch);
    yyjson_mut_obj_add_int(doc, status, "shards", shards);
    yyjson_mut_obj_add_strcpy(doc, status, "epoch", epoch);
    if (table != NULL)
        yyjson_mut_obj_add_val(doc, status, "routing", yyjson_val_mut_copy(doc, yyjson_doc_get_root(table)));
    yyjson_doc_free(table);
    buf_free(&json);
}

struct yyjson_mut_doc *kube_status_print(const struct kube_status *s)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "apiVersion", "shardherd.io/v1alpha1");
    yyjson_mut_obj_add_str(doc, root, "kind", "ShardedDatabase");
    yyjson_mut_val *metadata = yyjson_mut_obj_add_obj(doc, root, "metadata");
    yyjson_mut_obj_add_str(doc, metadata, "name", s->name);
    yyjson_mut_obj_add_str(doc, metadata, "uid", s->uid); /* another object of that name is left alone */
    yyjson_mut_val *status = yyjson_mut_obj_add_obj(doc, root, "status");
    yyjson_mut_obj_add_sint(doc, status, "observedGeneration", s->generation);
    if (s->requested_shards > 0)
        yyjson_mut_obj_add_int(doc, status, "requestedShards", s->requested_shards);
    if (s->client_certificate) {
        char *secret = mem_printf("%s-client", s->name);
        yyjson_mut_obj_add_strcpy(doc, status, "clientSecret", secret);
        free(secret);
    }
    if (s->db != NULL && s->db->routing != NULL)
        print_routing(doc, status, s->db->routing, kube_shards_of(s->db));
    else
        yyjson_mut_obj_add_int(doc, status, "shards", 0);
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, status, "conditions");
    for (int i = 0; i < KUBE_CONDITION_COUNT; i++)
        kube_condition_print(doc, list, kube_condition_name((enum kube_condition_type)i), &s->conditions[i],
                             s->generation);
    return doc;
}
