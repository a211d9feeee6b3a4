#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_impl.h"
#include "base/mem.h"
#include "http/http_url.h"

yyjson_mut_val *api_object(yyjson_mut_doc **ret_doc)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    *ret_doc = doc;
    return root;
}

void api_respond(struct api_call *call, int status, yyjson_mut_doc *doc)
{
    size_t length = 0;
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_NEWLINE_AT_END, &length);
    yyjson_mut_doc_free(doc);
    if (text != NULL)
        http_respond(call->ex, status, "application/json", text, length);
    else /* a text in the model is not UTF-8 */
        http_problem(call->ex, 500, "internal", "the answer could not be printed");
    free(text);
}

/* Messages of servers may be in any encoding; JSON is UTF-8. */
static void json_foreign_text(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, const char *text)
{
    char *copy = mem_strdup(text);
    for (char *p = copy; *p != '\0'; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    yyjson_mut_obj_add_strcpy(doc, object, name, copy);
    free(copy);
}

void json_text(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, const char *text)
{
    if (text == NULL)
        yyjson_mut_obj_add_null(doc, object, name);
    else if (http_utf8_valid(text, strlen(text)))
        yyjson_mut_obj_add_strcpy(doc, object, name, text);
    else
        json_foreign_text(doc, object, name, text);
}

void json_int64(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, int64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, value);
    yyjson_mut_obj_add_strcpy(doc, object, name, text);
}

void json_uint64(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    yyjson_mut_obj_add_strcpy(doc, object, name, text);
}

void json_real(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, double value)
{
    if (isfinite(value))
        yyjson_mut_obj_add_real(doc, object, name, value);
    else
        yyjson_mut_obj_add_null(doc, object, name);
}

void json_time(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, int64_t wall_us)
{
    char text[ENV_TIME_SIZE];
    if (wall_us <= 0) {
        yyjson_mut_obj_add_null(doc, object, name);
        return;
    }
    env_format_time(wall_us, text);
    yyjson_mut_obj_add_strcpy(doc, object, name, text);
}

void json_past(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name,
               uint64_t ns)
{
    struct loop *loop = api->services.loop;
    int64_t ago_us = ((int64_t)loop_now(loop) - (int64_t)ns) / 1000;
    json_time(doc, object, name, ns == 0 ? 0 : loop_wall(loop) - ago_us);
}

void json_ranges(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name,
                 const struct range_set *ranges)
{
    yyjson_mut_val *array = yyjson_mut_obj_add_arr(doc, object, name);
    for (size_t i = 0; i < ranges->count; i++) {
        yyjson_mut_val *range = yyjson_mut_arr_add_obj(doc, array);
        json_int64(doc, range, "lo", ranges->items[i].lo);
        json_int64(doc, range, "hi", ranges->items[i].hi);
    }
}

/* http_query_get() does not tell what is absent from what is wrong. Names are plain words. */
static bool query_has(const char *query, const char *name)
{
    size_t length = strlen(name);
    for (const char *p = query; *p != '\0';) {
        if (strncmp(p, name, length) == 0 && (p[length] == '\0' || p[length] == '=' || p[length] == '&'))
            return true;
        p += strcspn(p, "&");
        p += *p == '&';
    }
    return false;
}

enum api_query api_query_get(struct api_call *call, const char *name, char *out, size_t size)
{
    out[0] = '\0';
    if (!query_has(call->request->query, name))
        return QUERY_ABSENT;
    if (http_query_get(call->request->query, name, out, size))
        return QUERY_GIVEN;
    out[0] = '\0';
    http_problem(call->ex, 400, "invalid", "query parameter \"%s\" is malformed or too long", name);
    return QUERY_WRONG;
}

bool api_query_flag(struct api_call *call, const char *name, bool *ret)
{
    char text[8];
    enum api_query got = api_query_get(call, name, text, sizeof text);
    *ret = false;
    if (got != QUERY_GIVEN)
        return got == QUERY_ABSENT;
    if (text[0] == '\0' || strcmp(text, "true") == 0 || strcmp(text, "1") == 0) {
        *ret = true;
        return true;
    }
    if (strcmp(text, "false") == 0 || strcmp(text, "0") == 0)
        return true;
    http_problem(call->ex, 400, "invalid", "query parameter \"%s\" is true or false", name);
    return false;
}

bool api_query_name(struct api_call *call, const char *name, char out[API_FILTER_SIZE], bool *ret_given)
{
    enum api_query got = api_query_get(call, name, out, API_FILTER_SIZE);
    *ret_given = got == QUERY_GIVEN;
    if (got == QUERY_GIVEN && out[strspn(out, "abcdefghijklmnopqrstuvwxyz0123456789-")] != '\0') {
        http_problem(call->ex, 400, "invalid", "\"%s\" is to be a name: a-z, 0-9 and hyphens", name);
        return false;
    }
    return got != QUERY_WRONG;
}

struct fleet_database *api_find_database(struct api_call *call)
{
    struct fleet_database *db = fleet_find_database(call->api->services.fleet, call->params[0]);
    if (db == NULL)
        http_problem(call->ex, 404, "not_found", "no database is named \"%s\"", call->params[0]);
    return db;
}

struct fleet_database *api_find_routed(struct api_call *call)
{
    struct fleet_database *db = api_find_database(call);
    if (db != NULL && db->routing == NULL) {
        http_problem(call->ex, 404, "not_provisioned", "database \"%s\" has no routing table yet", db->name);
        return NULL;
    }
    return db;
}

bool api_etag_matches(const char *header, const char *etag)
{
    size_t length = strlen(etag);
    if (header == NULL)
        return false;
    for (const char *p = header; *p != '\0';) {
        p += strspn(p, " \t,");
        if (*p == '*')
            return true;
        if (strncmp(p, "W/", 2) == 0)
            p += 2;
        if (strncmp(p, etag, length) == 0 && (p[length] == '\0' || strchr(" \t,", p[length]) != NULL))
            return true;
        p += strcspn(p, ",");
    }
    return false;
}

const struct routing_table_key *api_find_table(const struct routing *routing, const char *name,
                                               struct err *err)
{
    char qualified[256];
    if (routing->table_count == 0) {
        err_set(err, ERRC_NOT_FOUND, "database \"%s\" has no distributed table", routing->database);
        return NULL;
    }
    if (name[0] == '\0')
        return &routing->tables[0];
    const struct routing_table_key *table = routing_find_table(routing, name);
    snprintf(qualified, sizeof qualified, "public.%.200s", name);
    if (table == NULL)
        table = routing_find_table(routing, qualified);
    if (table == NULL)
        err_set(err, ERRC_NOT_FOUND, "database \"%s\" has no distributed table \"%.200s\"", routing->database,
                name);
    return table;
}

void api_print_address(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name,
                       const struct routing_address *address)
{
    yyjson_mut_val *a = yyjson_mut_obj_add_obj(doc, object, name);
    json_text(doc, a, "host", address->host);
    yyjson_mut_obj_add_int(doc, a, "port", address->port);
}
