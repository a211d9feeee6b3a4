/* The demo from its first state to its last. */
#include <assert.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "cli/demo_files.h"
#include "cli/demo_impl.h"
#include "cli/human.h"

#define S                ENV_NS_PER_S
#define MS               ENV_NS_PER_MS
#define REFRESH_NS       (250 * MS)
#define LOOK_GONE_NS     (50 * MS)
#define CALM_NS          (8 * S)
#define SPREAD_NS        (4 * S)
#define FAST_STOP_NS     (10 * S)
#define HOT_SHARE        0.8
#define LOG_LINES        8
#define EXIT_INTERRUPTED 130

/*
 * PREPARE -> START -> APPLY -> FILL -> CALM -> HOT -> MOVE -> SPREAD -> CHECK -> RESULT -> DELETE --> STOP
 *                                                                         |        |                  ^  |
 *    (from each of them, by a failure or a signal) --> UNWIND ------------+--------+-----------------+  |
 *                                                        |                |  --keep                     v
 *                                                        +---> KEEP <-----+--------+                 SERVERS
 *                                                               |                                       v
 *                                                               +-------------> ENDED <------------- REMOVE
 *
 * PREPARE waits for the worker that makes the directory
 * START   waits for the manager: its file of ports, then /readyz
 * APPLY   waits for the answer to the specification, then for the database to be provisioned
 * FILL    waits for the load library to have made all rows
 * CALM    waits for its timer; load runs, evenly spread
 * HOT     waits for the manager's decision
 * MOVE    waits for the end of the operation
 * SPREAD  waits for its timer
 * CHECK   waits for the load to end and to have compared every row
 * RESULT  waits for the last figures of the manager
 * DELETE  waits for the database to be gone
 * UNWIND  waits for the load to end and the worker to be free
 * STOP    waits for the manager's end
 * SERVERS waits until no server runs (there is none after DELETE)
 * REMOVE  waits for the worker that removes the directory
 * KEEP    waits for the child process to be let go
 * ENDED   waits for what is open to be closed
 */
enum state {
    PREPARE,
    START,
    APPLY,
    FILL,
    CALM,
    HOT,
    MOVE,
    SPREAD,
    CHECK,
    RESULT,
    DELETE,
    UNWIND,
    STOP,
    SERVERS,
    REMOVE,
    KEEP,
    ENDED,
    STATES
};

#define N(state) SM_NEXT(state)
static const struct sm_state states[STATES] = {
    [PREPARE] = {"making its directory", N(START) | N(UNWIND), false},
    [START] = {"starting the manager", N(APPLY) | N(UNWIND), false},
    [APPLY] = {"creating the database", N(FILL) | N(UNWIND), false},
    [FILL] = {"making rows", N(CALM) | N(UNWIND), false},
    [CALM] = {"running the load", N(HOT) | N(UNWIND), false},
    [HOT] = {"waiting for the decision", N(MOVE) | N(UNWIND), false},
    [MOVE] = {"waiting for the split", N(SPREAD) | N(UNWIND), false},
    [SPREAD] = {"running the load on three shards", N(CHECK) | N(UNWIND), false},
    [CHECK] = {"checking the rows", N(RESULT) | N(UNWIND), false},
    [RESULT] = {"asking for the figures", N(DELETE) | N(KEEP) | N(UNWIND), false},
    [DELETE] = {"deleting the database", N(STOP) | N(UNWIND), false},
    [UNWIND] = {"ending the load", N(STOP) | N(KEEP), false},
    [STOP] = {"ending the manager", N(SERVERS), false},
    [SERVERS] = {"ending the servers", N(REMOVE), false},
    [REMOVE] = {"removing its directory", N(ENDED), false},
    [KEEP] = {"letting the manager go", N(ENDED), false},
    [ENDED] = {"ended", 0, true},
};
#undef N

