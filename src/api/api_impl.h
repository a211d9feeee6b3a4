/* api_impl: what the files of this folder share; nobody else includes it (tests may). */
#ifndef API_API_IMPL_H
#define API_API_IMPL_H

#include <yyjson.h>

#include "api/api.h"
#include "base/buf.h"
#include "base/list.h"
#include "fleet/range.h"

/* ---- routes ---- */

enum api_port { PORT_PUBLIC = 1, PORT_ADMIN = 2, PORT_METRICS = 4 };

#define API_PARAMS_MAX 2
#define API_NAME_SIZE  128 /* of one path segment that is a parameter */

struct api_call {
    struct api *api;
    struct http_exchange *ex;
    const struct http_request *request;
    enum api_port port;
    char params[API_PARAMS_MAX][API_NAME_SIZE]; /* in the order of the pattern */
};

/* Answers the call: now, or keeps what it needs to answer later. */
typedef void (*api_route_cb)(struct api_call *call);

struct api_route {
    const char *method;
    const char *pattern; /* "/v1/databases/{database}" */
    unsigned ports;      /* of enum api_port */
    const char *queries; /* parameters it knows, separated by blanks; others are refused */
    api_route_cb run;
};

/* The whole table; ends with a NULL method. */
extern const struct api_route api_routes[];

/* True if path fits pattern; params are filled. A parameter longer than API_NAME_SIZE fits nothing. */
bool api_pattern_match(const char *pattern, const char *path, char params[API_PARAMS_MAX][API_NAME_SIZE]);
void api_route(struct api_call *call);

/* ---- who may ask (api_guard.c) ---- */

/* True if a Host header names loopback or `own` (see api_services.admin_host; may be NULL). */
bool api_host_is_ours(const char *host, const char *own);

/* ---- the object ---- */

struct api_waiting; /* a request that waits for its owner's answer */
struct api_keys;    /* Idempotency-Keys */
struct api_events;

struct api {
    struct api_services services;
    struct api_events *events;
    struct api_keys *keys;
    struct list waiting; /* of struct api_waiting */
};

/* ---- asking and answering (api_json.c) ---- */

/* 200 with the document; frees it. */
void api_respond(struct api_call *call, int status, yyjson_mut_doc *doc);
/* An object as the root of a new document. */
yyjson_mut_val *api_object(yyjson_mut_doc **ret_doc);

void json_text(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name,
               const char *text); /* NULL = null; copied */
void json_int64(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, int64_t value); /* a string */
void json_uint64(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name,
                 uint64_t value);                                                            /* a string */
void json_real(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, double value); /* NAN = null */
void json_time(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, int64_t wall_us); /* 0 = null */
/* The wall clock at which the monotonic clock stood at ns; 0 = null. */
void json_past(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name,
               uint64_t ns);
/* {"lo": "...", "hi": "..."} for each. */
void json_ranges(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name,
                 const struct range_set *ranges);

enum api_query { QUERY_ABSENT, QUERY_GIVEN, QUERY_WRONG };
/* A query parameter; WRONG: too long or badly encoded, and the call was answered with a problem. */
enum api_query api_query_get(struct api_call *call, const char *name, char *out, size_t size);
/* "", "true", "1" and "false", "0"; false if answered. Absent = false. */
bool api_query_flag(struct api_call *call, const char *name, bool *ret);

/* Whether an If-Match or If-None-Match header names the tag (strong or weak) or is "*"; NULL matches nothing.
 */
bool api_etag_matches(const char *header, const char *etag);

/* The table of this name ("public." may be left out), the first one if name is "". NULL: err says why. */
const struct routing_table_key *api_find_table(const struct routing *routing, const char *name,
                                               struct err *err);
void api_print_address(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name,
                       const struct routing_address *address);

/* A name to filter by: absent = "" and *ret_given false. False if answered: it cannot be a name. */
#define API_FILTER_SIZE 64
bool api_query_name(struct api_call *call, const char *name, char out[API_FILTER_SIZE], bool *ret_given);

/* The database or shard that the path names; NULL if answered with 404. */
struct fleet_database *api_find_database(struct api_call *call);
struct fleet_database *api_find_routed(struct api_call *call); /* also 404 while it is not provisioned */

/* ---- pages (api_page.c) ---- */

#define API_PAGE_DEFAULT 100
#define API_PAGE_MAX     200
#define API_CURSOR_SIZE  192

struct api_page {
    unsigned limit;
    bool resumed;                /* `after` is set */
    char after[API_CURSOR_SIZE]; /* what the last page's cursor said */
};

/* limit= and cursor=, made for lists of this kind; false if answered. */
bool api_page_get(struct api_call *call, const char *kind, struct api_page *ret);
/* Adds "next": cursor to go on after `last`, or null when last is NULL. */
void api_page_next(yyjson_mut_doc *doc, yyjson_mut_val *root, const char *kind, const char *last);

