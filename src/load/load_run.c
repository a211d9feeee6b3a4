/*
 * The job: phases, the turn, the end.
 *
 * Happy path of LOAD_RUN: the first routing table comes, the clients load until the duration is over, finish
 * what they have, the check compares. A failure in any phase leads to ENDING; what was counted is reported.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/text.h"
#include "load/load_impl.h"

#define TICK          (100 * ENV_NS_PER_MS)
#define FIRST_TABLE   (30 * ENV_NS_PER_S) /* how long the first routing table may take */
#define WARM_UP       (3 * ENV_NS_PER_S)  /* how long the first connections may take */
#define FIRST_SUCCESS (15 * ENV_NS_PER_S) /* and the first operation */

/*
 * STARTING --> FILLING ----------------------------> ENDING --> ENDED
 *    |                                                ^
 *    +-------> LOADING --> DRAINING --> CHECKING -----+
 *    +------------------------------------^
 *
 * STARTING waits for the first routing table
 * FILLING  waits for the COPYs of load_fill.c
 * LOADING  waits for the clients, the clock, load_stop()
 * DRAINING waits for the operations under way, or give_up_ns
 * CHECKING waits for load_verify.c
 * ENDING   waits for everything to be closed
 */
#define N(state) SM_NEXT(LOAD_##state)
static const struct sm_state phases[LOAD_ENDED + 1] = {
    [LOAD_STARTING] = {"starting", N(FILLING) | N(LOADING) | N(CHECKING) | N(ENDING), false},
    [LOAD_FILLING] = {"filling", N(ENDING), false},
    [LOAD_LOADING] = {"loading", N(DRAINING) | N(ENDING), false},
    [LOAD_DRAINING] = {"draining", N(CHECKING) | N(ENDING), false},
    [LOAD_CHECKING] = {"checking", N(ENDING), false},
    [LOAD_ENDING] = {"ending", N(ENDED), false},
    [LOAD_ENDED] = {"ended", 0, true},
};
#undef N

const char *load_phase_name(enum load_phase phase)
{
    return phase <= LOAD_ENDED ? phases[phase].name : "unknown";
}

void load_options_init(struct load_options *o)
{
    static const unsigned mix[LOAD_OP_MAX] = {
#define X(name, text, weight) [LOAD_OP_##name] = weight,
        LOAD_OP_MAP(X)
#undef X
    };
    memset(o, 0, sizeof *o);
    o->mode = LOAD_RUN;
    o->user = "app";
    o->key_type = KEY_BIGINT;
    o->customers = 200000;
    o->orders_per_customer = 3;
    o->clients = 16;
    o->duration_ns = 10 * ENV_NS_PER_S;
    memcpy(o->mix, mix, sizeof mix);
    o->op_timeout_ns = 5 * ENV_NS_PER_S;
    o->give_up_ns = 10 * ENV_NS_PER_S;
    o->stall_ns = 60 * ENV_NS_PER_S;
}

/* ---- the end ---- */

static void end_now(struct loop_task *task, void *data)
{
    struct load *load = data;
    (void)task;
    if (load->open > 0)
        return;
    sm_move(&load->sm, LOAD_ENDED);
    load->done(load->err.code != ERRC_NONE ? &load->err : NULL, &load->result, load->data);
    for (unsigned i = 0; load->clients != NULL && i < load->o.clients; i++)
        load_client_fini(&load->clients[i]);
    free(load->clients);
    for (unsigned i = 0; i < load->server_count; i++)
        free(load->servers[i].host);
    free(load->now_servers);
    free(load->before_servers);
    load_fill_free(load);
    load_verify_free(load);
    load_draw_fini(load);
    load_findings_fini(&load->findings);
    load_pass_close(&load->pass);
    if (load->control_open)
        load_file_fini(&load->control);
    buf_free(&load->control_seen);
    sm_fini(&load->sm);
    free(load);
}

void load_opened(struct load *load)
{
    load->open++;
}