/* How long a state may last; 0 = for ever. */
static const uint64_t limits[STATES] = {
    [START] = 60 * S,  [APPLY] = 90 * S,  [FILL] = 300 * S,  [HOT] = 60 * S,    [MOVE] = 300 * S,
    [CHECK] = 180 * S, [RESULT] = 30 * S, [DELETE] = 60 * S, [UNWIND] = 30 * S, [STOP] = 20 * S,
};

static int now_in(const struct demo *d)
{
    return sm_now(&d->sm);
}

bool demo_ending(const struct demo *d)
{
    return now_in(d) >= DELETE || d->next >= DELETE;
}

/* Callbacks only say where to go; the step enters it. A failure is not overtaken by what was under way. */
static void go(struct demo *d, int next)
{
    if (next < UNWIND && (d->next >= UNWIND || now_in(d) >= UNWIND))
        return;
    d->next = next;
    loop_defer(&d->loop, &d->step);
}

void demo_fail(struct demo *d, const struct err *err)
{
    if (!d->failed)
        err_copy(&d->err, err);
    d->failed = true;
    if (now_in(d) < UNWIND && d->next < UNWIND)
        go(d, UNWIND);
}

void demo_failf(struct demo *d, const char *fmt, ...)
{
    struct err err = {0};
    char text[ERR_MESSAGE_SIZE];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    err_set(&err, ERRC_INTERNAL, "%s", text);
    demo_fail(d, &err);
}

/* ---- worker jobs ---- */

/* What UNWIND waits for: then on to what is left to take away. */
static void unwound(struct demo *d)
{
    if (now_in(d) == UNWIND && d->load == NULL && !d->job_busy)
        go(d, d->o.keep && !d->interrupted && d->manager != NULL ? KEEP : STOP);
}

static void job_done(struct work *work, int code)
{
    struct demo *d = work->data;
    (void)code; /* a job is never canceled */
    d->job_busy = false;
    d->job_done(d);
    unwound(d);
}

void demo_job(struct demo *d, void (*run)(struct work *work), void (*done)(struct demo *d))
{
    assert(!d->job_busy);
    d->job_busy = true;
    d->job_done = done;
    if (work_start(&d->loop, &d->job, run, job_done, d) == 0)
        return;
    d->job_busy = false;
    demo_failf(d, "no worker could be started");
}

/* ---- PREPARE, START ---- */

static void run_prepare(struct work *work)
{
    struct demo *d = work->data;
    struct env *env = d->loop.env;
    (void)demo_directory_make(d->o.directory, env->get(env, "TMPDIR"), &d->directory, &d->directory_made,
                              &d->job_err);
}

static void prepared(struct demo *d)
{
    if (d->job_err.code != ERRC_NONE) {
        demo_fail(d, &d->job_err);
        return;
    }
    d->log_path = mem_printf("%s/manager.log", d->directory);
    d->ledger_path = mem_printf("%s/ledger", d->directory);
    d->findings_path = mem_printf("%s/findings.txt", d->directory);
    d->passfile = mem_printf("%s/state/secrets/shop.pgpass", d->directory);
    go(d, START);
}

static void enter_prepare(struct demo *d)
{
    demo_job(d, run_prepare, prepared);
}

static void enter_start(struct demo *d)
{
    struct err err = {0};
    demo_story_say(&d->story, TONE_HEAD, "starting a manager; everything is kept in %s", d->directory);
    if (demo_manager_start(d, &err) != 0)
        demo_fail(d, &err);
    else
        demo_manager_look(d);
}

void demo_manager_ready(struct demo *d)
{
    if (now_in(d) == START)
        go(d, APPLY);
}

/* ---- APPLY ---- */

static void on_provision(struct demo *d, const struct err *err, yyjson_val *root)
{
    const char *status = yyjson_get_str(yyjson_obj_get(root, "status"));
    const char *message = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(root, "error"), "message"));
    if (demo_ending(d))
        return;
    if (err != NULL)
        demo_fail(d, err);
    else if (status != NULL && strcmp(status, "done") == 0)
        go(d, FILL);
    else if (status != NULL && strcmp(status, "running") == 0)
        loop_timer_start(&d->wait, LOOK_GONE_NS);
    else
        demo_failf(d, "the database could not be created: %s",
                   message != NULL ? message : "no reason was given");
}

