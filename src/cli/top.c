/* shardherd top: the load of each shard; refreshes on a terminal. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/human.h"
#include "cli/resource.h"

#define METER_WIDTH 10
#define ENTER       "\033[?1049h\033[?25l" /* the other screen, no cursor */
#define LEAVE       "\033[?25h\033[?1049l"

static const struct table_column columns[] = {
    {"DATABASE", 0, 0}, {"SHARD", 0, 0},    {"STATE", 0, 0},    {"TX/S", 0, 1},      {"ACTIVE", 0, 1},
    {"WAL/S", 0, 1},    {"CPU", 1, 1},      {"SIZE", 0, 1},     {"LAG", 0, 1},       {"PROBE", 0, 1},
    {"SHARE", 1, 1},    {"OF LIMIT", 0, 0}, {"BALANCER", 0, 0}, {"OPERATION", 0, 0}, {0}};

typedef char *(*human_cb)(double value, char out[HUMAN_SIZE]);

static void cell(struct table *t, double value, human_cb print, const char *unit)
{
    char text[HUMAN_SIZE];
    if (isnan(value))
        table_cell(t, "");
    else
        table_cellf(t, "%s%s", print(value, text), unit);
}

/* Of the slowest replica, in bytes of WAL. */
static double lag_of(yyjson_val *shard)
{
    size_t i, max;
    yyjson_val *replica;
    double lag = (double)NAN;
    yyjson_arr_foreach(yyjson_obj_get(shard, "replicas"), i, max, replica)
    {
        double bytes = json_get_number(replica, "lag_bytes");
        if (isnan(lag) || bytes > lag)
            lag = bytes;
    }
    return lag;
}

/* The value its database is judged by, as a share of the threshold; NAN if either is not known. */
static double heat_of(yyjson_val *databases, yyjson_val *shard)
{
    size_t i, max;
    yyjson_val *db;
    yyjson_arr_foreach(databases, i, max, db)
    {
        if (strcmp(json_get_text(db, "name"), json_get_text(shard, "database")) != 0)
            continue;
        yyjson_val *balance = yyjson_obj_get(db, "balance");
        double value =
            json_get_number(json_get_path(shard, "load.last"), json_get_text(balance, "objective"));
        double threshold = json_get_number(balance, "threshold");
        return threshold > 0 ? value / threshold : (double)NAN;
    }
    return (double)NAN;
}

static void cell_heat(struct session *s, struct table *t, double heat)
{
    struct buf text = {0};
    char percent[HUMAN_SIZE];
    if (isnan(heat)) {
        table_cell(t, "");
        return;
    }
    unsigned full = heat >= 1 ? METER_WIDTH : (unsigned)(heat * METER_WIDTH + 0.5);
    for (unsigned i = 0; i < METER_WIDTH; i++)
        buf_add_text(&text, i < full ? (s->utf8 ? "█" : "#") : s->utf8 ? "░" : ".");
    buf_printf(&text, " %4s", human_percent(heat, percent));
    table_cell(t, buf_text(&text));
    table_paint(t, heat >= 1 ? TABLE_BAD : heat >= 0.8 ? TABLE_WARN : TABLE_GOOD);
    buf_free(&text);
}

static void add_shard(struct session *s, struct table *t, yyjson_val *databases, yyjson_val *shard)
{
    yyjson_val *last = json_get_path(shard, "load.last");
    table_row(t);
    table_cell(t, json_get_text(shard, "database"));
    table_cell(t, json_get_text(shard, "name"));
    table_cell(t, json_get_text(shard, "state"));
    table_paint(t, resource_style(json_get_text(shard, "state")));
    cell(t, json_get_number(last, "query_rate"), human_count, "");
    cell(t, json_get_number(last, "active_sessions"), human_count, "");
    cell(t, json_get_number(last, "wal_rate"), human_bytes, "/s");
    cell(t, json_get_number(last, "cpu"), human_percent, "");
    cell(t, json_get_number(yyjson_obj_get(shard, "instance"), "database_bytes"), human_bytes, "");
    cell(t, lag_of(shard), human_bytes, "");
    cell(t, json_get_number(last, "probe_ms") / 1e3, human_duration, "");
    cell(t, json_get_number(shard, "share"), human_percent, "");
    cell_heat(s, t, heat_of(databases, shard));
    table_cell(t, json_get_text(yyjson_obj_get(shard, "balancer"), "phase"));
    table_cell(t, json_get_text(shard, "operation"));
}

static void headline(struct session *s, yyjson_val *shards, struct buf *out)
{
    double rate = 0, wal = 0, size = 0;
    char a[HUMAN_SIZE], b[HUMAN_SIZE], c[HUMAN_SIZE], now[ENV_TIME_SIZE];
    size_t i, max;
    yyjson_val *shard;
    yyjson_arr_foreach(shards, i, max, shard)
    {
        yyjson_val *last = json_get_path(shard, "load.last");
        double tx = json_get_number(last, "query_rate"), w = json_get_number(last, "wal_rate");
        double bytes = json_get_number(yyjson_obj_get(shard, "instance"), "database_bytes");
        rate += isnan(tx) ? 0 : tx;
        wal += isnan(w) ? 0 : w;
        size += isnan(bytes) ? 0 : bytes;
    }
    env_format_time(loop_wall(&s->loop), now);
    buf_printf(out, "%.8s UTC   %zu shards   %s tx/s   WAL %s/s   %s\n\n", now + 11, yyjson_arr_size(shards),
               human_count(rate, a), human_bytes(wal, b), human_bytes(size, c));
}

