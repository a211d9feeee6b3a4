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

#define S            ENV_NS_PER_S
#define MS           ENV_NS_PER_MS
#define REFRESH_NS   (250 * MS)
#define LOOK_GONE_NS (50 * MS)
#define CALM_LOOK_NS (3 * S)
#define CALM_NS      (5 * S)
#define SPREAD_NS    (4 * S)
#define HOT_SHARE    0.8

#define N(state) SM_NEXT(state)
static const struct sm_state states[DEMO_STATES] = {
    [DEMO_PREPARE] = {"making its directory", N(DEMO_START) | N(DEMO_UNWIND), false},
    [DEMO_START] = {"starting the manager", N(DEMO_APPLY) | N(DEMO_UNWIND), false},
    [DEMO_APPLY] = {"creating the database", N(DEMO_FILL) | N(DEMO_UNWIND), false},
    [DEMO_FILL] = {"making rows", N(DEMO_CALM) | N(DEMO_UNWIND), false},
    [DEMO_CALM] = {"running the load", N(DEMO_HOT) | N(DEMO_FAILOVER) | N(DEMO_UNWIND), false},
    [DEMO_HOT] = {"waiting for the decision", N(DEMO_MOVE) | N(DEMO_UNWIND), false},
    [DEMO_MOVE] = {"waiting for the split", N(DEMO_SPREAD) | N(DEMO_UNWIND), false},
    [DEMO_SPREAD] = {"running the load on three shards", N(DEMO_TOUR) | N(DEMO_UNWIND), false},
    [DEMO_TOUR] = {"moving more", N(DEMO_CHECK) | N(DEMO_UNWIND), false},
    [DEMO_FAILOVER] = {"losing a primary", N(DEMO_CHECK) | N(DEMO_UNWIND), false},
    [DEMO_CHECK] = {"checking the rows", N(DEMO_RESULT) | N(DEMO_UNWIND), false},
    [DEMO_RESULT] = {"asking for the figures", N(DEMO_DELETE) | N(DEMO_KEEP) | N(DEMO_UNWIND), false},
    [DEMO_DELETE] = {"deleting the database", N(DEMO_STOP) | N(DEMO_UNWIND), false},
    [DEMO_UNWIND] = {"ending the load", N(DEMO_STOP) | N(DEMO_KEEP), false},
    [DEMO_STOP] = {"ending the manager", N(DEMO_SERVERS), false},
    [DEMO_SERVERS] = {"ending the servers", N(DEMO_REMOVE), false},
    [DEMO_REMOVE] = {"removing its directory", N(DEMO_ENDED), false},
    [DEMO_KEEP] = {"letting the manager go", N(DEMO_ENDED), false},
    [DEMO_ENDED] = {"ended", 0, true},
};
#undef N

/* How long a state may last; 0 = for ever. */
static const uint64_t limits[DEMO_STATES] = {
    [DEMO_START] = 60 * S,     [DEMO_APPLY] = 90 * S,  [DEMO_FILL] = 300 * S,  [DEMO_CALM] = 90 * S,
    [DEMO_HOT] = 60 * S,       [DEMO_MOVE] = 300 * S,  [DEMO_TOUR] = 300 * S,  [DEMO_CHECK] = 180 * S,
    [DEMO_RESULT] = 30 * S,    [DEMO_DELETE] = 60 * S, [DEMO_UNWIND] = 30 * S, [DEMO_STOP] = 20 * S,
    [DEMO_FAILOVER] = 180 * S,
};

int demo_now(const struct demo *d)
{
    return sm_now(&d->sm);
}

bool demo_ending(const struct demo *d)
{
    return demo_now(d) >= DEMO_DELETE || d->next >= DEMO_DELETE;
}

/* Callbacks only say where to go; the step enters it. A failure is not overtaken by what was under way. */
void demo_go(struct demo *d, int next)
{
    if (next < DEMO_UNWIND && (d->next >= DEMO_UNWIND || demo_now(d) >= DEMO_UNWIND))
        return;
    d->next = next;
    loop_defer(&d->loop, &d->step);
}