static void ask_provision(struct demo *d)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/v1/operations/%s", d->facts.provision);
    demo_api(d, "GET", path, NULL, on_provision);
}

static void on_applied(struct demo *d, const struct err *err, yyjson_val *root)
{
    const char *id = yyjson_get_str(yyjson_obj_get(root, "id"));
    if (demo_ending(d))
        return;
    if (err != NULL) {
        demo_fail(d, err);
        return;
    }
    (void)snprintf(d->facts.provision, sizeof d->facts.provision, "%s", id != NULL ? id : "");
    ask_provision(d);
}

static void enter_apply(struct demo *d)
{
    char *specification = demo_specification(d);
    char threshold[32];
    demo_story_say(
        &d->story, TONE_HEAD,
        "creating database shop: customers and orders over two shards, each a PostgreSQL server of its "
        "own; a shard above %s transactions/s is to be split by itself",
        demo_view_number((uint64_t)demo_threshold(d), threshold));
    d->view.task = "servers";
    demo_api(d, "PUT", "/v1/databases/shop", specification, on_applied);
    free(specification);
}

/* ---- the load ---- */

static void fill_ended(struct demo *d, const struct err *err, const struct load_result *r)
{
    char rows[32];
    if (err != NULL) {
        demo_fail(d, err);
        return;
    }
    d->facts.rows_made = r->rows_made;
    d->facts.fill_seconds = (double)r->duration_ns / 1e9;
    demo_story_say(&d->story, TONE_PLAIN, "%s rows made in %.1f s", demo_view_number(r->rows_made, rows),
                   d->facts.fill_seconds);
    go(d, CALM);
}

static void on_load_ended(const struct err *err, const struct load_result *r, void *data)
{
    struct demo *d = data;
    struct err local = {0};
    const struct load_findings *found = load_findings(d->load);
    char *first = found->shown_count > 0 ? mem_strdup(found->shown[0]) : NULL;
    d->load = NULL;
    d->view.loading = false;
    if (r->mode == LOAD_RUN) {
        d->result = *r;
        d->have_result = true;
    }
    if (now_in(d) == FILL) {
        fill_ended(d, err, r);
    } else if (now_in(d) == CHECK && err == NULL) {
        (void)snprintf(d->facts.finding, sizeof d->facts.finding, "%s", first != NULL ? first : "");
        go(d, RESULT);
    } else if (now_in(d) < UNWIND) {
        err_set(&local, ERRC_INTERNAL, "the load ended: %s", err != NULL ? err->message : "too early");
        demo_fail(d, &local);
    }
    free(first);
    unwound(d);
}

static void start_load(struct demo *d, enum load_mode mode)
{
    struct load_options *o = &d->load_options;
    struct err err = {0};
    load_options_init(o);
    o->mode = mode;
    o->database = "shop";
    o->routing_url = d->public_url;
    o->passfile = d->passfile;
    o->ledger_path = d->ledger_path;
    o->report_path = mode == LOAD_RUN ? d->findings_path : NULL;
    o->customers = d->o.customers;
    o->clients = d->o.clients;
    o->rate = d->o.rate;
    o->duration_ns = 0;
    if (load_run(&d->loop, o, on_load_ended, d, &d->load, &err) != 0)
        demo_fail(d, &err);
}

static void enter_fill(struct demo *d)
{
    char customers[32], orders[32];
    demo_ask_shards(d);
    demo_story_say(&d->story, TONE_HEAD, "filling them with %s customers and %s orders",
                   demo_view_number(d->o.customers, customers),
                   demo_view_number(3ull * d->o.customers, orders));
    start_load(d, LOAD_INIT);
}