void load_closed(void *data)
{
    struct load *load = data;
    assert(load->open > 0);
    if (--load->open == 0 && sm_now(&load->sm) == LOAD_ENDING)
        loop_defer(load->loop, &load->end_task);
}

static void stop_clients(struct load *load)
{
    for (unsigned i = 0; load->clients != NULL && i < load->o.clients; i++)
        load_client_stop(&load->clients[i]);
    load->queued = 0;
    loop_timer_stop(&load->pace_timer);
}

static void keep_result(struct load *load)
{
    struct load_result *r = &load->result;
    uint64_t end = load->ended_ns != 0 ? load->ended_ns : loop_clock(load->loop);
    r->mode = load->o.mode;
    r->duration_ns = load->started_ns != 0 ? end - load->started_ns : 0;
    r->stats = load->stats;
    memcpy(r->watch, load->watch, sizeof r->watch);
    memcpy(r->watched, load->o.watch, sizeof r->watched);
    r->watch_count = load->o.watch_count;
    memcpy(r->counts, load->findings.counts, sizeof r->counts);
    r->rows_made = load_fill_rows(load);
    r->epoch = load_epoch(load);
}

static void load_end(struct load *load)
{
    if (sm_now(&load->sm) >= LOAD_ENDING)
        return;
    stop_clients(load);
    if (load->clients != NULL && load->ledger.fd >= 0)
        load_ledger_end(&load->ledger);
    keep_result(load);
    sm_move(&load->sm, LOAD_ENDING);
    loop_timer_stop(&load->tick_timer);
    loop_task_cancel(&load->turn);
    loop_task_cancel(&load->finish_task);
    load_fill_close(load);
    load_verify_close(load);
    load_ledger_close(&load->ledger);
    if (load->control.busy)
        work_cancel(&load->control.work);
    load_route_close(&load->route, load_closed);
    loop_defer(load->loop, &load->end_task);
}

static void finish(struct loop_task *task, void *data)
{
    (void)task;
    load_end(data);
}

void load_fail(struct load *load, const struct err *err)
{
    if (load->err.code == ERRC_NONE)
        err_copy(&load->err, err);
    loop_defer(load->loop, &load->finish_task);
}

void load_note_error(struct load *load, const struct err *err)
{
    err_copy(&load->last_error, err);
}

/* ---- phases ---- */

static void start_check(struct load *load)
{
    struct err err = {0};
    sm_move(&load->sm, LOAD_CHECKING);
    load_ledger_close(&load->ledger); /* the check reads it again, from the disk */
    if (load_verify_start(load, &err) != 0)
        load_fail(load, &err);
}

/* Everybody is idle, or time is up. */
static void drained(struct load *load)
{
    struct err err = {0};
    stop_clients(load);
    load->ended_ns = load->ended_ns != 0 ? load->ended_ns : loop_clock(load->loop);
    load_ledger_end(&load->ledger);
    if (load_ledger_flush(&load->ledger, &err) != 0)
        load_fail(load, &err);
    else if (load->o.no_check || load->skip_check)
        load_end(load);
    else
        start_check(load);
}

static void start_drain(struct load *load)
{
    sm_move(&load->sm, LOAD_DRAINING);
    load->ended_ns = loop_clock(load->loop);
    load->queued = 0;
    loop_timer_stop(&load->pace_timer);
    loop_defer(load->loop, &load->turn);
}

void load_phase_done(struct load *load)
{
    if (sm_now(&load->sm) == LOAD_FILLING)
        load->ended_ns = loop_clock(load->loop);
    loop_defer(load->loop, &load->finish_task);
}

void load_stop(struct load *load)
{
    switch (sm_now(&load->sm)) {
    case LOAD_LOADING:
        start_drain(load);
        break;
    case LOAD_ENDING:
    case LOAD_ENDED:
        break;
    default: {
        struct err err = {0};
        err_set(&err, ERRC_CANCELED, "ended while %s", sm_name(&load->sm));
        load_fail(load, &err);
    }
    }
}