void demo_fail(struct demo *d, const struct err *err)
{
    if (!d->failed)
        err_copy(&d->err, err);
    d->failed = true;
    if (demo_now(d) < DEMO_UNWIND && d->next < DEMO_UNWIND)
        demo_go(d, DEMO_UNWIND);
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

static void job_done(struct work *work, int code)
{
    struct demo *d = work->data;
    (void)code; /* a job is never canceled */
    d->job_busy = false;
    d->job_done(d);
    demo_unwound(d);
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
    demo_go(d, DEMO_START);
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
    if (demo_now(d) == DEMO_START)
        demo_go(d, DEMO_APPLY);
}

/* ---- APPLY ---- */

static double member(yyjson_val *object, const char *name)
{
    yyjson_val *value = yyjson_obj_get(object, name);
    double number = 0;
    if (yyjson_is_str(value))
        (void)text_to_double(yyjson_get_str(value), &number);
    return yyjson_is_num(value) ? yyjson_get_num(value) : number;
}

static void on_provision(struct demo *d, const struct err *err, yyjson_val *root)
{
    const char *status = yyjson_get_str(yyjson_obj_get(root, "status"));
    const char *message = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(root, "error"), "message"));
    if (demo_ending(d))
        return;
    d->view.task_share = member(root, "progress");
    if (err != NULL)
        demo_fail(d, err);
    else if (status != NULL && strcmp(status, "done") == 0)
        demo_go(d, DEMO_FILL);
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
    if (d->o.failover)
        demo_story_say(
            &d->story, TONE_HEAD,
            "creating database shop: customers and orders over two shards, each a primary and two standbys; "
            "a write is acknowledged when a standby has it on disk, too");
    else
        demo_story_say(
            &d->story, TONE_HEAD,
            "creating database shop: customers and orders over two shards, each a PostgreSQL server of its "
            "own; a shard above %s transactions/s is to be split by itself",
            demo_view_number((uint64_t)demo_threshold(d), threshold));
    d->view.task = "servers";
    (void)snprintf(d->view.task_text, sizeof d->view.task_text, "all at once");
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
    demo_go(d, DEMO_CALM);
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
    if (demo_now(d) == DEMO_FILL) {
        fill_ended(d, err, r);
    } else if (demo_now(d) == DEMO_CHECK && err == NULL) {
        (void)snprintf(d->facts.finding, sizeof d->facts.finding, "%s", first != NULL ? first : "");
        demo_go(d, DEMO_RESULT);
    } else if (demo_now(d) < DEMO_UNWIND) {
        err_set(&local, ERRC_INTERNAL, "the load ended: %s", err != NULL ? err->message : "too early");
        demo_fail(d, &local);
    }
    free(first);
    demo_unwound(d);
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
    loop_timer_start(&d->wait, CALM_LOOK_NS);
}

static void on_slowed(struct demo *d, const struct err *err, yyjson_val *root)
{
    (void)root;
    if (demo_ending(d))
        return;
    if (err != NULL)
        demo_fail(d, err);
    else
        loop_timer_start(&d->wait, CALM_NS);
}

/* A slow or busy machine: half of what it can do, so that a shard can turn hot and the move has room. */
static void slow_down(struct demo *d, double achieved)
{
    char done[32], rate[32], threshold[32];
    d->o.rate = achieved > 200 ? (uint32_t)(achieved / 2) : 100;
    d->view.threshold = demo_threshold(d);
    demo_story_say(&d->story, TONE_PLAIN, "this machine does %s operations/s now: the load becomes %s/s%s%s",
                   demo_view_number((uint64_t)achieved, done), demo_view_number(d->o.rate, rate),
                   d->o.failover ? "" : ", the threshold ",
                   d->o.failover ? "" : demo_view_number((uint64_t)d->view.threshold, threshold));
    load_reset_rate(d->load, d->o.rate);
    char *specification = demo_specification(d);
    demo_api(d, "PUT", "/v1/databases/shop", specification, on_slowed);
    free(specification);
}

/* Early, so that little is due that cannot be done. */
static void calm_looked_at(struct demo *d)
{
    double seconds = (double)load_elapsed(d->load) / 1e9;
    double achieved = seconds > 0 ? (double)load_stats(d->load)->operations / seconds : 0;
    d->calm = true;
    if (achieved < 0.8 * d->o.rate)
        slow_down(d, achieved);
    else
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
    if (demo_now(d) != DEMO_HOT) {
        demo_failf(d, "a split was decided before a shard was hot: %s", f->sentence);
        return;
    }
    demo_story_say(&d->story, TONE_HOT, "decided, %.1f s after the shift: %s",
                   (double)(f->decided_ns - f->hot_ns) / 1e9, f->sentence);
    demo_go(d, DEMO_MOVE);
}

static void enter_move(struct demo *d)
{
    if (d->facts.move_done)
        demo_go(d, DEMO_SPREAD);
}

