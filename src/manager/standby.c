#include "manager/standby.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

struct standby {
    struct standby_options o;
    struct store_watch *watch;
    bool listing, stopped;
};

/* "db/shop/routing" gives "shop"; false for other keys. */
static bool name_of(const char *key, char name[STORE_KEY_MAX])
{
    snprintf(name, STORE_KEY_MAX, "%s", strncmp(key, "db/", 3) == 0 ? key + 3 : "");
    char *slash = strchr(name, '/');
    if (slash == NULL || strcmp(slash, "/routing") != 0)
        return false;
    *slash = '\0';
    return true;
}

static void take(struct standby *s, const struct store_entry *entry)
{
    char name[STORE_KEY_MAX];
    struct routing *routing;
    struct err err = {0};
    if (!name_of(entry->key, name))
        return;
    struct fleet_database *db = fleet_find_database(s->o.fleet, name);
    if (entry->value == NULL) {
        if (db != NULL)
            fleet_remove_database(s->o.fleet, db);
        return;
    }
    if (db != NULL && db->routing_revision >= entry->revision)
        return;
    if (routing_parse(entry->value, strlen(entry->value), &routing, &err) != 0) {
        log_event(LOG_WARN, "a routing table cannot be read", "db", name, "err", err.message, NULL);
        return;
    }
    if (db == NULL)
        db = fleet_add_database(s->o.fleet, name);
    routing_free(db->routing);
    db->routing = routing;
    db->routing_revision = entry->revision;
    s->o.changed(s->o.data, db);
}

static void on_change(const struct store_entry *entry, void *data)
{
    take(data, entry);
}

static void on_list(const struct err *err, const struct store_entry *entries, int count, void *data)
{
    struct standby *s = data;
    s->listing = false;
    if (s->stopped) {
        free(s);
        return;
    }
    if (err != NULL)
        log_event(LOG_WARN, "routing tables cannot be read", "err", err->message, NULL);
    for (int i = 0; err == NULL && i < count; i++)
        take(s, &entries[i]);
}

struct standby *standby_start(const struct standby_options *options)
{
    struct standby *s = mem_zalloc(sizeof *s);
    struct err err = {0};
    s->o = *options;
    if (store_watch(s->o.store, "db/", on_change, s, &s->watch, &err) != 0)
        s->watch = NULL;
    else if (store_list(s->o.store, "db/", on_list, s, &err) == 0)
        s->listing = true;
    if (err.code != ERRC_NONE)
        log_event(LOG_WARN, "routing tables cannot be followed", "err", err.message, NULL);
    return s;
}

void standby_stop(struct standby *s)
{
    if (s == NULL)
        return;
    if (s->watch != NULL)
        store_watch_stop(s->watch);
    list_each(node, &s->o.fleet->databases)
    {
        fleet_remove_database(s->o.fleet, list_item(node, struct fleet_database, node));
    }
    s->stopped = true;
    if (!s->listing)
        free(s);
}
