/*
 * api: the HTTP API over the model: databases, routing tables, shards, instances, operations, decisions,
 * events.
 *
 * One object serves three listeners that its owner opens: public (reads), admin (reads and changes) and
 * metrics
 * (/metrics, /livez, /readyz). It owns no model: it reads the fleet and the operations it was given, starts
 * and cancels moves itself, and asks its owner, through `struct api_services`, for what it may not know. What
 * clients follow as server-sent events is published by the hooks below, which its owner calls.
 *
 * There is no authentication yet: on the admin port a request is refused when its Host is neither loopback
 * nor our address (DNS rebinding), and a change is refused when it carries an Origin (a web page sent it).
 *
 * docs/api.md and openapi.json (served as /openapi.json) describe requests and answers.
 */
#ifndef API_API_H
#define API_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "fleet/fleet.h"
#include "http/http_server.h"
#include "loop/loop.h"
#include "operation/operation.h"

struct api;

/* The texts of these structs live at least until control is back in the loop. */

struct api_decision {
    uint64_t number; /* 1, 2, ... only grows */
    int64_t at_us;   /* wall clock */
    const char *database;
    const char *shard;
    const char *target; /* "" or NULL = a new shard, or none */
    const char *kind;   /* "split", "refuse", ... */
    bool act;           /* false: a recommendation, an offer or a refusal */
    int rule;
    const char *rule_name;
    const char *sentence;
    const char *operation; /* id of the operation it started; "" or NULL = none */
};

struct api_standing {
    const char *phase;     /* "cool", "warm", "sampling", "refused", "decided" */
    unsigned row;          /* hot samples in a row */
    uint64_t hot_since_ns; /* monotonic, 0 = not hot */
    int refusal_rule;      /* 0 = none */
    bool refusal_active;   /* false: it stood once */
    const char *refusal_rule_name;
    const char *refusal_sentence;
    uint64_t refusal_since_ns; /* monotonic */
};

/* The manager found a server ended that is needed, and tried to start it. */
struct api_restart {
    const char *instance, *database, *shard;
    unsigned tries;        /* in a row */
    uint64_t next_seconds; /* until another try, should it be needed */
    const char *error;     /* NULL = it runs again */
};

struct api_guards {
    int64_t checked_us;   /* wall clock of the last look */
    const char *findings; /* JSON array of {subject, finding, remedy} */
};

/* A shard with standbys, as its keeper has it. */
struct api_kept {
    const char *state;      /* "loading", "standing", "failing" */
    const char *durability; /* "required", ...; NULL = the record was not read yet, and the rest is 0 */
    uint64_t term;
    bool maintenance;  /* nothing is decided about it */
    const char *waits; /* why commits wait although its primary is there; NULL = they do not */
    /* the last change of its primary; id NULL = there was none yet */
    const char *id, *kind, *step, *reason;
};

#define API_CONNECTIONS_MAX 32 /* of one application that are shown */

/* What a variable of an application's container says; no password is in any of it. NULL = not known. */
struct api_connection {
    const char *container, *variable, *from;
    const char *host, *dbname, *user;
    int port;                                /* 0 = not known */
    const char *state;                       /* "known", "foreign", "unresolved" */
    const char *why;                         /* when not known */
    const char *instance, *database, *shard; /* when known */
};

struct api_application {
    const char *id; /* "shop/Deployment/web" */
    const char *kind, *name, *name_space;
    bool pending; /* values are still being read */
    struct api_connection connections[API_CONNECTIONS_MAX];
    size_t connection_count; /* may be more than are there */
};

struct api_component {
    const char *name; /* "store" */
    bool ok;
    const char *message; /* NULL = nothing to add */
};

struct api_answer {
    const struct err *err; /* NULL = accepted */
    bool created;
    const char *operation; /* id of the operation that began, NULL = none */
};
typedef void (*api_answer_cb)(const struct api_answer *answer, void *data);

/* What the owner lends. All pointers outlive the api; callbacks get `data`; optional ones may be NULL. */
struct api_services {
    struct loop *loop;
    struct fleet *fleet;
    struct operations *operations; /* its services.term > 0 = we lead; also what moves are started with */
    const char *version;           /* "0.1.0" */
    const char *commit;            /* NULL = not known */
    const char *admin_host;        /* address or name the admin port is reached at besides loopback; an
                                      unspecified address (0.0.0.0, ::) allows every literal one; NULL = none */
    void *data;

