#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "api/api_impl.h"
#include "base/mem.h"

extern const char api_openapi_json[]; /* openapi.json, embedded by the build */

const char *api_openapi(void)
{
    return api_openapi_json;
}

struct api *api_new(const struct api_services *services)
{
    struct api *api = mem_zalloc(sizeof *api);
    api->services = *services;
    list_init(&api->waiting);
    api->keys = api_keys_new();
    api->events = api_events_new(api);
    return api;
}

void api_free(struct api *api)
{
    if (api == NULL)
        return;
    api_waiting_forget(api);
    api_events_free(api->events);
    api_keys_free(api->keys);
    free(api);
}

static bool method_reads(const char *method)
{
    return strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0 || strcmp(method, "OPTIONS") == 0;
}

static void handle(struct http_exchange *ex, const struct http_request *request, struct api *api,
                   enum api_port port)
{
    struct api_call call = {.api = api, .ex = ex, .request = request, .port = port};
    http_set_header(ex, "X-Content-Type-Options", "nosniff");
    if (port == PORT_ADMIN && !api_host_is_ours(http_request_header(ex, "host"), api->services.admin_host)) {
        http_problem(ex, 421, "host_not_allowed",
                     "the admin port answers only requests for loopback or its own address: the Host header "
                     "names another");
        return;
    }
    if (port == PORT_ADMIN && !method_reads(request->method) && http_request_header(ex, "origin") != NULL) {
        http_problem(ex, 403, "origin_not_allowed", "changes from web pages (Origin header) are refused");
        return;
    }
    api_route(&call);
}

void api_public_handler(struct http_exchange *ex, const struct http_request *request, void *data)
{
    handle(ex, request, data, PORT_PUBLIC);
}

void api_admin_handler(struct http_exchange *ex, const struct http_request *request, void *data)
{
    handle(ex, request, data, PORT_ADMIN);
}

void api_metrics_handler(struct http_exchange *ex, const struct http_request *request, void *data)
{
    handle(ex, request, data, PORT_METRICS);
}