static void enter_calm(struct demo *d)
{
    char rate[32];
    d->view.task = NULL;
    demo_story_say(
        &d->story, TONE_HEAD,
        "load begins: %u clients send %s operations/s, evenly over both shards; each acknowledged write is "
        "kept in a ledger",
        (unsigned)d->o.clients, demo_view_number(d->o.rate, rate));
    d->shown_ns = loop_clock(&d->loop);
    demo_follow(d);
    start_load(d, LOAD_RUN);
    loop_timer_start(&d->wait, CALM_NS);
}

static void enter_hot(struct demo *d)
{
    char skew[64];
    struct err err = {0};
    (void)snprintf(skew, sizeof skew, "hot-shard=s2:%.2f", HOT_SHARE);
    d->facts.hot_ns = loop_clock(&d->loop);
    if (load_set_skew(d->load, skew, &err) != 0) {
        demo_fail(d, &err);
        return;
    }
    demo_story_say(&d->story, TONE_HOT, "the load shifts: %.0f of 100 operations now go to shard s2",
                   HOT_SHARE * 100);
}

void demo_decided(struct demo *d)
{
    struct demo_facts *f = &d->facts;
    if (now_in(d) != HOT) {
        demo_failf(d, "a split was decided before a shard was hot: %s", f->sentence);
        return;
    }
    demo_story_say(&d->story, TONE_HOT, "decided, %.1f s after the shift, by rule R%d: %s",
                   (double)(f->decided_ns - f->hot_ns) / 1e9, f->rule, f->sentence);
    go(d, MOVE);
}

static void enter_move(struct demo *d)
{
    if (d->facts.move_done)
        go(d, SPREAD);
}

void demo_moved(struct demo *d)
{
    if (now_in(d) == MOVE)
        go(d, SPREAD);
}

static void enter_spread(struct demo *d)
{
    demo_phase(d, NULL);
    demo_story_say(&d->story, TONE_GOOD, "the split is done; the same load now spreads over three shards");
    loop_timer_start(&d->wait, SPREAD_NS);
}

static void enter_check(struct demo *d)
{
    struct buf figures = {0};
    demo_view_line(&d->view, &figures);
    if (figures.length > 0)
        demo_story_say(&d->story, TONE_PLAIN, "%s", buf_text(&figures));
    buf_free(&figures);
    demo_story_say(&d->story, TONE_HEAD, "load ends; every row of every shard is compared with the ledger");
    d->view.task = "checking";
    d->view.task_text[0] = '\0';
    load_stop(d->load);
}

/* ---- RESULT ---- */

static double member(yyjson_val *object, const char *name)
{
    yyjson_val *value = yyjson_obj_get(object, name);
    double number = 0;
    if (yyjson_is_str(value))
        (void)text_to_double(yyjson_get_str(value), &number);
    return yyjson_is_num(value) ? yyjson_get_num(value) : number;
}

static void judge(struct demo *d)
{
    uint64_t wrong = demo_wrong_rows(&d->result);
    demo_print_verdict(d);
    if (wrong > 0)
        demo_failf(d, "%llu rows are not as the ledger says, the first: %s; all are in %s",
                   (unsigned long long)wrong, d->facts.finding, d->findings_path);
    else if (!d->result.checked)
        demo_failf(d, "the rows could not all be checked");
    else
        go(d, d->o.keep ? KEEP : DELETE);
}

static void on_debug_loop(struct demo *d, const struct err *err, yyjson_val *root)
{
    yyjson_val *process = yyjson_obj_get(root, "process");
    if (demo_ending(d))
        return;
    if (err != NULL) {
        demo_fail(d, err);
        return;
    }
    d->facts.loop_longest_ms = member(root, "longest_turn_us") / 1e3;
    d->facts.cpu_seconds = member(process, "cpu_seconds");
    d->facts.rss_peak_bytes = member(process, "rss_max_bytes");
    judge(d);
}

static void enter_result(struct demo *d)
{
    d->view.task = NULL;
    demo_story_end_block(&d->story);
    demo_api(d, "GET", "/debug/loop", NULL, on_debug_loop);
}