static int open_ledger(struct load *load, struct err *err)
{
    const struct load_options *o = &load->o;
    const struct load_shape shape = {o->key_type, o->customers, o->orders_per_customer};
    if (o->mode == LOAD_INIT || o->fresh_ledger || access(o->ledger_path, F_OK) != 0)
        return load_ledger_create(&load->ledger, o->ledger_path, &shape, err);
    return load_ledger_open(&load->ledger, o->ledger_path, &shape, false, err);
}

static int start_clients(struct load *load, struct err *err)
{
    int code = load_draw_init(load, err);
    if (code != 0)
        return code;
    load->clients = mem_array(load->o.clients, sizeof *load->clients);
    for (unsigned i = 0; i < load->o.clients; i++)
        load_client_init(&load->clients[i], load, i);
    load_ledger_run(&load->ledger, load->o.clients);
    load->started_ns = load->acked_ns = loop_clock(load->loop);
    sm_move(&load->sm, LOAD_LOADING);
    load_servers_learn(load); /* connects */
    loop_defer(load->loop, &load->turn);
    return 0;
}

static void first_table(struct load *load)
{
    struct err err = {0};
    int code;
    if (load->o.mode == LOAD_CHECK) {
        start_check(load);
        return;
    }
    if (load->o.mode == LOAD_INIT) {
        sm_move(&load->sm, LOAD_FILLING);
        load->started_ns = loop_clock(load->loop);
        code = load_fill_start(load, &err);
    } else {
        code = start_clients(load, &err);
    }
    if (code != 0)
        load_fail(load, &err);
}

static void table_changed(struct load_route *route, void *data)
{
    struct load *load = data;
    (void)route;
    load->stats.reroutes += load->route.before != NULL ? 1 : 0;
    load_servers_learn(load);
    if (sm_now(&load->sm) == LOAD_STARTING)
        first_table(load);
}

/* ---- the turn: flush, then go on ---- */

static void rests_over(struct load *load)
{
    while (!list_empty(&load->rested))
        load_client_rest_over(list_item(list_first(&load->rested), struct load_client, node));
}

/* The load begins when everybody is connected, so that no latency and no gap counts that: or after a while.
 */
static bool warmed_up(struct load *load)
{
    uint64_t now = loop_clock(load->loop);
    if (load->warm)
        return true;
    if (load->connecting > 0 && now - load->started_ns < WARM_UP)
        return false;
    load->warm = true;
    load->started_ns = load->acked_ns = now;
    load_pace_init(&load->pace, load->pace.rate, now);
    return true;
}

static void load_turn(struct loop_task *task, void *data)
{
    struct load *load = data;
    struct load_job_op op;
    struct err err = {0};
    (void)task;
    if (load_ledger_flush(&load->ledger, &err) != 0) {
        load_fail(load, &err);
        return;
    }
    rests_over(load);
    if (sm_now(&load->sm) == LOAD_DRAINING && load->busy == 0)
        drained(load);
    if (sm_now(&load->sm) != LOAD_LOADING || !warmed_up(load))
        return;
    load_draw(load);
    for (unsigned i = 0; i < load->o.clients && load->queued > 0; i++) {
        struct load_client *client = &load->clients[i];
        if (load_client_idle(client) && load_queue_take(&client->queue, &op)) {
            load->queued--;
            load_client_start(client, &op);
        }
    }
}

static void pace_fired(struct loop_timer *timer, void *data)
{
    struct load *load = data;
    (void)timer;
    loop_defer(load->loop, &load->turn);
}

/* ---- the tick ---- */

static void control_line(struct load *load, const char *line)
{
    double rate;
    struct range range;
    struct err err = {0};
    if (text_starts_with(line, "skew "))
        (void)load_set_skew(load, line + 5, &err);
    else if (text_starts_with(line, "watch ") && range_parse(line + 6, &range, &err) == 0)
        (void)load_watch(load, &range, &err);
    else if (text_starts_with(line, "rate ") && text_to_double(line + 5, &rate) && rate >= 0)
        load_set_rate(load, rate);
    else if (strcmp(line, "stop") == 0)
        load_stop(load);
    else if (line[0] != '\0' && err.code == ERRC_NONE)
        err_set(&err, ERRC_INVALID, "\"%.60s\" is no command", line);
    if (err.code != ERRC_NONE) {
        err_wrap(&err, "control file");
        load_note_error(load, &err);
        load_stats_error(&load->stats, "control");
    }
}

