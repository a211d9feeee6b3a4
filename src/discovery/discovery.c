#include "discovery/discovery.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/sm.h"
#include "discovery/static_list.h"
#include "loop/work.h"

#define DEFAULT_PERIOD_NS (5 * ENV_NS_PER_S)

/*
 *   IDLE --timer, poll--> SECRETS --> LIST --> IDLE
 *     |                      |          |
 *     +-------close----------+----------+----> CLOSED
 *
 * IDLE waits for the timer.
 * SECRETS waits for a worker that reads the passwords of the static list.
 * LIST waits for the runtime; skipped without one.
 */
enum { IDLE, SECRETS, LIST, CLOSED, STATES };

static const struct sm_state states[STATES] = {
    [IDLE] = {"idle", SM_NEXT(SECRETS) | SM_NEXT(CLOSED), false},
    [SECRETS] = {"secrets", SM_NEXT(LIST) | SM_NEXT(IDLE) | SM_NEXT(CLOSED), false},
    [LIST] = {"list", SM_NEXT(IDLE) | SM_NEXT(CLOSED), false},
    [CLOSED] = {"closed", 0, true},
};

/* What was told of a source, so that the same error is told once. */
struct complaint {
    const char *source;
    char *what;
    struct err err;
};

struct discovery {
    struct loop *loop;
    struct sm sm;
    struct discovery_options options; /* without the entries */
    struct static_list list;
    struct static_list round; /* the copy that the worker fills */
    struct complaint *complaints;
    int complaint_count;
    struct work work;
    struct loop_timer timer;
    struct loop_task free_task;
    uint64_t rounds;
    bool again;    /* a round was asked for while one ran */
    bool replaced; /* the static list is newer than the copy in `round` */
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
};

const char *discovery_event_name(enum discovery_event event)
{
    static const char *const names[] = {
        [DISCOVERY_ADDED] = "added", [DISCOVERY_CHANGED] = "changed", [DISCOVERY_REMOVED] = "removed"};
    return names[event];
}

static void tell(struct discovery *d, enum discovery_event event, struct fleet_instance *instance)
{
    if (d->options.event != NULL)
        d->options.event(event, instance, d->options.data);
}

/* ---- complaints ---- */

static struct complaint *complaint_find(struct discovery *d, const char *source, const char *what)
{
    for (int i = 0; i < d->complaint_count; i++)
        if (strcmp(d->complaints[i].source, source) == 0 && strcmp(d->complaints[i].what, what) == 0)
            return &d->complaints[i];
    return NULL;
}

static void complain(struct discovery *d, const char *source, const char *what, const struct err *err)
{
    struct complaint *c = complaint_find(d, source, what);
    if (c != NULL && c->err.code == err->code && strcmp(c->err.message, err->message) == 0)
        return;
    if (c == NULL) {
        d->complaints = mem_resize(d->complaints, (size_t)d->complaint_count + 1, sizeof *d->complaints);
        c = &d->complaints[d->complaint_count++];
        c->source = source;
        c->what = mem_strdup(what);
    }
    c->err = *err;
    if (d->options.failed != NULL)
        d->options.failed(what, err, d->options.data);
}

static void complaint_settle(struct discovery *d, const char *source, const char *what)
{
    struct complaint *c = complaint_find(d, source, what);
    if (c == NULL)
        return;
    free(c->what);
    *c = d->complaints[--d->complaint_count];
}

static void complaints_clear(struct discovery *d)
{
    for (int i = 0; i < d->complaint_count; i++)
        free(d->complaints[i].what);
    free(d->complaints);
    d->complaints = NULL;
    d->complaint_count = 0;
}

/* ---- applying what a source gives ---- */

