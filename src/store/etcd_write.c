#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/sm.h"
#include "base/text.h"
#include "store/etcd_write.h"

#define LEASE_S      3600
#define LEASE_USE_NS (1200 * ENV_NS_PER_S) /* then another: no write comes near the end of one */
#define ROUNDS_MAX   5
#define NO_SPACE_NS  ENV_NS_PER_S /* before etcd is asked again; doubled up to: */
#define NO_SPACE_MAX (30 * ENV_NS_PER_S)
#define NO_SPACE_TEXT                                                                                        \
    "etcd's space quota is used up: it takes no writes until it is compacted, defragmented and its alarm "   \
    "disarmed"

/*
 * State     waits for                                              woken by
 * IDLE      a write
 * GRANTING  a lease for the marker                                 grant_answered
 * WRITING   the transaction                                        txn_answered
 * SEALING   that no try of a write which lost can still win        seal_answered
 * ENDING    the end of this turn                                   task: runs the callback
 */
enum { IDLE, GRANTING, WRITING, SEALING, ENDING, STATE_MAX };

static const struct sm_state states[STATE_MAX] = {
    [IDLE] = {"idle", SM_NEXT(GRANTING) | SM_NEXT(WRITING) | SM_NEXT(ENDING), false},
    [GRANTING] = {"granting", SM_NEXT(WRITING) | SM_NEXT(ENDING), false},
    [WRITING] = {"writing", SM_NEXT(GRANTING) | SM_NEXT(WRITING) | SM_NEXT(SEALING) | SM_NEXT(ENDING), false},
    [SEALING] = {"sealing", SM_NEXT(ENDING), false},
    [ENDING] = {"ending", SM_NEXT(IDLE), false},
};

struct etcd_writer {
    struct etcd_client *client;
    struct loop *loop;
    struct sm sm;
    char *marker;
    int64_t marker_mod; /* as we left it */
    int64_t number;     /* of the last write: the marker's value */
    int64_t lease;      /* 0 = none */
    uint64_t lease_ns;  /* when it was asked for */
    uint64_t no_space_until_ns, no_space_pause_ns;
    /* the write that runs */
    char *key, *value, *fence_key;
    int64_t expected, fence;
    bool unmarked; /* a delete while there is no space: a marker would need some */
    bool unknown;  /* a try may have been applied */
    int rounds;
    struct err err;
    int64_t revision;
    etcd_write_cb cb;
    void *data;
    struct loop_task task;
    void (*closed)(void *data);
    void *closed_data;
};

static void enter_writing(struct etcd_writer *w);

/* ---- the end of a write ---- */

static void write_report(struct loop_task *task, void *data)
{
    struct etcd_writer *w = data;
    struct err err = w->err;
    (void)task;
    free(w->key);
    free(w->value);
    free(w->fence_key);
    w->key = w->value = w->fence_key = NULL;
    sm_move(&w->sm, IDLE);
    w->cb(err.code != ERRC_NONE ? &err : NULL, err.code != ERRC_NONE ? 0 : w->revision, w->data);
}

static void write_end(struct etcd_writer *w)
{
    sm_move(&w->sm, ENDING);
    loop_defer(w->loop, &w->task);
}

static void write_done(struct etcd_writer *w, int64_t revision)
{
    w->revision = w->value != NULL ? revision : 0;
    if (w->value != NULL)
        w->no_space_pause_ns = 0;
    write_end(w);
}

static void write_fail(struct etcd_writer *w, enum err_code code, const char *what)
{
    (void)err_set(&w->err, code, "%s", what);
    write_end(w);
}

static void write_no_space(struct etcd_writer *w)
{
    w->no_space_pause_ns = w->no_space_pause_ns == 0                 ? NO_SPACE_NS
                           : w->no_space_pause_ns < NO_SPACE_MAX / 2 ? w->no_space_pause_ns * 2
                                                                     : NO_SPACE_MAX;
    w->no_space_until_ns = loop_now(w->loop) + w->no_space_pause_ns;
    write_fail(w, ERRC_LIMIT, NO_SPACE_TEXT);
}

static void write_unknown(struct etcd_writer *w, const struct err *err)
{
    if (err != NULL)
        err_copy(&w->err, err);
    else
        (void)err_set(&w->err, ERRC_UNAVAILABLE, "no answer");
    (void)err_wrap(&w->err, "whether it was written is unknown");
    if (w->err.code != ERRC_TIMEOUT && w->err.code != ERRC_CANCELED)
        w->err.code = ERRC_UNAVAILABLE;
    write_end(w);
}

static void call_begin(struct etcd_writer *w, const char *path, struct buf *body, etcd_answer_cb answered)
{
    const struct etcd_request q = {.path = path, .body = buf_text(body), .body_length = body->length};
    struct err err = {0};
    if (etcd_call_start(w->client, &q, answered, w, NULL, &err) != 0) {
        err_copy(&w->err, &err);
        write_end(w);
    }
    buf_free(body);
}

/* ---- the marker's lease ---- */