/* One picture; `live` has a headline above. */
static int picture(struct session *s, bool live, struct buf *out)
{
    const struct resource *shard_kind = resource_find(s, "shard"),
                          *database_kind = resource_find(s, "database");
    yyjson_doc *shards = NULL, *databases = NULL;
    struct table t;
    size_t i, max;
    yyjson_val *shard;
    int rc = shard_kind->list(s, &shards);
    if (rc == CLI_OK)
        rc = database_kind->list(s, &databases);
    yyjson_val *root = yyjson_doc_get_root(shards), *items = yyjson_obj_get(root, "items");
    table_init(&t, columns);
    yyjson_arr_foreach(items, i, max, shard)
    {
        add_shard(s, &t, yyjson_obj_get(yyjson_doc_get_root(databases), "items"), shard);
    }
    if (rc == CLI_OK && session_is_document(s))
        session_print(s, root);
    else if (rc == CLI_OK) {
        const struct table_look look = {.wide = s->format == FORMAT_WIDE, .color = s->color_out};
        if (live)
            headline(s, items, out);
        table_print(&t, &look, out);
    }
    if (rc == CLI_OK && table_rows(&t) == 0)
        session_say(s, "No shards found.");
    table_free(&t);
    yyjson_doc_free(shards);
    yyjson_doc_free(databases);
    return rc;
}

/* Lines as wide as the terminal at most, so that none wraps; escape codes take no room. */
static void clip(const char *text, unsigned width, unsigned height, struct buf *out)
{
    unsigned column = 0, row = 1;
    bool escape = false;
    for (const char *p = text; *p != '\0' && row < height; p++) {
        bool starts = ((unsigned char)*p & 0xc0) != 0x80;
        if (*p == '\n') {
            buf_add_text(out, "\033[0m\033[K\n");
            column = 0;
            row++;
            continue;
        }
        escape = escape || *p == '\033';
        if (escape || column < width || (!starts && column == width))
            buf_addc(out, *p);
        if (!escape && starts)
            column++;
        if (escape && *p == 'm')
            escape = false;
    }
    buf_add_text(out, "\033[J");
}

struct live {
    struct session *s;
    struct loop_signal signals[2];
    bool ended;
};

static void on_signal(struct loop_signal *handle, int number, void *data)
{
    struct live *l = data;
    (void)handle, (void)number;
    l->ended = true;
    loop_stop(&l->s->loop);
}

/* A pause that a signal ends. */
static void on_tick(struct loop_timer *timer, void *data)
{
    struct live *l = data;
    (void)timer;
    loop_stop(&l->s->loop);
}

static void rest(struct live *l)
{
    struct loop_timer timer;
    loop_timer_init(&l->s->loop, &timer, on_tick, l);
    loop_timer_start_at(&timer, loop_clock(&l->s->loop) + ENV_NS_PER_S);
    while (!l->ended && loop_timer_armed(&timer))
        loop_run(&l->s->loop);
    loop_timer_stop(&timer);
}

static void show(struct live *l, const struct buf *text, int rc)
{
    struct winsize size;
    struct buf out = {0}, full = {0};
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    if (rc != CLI_OK)
        buf_printf(&full, "The manager at %s does not answer; trying again.\n",
                   l->s->servers[PORT_PUBLIC_API]);
    buf_add_text(&full, buf_text(text));
    buf_add_text(&out, "\033[H");
    clip(buf_text(&full), known ? size.ws_col : 80, known ? size.ws_row : 24, &out);
    session_out(l->s, &out);
    buf_free(&out);
    buf_free(&full);
}

static int run_live(struct session *s)
{
    static const int numbers[] = {SIGINT, SIGTERM};
    struct live l = {.s = s};
    struct buf text = {0}, codes = {0};
    struct err err = {0};
    int rc = picture(s, true, &text);
    if (rc != CLI_OK) {
        buf_free(&text);
        return rc;
    }
    for (int i = 0; i < 2; i++)
        if (loop_signal_start(&s->loop, &l.signals[i], numbers[i], on_signal, &l, &err) != 0)
            session_say(s, "%s", err.message);
    buf_add_text(&codes, ENTER);
    session_out(s, &codes);
    s->silent = true;
    while (!l.ended && !s->broken) {
        show(&l, &text, rc);
        rest(&l);
        buf_reset(&text);
        rc = l.ended ? CLI_OK : picture(s, true, &text);
    }
    s->silent = false;
    buf_add_text(&codes, LEAVE);
    session_out(s, &codes);
    for (int i = 0; i < 2; i++)
        loop_signal_stop(&l.signals[i]);
    session_pause(s, ENV_NS_PER_MS); /* the loop turns, and lets go of the signals */
    buf_free(&codes);
    buf_free(&text);
    return CLI_OK;
}

int command_top(struct session *s)
{
    struct buf text = {0};
    const struct resource *r =
        s->args->word_count > 0 ? resource_find(s, s->args->words[0]) : resource_find(s, "shard");
    if (r == NULL)
        return CLI_USAGE;
    if (strcmp(r->kind, "shard") != 0)
        return session_fail(s, CLI_USAGE, "top shows shards only");
    if (s->terminal_out && !args_has(s->args, "once") && !session_is_document(s) && s->format != FORMAT_NAME)
        return run_live(s);
    int rc = picture(s, false, &text);
    session_out(s, &text);
    buf_free(&text);
    return rc;
}