/* ---- DELETE ---- */

static void on_asked_gone(struct demo *d, const struct err *err, yyjson_val *root)
{
    (void)root;
    if (now_in(d) != DELETE)
        return;
    if (err == NULL)
        loop_timer_start(&d->wait, LOOK_GONE_NS);
    else if (err->code == ERRC_NOT_FOUND)
        go(d, STOP);
    else
        demo_fail(d, err);
}

static void on_deleted(struct demo *d, const struct err *err, yyjson_val *root)
{
    on_asked_gone(d, err != NULL && err->code == ERRC_NOT_FOUND ? NULL : err, root);
}

static void enter_delete(struct demo *d)
{
    demo_story_say(&d->story, TONE_HEAD, "taking everything away: database, servers, manager, directory");
    demo_unfollow(d);
    demo_api(d, "DELETE", "/v1/databases/shop", NULL, on_deleted);
}

/* ---- UNWIND, STOP, SERVERS, REMOVE, KEEP, ENDED ---- */

static void enter_unwind(struct demo *d)
{
    d->view.task = NULL;
    d->view.loading = false;
    demo_story_end_block(&d->story);
    if (d->directory != NULL)
        demo_story_say(&d->story, TONE_BAD, "%s; ending what was started",
                       d->interrupted ? "interrupted" : "failed");
    demo_unfollow(d);
    demo_phase(d, NULL);
    if (d->load != NULL)
        load_stop(d->load);
    if (d->load != NULL)
        load_stop(d->load); /* at once: nothing is to be checked any more */
    unwound(d);
}

static void enter_stop(struct demo *d)
{
    demo_unfollow(d);
    if (d->manager == NULL)
        go(d, SERVERS);
    else
        demo_manager_stop(d, d->impatient > 1 ? SIGKILL : SIGTERM);
}

void demo_manager_gone(struct demo *d)
{
    if (now_in(d) == STOP)
        go(d, SERVERS);
    else if (now_in(d) == KEEP)
        go(d, ENDED);
    else
        demo_failf(d, "the manager ended by itself");
}

static void run_servers(struct work *work)
{
    struct demo *d = work->data;
    d->job_count = demo_servers_signal(d->directory, d->job_signal);
    if (d->failed && d->log_tail.length == 0)
        demo_log_tail(d->log_path, LOG_LINES, &d->log_tail, &d->log_cause);
}

static void servers_done(struct demo *d)
{
    if (d->job_count == 0) {
        go(d, REMOVE);
        return;
    }
    if (!d->failed)
        demo_failf(d, "%d servers outlived their database", d->job_count);
    loop_timer_start(&d->wait, LOOK_GONE_NS);
    if (d->servers_since_ns == 0)
        d->servers_since_ns = loop_clock(&d->loop);
}

static void look_servers(struct demo *d)
{
    bool late = d->servers_since_ns != 0 && loop_clock(&d->loop) - d->servers_since_ns > FAST_STOP_NS;
    /* a fast shutdown, asked for once; then an immediate one */
    d->job_signal = late || d->impatient > 1 ? SIGQUIT : d->servers_since_ns == 0 ? SIGINT : 0;
    demo_job(d, run_servers, servers_done);
}

static void enter_servers(struct demo *d)
{
    if (d->directory == NULL)
        go(d, REMOVE);
    else
        look_servers(d);
}

static void run_remove(struct work *work)
{
    struct demo *d = work->data;
    bool all = !d->failed || d->interrupted;
    err_clear(&d->job_err);
    (void)demo_directory_clean(d->directory, all, d->directory_made, &d->job_err);
    d->removed = all;
}

static void removed(struct demo *d)
{
    if (d->job_err.code != ERRC_NONE)
        demo_fail(d, &d->job_err);
    go(d, ENDED);
}

static void enter_remove(struct demo *d)
{
    if (d->directory == NULL)
        go(d, ENDED);
    else
        demo_job(d, run_remove, removed);
}

