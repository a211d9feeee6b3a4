/* Names of known servers; application.h. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "discovery/application.h"
#include "discovery/kubernetes_entry.h"
#include "fleet/fleet.h"

static bool cut_end(char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    bool has = n > m && strcmp(text + n - m, end) == 0;
    if (has)
        text[n - m] = '\0';
    return has;
}

char *server_host_normal(const char *host)
{
    char *text = mem_strdup(host);
    for (char *p = text; *p != '\0'; p++)
        *p = (char)tolower((unsigned char)*p);
    (void)cut_end(text, ".");
    (void)cut_end(text, ".cluster.local");
    return text;
}

static void add(struct known_servers *s, const struct fleet_instance *instance, const char *host, int port)
{
    s->items = mem_resize(s->items, s->count + 1, sizeof *s->items);
    s->items[s->count++] = (struct known_server){.host = server_host_normal(host),
                                                 .port = port,
                                                 .instance = instance->name,
                                                 .database = instance->database,
                                                 .shard = instance->shard};
}

static void add_named(struct known_servers *s, const struct fleet_instance *instance,
                      const struct kubernetes_entry *e, const char *suffix)
{
    char *host = mem_printf("%s%s.%s.svc", e->group, suffix, e->name_space);
    add(s, instance, host, e->port);
    free(host);
}

static void add_entry(struct known_servers *s, const struct fleet_instance *instance,
                      const struct kubernetes_entry *e)
{
    static const char *const own[] = {"", "-ro", "-pods"};
    static const char *const cnpg[] = {"-rw", "-ro", "-r"};
    if (e->pod_address != NULL)
        add(s, instance, e->pod_address, e->port);
    if (e->service_address != NULL)
        add(s, instance, e->service_address, e->port);
    for (size_t i = 0; i < 3 && e->group != NULL; i++)
        if (e->own)
            add_named(s, instance, e, own[i]);
        else if (strcmp(e->source, "cnpg") == 0)
            add_named(s, instance, e, cnpg[i]);
}

static int by_place(const void *a, const void *b)
{
    const struct known_server *x = a, *y = b;
    int order = strcmp(x->host, y->host);
    if (order == 0)
        order = x->port - y->port;
    return order != 0 ? order : strcmp(x->instance, y->instance);
}

struct known_servers known_servers_make(const struct fleet *fleet, const struct kubernetes_entries *entries)
{
    struct known_servers s = {0};
    list_each(node, &fleet->instances)
    {
        const struct fleet_instance *instance = list_item(node, struct fleet_instance, node);
        if (instance->access.host != NULL)
            add(&s, instance, instance->access.host, instance->access.port);
        for (size_t i = 0; entries != NULL && i < entries->count; i++)
            if (strcmp(entries->items[i].name, instance->name) == 0)
                add_entry(&s, instance, &entries->items[i]);
    }
    if (s.count > 0)
        qsort(s.items, s.count, sizeof *s.items, by_place);
    return s;
}

void known_servers_free(struct known_servers *s)
{
    for (size_t i = 0; i < s->count; i++)
        free(s->items[i].host);
    free(s->items);
    *s = (struct known_servers){0};
}

static const struct known_server *find(const struct known_servers *s, const char *host, int port)
{
    for (size_t low = 0, high = s->count; low < high;) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(s->items[middle].host, host);
        if (order == 0)
            order = s->items[middle].port - port;
        /* the first of several instances behind one name */
        if (order == 0 && (middle == 0 || strcmp(s->items[middle - 1].host, host) != 0 ||
                           s->items[middle - 1].port != port))
            return &s->items[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static const struct known_server *find_named(const struct known_servers *s, char *host, int port)
{
    const struct known_server *found = find(s, host, port);
    free(host);
    return found;
}

const struct known_server *known_server_find(const struct known_servers *s, const char *host, int port,
                                             const char *name_space)
{
    char *normal = server_host_normal(host);
    const struct known_server *found = find(s, normal, port);
    if (found == NULL)
        found = find_named(s, mem_printf("%s.svc", normal), port); /* "db.shop" */
    if (found == NULL)
        found = find_named(s, mem_printf("%s.%s.svc", normal, name_space), port); /* "db" */
    free(normal);
    return found;
}
