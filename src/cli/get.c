/* shardherd get: one table for each kind of thing, and what changes in it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/command.h"
#include "cli/resource.h"
#include "cli/feed.h"

#define WATCH_NS (30 * ENV_NS_PER_S) /* read again so often, whatever events say */

static void add_row(struct session *s, const struct resource *r, struct table *t, yyjson_val *item)
{
    if (!r->own_rows)
        table_row(t);
    r->row(s, t, item);
}

static void print_name(const struct resource *r, yyjson_val *item, struct buf *out)
{
    struct buf name = {0};
    r->name(item, &name);
    buf_printf(out, "%s/", r->kind);
    table_print_text(out, buf_text(&name), TABLE_PLAIN, false);
    buf_addc(out, '\n');
    buf_free(&name);
}

static void print_items(struct session *s, const struct resource *r, yyjson_val *items)
{
    struct buf names = {0};
    struct table t;
    size_t i, max;
    yyjson_val *item;
    table_init(&t, r->columns);
    yyjson_arr_foreach(items, i, max, item)
    {
        if (s->format == FORMAT_NAME)
            print_name(r, item, &names);
        else
            add_row(s, r, &t, item);
    }
    if (s->format == FORMAT_NAME)
        session_out(s, &names);
    else if (table_rows(&t) > 0)
        session_print_table(s, &t, true);
    else
        session_say(s, "No %.*s found.", (int)strcspn(r->names, " "), r->names);
    table_free(&t);
    buf_free(&names);
}

/* The named ones as {"items": [...]}, or the only one as it is. */
static int fetch_named(struct session *s, const struct resource *r, const char *const *names, int count,
                       yyjson_doc **ret)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *items = yyjson_mut_obj_add_arr(doc, root, "items");
    int rc = CLI_OK;
    yyjson_mut_doc_set_root(doc, root);
    for (int i = 0; i < count && rc == CLI_OK; i++) {
        struct session_reply reply;
        rc = r->one(s, session_bare(names[i], r->kind), &reply);
        if (rc == CLI_OK)
            yyjson_mut_arr_append(items, yyjson_val_mut_copy(doc, reply.root));
        session_reply_free(&reply);
    }
    *ret = rc == CLI_OK ? yyjson_mut_doc_imut_copy(doc, NULL) : NULL;
    yyjson_mut_doc_free(doc);
    return rc;
}

struct wanted {
    const struct resource *r;
    const char *names[ARGS_MAX];
    int count;
};

static int fetch(struct session *s, const struct wanted *w, yyjson_doc **ret)
{
    return w->count > 0 ? fetch_named(s, w->r, w->names, w->count, ret) : w->r->list(s, ret);
}

/* ---- watching ---- */

/* What was shown of an item: its row without ages. */
struct shown {
    struct list node;
    char *name, *row;
    bool seen; /* in the newest list */
};

struct watch {
    struct session *s;
    const struct wanted *w;
    struct list shown;
    size_t *widths;
    bool header_done;
};

static char *row_text(struct session *s, const struct resource *r, yyjson_val *item)
{
    struct table t;
    struct buf text = {0};
    table_init(&t, r->columns);
    add_row(s, r, &t, item);
    for (size_t row = 0; row < table_rows(&t); row++)
        for (int c = 0; c < t.column_count; c++)
            if (strcmp(r->columns[c].title, "AGE") != 0 && strcmp(r->columns[c].title, "SEEN") != 0)
                buf_printf(&text, "%s\n", table_get(&t, row, c));
    table_free(&t);
    buf_addc(&text, '\n');
    return buf_take(&text);
}

/* Whether it is new or looks different. */
static bool note(struct watch *w, yyjson_val *item)
{
    struct buf name = {0};
    struct shown *shown = NULL;
    w->w->r->name(item, &name);
    list_each(node, &w->shown)
    {
        struct shown *other = list_item(node, struct shown, node);
        if (strcmp(other->name, buf_text(&name)) == 0)
            shown = other;
    }
    if (shown == NULL) {
        shown = mem_zalloc(sizeof *shown);
        shown->name = mem_strdup(buf_text(&name));
        list_append(&w->shown, &shown->node);
    }
    buf_free(&name);
    shown->seen = true;
    char *row = row_text(w->s, w->w->r, item);
    bool changed = shown->row == NULL || strcmp(shown->row, row) != 0;
    free(shown->row);
    shown->row = row;
    return changed;
}

static void shown_free(struct shown *shown)
{
    list_remove(&shown->node);
    free(shown->name);
    free(shown->row);
    free(shown);
}