static void enter_granting(struct etcd_writer *w);

static void grant_answered(const struct etcd_answer *answer, void *data)
{
    struct etcd_writer *w = data;
    if (answer->err == NULL) {
        w->lease = etcd_number(answer->root, "ID");
        if (w->lease != 0)
            enter_writing(w);
        else
            write_fail(w, ERRC_PROTOCOL, "etcd granted a lease without a number");
    } else if (answer->fault == ETCD_FAULT_NO_SPACE && w->value == NULL) {
        w->unmarked = true;
        enter_writing(w);
    } else if (answer->fault == ETCD_FAULT_NO_SPACE) {
        write_no_space(w);
    } else if (w->unknown) {
        write_unknown(w, answer->err);
    } else {
        err_copy(&w->err, answer->err);
        write_end(w);
    }
}

static void enter_granting(struct etcd_writer *w)
{
    struct buf body = {0};
    sm_move(&w->sm, GRANTING);
    w->lease_ns = loop_now(w->loop);
    (void)buf_printf(&body, "{\"TTL\":\"%d\"}", LEASE_S);
    call_begin(w, "/v3/lease/grant", &body, grant_answered);
}

/* ---- the transaction ---- */

struct found {
    int64_t key_mod, marker_mod, fence;
    bool applied; /* the marker has the number of this write */
};

static void found_read(const struct etcd_writer *w, yyjson_val *root, struct found *f)
{
    struct etcd_kv kv;
    int64_t number;
    *f = (struct found){0};
    if (etcd_kv_read(etcd_txn_read(root, 0), false, &kv))
        f->key_mod = kv.mod;
    etcd_kv_free(&kv);
    if (etcd_kv_read(etcd_txn_read(root, 1), true, &kv)) {
        f->marker_mod = kv.mod;
        f->applied = kv.value != NULL && text_to_int64(kv.value, &number) && number == w->number;
    }
    etcd_kv_free(&kv);
    if (w->fence == 0)
        return;
    if (etcd_kv_read(etcd_txn_read(root, 2), false, &kv))
        f->fence = kv.create;
    etcd_kv_free(&kv);
}

static void enter_sealing(struct etcd_writer *w);

static void write_lost(struct etcd_writer *w, enum err_code code, const char *what)
{
    (void)err_set(&w->err, code, "%s", what);
    if (w->unknown && !w->unmarked)
        enter_sealing(w);
    else
        write_end(w);
}

/* The compares did not hold: which, and why? */
static void txn_failed(struct etcd_writer *w, const struct found *f)
{
    if (!w->unmarked && f->applied) {
        w->marker_mod = f->marker_mod;
        write_done(w, f->marker_mod);
    } else if (!w->unmarked && f->marker_mod != w->marker_mod) {
        /* An earlier write whose end we did not see got through after all; or the marker's lease ended. */
        bool ended = f->marker_mod == 0 && w->unknown;
        w->marker_mod = f->marker_mod;
        if (ended || ++w->rounds > ROUNDS_MAX)
            write_unknown(w, NULL);
        else
            enter_writing(w);
    } else if (f->fence != w->fence) {
        write_lost(w, ERRC_STALE, "the leadership this write was made under has ended");
    } else if (w->unmarked && w->unknown && f->key_mod == 0) {
        write_unknown(w, NULL);
    } else {
        write_lost(w, ERRC_CONFLICT, "it was changed by somebody else");
    }
}

static void txn_answered(const struct etcd_answer *answer, void *data)
{
    struct etcd_writer *w = data;
    struct found found;
    w->unknown = w->unknown || answer->unknown;
    if (answer->err == NULL && etcd_txn_succeeded(answer->root)) {
        int64_t revision = etcd_revision(answer->root);
        if (!w->unmarked)
            w->marker_mod = revision;
        write_done(w, revision);
    } else if (answer->err == NULL) {
        found_read(w, answer->root, &found);
        txn_failed(w, &found);
    } else if (answer->fault == ETCD_FAULT_NO_LEASE && ++w->rounds <= ROUNDS_MAX) {
        enter_granting(w);
    } else if (answer->fault == ETCD_FAULT_NO_SPACE && w->value == NULL && !w->unmarked && !w->unknown) {
        w->unmarked = true;
        enter_writing(w);
    } else if (w->unknown) {
        write_unknown(w, answer->err);
    } else if (answer->fault == ETCD_FAULT_NO_SPACE) {
        write_no_space(w);
    } else {
        err_copy(&w->err, answer->err);
        write_end(w);
    }
}