    /*
     * Async contract of the project: non-zero = nothing started, err filled; else exactly one answer, later.
     * text is YAML or JSON, not kept after the call. dry_run: only checked.
     */
    int (*apply_database)(void *data, const char *name, const char *text, size_t length, bool dry_run,
                          api_answer_cb cb, void *cb_data, struct err *err);
    int (*delete_database)(void *data, const char *name, api_answer_cb cb, void *cb_data, struct err *err);

    /* The n-th newest decision (0 = newest); false = there is none. Optional. */
    bool (*decision)(void *data, unsigned n, struct api_decision *ret);
    /* What the balancer holds of a shard; false = not known. Optional. */
    bool (*standing)(void *data, const char *database, const char *shard, struct api_standing *ret);
    /* What the last look at a shard's guards found; false = not looked at. Optional. */
    bool (*guards)(void *data, const char *database, const char *shard, struct api_guards *ret);
    /* What keeps a shard with several instances; false = nothing does. Optional. */
    bool (*kept)(void *data, const char *database, const char *shard, struct api_kept *ret);
    /* Begins to make `to` the primary (NULL: the standby that has most). Optional. */
    int (*switchover)(void *data, const char *database, const char *shard, const char *to, struct err *err);
    /* Maintenance of a shard; it is so when kept() says it. Optional. */
    int (*maintain)(void *data, const char *database, const char *shard, bool on, struct err *err);
    /* Makes `to` the primary of a shard whose primary is gone. ERRC_REFUSED says what would be lost.
     * Optional. */
    int (*fail_over)(void *data, const char *database, const char *shard, const char *to, bool allow_loss,
                     struct err *err);
    /* Begins to restart a member of a shard. ERRC_CONFLICT: another one is away. Optional. */
    int (*restart)(void *data, const struct fleet_instance *instance, struct err *err);
    /* The n-th application, by id; false = no more. Optional, with looks_for_applications(). */
    bool (*application)(void *data, unsigned n, struct api_application *ret);
    bool (*looks_for_applications)(void *data);
    /* The n-th component of /readyz; false = no more. Optional. */
    bool (*component)(void *data, unsigned n, struct api_component *ret);
    /* Answers GET /metrics. Optional: 404 without. */
    void (*metrics)(void *data, struct http_exchange *ex);
};

/* Copies services (not what they point to). */
struct api *api_new(const struct api_services *services);
/*
 * Ends the event streams. Requests that still wait for an answer of apply_database() or delete_database() are
 * answered when it comes, whether the api is still there or not. Free it when its servers serve no more.
 */
void api_free(struct api *api);

/* Handlers for http_server_open(); data = struct api. */
void api_public_handler(struct http_exchange *ex, const struct http_request *request, void *data);
void api_admin_handler(struct http_exchange *ex, const struct http_request *request, void *data);
void api_metrics_handler(struct http_exchange *ex, const struct http_request *request, void *data);

/*
 * Starts a move as POST /v1/databases/<name>/operations does; body: the same JSON. reason is kept in the
 * journal. ERRC_INVALID what cannot be, ERRC_REFUSED and ERRC_CONFLICT what may not be now.
 */
int api_move_start(struct operations *operations, const struct fleet_database *db, const char *body,
                   const char *reason, struct operation **ret, struct err *err);

/* Text for /openapi.json. */
const char *api_openapi(void);

/* ---- hooks: what happened; each feeds the event streams and returns at once ---- */

/* db->routing was replaced. */
void api_routing_changed(struct api *api, const struct fleet_database *db);
/* State, progress or end. Progress is passed on at most 5 times a second for each operation, the newest
 * always. */
void api_operation_changed(struct api *api, const struct operation *op);
/* A decision or refusal was kept. */
void api_decided(struct api *api, const struct api_decision *decision);
/* Identity, role, health or address changed, or it is new: not for each poll. */
void api_instance_changed(struct api *api, const struct fleet_instance *instance);
void api_instance_removed(struct api *api, const char *name);
void api_instance_restarted(struct api *api, const struct api_restart *restart);
/* Its routing stream ends. */
void api_database_removed(struct api *api, const char *name);

#endif
