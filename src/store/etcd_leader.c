#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "store/etcd_election.h"
#include "store/etcd_leader.h"

struct etcd_leader {
    struct etcd_client *client;
    struct loop *loop;
    struct etcd_leader_options o;
    struct etcd_election *election;
    char *key, *term_key, *holder;
    struct leader_call *present; /* the call whose answer the election waits for */
    int calls;                   /* not yet ended, dropped ones included */
    struct loop_timer timer;
    struct err failed; /* ends it before it began */
    bool decided;      /* won or failed was reported */
    bool closing, released;
    void (*closed)(void *data);
    void *closed_data;
    struct loop_task closed_task;
};

struct leader_call {
    struct etcd_leader *leader;
    struct etcd_call *call;
    enum etcd_election_ask ask;
};

static void leader_step(struct etcd_leader *l, const struct etcd_election_step *step);

static void check_closed(struct etcd_leader *l)
{
    if (l->released && l->calls == 0)
        loop_defer(l->loop, &l->closed_task);
}

static void leader_gone(struct loop_task *task, void *data)
{
    struct etcd_leader *l = data;
    void (*closed)(void *data) = l->closed;
    void *closed_data = l->closed_data;
    (void)task;
    etcd_election_free(l->election);
    free(l->key);
    free(l->term_key);
    free(l->holder);
    free(l);
    closed(closed_data);
}

/* ---- requests ---- */

static void add_look(const struct etcd_leader *l, struct buf *b)
{
    const char *const keys[] = {l->key, l->term_key};
    /* Compares that never hold: a transaction that only reads. */
    const struct etcd_compare never = {.key = l->key, .create = true, .revision = -1};
    const struct etcd_txn txn = {
        .compares = &never, .compare_count = 1, .reads = keys, .read_count = 2, .values = 2};
    etcd_add_txn(b, &txn);
}

static void add_claim(const struct etcd_leader *l, const struct etcd_election_request *q, struct buf *b)
{
    const char *const keys[] = {l->key, l->term_key};
    char term[24];
    (void)snprintf(term, sizeof term, "%lld", (long long)q->term);
    const struct etcd_compare compares[] = {{.key = l->key, .create = true},
                                            {.key = l->term_key, .revision = q->term_mod}};
    const struct etcd_change changes[] = {{l->key, l->holder, q->lease}, {l->term_key, term, 0}};
    const struct etcd_txn txn = {.compares = compares,
                                 .compare_count = 2,
                                 .changes = changes,
                                 .change_count = 2,
                                 .reads = keys,
                                 .read_count = 2,
                                 .values = 2};
    etcd_add_txn(b, &txn);
}

static const char *add_request(const struct etcd_leader *l, const struct etcd_election_request *q,
                               struct buf *b)
{
    switch (q->ask) {
    case ETCD_ASK_LOOK:
        add_look(l, b);
        return "/v3/kv/txn";
    case ETCD_ASK_CLAIM:
        add_claim(l, q, b);
        return "/v3/kv/txn";
    case ETCD_ASK_GRANT:
        (void)buf_printf(b, "{\"TTL\":\"%lld\"}", (long long)l->o.ttl_s);
        return "/v3/lease/grant";
    default:
        (void)buf_printf(b, "{\"ID\":\"%lld\"}", (long long)q->lease);
        return q->ask == ETCD_ASK_BEAT ? "/v3/lease/keepalive" : "/v3/lease/revoke";
    }
}

/* ---- answers ---- */

static bool read_state(struct etcd_leader *l, yyjson_val *root, struct etcd_election_answer *a)
{
    struct etcd_kv leader = {0}, term = {0};
    yyjson_val *leader_kv = etcd_txn_read(root, 0), *term_kv = etcd_txn_read(root, 1);
    bool good = true;
    if (leader_kv != NULL && etcd_kv_read(leader_kv, false, &leader)) {
        a->leader_created = leader.create;
        a->leader_lease = leader.lease;
    }
    if (term_kv != NULL) {
        good = etcd_kv_read(term_kv, true, &term) && term.value != NULL &&
               text_to_int64(term.value, &a->term) && a->term >= 0 && a->term < INT64_MAX;
        a->term_mod = term.mod;
    }
    etcd_kv_free(&leader);
    etcd_kv_free(&term);
    if (!good)
        (void)err_set(&l->failed, ERRC_CORRUPT, "etcd key %s is no number", l->term_key);
    return good;
}