static void enter_keep(struct demo *d)
{
    struct buf out = {0};
    d->kept = true;
    demo_unfollow(d);
    buf_printf(
        &out,
        "Manager and servers go on running, without load. To look around:\n"
        "  shardherd get shards --state %s/state\n"
        "  PGPASSFILE=%s psql -U app -h 127.0.0.1 -p %d shop\n"
        "To stop them and take everything away:\n"
        "  shardherd delete database shop --confirm=shop --wait --state %s/state && kill %d && rm -r %s\n",
        d->directory, d->passfile, d->facts.first_port, d->directory, (int)process_pid(d->manager),
        d->directory);
    demo_story_end_block(&d->story);
    demo_story_print(&d->story, buf_text(&out));
    buf_free(&out);
    process_release(d->manager);
}

static void client_closed(void *data)
{
    struct demo *d = data;
    d->client = NULL;
}

static void enter_ended(struct demo *d)
{
    loop_timer_stop(&d->refresh);
    for (unsigned i = 0; i < d->signals_started; i++)
        loop_signal_stop(&d->signals[i]);
    http_client_close(d->client, client_closed, d);
}

/* ---- the machine ---- */

static void (*const enter[STATES])(struct demo *d) = {
    [PREPARE] = enter_prepare, [START] = enter_start,     [APPLY] = enter_apply,   [FILL] = enter_fill,
    [CALM] = enter_calm,       [HOT] = enter_hot,         [MOVE] = enter_move,     [SPREAD] = enter_spread,
    [CHECK] = enter_check,     [RESULT] = enter_result,   [DELETE] = enter_delete, [UNWIND] = enter_unwind,
    [STOP] = enter_stop,       [SERVERS] = enter_servers, [REMOVE] = enter_remove, [KEEP] = enter_keep,
    [ENDED] = enter_ended,
};

static void step(struct loop_task *task, void *data)
{
    struct demo *d = data;
    int next = d->next;
    (void)task;
    d->next = -1;
    if (next == UNWIND)
        (void)snprintf(d->failed_in, sizeof d->failed_in, "%s", sm_name(&d->sm));
    sm_move(&d->sm, next);
    loop_timer_stop(&d->wait);
    loop_timer_stop(&d->deadline);
    if (limits[next] > 0)
        loop_timer_start(&d->deadline, limits[next]);
    enter[next](d);
}

static void wait_fired(struct loop_timer *timer, void *data)
{
    struct demo *d = data;
    (void)timer;
    switch (now_in(d)) {
    case START:
        demo_manager_look(d);
        break;
    case APPLY:
        ask_provision(d);
        break;
    case CALM:
        go(d, HOT);
        break;
    case SPREAD:
        go(d, CHECK);
        break;
    case DELETE:
        demo_api(d, "GET", "/v1/databases/shop", NULL, on_asked_gone);
        break;
    case SERVERS:
        look_servers(d);
        break;
    default:
        break;
    }
}

static void deadline_fired(struct loop_timer *timer, void *data)
{
    struct demo *d = data;
    unsigned seconds = (unsigned)(limits[now_in(d)] / S);
    (void)timer;
    if (now_in(d) == STOP)
        demo_manager_stop(d, SIGKILL);
    else if (now_in(d) == UNWIND)
        go(d, STOP);
    else if (now_in(d) == HOT)
        demo_failf(d, "no split was decided in %u s%s%s", seconds,
                   d->facts.refusal[0] != '\0' ? "; the last word: " : "", d->facts.refusal);
    else
        demo_failf(d, "that took more than %u s", seconds);
}

static void refresh_fired(struct loop_timer *timer, void *data)
{
    struct demo *d = data;
    loop_timer_start(timer, REFRESH_NS);
    if (now_in(d) < APPLY || now_in(d) >= RESULT)
        return;
    demo_ask_shards(d);
    demo_view_load(d);
    demo_view_task(d);
    demo_story_show(&d->story, &d->view);
}

