#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_impl.h"
#include "base/mem.h"

static void print_values(yyjson_mut_doc *doc, yyjson_mut_val *object, const double values[LOAD_METRIC_MAX])
{
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        json_real(doc, object, load_metric_name((enum load_metric)m), values[m]);
}

static void print_mean(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name,
                       const struct load_ring *ring, uint64_t window_ns)
{
    double values[LOAD_METRIC_MAX];
    for (int m = 0; m < LOAD_METRIC_MAX; m++)
        if (!load_ring_mean(ring, (enum load_metric)m, loop_now(api->services.loop), window_ns, &values[m]))
            values[m] = (double)NAN;
    print_values(doc, yyjson_mut_obj_add_obj(doc, object, name), values);
}

static void print_quantiles(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name,
                            const struct hist_sparse *sparse)
{
    static const struct {
        const char *name;
        double q;
    } shares[] = {{"p50", 0.5}, {"p95", 0.95}, {"p99", 0.99}};
    yyjson_mut_val *out = yyjson_mut_obj_add_obj(doc, object, name);
    struct hist h;
    hist_sparse_copy(sparse, &h);
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++)
        json_real(doc, out, shares[i].name,
                  h.count > 0 ? (double)hist_quantile(&h, shares[i].q) / 1e3 : (double)NAN);
    json_uint64(doc, out, "count", h.count);
}

static void print_load(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                       const struct fleet_instance *primary)
{
    struct load_sample last;
    if (primary == NULL) {
        yyjson_mut_obj_add_null(doc, object, "load");
        return;
    }
    yyjson_mut_val *load = yyjson_mut_obj_add_obj(doc, object, "load");
    if (load_ring_second(&primary->load, 0, &last)) {
        yyjson_mut_val *sample = yyjson_mut_obj_add_obj(doc, load, "last");
        json_past(api, doc, sample, "at", last.at_ns);
        double values[LOAD_METRIC_MAX];
        for (int m = 0; m < LOAD_METRIC_MAX; m++)
            values[m] = load_value(last.value[m]);
        print_values(doc, sample, values);
        json_real(doc, sample, "active_sessions", load_value(last.active_sessions));
        json_real(doc, sample, "probe_ms", load_value(last.probe_ms));
    } else
        yyjson_mut_obj_add_null(doc, load, "last");
    print_mean(api, doc, load, "mean_10s", &primary->load, 10 * ENV_NS_PER_S);
    print_mean(api, doc, load, "mean_60s", &primary->load, 60 * ENV_NS_PER_S);
    print_quantiles(doc, load, "probe_ms", &primary->probe);
    print_quantiles(doc, load, "query_age_ms", &primary->query_age);
}

static void print_balancer(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                           const char *database, const char *shard)
{
    const struct api_services *s = &api->services;
    struct api_standing standing = {0};
    if (s->standing == NULL || !s->standing(s->data, database, shard, &standing)) {
        yyjson_mut_obj_add_null(doc, object, "balancer");
        return;
    }
    yyjson_mut_val *out = yyjson_mut_obj_add_obj(doc, object, "balancer");
    json_text(doc, out, "phase", standing.phase);
    yyjson_mut_obj_add_uint(doc, out, "row", standing.row);
    json_past(api, doc, out, "hot_since", standing.hot_since_ns);
    if (standing.refusal_rule == 0) {
        yyjson_mut_obj_add_null(doc, out, "refusal");
        return;
    }
    yyjson_mut_val *refusal = yyjson_mut_obj_add_obj(doc, out, "refusal");
    yyjson_mut_obj_add_int(doc, refusal, "rule", standing.refusal_rule);
    json_text(doc, refusal, "rule_name", standing.refusal_rule_name);
    json_text(doc, refusal, "sentence", standing.refusal_sentence);
    yyjson_mut_obj_add_bool(doc, refusal, "active", standing.refusal_active);
    json_past(api, doc, refusal, "since", standing.refusal_since_ns);
}

