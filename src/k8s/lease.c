#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "k8s/election.h"
#include "k8s/lease.h"

struct k8s_lease {
    struct k8s_client *client;
    struct k8s_lease_options o;
    struct election *election;
    char *path, *collection;
    struct k8s_call *call;
    struct lease_call *present; /* its call is the one the election waits for */
    int calls;                  /* not yet ended, dropped ones included */
    struct loop_timer timer;
    struct loop_task unsent; /* a request that could not be started */
    bool closing, released;
    bool unanswered; /* so was the last request; said once */
    void (*closed)(void *data);
    void *closed_data;
    struct loop_task closed_task;
};

/* One request; a dropped one still ends. */
struct lease_call {
    struct k8s_lease *lease;
};

static void lease_step(struct k8s_lease *l, const struct election_step *step);

static uint64_t clock_of(const struct k8s_lease *l)
{
    return loop_clock(k8s_client_loop(l->client));
}

static void check_closed(struct k8s_lease *l)
{
    if (l->released && l->calls == 0)
        loop_defer(k8s_client_loop(l->client), &l->closed_task);
}

static void lease_gone(struct loop_task *task, void *data)
{
    struct k8s_lease *l = data;
    void (*closed)(void *data) = l->closed;
    void *closed_data = l->closed_data;
    (void)task;
    election_free(l->election);
    free(l->path);
    free(l->collection);
    free(l);
    if (closed != NULL)
        closed(closed_data);
}

/* The election only waits; a person wants to know what for. No lease yet and a lost race are answers. */
static void say(struct k8s_lease *l, const struct k8s_answer *answer)
{
    bool is = answer->err == NULL || answer->http_status == 404 || answer->http_status == 409;
    if (!is && !l->unanswered && !l->closing)
        log_event(LOG_WARN, "the lease cannot be read or renewed, trying again", "lease", l->path, "err",
                  answer->err->message, NULL);
    l->unanswered = !is;
}

static void answered(const struct k8s_answer *answer, void *data)
{
    struct lease_call *c = data;
    struct k8s_lease *l = c->lease;
    struct election_step step;
    l->calls--;
    if (l->present == c) {
        say(l, answer);
        l->present = NULL;
        l->call = NULL;
        election_answer(l->election, clock_of(l), answer->http_status,
                        answer->body != NULL ? answer->body : "", answer->body_length, &step);
        lease_step(l, &step);
    }
    free(c);
    check_closed(l);
}

static void drop(struct k8s_lease *l)
{
    struct k8s_call *call = l->call;
    l->call = NULL;
    l->present = NULL;
    if (call != NULL)
        k8s_call_cancel(call);
}

static void request_send(struct k8s_lease *l, const struct election_request *q)
{
    static const char *const methods[] = {
        [ELECTION_GET] = "GET", [ELECTION_CREATE] = "POST", [ELECTION_UPDATE] = "PUT"};
    const struct k8s_request request = {
        .method = methods[q->method],
        .path = q->method == ELECTION_CREATE ? l->collection : l->path,
        .body = q->body,
        .body_length = q->body != NULL ? strlen(q->body) : 0,
        .timeout_ns = 5 * ENV_NS_PER_S,
        .once = true, /* the election has its own patience */
    };
    struct lease_call *c = mem_zalloc(sizeof *c);
    c->lease = l;
    drop(l);
    if (k8s_call_start(l->client, &request, answered, c, &l->call, NULL) != 0) {
        free(c);
        loop_defer(k8s_client_loop(l->client), &l->unsent);
        return;
    }
    l->present = c;
    l->calls++;
}

static void lease_step(struct k8s_lease *l, const struct election_step *step)
{
    if (step->send)
        request_send(l, &step->request);
    if (step->deadline_ns != 0)
        loop_timer_start_at(&l->timer, step->deadline_ns);
    else
        loop_timer_stop(&l->timer);
    if (l->closing && step->deadline_ns == 0) {
        l->released = true;
        drop(l);
        check_closed(l);
    }
    if (l->closing)
        return;
    if (step->lost)
        l->o.lost(l, l->o.data);
    else if (step->won)
        l->o.won(l, l->o.data);
}

static void fired(struct loop_timer *timer, void *data)
{
    struct k8s_lease *l = data;
    struct election_step step;
    (void)timer;
    election_tick(l->election, clock_of(l), &step);
    lease_step(l, &step);
}

static void unsent(struct loop_task *task, void *data)
{
    struct k8s_lease *l = data;
    struct election_step step;
    (void)task;
    if (l->released)
        return;
    election_answer(l->election, clock_of(l), 0, "", 0, &step);
    lease_step(l, &step);
}

struct k8s_lease *k8s_lease_start(struct k8s_client *client, const struct k8s_lease_options *options)
{
    struct k8s_lease *l = mem_zalloc(sizeof *l);
    struct loop *loop = k8s_client_loop(client);
    struct election_step step;
    const struct election_options o = {loop->env, options->name, options->name_space, options->identity,
                                       options->dead};
    l->client = client;
    l->o = *options;
    l->election = election_new(&o);
    l->collection = mem_printf("/apis/coordination.k8s.io/v1/namespaces/%s/leases", options->name_space);
    l->path = mem_printf("%s/%s", l->collection, options->name);
    l->unsent = (struct loop_task){.run = unsent, .data = l};
    l->closed_task = (struct loop_task){.run = lease_gone, .data = l};
    list_init(&l->unsent.node);
    list_init(&l->closed_task.node);
    loop_timer_init(loop, &l->timer, fired, l);
    election_start(l->election, clock_of(l), &step);
    lease_step(l, &step);
    return l;
}

void k8s_lease_close(struct k8s_lease *l, void (*closed)(void *data), void *data)
{
    struct election_step step;
    l->closing = true;
    l->closed = closed;
    l->closed_data = data;
    election_release(l->election, clock_of(l), &step);
    lease_step(l, &step);
}

bool k8s_lease_leads(const struct k8s_lease *l)
{
    return election_leads(l->election, clock_of(l));
}

const char *k8s_lease_holder(const struct k8s_lease *l)
{
    return election_holder(l->election);
}
