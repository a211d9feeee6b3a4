#include <string.h>

#include "api/api_impl.h"

#define READ (PORT_PUBLIC | PORT_ADMIN)

const struct api_route api_routes[] = {
    {"GET", "/v1/databases", READ, "limit cursor", api_get_databases},
    {"GET", "/v1/databases/{database}", READ, "", api_get_database},
    {"PUT", "/v1/databases/{database}", PORT_ADMIN, "dryRun", api_put_database},
    {"DELETE", "/v1/databases/{database}", PORT_ADMIN, "", api_delete_database},
    {"GET", "/v1/databases/{database}/routing", READ, "", api_get_routing},
    {"GET", "/v1/databases/{database}/routing/events", READ, "", api_get_routing_events},
    {"GET", "/v1/databases/{database}/route", READ, "key table", api_get_route},
    {"GET", "/v1/databases/{database}/shards", READ, "limit cursor", api_get_shards},
    {"GET", "/v1/databases/{database}/shards/{shard}", READ, "", api_get_shard},
    {"POST", "/v1/databases/{database}/shards/{shard}/switchover", PORT_ADMIN, "to", api_post_switchover},
    {"POST", "/v1/databases/{database}/shards/{shard}/failover", PORT_ADMIN, "to allowDataLoss",
     api_post_failover},
    {"POST", "/v1/databases/{database}/shards/{shard}/maintenance", PORT_ADMIN, "on", api_post_maintenance},
    {"POST", "/v1/databases/{database}/operations", PORT_ADMIN, "", api_post_operation},
    {"POST", "/v1/databases/{database}/migrations", PORT_ADMIN, "lockTimeout attempts dryRun",
     api_post_migration},
    {"GET", "/v1/instances", READ, "database limit cursor", api_get_instances},
    {"GET", "/v1/instances/{instance}", READ, "", api_get_instance},
    {"POST", "/v1/instances/{instance}/restart", PORT_ADMIN, "", api_post_restart},
    {"GET", "/v1/operations", READ, "database status limit cursor", api_get_operations},
    {"GET", "/v1/operations/{operation}", READ, "", api_get_operation},
    {"POST", "/v1/operations/{operation}/cancel", PORT_ADMIN, "", api_post_cancel},
    {"POST", "/v1/operations/{operation}/resume", PORT_ADMIN, "acceptDifferences", api_post_resume},
    {"POST", "/v1/operations/{operation}/rollback", PORT_ADMIN, "acceptDifferences", api_post_rollback},
    {"GET", "/v1/applications", READ, "database limit cursor", api_get_applications},
    {"GET", "/v1/decisions", READ, "database shard limit cursor", api_get_decisions},
    {"GET", "/v1/events", READ, "", api_get_events},
    {"GET", "/debug/loop", READ, "", api_get_debug_loop},
    {"GET", "/livez", READ | PORT_METRICS, "verbose", api_get_livez},
    {"GET", "/readyz", READ | PORT_METRICS, "verbose", api_get_readyz},
    {"GET", "/openapi.json", READ, "", api_get_openapi},
    {"GET", "/version", READ, "", api_get_version},
    {"GET", "/metrics", PORT_METRICS, NULL, api_get_metrics},
    {NULL, NULL, 0, NULL, NULL},
};

bool api_pattern_match(const char *pattern, const char *path, char params[API_PARAMS_MAX][API_NAME_SIZE])
{
    int count = 0;
    while (*pattern != '\0') {
        if (*pattern != '{') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        size_t length = strcspn(path, "/");
        if (length == 0 || length >= API_NAME_SIZE || count == API_PARAMS_MAX)
            return false;
        memcpy(params[count], path, length);
        params[count++][length] = '\0';
        path += length;
        pattern += strcspn(pattern, "}") + 1;
    }
    return *path == '\0';
}

static bool method_is(const struct api_route *route, const char *method)
{
    return strcmp(route->method, method) == 0 ||
           (strcmp(route->method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

static bool word_in(const char *words, const char *word, size_t length)
{
    for (const char *p = words; *p != '\0'; p += strcspn(p, " "), p += strspn(p, " ")) {
        if (strcspn(p, " ") == length && strncmp(p, word, length) == 0)
            return true;
    }
    return false;
}

/* False if answered: a parameter that means nothing here, or one given twice, is most likely a mistake. */
static bool queries_are_known(struct api_call *call, const struct api_route *route)
{
    struct buf seen = {0};
    bool known = true;
    for (const char *p = call->request->query; route->queries != NULL && known && *p != '\0';) {
        size_t length = strcspn(p, "&"), name = strcspn(p, "=&");
        if (length > 0 && !word_in(route->queries, p, name)) {
            known = false;
            http_problem(call->ex, 400, "unknown_parameter",
                         "unknown query parameter \"%.*s\"; known here: %s", (int)(name > 64 ? 64 : name), p,
                         route->queries[0] != '\0' ? route->queries : "none");
        } else if (length > 0 && word_in(buf_text(&seen), p, name)) {
            known = false;
            http_problem(call->ex, 400, "invalid", "query parameter \"%.*s\" is given twice", (int)name, p);
        }
        buf_add(&seen, p, name);
        buf_addc(&seen, ' ');
        p += length + (p[length] == '&');
    }
    buf_free(&seen);
    return known;
}

static void refuse_method(struct api_call *call, const char *allow, bool elsewhere)
{
    http_set_header(call->ex, "Allow", allow);
    if (elsewhere)
        http_problem(call->ex, 405, "method_not_allowed",
                     "this port only reads; send changes to the admin port");
    else
        http_problem(call->ex, 405, "method_not_allowed", "%s is not possible here", call->request->method);
}

void api_route(struct api_call *call)
{
    struct buf allow = {0};
    bool found = false, elsewhere = false;
    for (const struct api_route *route = api_routes; route->method != NULL; route++) {
        if (!api_pattern_match(route->pattern, call->request->path, call->params))
            continue;
        bool wanted = method_is(route, call->request->method);
        if ((route->ports & call->port) == 0) {
            elsewhere = elsewhere || (wanted && route->ports == PORT_ADMIN && call->port == PORT_PUBLIC);
            found = found || (route->ports == PORT_ADMIN && call->port == PORT_PUBLIC);
            continue;
        }
        found = true;
        if (wanted) {
            buf_free(&allow);
            if (queries_are_known(call, route))
                route->run(call);
            return;
        }
        buf_printf(&allow, "%s%s", allow.length > 0 ? ", " : "", route->method);
        if (strcmp(route->method, "GET") == 0)
            buf_add_text(&allow, ", HEAD");
    }
    if (found)
        refuse_method(call, buf_text(&allow), elsewhere);
    else
        http_problem(call->ex, 404, "not_found", "no such path: %.200s", call->request->path);
    buf_free(&allow);
}