static void print_guards(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                         const char *database, const char *shard)
{
    const struct api_services *s = &api->services;
    struct api_guards guards = {0};
    if (s->guards == NULL || !s->guards(s->data, database, shard, &guards)) {
        yyjson_mut_obj_add_null(doc, object, "guards");
        return;
    }
    yyjson_mut_val *out = yyjson_mut_obj_add_obj(doc, object, "guards");
    json_time(doc, out, "checked", guards.checked_us);
    yyjson_mut_obj_add_val(doc, out, "findings", yyjson_mut_rawcpy(doc, guards.findings));
}

static void print_keeper(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                         const char *database, const char *shard)
{
    const struct api_services *s = &api->services;
    struct api_kept k = {0};
    if (s->kept == NULL || !s->kept(s->data, database, shard, &k)) {
        yyjson_mut_obj_add_null(doc, object, "keeper");
        return;
    }
    yyjson_mut_val *out = yyjson_mut_obj_add_obj(doc, object, "keeper");
    json_text(doc, out, "state", k.state);
    json_text(doc, out, "durability", k.durability);
    json_uint64(doc, out, "term", k.term);
    yyjson_mut_obj_add_bool(doc, out, "maintenance", k.maintenance);
    json_text(doc, out, "waits", k.waits);
    if (k.id == NULL) {
        yyjson_mut_obj_add_null(doc, out, "last");
        return;
    }
    yyjson_mut_val *last = yyjson_mut_obj_add_obj(doc, out, "last");
    json_text(doc, last, "id", k.id);
    json_text(doc, last, "kind", k.kind);
    json_text(doc, last, "state", k.step);
    json_text(doc, last, "reason", k.reason != NULL && k.reason[0] != '\0' ? k.reason : NULL);
}

/* Ranges and addresses as the routing table has them. */
static void print_ownership(yyjson_mut_doc *doc, yyjson_mut_val *object, const struct routing_shard *shard)
{
    double share = 0;
    json_text(doc, object, "state", shard_state_name(shard->state));
    json_uint64(doc, object, "epoch", shard->epoch);
    json_ranges(doc, object, "ranges", &shard->ranges);
    for (size_t i = 0; i < shard->ranges.count; i++)
        share += ((double)range_width_minus_one(&shard->ranges.items[i]) + 1) / 0x1p64;
    json_real(doc, object, "share", share);
    api_print_address(doc, object, "primary", &shard->primary);
    yyjson_mut_val *replicas = yyjson_mut_obj_add_arr(doc, object, "replicas");
    for (size_t i = 0; i < shard->replica_count; i++) {
        yyjson_mut_val *replica = yyjson_mut_arr_add_obj(doc, replicas);
        json_text(doc, replica, "host", shard->replicas[i].host);
        yyjson_mut_obj_add_int(doc, replica, "port", shard->replicas[i].port);
        json_uint64(doc, replica, "lag_bytes", shard->replicas[i].lag_bytes);
    }
}

static void print_shard(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                        const struct routing_shard *shard, const struct fleet_database *db)
{
    const struct fleet_instance *primary = fleet_primary(api->services.fleet, db->name, shard->name);
    const struct operation *op = operations_running_on(api->services.operations, db->name, shard->name);
    json_text(doc, object, "database", db->name);
    json_text(doc, object, "name", shard->name);
    print_ownership(doc, object, shard);
    if (primary != NULL)
        api_print_instance(api, doc, yyjson_mut_obj_add_obj(doc, object, "instance"), primary);
    else
        yyjson_mut_obj_add_null(doc, object, "instance");
    print_load(api, doc, object, primary);
    print_balancer(api, doc, object, db->name, shard->name);
    print_guards(api, doc, object, db->name, shard->name);
    print_keeper(api, doc, object, db->name, shard->name);
    json_text(doc, object, "operation", op != NULL ? op->id : NULL);
}

static void print_line(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object, const void *item,
                       const void *data)
{
    print_shard(api, doc, object, item, data);
}

