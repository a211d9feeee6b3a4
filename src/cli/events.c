/* shardherd events: what happens, as it happens. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "cli/bar.h"
#include "cli/command.h"
#include "cli/human.h"
#include "cli/progress.h"
#include "cli/feed.h"

/* One line about an event of this kind. */
static void sentence(const char *event, yyjson_val *data, struct buf *out)
{
    if (strcmp(event, "operation") == 0) {
        struct buf what = {0};
        struct bar_facts f;
        progress_what(data, &what);
        progress_facts(data, 0, buf_text(&what), &f);
        bar_line(&f, out);
        buf_free(&what);
    } else if (strcmp(event, "decision") == 0) {
        buf_printf(out, "%s/%s: %s%s, R%d: %s", json_get_text(data, "database"), json_get_text(data, "shard"),
                   json_get_text(data, "kind"),
                   yyjson_get_bool(yyjson_obj_get(data, "acted")) ? "" : " (no action)",
                   yyjson_get_int(yyjson_obj_get(data, "rule")), json_get_text(data, "sentence"));
    } else if (strcmp(event, "instance") == 0) {
        const char *error = json_get_text(data, "error");
        buf_printf(out, "%s: %s, %s%s%s", json_get_text(data, "name"), json_get_text(data, "role"),
                   json_get_text(data, "health"), error[0] != '\0' ? ": " : "", error);
    } else if (strcmp(event, "instance_restart") == 0) {
        if (yyjson_get_bool(yyjson_obj_get(data, "started")))
            buf_printf(out, "%s: the server had ended and was started again", json_get_text(data, "name"));
        else
            buf_printf(out, "%s: the server has ended and does not start, next try in %d s: %s",
                       json_get_text(data, "name"), yyjson_get_int(yyjson_obj_get(data, "next_seconds")),
                       json_get_text(data, "error"));
    } else if (strcmp(event, "instance_removed") == 0) {
        buf_printf(out, "%s is gone", json_get_text(data, "name"));
    } else if (strcmp(event, "routing") == 0) {
        buf_printf(out, "%s: epoch %s", json_get_text(data, "database"), json_get_text(data, "epoch"));
    } else if (strcmp(event, "removed") == 0) {
        buf_printf(out, "database %s is gone", json_get_text(data, "database"));
    } else if (strcmp(event, "snapshot") == 0) {
        buf_printf(out, "%zu databases, %zu operations running",
                   yyjson_arr_size(yyjson_obj_get(data, "databases")),
                   yyjson_arr_size(yyjson_obj_get(data, "operations")));
    } else {
        char *json = yyjson_val_write(data, 0, NULL);
        buf_add_text(out, json != NULL ? json : "");
        free(json);
    }
}

static const char *database_of(yyjson_val *data)
{
    return json_get_text(data, "database");
}

/* One a line: in flow style, this is YAML as well. */
static void add_document(struct buf *out, const char *now, const struct feed_event *event, yyjson_val *data)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "time", now);
    yyjson_mut_obj_add_str(doc, root, "id", event->id);
    yyjson_mut_obj_add_str(doc, root, "event", event->event);
    yyjson_mut_obj_add_val(doc, root, "data",
                           data != NULL ? yyjson_val_mut_copy(doc, data) : yyjson_mut_null(doc));
    char *json = yyjson_mut_write(doc, 0, NULL);
    buf_printf(out, "%s\n", json != NULL ? json : "{}");
    free(json);
    yyjson_mut_doc_free(doc);
}

static void print_event(struct session *s, const struct feed_event *event)
{
    char now[ENV_TIME_SIZE];
    struct buf text = {0}, out = {0};
    yyjson_doc *doc = yyjson_read(event->data, strlen(event->data), 0);
    yyjson_val *data = yyjson_doc_get_root(doc);
    bool elsewhere =
        s->database != NULL && database_of(data)[0] != '\0' && strcmp(database_of(data), s->database) != 0;
    env_format_time(loop_wall(&s->loop), now);
    if (session_is_document(s)) {
        buf_add_text(&out, s->format == FORMAT_YAML ? "---\n" : "");
        add_document(&out, now, event, data);
    } else {
        sentence(event->event, data, &text);
        buf_printf(&out, "%.8s  ", now + 11);
        table_print_text(&out, event->event, TABLE_FAINT, s->color_out);
        size_t width = table_width(event->event);
        buf_printf(&out, "%*s", width < 10 ? (int)(10 - width) : 1, "");
        table_print_text(&out, buf_text(&text), TABLE_PLAIN, false);
        buf_addc(&out, '\n');
    }
    if (!elsewhere)
        session_out(s, &out);
    yyjson_doc_free(doc);
    buf_free(&text);
    buf_free(&out);
}

/* Without -w: what the manager tells at once, the state of things. */
int command_events(struct session *s)
{
    struct feed *feed = feed_new(s, "/v1/events");
    const struct feed_event *event;
    uint64_t end = s->timeout_ns != 0 ? loop_clock(&s->loop) + s->timeout_ns : UINT64_MAX;
    bool more = true;
    int rc = CLI_OK;
    while (more && !s->broken) {
        enum feed_next next = feed_next(feed, end, &event, &rc);
        if (next == FEED_EVENT)
            print_event(s, event);
        more = next == FEED_EVENT && s->watch;
    }
    feed_free(feed);
    return rc;
}