/* The file's text is obeyed when it changes; what stands there at the start counts as a change. */
static void control_read(struct load_file *file, const struct err *err, const struct buf *text, void *data)
{
    struct load *load = data;
    (void)file;
    if (err == NULL && sm_now(&load->sm) == LOAD_LOADING &&
        strcmp(buf_text(text), buf_text(&load->control_seen)) != 0) {
        buf_reset(&load->control_seen);
        buf_add_text(&load->control_seen, buf_text(text));
        char *copy = mem_strdup(buf_text(text)), *rest = copy, *line;
        while ((line = strsep(&rest, "\n")) != NULL)
            control_line(load, line);
        free(copy);
    }
    load_closed(load);
}

static void check_stall(struct load *load, uint64_t now)
{
    struct err err = {0};
    uint64_t limit = load->o.stall_ns;
    if (load->stats.operations == 0 && limit > FIRST_SUCCESS)
        limit = FIRST_SUCCESS;
    /* an open loop may have nothing to do for longer than that */
    if (now - load->acked_ns < limit || (load->busy == 0 && load->queued == 0))
        return;
    err_set(&err, ERRC_TIMEOUT, "no operation completed for %llu s%s%s",
            (unsigned long long)(limit / ENV_NS_PER_S), load->last_error.message[0] != '\0' ? ": " : "",
            load->last_error.message);
    load_fail(load, &err);
}

static void tick_loading(struct load *load, uint64_t now)
{
    const struct load_options *o = &load->o;
    struct err err = {0};
    if (!load->warm) {
        loop_defer(load->loop, &load->turn);
        return;
    }
    if (load->later_next < o->later_count && now - load->started_ns >= o->later[load->later_next].after_ns &&
        load_next_skew(load, &err) != 0) {
        load_fail(load, &err);
        return;
    }
    if (load->control_open && !load->control.busy && load_file_read(load->loop, &load->control, NULL) == 0)
        load_opened(load);
    if (o->duration_ns > 0 && now - load->started_ns >= o->duration_ns)
        start_drain(load);
    else
        check_stall(load, now);
}

static void tick(struct loop_timer *timer, void *data)
{
    struct load *load = data;
    uint64_t now = loop_clock(load->loop);
    uint64_t delay = TICK;
    if (sm_now(&load->sm) == LOAD_LOADING && load->o.duration_ns > 0) {
        uint64_t end = load->started_ns + load->o.duration_ns;
        if (end > now && end - now < delay)
            delay = end - now;
    }
    loop_timer_start(timer, delay);
    if (sm_now(&load->sm) == LOAD_LOADING) {
        tick_loading(load, now);
    } else if (sm_now(&load->sm) == LOAD_DRAINING && now - load->ended_ns >= load->o.give_up_ns) {
        drained(load);
    } else if (sm_now(&load->sm) == LOAD_STARTING && now - load->acked_ns >= FIRST_TABLE) {
        struct err err = load->route.error;
        if (err.code == ERRC_NONE)
            err_set(&err, ERRC_TIMEOUT, "no routing table came");
        load_fail(load, &err);
    }
}

/* ---- start ---- */

