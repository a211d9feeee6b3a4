#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "store/watchers.h"

struct event {
    struct list node;
    char *key, *value;
    int64_t revision;
};

struct watch {
    struct store_watch base;
    struct list node;
    char *prefix;
    int64_t after;
    store_watch_cb cb; /* NULL = ended: freed when the next event passes, or with the store */
    void *data;
};

void watchers_init(struct watchers *w)
{
    list_init(&w->events);
    list_init(&w->watches);
    w->showing = 0;
}

static void event_free(struct event *e)
{
    list_remove(&e->node);
    free(e->key);
    free(e->value);
    free(e);
}

static void watch_free(struct watch *watch)
{
    list_remove(&watch->node);
    free(watch->prefix);
    free(watch);
}

void watchers_free(struct watchers *w)
{
    while (!list_empty(&w->events))
        event_free(list_item(list_first(&w->events), struct event, node));
    while (!list_empty(&w->watches))
        watch_free(list_item(list_first(&w->watches), struct watch, node));
}

struct store_watch *watchers_begin(struct watchers *w, struct store *store, const char *prefix, int64_t after,
                                   store_watch_cb cb, void *data)
{
    struct watch *watch = mem_zalloc(sizeof *watch);
    watch->base.store = store;
    watch->prefix = mem_strdup(prefix);
    watch->after = w->showing != 0 && w->showing < after ? w->showing : after;
    watch->cb = cb;
    watch->data = data;
    list_append(&w->watches, &watch->node);
    return &watch->base;
}

void watchers_end(struct store_watch *watch)
{
    ((struct watch *)(void *)watch)->cb = NULL;
}

void watchers_add(struct watchers *w, const char *key, const char *value, int64_t revision)
{
    struct event *e = mem_zalloc(sizeof *e);
    e->key = mem_strdup(key);
    e->value = mem_strdup(value);
    e->revision = revision;
    list_append(&w->events, &e->node);
}

static void event_show(struct watchers *w, const struct event *e)
{
    const struct store_entry entry = {e->key, e->value, e->revision};
    const struct list *last = w->watches.prev; /* one that begins in a callback does not see this event */
    bool end = list_empty(&w->watches);
    for (struct list *node = w->watches.next; !end;) {
        struct watch *watch = list_item(node, struct watch, node);
        end = node == last;
        if (watch->cb != NULL && e->revision > watch->after && text_starts_with(e->key, watch->prefix))
            watch->cb(&entry, watch->data);
        node = node->next;
        if (watch->cb == NULL)
            watch_free(watch);
    }
}

void watchers_show(struct watchers *w, const char *held, const bool *stop)
{
    while (!list_empty(&w->events) && !*stop) {
        struct event *e = list_item(list_first(&w->events), struct event, node);
        if (held != NULL && strcmp(held, e->key) == 0)
            return;
        list_remove(&e->node);
        w->showing = e->revision;
        event_show(w, e);
        w->showing = 0;
        event_free(e);
    }
}