static void forget_gone(struct watch *w)
{
    list_each(node, &w->shown)
    {
        struct shown *shown = list_item(node, struct shown, node);
        if (!shown->seen) {
            session_say(w->s, "%s/%s is gone", w->w->r->kind, shown->name);
            shown_free(shown);
        } else
            shown->seen = false;
    }
}

/* Documents are one a line, or separated by "---". */
static void print_document(struct session *s, yyjson_val *item)
{
    struct buf text = {0};
    if (s->format == FORMAT_YAML) {
        buf_add_text(&text, "---\n");
        session_out(s, &text);
        session_print(s, item);
        return;
    }
    char *json = yyjson_val_write(item, 0, NULL);
    buf_printf(&text, "%s\n", json != NULL ? json : "null");
    session_out(s, &text);
    buf_free(&text);
    free(json);
}

static int print_changes(struct watch *w)
{
    struct session *s = w->s;
    yyjson_doc *doc;
    struct table t;
    struct buf text = {0};
    size_t i, max;
    yyjson_val *item;
    int rc = fetch(s, w->w, &doc);
    table_init(&t, w->w->r->columns);
    yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(doc), "items"), i, max, item)
    {
        if (!note(w, item))
            continue;
        if (session_is_document(s))
            print_document(s, item);
        else if (s->format == FORMAT_NAME)
            print_name(w->w->r, item, &text);
        else
            add_row(s, w->w->r, &t, item);
    }
    if (table_rows(&t) > 0) {
        const struct table_look look = {s->format == FORMAT_WIDE, s->color_out, w->header_done, w->widths};
        table_print(&t, &look, &text);
        w->header_done = true;
    }
    session_out(s, &text);
    buf_free(&text);
    table_free(&t);
    yyjson_doc_free(doc);
    if (rc == CLI_OK)
        forget_gone(w);
    return rc;
}

static bool concerns(const char *events, const char *event)
{
    size_t length = strlen(event);
    for (const char *p = strstr(events, event); p != NULL; p = strstr(p + 1, event))
        if ((p == events || p[-1] == ' ') && (p[length] == ' ' || p[length] == '\0'))
            return true;
    return false;
}

/* A restart of the manager is no reason to end: the stream comes back, and begins with a snapshot. */
static int watch_loop(struct watch *w, struct feed *feed)
{
    struct session *s = w->s;
    const struct feed_event *event;
    uint64_t period = w->w->r->period_ns != 0 ? w->w->r->period_ns : WATCH_NS;
    uint64_t end = s->timeout_ns != 0 ? loop_clock(&s->loop) + s->timeout_ns : UINT64_MAX;
    uint64_t due = loop_clock(&s->loop) + period;
    int rc = CLI_OK;
    while (rc == CLI_OK && !s->broken && loop_clock(&s->loop) < end) {
        enum feed_next next = feed_next(feed, due < end ? due : end, &event, &rc);
        if (next == FEED_ENDED)
            break;
        if (next == FEED_EVENT && !concerns(w->w->r->events, event->event))
            continue;
        s->silent = true;
        print_changes(w); /* the manager may be starting again: the next event brings it */
        s->silent = false;
        due = loop_clock(&s->loop) + period;
    }
    return rc;
}

static int watch(struct session *s, const struct wanted *wanted)
{
    struct watch w = {.s = s, .w = wanted};
    int columns = 0;
    list_init(&w.shown);
    while (wanted->r->columns[columns].title != NULL)
        columns++;
    w.widths = mem_array((size_t)columns, sizeof *w.widths);
    int rc = print_changes(&w);
    struct feed *feed = feed_new(s, "/v1/events");
    if (rc == CLI_OK)
        rc = watch_loop(&w, feed);
    feed_free(feed);
    list_each(node, &w.shown)
    {
        shown_free(list_item(node, struct shown, node));
    }
    free(w.widths);
    return rc;
}

int command_get(struct session *s)
{
    struct wanted wanted = {0};
    const char *first = NULL;
    yyjson_doc *doc;
    wanted.r = resource_split(s, s->args->words[0], &first);
    if (wanted.r == NULL)
        return CLI_USAGE;
    if (first != NULL)
        wanted.names[wanted.count++] = first;
    for (int i = 1; i < s->args->word_count; i++)
        wanted.names[wanted.count++] = s->args->words[i];
    if (s->watch)
        return watch(s, &wanted);
    int rc = fetch(s, &wanted, &doc);
    if (rc != CLI_OK)
        return rc;
    yyjson_val *root = yyjson_doc_get_root(doc), *items = yyjson_obj_get(root, "items");
    if (session_is_document(s))
        session_print(s, wanted.count == 1 ? yyjson_arr_get_first(items) : root);
    else
        print_items(s, wanted.r, items);
    yyjson_doc_free(doc);
    return CLI_OK;
}
