/* Applications whose environment points at servers of the fleet. */
#include <stdlib.h>
#include <string.h>

#include "api/api_impl.h"
#include "base/mem.h"

static void print_connection(yyjson_mut_doc *doc, yyjson_mut_val *object, const struct api_connection *c)
{
    json_text(doc, object, "container", c->container);
    json_text(doc, object, "variable", c->variable);
    json_text(doc, object, "from", c->from);
    json_text(doc, object, "state", c->state);
    json_text(doc, object, "host", c->host);
    if (c->port != 0)
        yyjson_mut_obj_add_int(doc, object, "port", c->port);
    else
        yyjson_mut_obj_add_null(doc, object, "port");
    json_text(doc, object, "dbname", c->dbname);
    json_text(doc, object, "user", c->user);
    json_text(doc, object, "instance", c->instance);
    json_text(doc, object, "database", c->database);
    json_text(doc, object, "shard", c->shard);
    json_text(doc, object, "why", c->why);
}

static void print_application(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                              const void *item, const void *data)
{
    const struct api_application *a = item;
    (void)api;
    (void)data;
    json_text(doc, object, "id", a->id);
    json_text(doc, object, "namespace", a->name_space);
    json_text(doc, object, "kind", a->kind);
    json_text(doc, object, "name", a->name);
    yyjson_mut_obj_add_bool(doc, object, "pending", a->pending);
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, object, "connections");
    for (size_t i = 0; i < a->connection_count && i < API_CONNECTIONS_MAX; i++)
        print_connection(doc, yyjson_mut_arr_add_obj(doc, list), &a->connections[i]);
}

static bool concerns(const struct api_application *a, const char *database)
{
    for (size_t i = 0; i < a->connection_count && i < API_CONNECTIONS_MAX; i++)
        if (a->connections[i].database != NULL && strcmp(a->connections[i].database, database) == 0)
            return true;
    return false;
}

void api_get_applications(struct api_call *call)
{
    const struct api_services *s = &call->api->services;
    char database[API_FILTER_SIZE];
    struct api_application *all = NULL;
    size_t count = 0;
    bool filter;
    if (!api_query_name(call, "database", database, &filter))
        return;
    if (s->application == NULL || s->looks_for_applications == NULL || !s->looks_for_applications(s->data)) {
        http_problem(call->ex, 404, "not_found",
                     "applications are looked for in a Kubernetes cluster only (discovery.kubernetes and "
                     "discovery.applications switch it on)");
        return;
    }
    for (unsigned n = 0;; n++) {
        all = mem_resize(all, count + 1, sizeof *all);
        if (!s->application(s->data, n, &all[count]))
            break;
        count += !filter || concerns(&all[count], database);
    }
    struct api_named *items = mem_array(count + 1, sizeof *items);
    for (size_t i = 0; i < count; i++)
        items[i] = (struct api_named){all[i].id, &all[i]};
    api_respond_named(call, "applications", items, count, print_application, NULL);
    free(items);
    free(all);
}
