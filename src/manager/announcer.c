#include "manager/announcer.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "operation/link.h"
#include "operation/sqlf.h"

#define SOON_NS    (250 * ENV_NS_PER_MS)
#define RETRY_NS   (2 * ENV_NS_PER_S)
#define TIMEOUT_NS (10 * ENV_NS_PER_S)

struct announced {
    struct list node; /* in announcer.databases */
    struct announcer *announcer;
    char *database;
    struct loop_timer timer;
    int outstanding;  /* shards that have not answered */
    bool again;       /* changed, or a shard failed, meanwhile */
    uint64_t wait_ns; /* until the next round, if there is one */
};

struct telling {
    struct list node; /* in announcer.tellings */
    struct announced *announced;
    struct link link;
    char *shard;
    bool answered, gone; /* the statement, the connection; both: it is freed */
};

struct announcer {
    struct loop *loop;
    struct fleet *fleet;
    struct list databases;
    int open; /* connections */
    struct list tellings;
    bool stopping;
    void (*closed)(void *data);
    void *data;
};

static void free_announced(struct announced *d)
{
    loop_timer_stop(&d->timer);
    list_remove(&d->node);
    free(d->database);
    free(d);
}

static void maybe_stopped(struct announcer *a)
{
    if (!a->stopping || a->open > 0 || !list_empty(&a->tellings))
        return;
    list_each(node, &a->databases)
    {
        free_announced(list_item(node, struct announced, node));
    }
    void (*closed)(void *) = a->closed;
    void *data = a->data;
    free(a);
    if (closed != NULL)
        closed(data);
}

static void maybe_over(struct telling *t)
{
    struct announced *d = t->announced;
    struct announcer *a = d->announcer;
    if (!t->answered || !t->gone)
        return;
    instance_access_clear(&t->link.access);
    list_remove(&t->node);
    free(t->shard);
    free(t);
    d->outstanding--;
    if (a->stopping)
        maybe_stopped(a);
    else if (d->outstanding == 0 && d->again)
        loop_timer_start(&d->timer, d->wait_ns);
}

static void link_closed(void *data)
{
    struct telling *t = data;
    t->gone = true;
    maybe_over(t);
}

static void told(const struct pg_reply *reply, void *data)
{
    struct telling *t = data;
    struct announced *d = t->announced;
    if (reply->err != NULL && !d->announcer->stopping) {
        log_event(LOG_DEBUG, "routing table not written, trying again", "db", d->database, "shard", t->shard,
                  "err", reply->err->message, NULL);
        d->again = true;
        d->wait_ns = RETRY_NS;
    }
    t->answered = true;
    if (t->gone)
        maybe_over(t);
    else
        link_drop(&t->link); /* link_closed() follows */
}

static void tell(struct announced *d, const struct fleet_instance *primary, const char *shard,
                 const char *sql)
{
    struct announcer *a = d->announcer;
    struct telling *t = mem_zalloc(sizeof *t);
    t->announced = d;
    t->shard = mem_strdup(shard);
    list_append(&a->tellings, &t->node);
    d->outstanding++;
    link_init(&t->link, a->loop, &primary->access, "shardherd announcer", &a->open, link_closed, t);
    link_exec(&t->link, sql, TIMEOUT_NS, told, t);
}

static void round_begins(struct loop_timer *timer, void *data)
{
    struct announced *d = data;
    struct announcer *a = d->announcer;
    const struct fleet_database *db = fleet_find_database(a->fleet, d->database);
    struct buf json = {0};
    struct buf sql = {0};
    (void)timer;
    if (db == NULL || db->routing == NULL) {
        free_announced(d);
        return;
    }
    d->again = false;
    d->wait_ns = SOON_NS;
    routing_print(db->routing, &json);
    sqlf(&sql, "SELECT shardherd.announce(%d, %L::jsonb)", (int64_t)db->routing->epoch, buf_text(&json));
    for (size_t i = 0; i < db->routing->shard_count; i++) {
        const char *shard = db->routing->shards[i].name;
        const struct fleet_instance *primary = fleet_primary(a->fleet, d->database, shard);
        if (primary != NULL)
            tell(d, primary, shard, buf_text(&sql));
    }
    buf_free(&json);
    buf_free(&sql);
}

void announcer_changed(struct announcer *a, const char *database)
{
    list_each(node, &a->databases)
    {
        struct announced *d = list_item(node, struct announced, node);
        if (strcmp(d->database, database) != 0)
            continue;
        d->again = true;
        d->wait_ns = SOON_NS;
        if (d->outstanding == 0 && !loop_timer_armed(&d->timer))
            loop_timer_start(&d->timer, SOON_NS);
        return;
    }
    struct announced *d = mem_zalloc(sizeof *d);
    d->announcer = a;
    d->database = mem_strdup(database);
    loop_timer_init(a->loop, &d->timer, round_begins, d);
    list_append(&a->databases, &d->node);
    loop_timer_start(&d->timer, SOON_NS);
}

struct announcer *announcer_start(struct loop *loop, struct fleet *fleet)
{
    struct announcer *a = mem_zalloc(sizeof *a);
    a->loop = loop;
    a->fleet = fleet;
    list_init(&a->databases);
    list_init(&a->tellings);
    return a;
}

void announcer_stop(struct announcer *a, void (*closed)(void *data), void *data)
{
    a->stopping = true;
    a->closed = closed;
    a->data = data;
    a->open++; /* our own hold: it must not be freed while we go through its lists */
    list_each(node, &a->databases)
    {
        loop_timer_stop(&list_item(node, struct announced, node)->timer);
    }
    list_each(telling, &a->tellings)
    {
        link_drop(&list_item(telling, struct telling, node)->link);
    }
    a->open--;
    maybe_stopped(a);
}