void demo_moved(struct demo *d)
{
    if (demo_now(d) == DEMO_MOVE)
        demo_go(d, DEMO_SPREAD);
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
        demo_go(d, d->o.keep ? DEMO_KEEP : DEMO_DELETE);
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
    if (demo_now(d) != DEMO_DELETE)
        return;
    if (err == NULL)
        loop_timer_start(&d->wait, LOOK_GONE_NS);
    else if (err->code == ERRC_NOT_FOUND)
        demo_go(d, DEMO_STOP);
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

/* ---- the machine ---- */

static void (*const enter[DEMO_STATES])(struct demo *d) = {
    [DEMO_PREPARE] = enter_prepare,
    [DEMO_START] = enter_start,
    [DEMO_APPLY] = enter_apply,
    [DEMO_FILL] = enter_fill,
    [DEMO_CALM] = enter_calm,
    [DEMO_HOT] = enter_hot,
    [DEMO_MOVE] = enter_move,
    [DEMO_SPREAD] = enter_spread,
    [DEMO_TOUR] = demo_enter_tour,
    [DEMO_CHECK] = enter_check,
    [DEMO_RESULT] = enter_result,
    [DEMO_DELETE] = enter_delete,
    [DEMO_UNWIND] = demo_enter_unwind,
    [DEMO_STOP] = demo_enter_stop,
    [DEMO_SERVERS] = demo_enter_servers,
    [DEMO_REMOVE] = demo_enter_remove,
    [DEMO_KEEP] = demo_enter_keep,
    [DEMO_ENDED] = demo_enter_ended,
    [DEMO_FAILOVER] = demo_enter_failover,
};

static void step(struct loop_task *task, void *data)
{
    struct demo *d = data;
    int next = d->next;
    (void)task;
    d->next = -1;
    if (next == DEMO_UNWIND)
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
    switch (demo_now(d)) {
    case DEMO_START:
        demo_manager_look(d);
        break;
    case DEMO_APPLY:
        ask_provision(d);
        break;
    case DEMO_CALM:
        if (d->calm)
            demo_go(d, d->o.failover ? DEMO_FAILOVER : DEMO_HOT);
        else
            calm_looked_at(d);
        break;
    case DEMO_SPREAD:
        demo_go(d, DEMO_TOUR);
        break;
    case DEMO_TOUR:
        demo_tour_waited(d);
        break;
    case DEMO_FAILOVER:
        demo_ask_members(d);
        break;
    case DEMO_DELETE:
        demo_api(d, "GET", "/v1/databases/shop", NULL, on_asked_gone);
        break;
    case DEMO_SERVERS:
        demo_look_servers(d);
        break;
    default:
        break;
    }
}

static void deadline_fired(struct loop_timer *timer, void *data)
{
    struct demo *d = data;
    unsigned seconds = (unsigned)(limits[demo_now(d)] / S);
    (void)timer;
    if (demo_now(d) == DEMO_STOP)
        demo_manager_stop(d, SIGKILL);
    else if (demo_now(d) == DEMO_UNWIND)
        demo_go(d, DEMO_STOP);
    else if (demo_now(d) == DEMO_HOT)
        demo_failf(d, "no split was decided in %u s%s%s", seconds,
                   d->facts.refusal[0] != '\0' ? "; the last word: " : "", d->facts.refusal);
    else
        demo_failf(d, "that took more than %u s", seconds);
}

static void refresh_fired(struct loop_timer *timer, void *data)
{
    struct demo *d = data;
    loop_timer_start(timer, REFRESH_NS);
    if (demo_now(d) < DEMO_APPLY || demo_now(d) >= DEMO_RESULT)
        return;
    demo_ask_shards(d);
    if (d->o.failover)
        demo_ask_members(d);
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
    if (demo_now(d) >= DEMO_REMOVE)
        return;
    d->interrupted = true;
    d->impatient++;
    err_set(&err, ERRC_CANCELED, "interrupted");
    demo_fail(d, &err);
    if (d->impatient > 1 && demo_now(d) == DEMO_STOP)
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
    sm_init(&d->sm, states, DEMO_STATES, DEMO_PREPARE, NULL, d);
    d->next = -1;
    for (int part = 0; part < TOUR_PARTS; part++)
        d->tour.block_ms[part] = (double)NAN;
    demo_failover_init(d);
    enter_prepare(d);
    return 0;
}

int demo_run(struct demo *d)
{
    struct err err = {0};
    if (loop_init(&d->loop, env_system(), &err) != 0 || start_all(d, &err) != 0) {
        (void)fprintf(stderr, "shardherd demo: %s\n", err.message);
        return EXIT_FAILURE;
    }
    loop_run(&d->loop);
    int code = demo_conclude(d);
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