static void enter_writing(struct etcd_writer *w)
{
    char number[24];
    struct buf body = {0};
    (void)snprintf(number, sizeof number, "%lld", (long long)w->number);
    const char *const reads[] = {w->key, w->marker, w->fence_key};
    struct etcd_compare compares[3] = {{.key = w->key, .revision = w->expected}};
    const struct etcd_change changes[] = {{w->key, w->value, 0}, {w->marker, number, w->lease}};
    struct etcd_txn txn = {.compares = compares,
                           .compare_count = 1,
                           .changes = changes,
                           .change_count = w->unmarked ? 1 : 2,
                           .reads = reads,
                           .read_count = w->fence != 0 ? 3 : 2,
                           .values = 2};
    if (!w->unmarked)
        compares[txn.compare_count++] = (struct etcd_compare){.key = w->marker, .revision = w->marker_mod};
    if (w->fence != 0)
        compares[txn.compare_count++] =
            (struct etcd_compare){.key = w->fence_key, .create = true, .revision = w->fence};
    sm_move(&w->sm, WRITING);
    etcd_add_txn(&body, &txn);
    call_begin(w, "/v3/kv/txn", &body, txn_answered);
}

/* ---- sealing ---- */

static void seal_answered(const struct etcd_answer *answer, void *data)
{
    struct etcd_writer *w = data;
    struct found found;
    if (answer->err != NULL) {
        write_unknown(w, answer->err);
        return;
    }
    if (etcd_txn_succeeded(answer->root)) {
        w->marker_mod = etcd_revision(answer->root);
        write_end(w);
        return;
    }
    found_read(w, answer->root, &found);
    w->marker_mod = found.marker_mod;
    if (found.applied) { /* it came in just now */
        err_clear(&w->err);
        write_done(w, found.marker_mod);
    } else if (found.marker_mod != 0) { /* moved by an earlier try of the sealing, or an earlier write */
        write_end(w);
    } else {
        write_unknown(w, NULL);
    }
}

/* Moves the marker on: every try of this write that is still under way now fails. */
static void enter_sealing(struct etcd_writer *w)
{
    struct buf body = {0};
    const char *const reads[] = {w->key, w->marker, w->fence_key};
    const struct etcd_compare compare = {.key = w->marker, .revision = w->marker_mod};
    const struct etcd_change change = {w->marker, "0", w->lease}; /* no write's number */
    const struct etcd_txn txn = {.compares = &compare,
                                 .compare_count = 1,
                                 .changes = &change,
                                 .change_count = 1,
                                 .reads = reads,
                                 .read_count = w->fence != 0 ? 3 : 2,
                                 .values = 2};
    sm_move(&w->sm, SEALING);
    etcd_add_txn(&body, &txn);
    call_begin(w, "/v3/kv/txn", &body, seal_answered);
}

/* ---- beginning and end ---- */

void etcd_write_start(struct etcd_writer *w, const struct etcd_write *write, etcd_write_cb cb, void *data)
{
    uint64_t now = loop_now(w->loop);
    w->key = mem_strdup(write->key);
    w->value = mem_strdup(write->value);
    w->fence_key = mem_strdup(write->fence_key);
    w->expected = write->expected;
    w->fence = write->fence;
    w->number++;
    w->unmarked = w->unknown = false;
    w->rounds = 0;
    w->revision = 0;
    err_clear(&w->err);
    w->cb = cb;
    w->data = data;
    if (w->value != NULL && now < w->no_space_until_ns)
        write_fail(w, ERRC_LIMIT, NO_SPACE_TEXT);
    else if (w->lease == 0 || now - w->lease_ns > LEASE_USE_NS)
        enter_granting(w);
    else
        enter_writing(w);
}

struct etcd_writer *etcd_writer_new(struct etcd_client *client, const char *prefix)
{
    struct etcd_writer *w = mem_zalloc(sizeof *w);
    char unique[17];
    w->client = client;
    w->loop = etcd_client_loop(client);
    env_random_text(w->loop->env, unique, 16);
    w->marker = mem_printf("%s!writer/%s", prefix, unique);
    w->task = (struct loop_task){.run = write_report, .data = w};
    list_init(&w->task.node);
    sm_init(&w->sm, states, STATE_MAX, IDLE, NULL, w);
    return w;
}

static void writer_gone(struct loop_task *task, void *data)
{
    struct etcd_writer *w = data;
    void (*closed)(void *data) = w->closed;
    void *closed_data = w->closed_data;
    (void)task;
    free(w->marker);
    free(w);
    closed(closed_data);
}

static void revoked(const struct etcd_answer *answer, void *data)
{
    struct etcd_writer *w = data;
    (void)answer; /* if not, the lease ends by itself */
    loop_defer(w->loop, &w->task);
}

void etcd_writer_close(struct etcd_writer *w, void (*closed)(void *data), void *data)
{
    char body[48];
    (void)snprintf(body, sizeof body, "{\"ID\":\"%lld\"}", (long long)w->lease);
    const struct etcd_request q = {.path = "/v3/lease/revoke",
                                   .body = body,
                                   .body_length = strlen(body),
                                   .limit_ns = 2 * ENV_NS_PER_S,
                                   .once = true};
    w->closed = closed;
    w->closed_data = data;
    w->task.run = writer_gone;
    if (w->lease == 0 || etcd_call_start(w->client, &q, revoked, w, NULL, NULL) != 0)
        revoked(NULL, w);
}