static int check_options(const struct load_options *o, struct err *err)
{
    unsigned weights = 0;
    struct load_skew_spec spec;
    for (int op = 0; op < LOAD_OP_MAX; op++)
        weights += o->mix[op];
    if (o->database == NULL)
        return err_set(err, ERRC_INVALID, "the name of the database is missing");
    if (o->ledger_path == NULL)
        return err_set(err, ERRC_INVALID, "the path of the ledger is missing");
    if (o->customers == 0 || o->customers > load_key_limit(o->key_type))
        return err_set(err, ERRC_INVALID, "customers: from 1 to %u for keys of type %s",
                       load_key_limit(o->key_type), key_type_name(o->key_type));
    if (o->orders_per_customer > 1000)
        return err_set(err, ERRC_INVALID, "at most 1000 orders per customer to begin with");
    if (o->clients == 0 || o->clients > 10000 || o->clients > o->customers)
        return err_set(err, ERRC_INVALID, "clients: from 1 to 10000, and not more than customers");
    if (weights == 0 || weights > 1000000)
        return err_set(err, ERRC_INVALID, "the mix has no operation");
    if (o->skew != NULL && load_skew_parse(o->skew, &spec, err) != 0)
        return ERRC_INVALID;
    for (unsigned i = 0; i < o->later_count; i++) {
        if (load_skew_parse(o->later[i].skew, &spec, err) != 0)
            return ERRC_INVALID;
    }
    return 0;
}

static int open_parts(struct load *load, struct err *err)
{
    const struct load_options *o = &load->o;
    int code = load_findings_init(&load->findings, o->report_path, err);
    if (code == 0 && o->passfile != NULL && o->password == NULL)
        code = load_pass_open(&load->pass, o->passfile, err);
    if (code == 0 && o->mode != LOAD_CHECK)
        code = open_ledger(load, err);
    if (code == 0)
        code = load_route_start(&load->route, load->loop, o->database, o->routing_url, o->routing_file,
                                table_changed, load, err);
    return code;
}

int load_run(struct loop *loop, const struct load_options *options, load_done_cb done, void *data,
             struct load **ret, struct err *err)
{
    int code = check_options(options, err);
    if (code != 0)
        return code;
    struct load *load = mem_zalloc(sizeof *load);
    load->loop = loop;
    load->o = *options;
    load->done = done;
    load->data = data;
    load->o.dbname = options->dbname != NULL ? options->dbname : options->database;
    load->o.user = options->user != NULL ? options->user : "app";
    load->ledger.fd = -1;
    list_init(&load->rested);
    load->turn = (struct loop_task){.run = load_turn, .data = load};
    load->finish_task = (struct loop_task){.run = finish, .data = load};
    load->end_task = (struct loop_task){.run = end_now, .data = load};
    loop_timer_init(loop, &load->pace_timer, pace_fired, load);
    loop_timer_init(loop, &load->tick_timer, tick, load);
    sm_init(&load->sm, phases, LOAD_ENDED + 1, LOAD_STARTING, NULL, load);
    load->acked_ns = loop_clock(loop);
    code = open_parts(load, err);
    if (code != 0) {
        load_findings_fini(&load->findings);
        load_pass_close(&load->pass);
        load_ledger_close(&load->ledger);
        free(load);
        return code;
    }
    load->route.closed = load_closed;
    load_opened(load);
    if (options->control_path != NULL) {
        load_file_init(&load->control, options->control_path, control_read, load);
        load->control_open = true;
    }
    loop_timer_start(&load->tick_timer, TICK);
    *ret = load;
    return 0;
}

/* ---- what a display reads ---- */

enum load_phase load_phase(const struct load *load)
{
    return (enum load_phase)sm_now(&load->sm);
}

const struct load_stats *load_stats(const struct load *load)
{
    return &load->stats;
}

struct load_findings *load_findings(struct load *load)
{
    return &load->findings;
}

uint64_t load_elapsed(const struct load *load)
{
    if (load->started_ns == 0)
        return 0;
    return (load->ended_ns != 0 ? load->ended_ns : loop_clock(load->loop)) - load->started_ns;
}

uint64_t load_progress_rows(const struct load *load)
{
    return load->o.mode == LOAD_INIT ? load_fill_rows(load) : load_verify_rows(load);
}

const char *load_skew_text(const struct load *load)
{
    return load->skew_text != NULL ? load->skew_text : "";
}

uint64_t load_epoch(const struct load *load)
{
    return load->route.now != NULL ? load->route.now->epoch : 0;
}

struct load_gap *load_write_gap(struct load *load)
{
    return &load->stats.writes;
}
