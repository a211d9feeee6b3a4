#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/progress.h"
#include "cli/feed.h"

#define REDRAW_NS               (200 * ENV_NS_PER_MS)
#define RATE_NS                 (2 * ENV_NS_PER_S) /* rates are means over at least so long */
#define LINE_STEP               0.1                /* share of progress that is worth a line of its own */
#define PATIENCE_NS             (60 * ENV_NS_PER_S)
#define NUMBER_OR(value, other) (isnan(value) ? (other) : (value))

void progress_what(yyjson_val *op, struct buf *out)
{
    const char *shard = json_get_text(op, "shard"), *target = json_get_text(op, "target");
    bool made = yyjson_get_bool(json_get_path(op, "record.new_target"));
    buf_printf(out, "%s %s", json_get_text(op, "kind"), json_get_text(op, "database"));
    if (shard[0] != '\0')
        buf_printf(out, "/%s", shard);
    if (target[0] != '\0')
        buf_printf(out, " -> %s%s", target, made ? " (new)" : "");
}

static double seconds_between(int64_t from_us, int64_t to_us)
{
    return from_us > 0 && to_us >= from_us ? (double)(to_us - from_us) / 1e6 : -1;
}

void progress_facts(yyjson_val *op, int64_t now_us, const char *what, struct bar_facts *ret)
{
    yyjson_val *record = yyjson_obj_get(op, "record");
    int64_t ended = json_get_time(op, "ended");
    double marker = json_get_number(record, "marker_us"), block = json_get_number(record, "write_block_us");
    *ret = (struct bar_facts){
        .id = json_get_text(op, "id"),
        .what = what,
        .phase = json_get_text(op, "state"),
        .status = json_get_text(op, "status"),
        .error = json_get_text(yyjson_obj_get(op, "error"), "message"),
        .progress = NUMBER_OR(json_get_number(op, "progress"), 0),
        .rows = NUMBER_OR(json_get_number(record, "copy_rows"), -1),
        .total_rows = NUMBER_OR(json_get_number(record, "total_rows"), -1),
        .bytes = NUMBER_OR(json_get_number(record, "copy_bytes"), -1),
        .total_bytes = NUMBER_OR(json_get_number(record, "total_bytes"), -1),
        .bytes_rate = strcmp(json_get_text(op, "state"), "copy") == 0
                          ? NUMBER_OR(json_get_number(record, "copy_rate"), -1)
                          : -1,
        .rows_rate = -1,
        .throttle_rate = NUMBER_OR(json_get_number(record, "throttle_rate"), -1),
        .throttle = json_get_text(record, "throttle"),
        .eta_seconds = NUMBER_OR(json_get_number(op, "eta_seconds"), -1),
        .lag_seconds = marker / 1e6 >= 0 ? marker / 1e6 : -1,
        .block_seconds = block / 1e6 >= 0 ? block / 1e6 : -1,
        .elapsed_seconds = seconds_between(json_get_time(op, "created"), ended > 0 ? ended : now_us),
    };
}

int progress_exit(yyjson_val *op)
{
    const char *status = json_get_text(op, "status");
    if (strcmp(status, "done") == 0)
        return CLI_OK;
    bool refused = strcmp(json_get_text(op, "state"), "refused") == 0;
    return refused ? CLI_CONFLICT : CLI_FAILED;
}

uint64_t progress_deadline(struct session *s)
{
    return loop_clock(&s->loop) + (s->timeout_ns != 0 ? s->timeout_ns : PROGRESS_TIMEOUT_NS);
}

/* ---- drawing ---- */

struct display {
    struct session *s;
    yyjson_doc *doc; /* the newest document, NULL = none yet */
    struct buf what;
    char *phase; /* of the last line, "status/state" */
    double line_progress;
    bool goes_back;    /* followed until it does not any more */
    bool throttled;    /* as it was in the last line */
    bool drawn;        /* a bar stands in the last line */
    uint64_t stale_ns; /* since when the document is to be read again, 0 = it is not */
    double from_bytes, from_rows;
    uint64_t from_ns; /* when these were read, 0 = not yet */
    double bytes_rate, rows_rate;
};

