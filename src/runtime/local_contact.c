#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "http/http_client.h"
#include "runtime/local.h"

#define RETRY_NS   (50 * ENV_NS_PER_MS)
#define ANSWER_NS  (2 * ENV_NS_PER_S)
#define TIMEOUT_NS (20 * ENV_NS_PER_S)

/*
 *   IDLE --> WAIT <--> ASK --status of this member--> CLOSING --> OVER
 *             |                                          ^
 *             +--deadline, or the agent ended------------+
 *
 * WAIT waits for its timer. The token is shown only while the agent lives: it ends itself when another
 * listens on its port. ASK waits for the answer. CLOSING waits for the client to be closed.
 */
enum { IDLE, WAIT, ASK, CLOSING, OVER, STATES };

static const struct sm_state states[STATES] = {
    [IDLE] = {"idle", SM_NEXT(WAIT), true},
    [WAIT] = {"wait", SM_NEXT(ASK) | SM_NEXT(CLOSING), false},
    [ASK] = {"ask", SM_NEXT(WAIT) | SM_NEXT(CLOSING), false},
    [CLOSING] = {"closing", SM_NEXT(OVER), false},
    [OVER] = {"over", 0, true},
};

static void on_closed(void *data)
{
    struct local_contact *c = data;
    sm_move(&c->sm, OVER);
    c->done(c, c->err.code != ERRC_NONE ? &c->err : NULL, c->data);
}

static void finish(struct local_contact *c, const struct err *err)
{
    if (err != NULL)
        err_copy(&c->err, err);
    sm_move(&c->sm, CLOSING);
    loop_timer_stop(&c->timer);
    http_client_close(c->client, on_closed, c);
}

/* Not answered yet, for this reason, which is told if the deadline comes first. */
static void try_again(struct local_contact *c, const struct err *why)
{
    err_copy(&c->err, why);
    sm_move(&c->sm, WAIT);
    loop_timer_start(&c->timer, RETRY_NS);
}

static bool is_ours(const struct local_contact *c, const struct http_answer *answer, struct err *why)
{
    yyjson_doc *doc = answer->status == 200 ? yyjson_read(answer->body, answer->body_length, 0) : NULL;
    const char *name = yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(doc), "member"));
    bool ours = name != NULL && strcmp(name, c->record->name) == 0;
    if (answer->status == 401)
        err_set(why, ERRC_AUTH, "it does not take the token in the file beside its data");
    else if (answer->status != 200)
        err_set(why, ERRC_UNAVAILABLE, "it answers %d", answer->status);
    else if (!ours)
        err_set(why, ERRC_CONFLICT, "what answers there is another, %.64s", name != NULL ? name : "no agent");
    yyjson_doc_free(doc);
    return ours;
}

static void on_answer(const struct http_answer *answer, void *data)
{
    struct local_contact *c = data;
    struct err why = {0};
    c->call = NULL;
    if (sm_now(&c->sm) == CLOSING)
        return; /* canceled by our own closing */
    if (answer->err != NULL) {
        try_again(c, answer->err);
    } else if (is_ours(c, answer, &why)) {
        err_clear(&c->err);
        finish(c, NULL);
    } else {
        try_again(c, &why);
    }
}

static void enter_ask(struct local_contact *c)
{
    char *url = mem_printf("http://" LOCAL_AGENT_ADDRESS ":%d/v1/status", c->record->agent_port);
    char *token = mem_printf("Bearer %s", c->record->token);
    const struct http_header header = {"Authorization", token};
    const struct http_call_options options = {.method = "GET",
                                              .url = url,
                                              .headers = &header,
                                              .header_count = 1,
                                              .timeout_ns = ANSWER_NS,
                                              .body_limit = 65536};
    struct err err = {0};
    sm_move(&c->sm, ASK);
    if (http_call_start(c->client, &options, on_answer, c, &c->call, &err) != 0)
        finish(c, &err);
    mem_wipe_free(token);
    free(url);
}

static void on_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct local_contact *c = data;
    const struct local_record *r = c->record;
    if (r->agent_pid != 0 && !local_agent_alive(r->agent_pid, c->data_path)) {
        struct err err = {0};
        err_set(&err, ERRC_CLOSED, "the agent (process %d) has ended", r->agent_pid);
        finish(c, &err);
    } else if (loop_now(c->local->loop) < c->deadline_ns) {
        enter_ask(c);
    } else {
        c->err.code = ERRC_TIMEOUT;
        err_wrap(&c->err, "its agent does not answer on " LOCAL_AGENT_ADDRESS " port %d (is it suspended?)",
                 r->agent_port);
        finish(c, NULL);
    }
}

void local_contact_start(struct local_contact *c, struct local *local, const struct local_record *record,
                         void (*done)(struct local_contact *, const struct err *, void *), void *data)
{
    c->local = local;
    c->record = record;
    c->done = done;
    c->data = data;
    c->call = NULL;
    err_clear(&c->err);
    c->client = http_client_new(local->loop, NULL);
    c->deadline_ns = loop_now(local->loop) + TIMEOUT_NS;
    sm_init(&c->sm, states, STATES, IDLE, NULL, NULL);
    loop_timer_init(local->loop, &c->timer, on_timer, c);
    sm_move(&c->sm, WAIT);
    loop_timer_start(&c->timer, 0);
}

void local_contact_cancel(struct local_contact *c, const struct err *why)
{
    if (sm_now(&c->sm) != CLOSING && sm_now(&c->sm) != OVER)
        finish(c, why);
}