void api_get_shards(struct api_call *call)
{
    const struct fleet_database *db = api_find_database(call);
    if (db == NULL)
        return;
    const struct routing *r = db->routing;
    size_t count = r != NULL ? r->shard_count : 0;
    struct api_named *items = mem_array(count + 1, sizeof *items);
    for (size_t i = 0; i < count; i++)
        items[i] = (struct api_named){r->shards[i].name, &r->shards[i]};
    api_respond_named(call, "shards", items, count, print_line, db);
    free(items);
}

static void respond_shard(struct api_call *call, int status, const struct fleet_database *db,
                          const struct routing_shard *shard)
{
    struct api_decision decision;
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    print_shard(call->api, doc, root, shard, db);
    if (api_last_decision(call->api, db->name, shard->name, &decision))
        api_print_decision(doc, yyjson_mut_obj_add_obj(doc, root, "last_decision"), &decision);
    else
        yyjson_mut_obj_add_null(doc, root, "last_decision");
    api_respond(call, status, doc);
}

/* The shard that the path names; NULL if answered. */
static const struct routing_shard *find_shard(struct api_call *call, const struct fleet_database *db)
{
    const struct routing_shard *shard = db != NULL ? routing_find_shard(db->routing, call->params[1]) : NULL;
    if (db != NULL && shard == NULL)
        http_problem(call->ex, 404, "not_found", "database \"%s\" has no shard \"%s\"", db->name,
                     call->params[1]);
    return shard;
}

void api_get_shard(struct api_call *call)
{
    const struct fleet_database *db = api_find_routed(call);
    const struct routing_shard *shard = find_shard(call, db);
    if (shard != NULL)
        respond_shard(call, 200, db, shard);
}

/* NULL if answered. */
static const struct routing_shard *shard_to_change(struct api_call *call, struct fleet_database **ret_db)
{
    if (!api_leads(call))
        return NULL;
    *ret_db = api_find_routed(call);
    return find_shard(call, *ret_db);
}

static void no_standbys(struct api_call *call)
{
    http_problem(call->ex, 422, "unsupported", "shards have no standbys here that could be the primary");
}

void api_post_failover(struct api_call *call)
{
    const struct api_services *s = &call->api->services;
    char to[API_FILTER_SIZE];
    struct fleet_database *db = NULL;
    struct err err = {0};
    bool given, allow;
    if (!api_query_name(call, "to", to, &given) || !api_query_flag(call, "allowDataLoss", &allow))
        return;
    const struct routing_shard *shard = shard_to_change(call, &db);
    if (shard == NULL)
        return;
    if (!given)
        http_problem(call->ex, 400, "invalid", "to names the instance that is to be the primary");
    else if (s->fail_over == NULL)
        no_standbys(call);
    else if (s->fail_over(s->data, db->name, shard->name, to, allow, &err) != 0)
        api_refuse(call, &err);
    else
        respond_shard(call, 202, db, shard);
}

void api_post_maintenance(struct api_call *call)
{
    const struct api_services *s = &call->api->services;
    struct fleet_database *db = NULL;
    struct err err = {0};
    char text[8];
    bool on;
    if (api_query_get(call, "on", text, sizeof text) == QUERY_WRONG || !api_query_flag(call, "on", &on))
        return;
    const struct routing_shard *shard = shard_to_change(call, &db);
    if (shard == NULL)
        return;
    if (s->maintain == NULL)
        no_standbys(call);
    else if (s->maintain(s->data, db->name, shard->name, on, &err) != 0)
        api_refuse(call, &err);
    else
        respond_shard(call, 202, db, shard);
}

void api_post_switchover(struct api_call *call)
{
    const struct api_services *s = &call->api->services;
    char to[API_FILTER_SIZE];
    struct err err = {0};
    bool given;
    if (!api_query_name(call, "to", to, &given) || !api_leads(call))
        return;
    const struct fleet_database *db = api_find_routed(call);
    const struct routing_shard *shard = find_shard(call, db);
    if (shard == NULL)
        return;
    if (s->switchover == NULL)
        http_problem(call->ex, 422, "unsupported", "shards have no standbys here that could be the primary");
    else if (s->switchover(s->data, db->name, shard->name, given ? to : NULL, &err) != 0)
        api_refuse(call, &err);
    else
        respond_shard(call, 202, db, shard);
}