static void on_signal(struct loop_signal *signal, int number, void *data)
{
    struct demo *d = data;
    struct err err = {0};
    (void)signal;
    (void)number;
    if (now_in(d) >= REMOVE)
        return;
    d->interrupted = true;
    d->impatient++;
    err_set(&err, ERRC_CANCELED, "interrupted");
    demo_fail(d, &err);
    if (d->impatient > 1 && now_in(d) == STOP)
        demo_manager_stop(d, SIGKILL);
}

static int start_all(struct demo *d, struct err *err)
{
    static const int numbers[DEMO_SIGNALS] = {SIGINT, SIGTERM, SIGHUP};
    loop_timer_init(&d->loop, &d->wait, wait_fired, d);
    loop_timer_init(&d->loop, &d->deadline, deadline_fired, d);
    loop_timer_init(&d->loop, &d->refresh, refresh_fired, d);
    demo_fleet_init(d);
    d->step = (struct loop_task){.run = step, .data = d};
    d->client = http_client_new(&d->loop, NULL);
    for (; d->signals_started < DEMO_SIGNALS; d->signals_started++) {
        if (loop_signal_start(&d->loop, &d->signals[d->signals_started], numbers[d->signals_started],
                              on_signal, d, err) != 0)
            return (int)err->code;
    }
    loop_timer_start(&d->refresh, REFRESH_NS);
    sm_init(&d->sm, states, STATES, PREPARE, NULL, d);
    d->next = -1;
    enter_prepare(d);
    return 0;
}

/* ---- the end ---- */

static void print_failure(struct demo *d)
{
    struct buf out = {0};
    buf_printf(&out, "shardherd demo: failed while %s: %s\n", d->failed_in, d->err.message);
    if (d->log_cause.length > 0)
        buf_printf(&out, "  the manager says: %s\n", buf_text(&d->log_cause));
    if (d->log_tail.length > 0) {
        buf_add_text(&out, "  the end of its log:\n    ");
        for (const char *p = buf_text(&d->log_tail); *p != '\0'; p++)
            buf_printf(&out, *p == '\n' ? "%c    " : "%c", *p);
        buf_addc(&out, '\n');
    }
    if (d->directory != NULL && !d->removed)
        buf_printf(&out, "  the logs are kept: %s/manager.log and %s/state/instances/*/log\n", d->directory,
                   d->directory);
    demo_story_error(&d->story, buf_text(&out));
    buf_free(&out);
}

static int conclude(struct demo *d)
{
    struct err err = {0};
    d->total_seconds = demo_story_seconds(&d->story);
    demo_story_end_block(&d->story);
    if (d->o.report_path != NULL && demo_write_report(d, &err) != 0)
        demo_fail(d, &err);
    if (d->failed && !d->interrupted)
        print_failure(d);
    else if (d->interrupted)
        demo_story_say(&d->story, TONE_BAD, "interrupted; everything was taken away");
    else
        demo_story_say(&d->story, TONE_GOOD,
                       "shard %s was split under load, by itself, and nothing was lost: %.1f s in all",
                       d->facts.source, d->total_seconds);
    return d->interrupted ? EXIT_INTERRUPTED : d->failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

int demo_run(struct demo *d)
{
    struct err err = {0};
    if (loop_init(&d->loop, env_system(), &err) != 0 || start_all(d, &err) != 0) {
        (void)fprintf(stderr, "shardherd demo: %s\n", err.message);
        return EXIT_FAILURE;
    }
    loop_run(&d->loop);
    int code = conclude(d);
    if (loop_fini(&d->loop) != 0 && code == EXIT_SUCCESS)
        code = EXIT_FAILURE;
    free(d->directory);
    free(d->log_path);
    free(d->ledger_path);
    free(d->findings_path);
    free(d->passfile);
    free(d->public_url);
    free(d->admin_url);
    buf_free(&d->log_tail);
    buf_free(&d->log_cause);
    return code;
}