static void read_answer(struct etcd_leader *l, enum etcd_election_ask asked, const struct etcd_answer *answer,
                        struct etcd_election_answer *a)
{
    yyjson_val *root = answer->root, *result = yyjson_obj_get(root, "result");
    *a = (struct etcd_election_answer){0};
    if (answer->err != NULL) {
        /* A lease that is gone is an answer; so is a claim with one. */
        a->answered = answer->fault == ETCD_FAULT_NO_LEASE && asked == ETCD_ASK_BEAT;
        if (answer->fault == ETCD_FAULT_DENIED || answer->fault == ETCD_FAULT_OTHER)
            err_copy(&l->failed, answer->err);
        return;
    }
    a->answered = true;
    switch (asked) {
    case ETCD_ASK_GRANT:
        a->lease = etcd_number(root, "ID");
        a->ttl_s = etcd_number(root, "TTL");
        break;
    case ETCD_ASK_BEAT:
        a->ttl_s = etcd_number(result, "TTL");
        break;
    case ETCD_ASK_CLAIM:
        a->succeeded = etcd_txn_succeeded(root);
        a->revision = etcd_revision(root);
        a->answered = a->succeeded || read_state(l, root, a);
        break;
    case ETCD_ASK_LOOK:
        a->answered = read_state(l, root, a);
        break;
    case ETCD_ASK_REVOKE:
        break;
    }
}

static void decide(struct etcd_leader *l, const struct err *err)
{
    if (l->decided || l->closing)
        return;
    l->decided = true;
    l->o.won(err, err == NULL ? etcd_election_term(l->election) : 0, l->o.data);
}

static void answered(const struct etcd_answer *answer, void *data)
{
    struct leader_call *c = data;
    struct etcd_leader *l = c->leader;
    struct etcd_election_answer a;
    struct etcd_election_step step;
    l->calls--;
    if (l->present == c) {
        l->present = NULL;
        read_answer(l, c->ask, answer, &a);
        etcd_election_answered(l->election, loop_clock(l->loop), &a, &step);
        leader_step(l, &step);
    }
    free(c);
    check_closed(l);
}

static void drop(struct etcd_leader *l)
{
    struct leader_call *c = l->present;
    l->present = NULL;
    if (c != NULL)
        etcd_call_cancel(c->call);
}

static void request_send(struct etcd_leader *l, const struct etcd_election_request *q)
{
    struct buf body = {0};
    struct etcd_request r = {.path = add_request(l, q, &body)};
    r.body = buf_text(&body);
    r.body_length = body.length;
    r.try_ns = r.limit_ns = q->limit_ns;
    r.once = true; /* the election has its own patience */
    struct leader_call *c = mem_zalloc(sizeof *c);
    c->leader = l;
    c->ask = q->ask;
    drop(l);
    l->present = c;
    l->calls++;
    if (etcd_call_start(l->client, &r, answered, c, &c->call, NULL) != 0) {
        l->present = NULL; /* the client is being closed: nothing comes any more */
        l->calls--;
        free(c);
    }
    buf_free(&body);
}

static void leader_step(struct etcd_leader *l, const struct etcd_election_step *step)
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
    if (step->won)
        decide(l, NULL);
    if (step->lost)
        l->o.lost(l->o.data);
    if (l->failed.code != ERRC_NONE && !l->decided) {
        loop_timer_stop(&l->timer);
        drop(l);
        decide(l, &l->failed);
    }
    err_clear(&l->failed);
}

static void tick(struct loop_timer *timer, void *data)
{
    struct etcd_leader *l = data;
    struct etcd_election_step step;
    (void)timer;
    etcd_election_tick(l->election, loop_clock(l->loop), &step);
    leader_step(l, &step);
}

struct etcd_leader *etcd_leader_start(struct etcd_client *client, const struct etcd_leader_options *options)
{
    struct etcd_leader *l = mem_zalloc(sizeof *l);
    struct etcd_election_step step;
    l->client = client;
    l->loop = etcd_client_loop(client);
    l->o = *options;
    l->key = mem_printf("%s" ETCD_LEADER_KEY, options->prefix);
    l->term_key = mem_printf("%sleader/term", options->prefix);
    l->holder = mem_strdup(options->holder);
    l->election = etcd_election_new(l->loop->env, options->ttl_s);
    l->closed_task = (struct loop_task){.run = leader_gone, .data = l};
    list_init(&l->closed_task.node);
    loop_timer_init(l->loop, &l->timer, tick, l);
    etcd_election_start(l->election, loop_clock(l->loop), &step);
    leader_step(l, &step);
    return l;
}

void etcd_leader_close(struct etcd_leader *l, void (*closed)(void *data), void *data)
{
    struct etcd_election_step step;
    if (l->closing)
        return;
    l->closing = true;
    l->closed = closed;
    l->closed_data = data;
    etcd_election_release(l->election, loop_clock(l->loop), &step);
    leader_step(l, &step);
}

int64_t etcd_leader_created(const struct etcd_leader *l)
{
    return etcd_election_created(l->election);
}
