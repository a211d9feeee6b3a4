#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_impl.h"
#include "base/mem.h"
#include "base/text.h"

static void print_version(yyjson_mut_doc *doc, yyjson_mut_val *object, int number)
{
    char text[32];
    snprintf(text, sizeof text, "%d.%d", number / 10000, number % 10000);
    json_text(doc, object, "version", number > 0 ? text : NULL);
}

static void print_replication(yyjson_mut_doc *doc, yyjson_mut_val *object,
                              const struct fleet_instance *instance)
{
    const struct instance_facts *f = &instance->facts;
    char lsn[TEXT_LSN_SIZE];
    yyjson_mut_obj_add_uint(doc, object, "timeline", f->timeline);
    json_uint64(doc, object, "system_identifier", f->system_identifier);
    json_time(doc, object, "started", f->started_us);
    json_real(doc, object, "lag_seconds", fleet_lag_seconds(instance));
    if (f->role == ROLE_STANDBY && isnan(f->lag_seconds)) /* what was last heard is no lag (P16) */
        yyjson_mut_obj_add_null(doc, object, "lag_bytes");
    else
        json_uint64(doc, object, "lag_bytes", f->lag_bytes);
    text_from_lsn(f->wal_lsn, lsn);
    json_text(doc, object, "wal_lsn", f->wal_lsn != 0 ? lsn : NULL);
}

/* null when it runs in no pod; what nobody says is null too. */
static void print_pod(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                      const struct instance_pod *pod)
{
    uint64_t now = loop_now(api->services.loop);
    enum pod_source source = POD_SOURCE_MAX;
    if (pod == NULL) {
        yyjson_mut_obj_add_null(doc, object, "pod");
        return;
    }
    yyjson_mut_val *inner = yyjson_mut_obj_add_obj(doc, object, "pod");
    bool known = !isnan(instance_pod_get(pod, POD_CPU, now, &source)) ||
                 !isnan(instance_pod_get(pod, POD_MEMORY, now, &source));
    json_text(doc, inner, "source", known ? pod_source_name(source) : NULL);
    json_uint64(doc, inner, "restarts", pod->restarts);
    for (int f = 0; f < POD_FIGURE_MAX; f++)
        json_real(doc, inner, pod_figure_name((enum pod_figure)f),
                  instance_pod_get(pod, (enum pod_figure)f, now, NULL));
}

/* null when it is the only one of its shard; what its keeper knows, else. */
static void print_member(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                         const struct instance_member *m)
{
    if (!m->kept) {
        yyjson_mut_obj_add_null(doc, object, "member");
        return;
    }
    yyjson_mut_val *inner = yyjson_mut_obj_add_obj(doc, object, "member");
    json_text(doc, inner, "assigned", m->assigned[0] != '\0' ? m->assigned : NULL);
    json_text(doc, inner, "reported", m->reported[0] != '\0' ? m->reported : NULL);
    yyjson_mut_obj_add_bool(doc, inner, "primary", m->primary);
    yyjson_mut_obj_add_bool(doc, inner, "sync", m->sync);
    yyjson_mut_obj_add_bool(doc, inner, "streams", m->streams);
    json_text(doc, inner, "upstream", m->upstream[0] != '\0' ? m->upstream : NULL);
    json_uint64(doc, inner, "term", m->term);
    json_real(doc, inner, "lag_bytes", m->lag_known ? (double)m->lag_bytes : (double)NAN);
    json_past(api, doc, inner, "heard", m->heard_ns);
    json_text(doc, inner, "error", m->error[0] != '\0' ? m->error : NULL);
}

void api_print_instance(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                        const struct fleet_instance *instance)
{
    const struct instance_facts *f = &instance->facts;
    bool failing = f->failed_ns > f->seen_ns;
    json_text(doc, object, "name", instance->name);
    json_text(doc, object, "database", instance->database);
    json_text(doc, object, "shard", instance->shard);
    json_text(doc, object, "source", instance->source);
    json_text(doc, object, "host", instance->access.host);
    yyjson_mut_obj_add_int(doc, object, "port", instance->access.port);
    json_text(doc, object, "role", instance_role_name(f->role));
    json_text(doc, object, "health", instance_health_name(f->health));
    json_past(api, doc, object, "seen", f->seen_ns);
    json_text(doc, object, "error", failing && f->error[0] != '\0' ? f->error : NULL);
    print_version(doc, object, f->server_version);
    print_replication(doc, object, instance);
    yyjson_mut_obj_add_int(doc, object, "connections", f->connections);
    yyjson_mut_obj_add_int(doc, object, "max_connections", f->max_connections);
    json_uint64(doc, object, "database_bytes", f->database_bytes);
    json_uint64(doc, object, "errors_total", f->errors_total);
    print_member(api, doc, object, &instance->member);
    print_pod(api, doc, object, instance->pod);
}

static void print_line(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object, const void *item,
                       const void *data)
{
    (void)data;
    api_print_instance(api, doc, object, item);
}

void api_get_instances(struct api_call *call)
{
    const struct fleet *fleet = call->api->services.fleet;
    char database[API_FILTER_SIZE];
    size_t count = 0;
    bool filter;
    if (!api_query_name(call, "database", database, &filter))
        return;
    list_each(node, &fleet->instances)
    {
        count++;
    }
    struct api_named *items = mem_array(count + 1, sizeof *items);
    count = 0;
    list_each(node, &fleet->instances)
    {
        const struct fleet_instance *instance = list_item(node, struct fleet_instance, node);
        if (!filter || strcmp(instance->database, database) == 0)
            items[count++] = (struct api_named){instance->name, instance};
    }
    api_respond_named(call, "instances", items, count, print_line, NULL);
    free(items);
}

/* NULL: answered. */
static const struct fleet_instance *find_instance(struct api_call *call)
{
    const struct fleet_instance *instance = fleet_find_instance(call->api->services.fleet, call->params[0]);
    if (instance == NULL)
        http_problem(call->ex, 404, "not_found", "no instance is named \"%s\"", call->params[0]);
    return instance;
}

static void respond(struct api_call *call, int status, const struct fleet_instance *instance)
{
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    api_print_instance(call->api, doc, root, instance);
    api_respond(call, status, doc);
}

void api_get_instance(struct api_call *call)
{
    const struct fleet_instance *instance = find_instance(call);
    if (instance != NULL)
        respond(call, 200, instance);
}

void api_post_restart(struct api_call *call)
{
    const struct api_services *s = &call->api->services;
    struct err err = {0};
    const struct fleet_instance *instance = api_leads(call) ? find_instance(call) : NULL;
    if (instance == NULL)
        return;
    if (s->restart == NULL)
        http_problem(call->ex, 422, "unsupported", "instances are not restarted from here");
    else if (s->restart(s->data, instance, &err) != 0)
        api_refuse(call, &err);
    else
        respond(call, 202, instance);
}