static bool same(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool access_equal(const struct instance_access *a, const struct instance_access *b)
{
    return a->port == b->port && same(a->host, b->host) && same(a->user, b->user) &&
           same(a->password, b->password) && same(a->dbname, b->dbname) && same(a->sslmode, b->sslmode) &&
           same(a->sslrootcert, b->sslrootcert) && same(a->peer_sslrootcert, b->peer_sslrootcert) &&
           same(a->sslcert, b->sslcert) && same(a->sslkey, b->sslkey) &&
           same(a->peer_sslcert, b->peer_sslcert) && same(a->peer_sslkey, b->peer_sslkey) &&
           a->lent == b->lent && same(a->agent_host, b->agent_host) && a->agent_port == b->agent_port &&
           same(a->agent_token, b->agent_token);
}

static void place_set(struct fleet_instance *instance, const struct found *found)
{
    free(instance->database);
    free(instance->shard);
    instance->database = mem_strdup(found->database);
    instance->shard = mem_strdup(found->shard);
}

static void add(struct discovery *d, const char *source, const struct found *found)
{
    struct fleet_instance *instance = NULL;
    struct err err = {0};
    if (fleet_add_instance(d->options.fleet, found->name, source, &found->access, &instance, &err) != 0) {
        complain(d, source, found->name, &err);
        return;
    }
    place_set(instance, found);
    tell(d, DISCOVERY_ADDED, instance);
}

static void update(struct discovery *d, struct fleet_instance *instance, const struct found *found)
{
    if (access_equal(&instance->access, &found->access) && same(instance->database, found->database) &&
        same(instance->shard, found->shard))
        return;
    instance_access_clear(&instance->access);
    instance_access_copy(&instance->access, &found->access);
    place_set(instance, found);
    d->options.fleet->version++;
    tell(d, DISCOVERY_CHANGED, instance);
}

static void apply_one(struct discovery *d, const char *source, const struct found *found)
{
    struct fleet_instance *instance = fleet_find_instance(d->options.fleet, found->name);
    if (found->pending)
        return;
    if (found->err.code != ERRC_NONE) {
        complain(d, source, found->name, &found->err); /* what it gave before stays */
        return;
    }
    if (instance != NULL && strcmp(instance->source, source) != 0) {
        struct err err = {0};
        err_set(&err, ERRC_EXISTS, "both the %s and the %s source have an instance %s: rename one",
                instance->source, source, found->name);
        complain(d, source, found->name, &err);
        return;
    }
    complaint_settle(d, source, found->name);
    if (instance == NULL)
        add(d, source, found);
    else
        update(d, instance, found);
}

static int found_by_name(const void *a, const void *b)
{
    return strcmp((*(const struct found *const *)a)->name, (*(const struct found *const *)b)->name);
}

/* Removes those of the source that it does not give any more. */
static void prune(struct discovery *d, const char *source, const struct found **found, int count)
{
    list_each(node, &d->options.fleet->instances)
    {
        struct fleet_instance *instance = list_item(node, struct fleet_instance, node);
        const struct found key = {.name = instance->name};
        const struct found *wanted = &key;
        if (d->closing || strcmp(instance->source, source) != 0 ||
            bsearch((const void *)&wanted, (const void *)found, (size_t)count, sizeof *found,
                    found_by_name) != NULL)
            continue;
        complaint_settle(d, source, instance->name);
        tell(d, DISCOVERY_REMOVED, instance);
        fleet_remove_instance(d->options.fleet, instance);
    }
}

/* found: pointers, count of them; gets sorted. */
static void apply(struct discovery *d, const char *source, const struct found **found, int count)
{
    qsort((void *)found, (size_t)count, sizeof *found, found_by_name);
    prune(d, source, found, count);
    for (int i = 0; i < count && !d->closing; i++) /* an event may close us */
        apply_one(d, source, found[i]);
}

/* ---- the round ---- */

static void discovery_free(struct loop_task *task, void *data)
{
    (void)task;
    struct discovery *d = data;
    void (*closed)(void *) = d->closed;
    void *closed_data = d->closed_data;
    sm_fini(&d->sm);
    static_list_free(&d->list);
    static_list_free(&d->round);
    complaints_clear(d);
    free(d);
    if (closed != NULL)
        closed(closed_data);
}

static void enter_closed(struct discovery *d)
{
    sm_move(&d->sm, CLOSED);
    loop_timer_stop(&d->timer);
    loop_defer(d->loop, &d->free_task);
}

static void enter_idle(struct discovery *d)
{
    if (d->closing) {
        enter_closed(d);
        return;
    }
    sm_move(&d->sm, IDLE);
    d->rounds++;
    loop_timer_start(&d->timer, d->again ? 0 : d->options.period_ns);
    d->again = false;
}

static void apply_local(struct discovery *d, const struct runtime_instance *instances, int count)
{
    union {
        const char *read;
        char *write;
    } text;
    struct found *found = mem_array((size_t)count + 1, sizeof *found);
    const struct found **order = mem_array((size_t)count + 1, sizeof *order);
    for (int i = 0; i < count; i++) {
        text.read = instances[i].name; /* borrowed: found is not cleared */
        found[i].name = text.write;
        text.read = instances[i].database != NULL ? instances[i].database : "";
        found[i].database = text.write;
        text.read = instances[i].shard != NULL ? instances[i].shard : "";
        found[i].shard = text.write;
        found[i].access = instances[i].access;
        order[i] = &found[i];
    }
    apply(d, d->options.runtime->backend->kind, order, count);
    free((void *)order);
    free(found);
}

static void on_list(const struct err *err, const struct runtime_instance *instances, int count, void *data)
{
    struct discovery *d = data;
    if (d->closing) {
        enter_closed(d);
        return;
    }
    if (err != NULL) {
        complain(d, "local", "local", err);
    } else {
        complaint_settle(d, "local", "local");
        apply_local(d, instances, count);
    }
    enter_idle(d);
}

static void enter_list(struct discovery *d)
{
    struct err err = {0};
    if (d->options.runtime == NULL || d->closing) {
        enter_idle(d);
        return;
    }
    sm_move(&d->sm, LIST);
    if (runtime_list(d->options.runtime, on_list, d, &err) == 0)
        return;
    complain(d, "local", "local", &err);
    enter_idle(d);
}

static void secrets_run(struct work *work)
{
    struct discovery *d = work->data;
    static_list_files(&d->round);
}

static void secrets_done(struct work *work, int code)
{
    struct discovery *d = work->data;
    if (d->closing) {
        enter_closed(d);
        return;
    }
    /* a list that was replaced meanwhile has a round of its own right after this one */
    if (code == 0 && !d->replaced) {
        int count = d->round.count;
        const struct found **order = mem_array((size_t)count + 1, sizeof *order);
        for (int i = 0; i < count; i++)
            order[i] = &d->round.entries[i].found;
        apply(d, "static", order, count);
        free((void *)order);
    }
    static_list_free(&d->round);
    enter_list(d);
}

static void enter_secrets(struct discovery *d)
{
    sm_move(&d->sm, SECRETS);
    d->replaced = false;
    static_list_copy(&d->round, &d->list);
    static_list_environment(&d->round, d->loop->env);
    if (work_start(d->loop, &d->work, secrets_run, secrets_done, d) == 0)
        return;
    static_list_free(&d->round);
    enter_idle(d); /* no worker now: next time */
}

static void on_timer(struct loop_timer *timer, void *data)
{
    (void)timer;
    enter_secrets(data);
}

/* ---- interface ---- */

int discovery_start(struct loop *loop, const struct discovery_options *options, struct discovery **ret,
                    struct err *err)
{
    struct static_list list;
    int rc = static_list_make(options->entries, options->entry_count, &list, err);
    if (rc != 0)
        return rc;
    struct discovery *d = mem_zalloc(sizeof *d);
    d->loop = loop;
    d->options = *options;
    d->options.entries = NULL;
    d->options.entry_count = 0;
    d->list = list;
    if (d->options.period_ns == 0)
        d->options.period_ns = DEFAULT_PERIOD_NS;
    d->free_task.run = discovery_free;
    d->free_task.data = d;
    sm_init(&d->sm, states, STATES, IDLE, NULL, NULL);
    loop_timer_init(loop, &d->timer, on_timer, d);
    loop_timer_start(&d->timer, 0);
    *ret = d;
    return 0;
}

int discovery_set_entries(struct discovery *d, const struct discovery_entry *entries, int count,
                          struct err *err)
{
    struct static_list list;
    int rc = static_list_make(entries, count, &list, err);
    if (rc != 0)
        return rc;
    static_list_free(&d->list);
    d->list = list;
    d->replaced = true;
    complaints_clear(d); /* what is still wrong is told again */
    discovery_poll(d);
    return 0;
}

void discovery_give(struct discovery *d, const char *source, const struct found *found, int count)
{
    if (d->closing)
        return;
    const struct found **order = mem_array((size_t)count + 1, sizeof *order);
    for (int i = 0; i < count; i++)
        order[i] = &found[i];
    apply(d, source, order, count);
    free((void *)order);
}

void discovery_set_period(struct discovery *d, uint64_t period_ns)
{
    d->options.period_ns = period_ns != 0 ? period_ns : DEFAULT_PERIOD_NS;
    discovery_poll(d);
}

void discovery_poll(struct discovery *d)
{
    if (d->closing)
        return;
    if (sm_now(&d->sm) == IDLE)
        loop_timer_start(&d->timer, 0);
    else
        d->again = true;
}

uint64_t discovery_rounds(const struct discovery *d)
{
    return d->rounds;
}

void discovery_close(struct discovery *d, void (*closed)(void *data), void *data)
{
    if (d->closing)
        return;
    d->closing = true;
    d->closed = closed;
    d->closed_data = data;
    if (sm_now(&d->sm) == IDLE)
        enter_closed(d);
}