/* A list ordered by name. */
struct api_named {
    const char *name;
    const void *item;
};
typedef void (*api_named_cb)(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                             const void *item, const void *data);
/* Sorts items and answers with the page that was asked for. */
void api_respond_named(struct api_call *call, const char *kind, struct api_named *items, size_t count,
                       api_named_cb print, const void *data);

/* ---- documents ---- */

void api_print_database(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                        const struct fleet_database *db, bool whole);
void api_print_instance(const struct api *api, yyjson_mut_doc *doc, yyjson_mut_val *object,
                        const struct fleet_instance *instance);
void api_print_decision(yyjson_mut_doc *doc, yyjson_mut_val *object, const struct api_decision *decision);

/* How much of an operation: a line of a list, an event, everything. */
void api_print_operation(yyjson_mut_doc *doc, yyjson_mut_val *object, const struct operation *op,
                         bool findings);
/* 202 with Location and the operation's document. */
void api_respond_accepted(struct api_call *call, const struct operation *op);
/* Its state ("copy") into out; "" if it has none. */
#define API_STATE_SIZE 32
void api_operation_state(const struct operation *op, char out[API_STATE_SIZE]);

/* The newest decision about a shard; false = none. */
bool api_last_decision(const struct api *api, const char *database, const char *shard,
                       struct api_decision *ret);

/* ---- starting moves (api_request.c: pure) ---- */

struct api_move_body {
    char kind[16];
    char shard[64], target[64]; /* "" = not given */
    char table[192], key[1024];
    bool has_key, has_at, has_lo, has_hi, dry_run, allow_ddl, has_bake;
    int64_t at, lo, hi;
    uint64_t bake_ns;
};

/* ERRC_INVALID naming position or member. */
int api_move_parse(const char *text, size_t length, struct api_move_body *ret, struct err *err);

struct api_move_plan {
    int kind;           /* enum move_kind */
    const char *target; /* NULL = a new shard; lives as long as body and routing */
    struct range range;
    bool retire;
};
/*
 * Which range goes where. ERRC_NOT_FOUND a shard or table, ERRC_INVALID members that do not go together or a
 * key that is malformed, ERRC_REFUSED a range that the shard does not own or that cannot be cut.
 */
int api_move_plan(const struct routing *routing, const struct api_move_body *body, struct api_move_plan *ret,
                  struct err *err);

/* ---- Idempotency-Keys (api_keys.c) ---- */

#define API_KEYS_MAX   256
#define API_KEY_LENGTH 128
#define API_KEY_NS     (24ull * 3600 * ENV_NS_PER_S)

enum api_key_result { KEY_NEW, KEY_SAME, KEY_OTHER };

struct api_keys *api_keys_new(void);
void api_keys_free(struct api_keys *keys);
/* KEY_SAME: the same request was seen, *ret_operation is its operation. KEY_OTHER: another one was. */
enum api_key_result api_keys_find(const struct api_keys *keys, const char *key, const char *path,
                                  const char *body, uint64_t now_ns, const char **ret_operation);
/* Remembers; the oldest goes when there are API_KEYS_MAX. */
void api_keys_add(struct api_keys *keys, const char *key, const char *path, const char *body, uint64_t now_ns,
                  const char *operation);

/* ---- event streams (api_events.c) ---- */

struct api_events *api_events_new(struct api *api);
void api_events_free(struct api_events *events);

/* ---- changing something (api_change.c) ---- */

bool api_leads(struct api_call *call); /* false if answered: only the leader changes anything */
/* What cannot be asked for is 422 rather than 404: the path was right. */
void api_refuse(struct api_call *call, const struct err *err);

/* ---- handlers ---- */

void api_get_databases(struct api_call *call); /* api_database.c */
void api_get_database(struct api_call *call);
void api_get_routing(struct api_call *call);
void api_get_route(struct api_call *call);
void api_get_shards(struct api_call *call); /* api_shard.c */
void api_get_shard(struct api_call *call);
void api_post_switchover(struct api_call *call);
void api_post_restart(struct api_call *call);
void api_post_failover(struct api_call *call);
void api_post_maintenance(struct api_call *call);
void api_get_instances(struct api_call *call);
void api_get_applications(struct api_call *call); /* api_instance.c */
void api_get_instance(struct api_call *call);
void api_get_operations(struct api_call *call); /* api_operation.c */
void api_get_operation(struct api_call *call);
void api_get_decisions(struct api_call *call);      /* api_decision.c */
void api_get_routing_events(struct api_call *call); /* api_events.c */
void api_get_events(struct api_call *call);
void api_get_debug_loop(struct api_call *call); /* api_process.c */
void api_get_livez(struct api_call *call);
void api_get_readyz(struct api_call *call);
void api_get_openapi(struct api_call *call);
void api_get_version(struct api_call *call);
void api_get_metrics(struct api_call *call);
void api_put_database(struct api_call *call); /* api_change.c */
void api_delete_database(struct api_call *call);
void api_post_operation(struct api_call *call);
void api_post_migration(struct api_call *call);
void api_post_resume(struct api_call *call);
void api_post_cancel(struct api_call *call);
void api_post_rollback(struct api_call *call);
void api_waiting_forget(struct api *api);

#endif