static unsigned terminal_width(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

static void measure(struct display *d, const struct bar_facts *f)
{
    uint64_t now = loop_clock(&d->s->loop);
    if (d->from_ns == 0 || f->bytes < d->from_bytes) {
        d->from_ns = now;
        d->from_bytes = f->bytes;
        d->from_rows = f->rows;
        return;
    }
    if (now - d->from_ns < RATE_NS)
        return;
    double seconds = (double)(now - d->from_ns) / 1e9;
    d->bytes_rate = (f->bytes - d->from_bytes) / seconds;
    d->rows_rate = (f->rows - d->from_rows) / seconds;
    d->from_ns = now;
    d->from_bytes = f->bytes;
    d->from_rows = f->rows;
}

static void draw_bar(struct display *d, const struct bar_facts *f)
{
    struct buf out = {0};
    const struct bar_look look = {terminal_width() - 1, d->s->color, d->s->utf8};
    buf_add_text(&out, "\r");
    bar_print(f, &look, &out);
    buf_add_text(&out, "\033[K");
    fputs(buf_text(&out), stderr);
    d->drawn = true;
    buf_free(&out);
}

/* A line for each state, and for each tenth within one. */
static void draw_line(struct display *d, const struct bar_facts *f)
{
    char *phase = mem_printf("%s/%s", f->status, f->phase);
    bool changed = d->phase == NULL || strcmp(d->phase, phase) != 0;
    bool throttled = f->throttle_rate > 0;
    changed = changed || throttled != d->throttled;
    d->throttled = throttled;
    bool ending = strcmp(phase, "running/done") == 0; /* being journaled: the next line says it all */
    if (!ending && (changed || f->progress >= d->line_progress + LINE_STEP)) {
        struct buf out = {0};
        bar_line(f, &out);
        buf_addc(&out, '\n');
        fputs(buf_text(&out), stderr);
        buf_free(&out);
        d->line_progress = f->progress;
    }
    free(d->phase);
    d->phase = phase;
}

static void draw(struct display *d)
{
    struct bar_facts facts;
    if (d->doc == NULL || d->s->quiet)
        return;
    yyjson_val *op = yyjson_doc_get_root(d->doc);
    buf_reset(&d->what);
    progress_what(op, &d->what);
    progress_facts(op, loop_wall(&d->s->loop), buf_text(&d->what), &facts);
    measure(d, &facts);
    if (strcmp(facts.phase, "copy") == 0) {
        if (facts.bytes_rate <= 0) /* of a manager that does not tell */
            facts.bytes_rate = d->bytes_rate;
        facts.rows_rate = d->rows_rate;
    }
    if (d->s->terminal)
        draw_bar(d, &facts);
    else
        draw_line(d, &facts);
}

static void display_end(struct display *d)
{
    if (d->drawn)
        fputc('\n', stderr);
    yyjson_doc_free(d->doc);
    buf_free(&d->what);
    free(d->phase);
}

/* ---- following ---- */

/* A move that is neither to go back nor on its way. */
static bool stays(yyjson_val *op)
{
    yyjson_val *record = yyjson_obj_get(op, "record");
    return yyjson_obj_get(record, "back") != NULL && !yyjson_get_bool(yyjson_obj_get(record, "back")) &&
           !yyjson_get_bool(yyjson_obj_get(record, "rollback")) &&
           !yyjson_get_bool(yyjson_obj_get(record, "canceled"));
}

/* A migration that stopped, a move that is held and was not told how it goes on. */
static bool waits_for_a_person(yyjson_val *op)
{
    yyjson_val *record = yyjson_obj_get(op, "record");
    const char *state = json_get_text(op, "state");
    return strcmp(state, "stopped") == 0 ||
           (strcmp(state, "held") == 0 && !yyjson_get_bool(yyjson_obj_get(record, "go_on")) &&
            !yyjson_get_bool(yyjson_obj_get(record, "rollback")));
}

/* Or it waits for a person: following it on would be for ever. */
static bool has_ended(const struct display *d)
{
    yyjson_val *op = yyjson_doc_get_root(d->doc);
    return op != NULL && (strcmp(json_get_text(op, "status"), "running") != 0 || waits_for_a_person(op) ||
                          (d->goes_back && stays(op)));
}

static int read_operation(struct session *s, const char *id, struct session_reply *ret)
{
    struct buf path = {0};
    buf_add_text(&path, "/v1/operations/");
    session_escape(&path, id);
    int rc = session_get(s, buf_text(&path), ret);
    buf_free(&path);
    return rc;
}

static void take_document(struct display *d, yyjson_doc *doc)
{
    yyjson_doc_free(d->doc);
    d->doc = doc;
}

/* A manager that has just started does not know its operations yet: that is no error once we knew ours. */
static int refresh(struct display *d, const char *id)
{
    struct session_reply reply;
    bool patient = d->doc != NULL && loop_clock(&d->s->loop) - d->stale_ns < PATIENCE_NS;
    d->s->silent = patient;
    int rc = read_operation(d->s, id, &reply);
    d->s->silent = false;
    if (rc == CLI_OK) {
        take_document(d, reply.doc);
        reply.doc = NULL;
        d->stale_ns = 0;
    }
    session_reply_free(&reply);
    return patient ? CLI_OK : rc;
}

/* A snapshot begins each stream: what was missed before it is to be read. */
static void take_event(struct display *d, const char *id, const struct feed_event *event)
{
    if (strcmp(event->event, "snapshot") == 0)
        d->stale_ns = loop_clock(&d->s->loop);
    if (strcmp(event->event, "operation") != 0)
        return;
    yyjson_doc *doc = yyjson_read(event->data, strlen(event->data), 0);
    if (strcmp(json_get_text(yyjson_doc_get_root(doc), "id"), id) == 0)
        take_document(d, doc);
    else
        yyjson_doc_free(doc);
}

static int follow(struct display *d, const char *id, struct feed *feed, uint64_t deadline)
{
    const struct feed_event *event;
    int rc = CLI_OK;
    while (rc == CLI_OK && !has_ended(d)) {
        uint64_t now = loop_clock(&d->s->loop);
        if (now >= deadline)
            return CLI_TIMEOUT;
        uint64_t until = now + REDRAW_NS < deadline ? now + REDRAW_NS : deadline;
        enum feed_next next = feed_next(feed, until, &event, &rc);
        if (next == FEED_EVENT)
            take_event(d, id, event);
        if (rc == CLI_OK && d->stale_ns != 0)
            rc = refresh(d, id);
        if (rc == CLI_OK)
            draw(d);
    }
    return rc;
}

static int follow_operation(struct session *s, const char *id, bool goes_back, struct session_reply *ret)
{
    struct display d = {.s = s, .goes_back = goes_back};
    struct feed *feed = feed_new(s, "/v1/events");
    memset(ret, 0, sizeof *ret);
    int rc = follow(&d, id, feed, progress_deadline(s));
    feed_free(feed);
    display_end(&d);
    if (rc == CLI_TIMEOUT)
        return session_fail(s, rc,
                            "operation %s has not ended yet and goes on; see: shardherd describe "
                            "operation %s",
                            id, id);
    return rc == CLI_OK ? read_operation(s, id, ret) : rc;
}

int progress_follow(struct session *s, const char *id, struct session_reply *ret)
{
    return follow_operation(s, id, false, ret);
}

int progress_follow_back(struct session *s, const char *id, struct session_reply *ret)
{
    return follow_operation(s, id, true, ret);
}
