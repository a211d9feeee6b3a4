/* links: metrics */
/*
 * The pollers and the exposition over a list of targets, and how long the turns of their loop were.
 *
 *     bench_poller all|load|default CONNECTS_PER_SECOND FILE
 *
 * all: every group each second. load: that group alone, each second. default: the periods of shardherd.
 * FILE has a target a line: name,host,port,user,password,dbname. Prints the port of its /metrics.
 *
 * Lines on stdin: "stats" prints one JSON object, "reset" begins the histogram of turns anew, "fill" gives
 * every target the memory that its load history takes after a day. End of input ends it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metrics/exposition.h"

#define LINE_MAX_BYTES 512

struct bench {
    struct loop loop;
    struct fleet fleet;
    struct pollers *pollers;
    struct exposition *exposition;
    struct http_server *server;
    uv_pipe_t input;
    char bytes[64];
};

static void handle(struct http_exchange *ex, const struct http_request *request, void *data)
{
    struct bench *b = data;
    if (strcmp(request->path, "/metrics") == 0)
        exposition_handle(ex, request, b->exposition);
    else
        http_problem(ex, 404, "not_found", "only /metrics is here");
}

static void print_stats(struct bench *b)
{
    struct pollers_counts c;
    const struct hist *turns = &b->loop.turns;
    pollers_count(b->pollers, &c);
    printf("{\"instances\":%u,\"up\":%u,\"connecting\":%u,\"waiting\":%u,\"connects\":%" PRIu64
           ",\"polls\":%" PRIu64 ",\"polls_failed\":%" PRIu64 ",",
           c.instances, c.up, c.connecting, c.waiting, c.connects, c.polls, c.polls_failed);
    printf("\"turns\":%" PRIu64 ",\"p50_us\":%" PRIu64 ",\"p99_us\":%" PRIu64 ",\"p999_us\":%" PRIu64
           ",\"max_us\":%" PRIu64 "}\n",
           turns->count, hist_quantile(turns, 0.5), hist_quantile(turns, 0.99), hist_quantile(turns, 0.999),
           turns->max_us);
    fflush(stdout);
}

/* The last thing to ask for: its times lie ahead, so the samples of later polls are dropped. */
static void fill(struct bench *b)
{
    list_each(node, &b->fleet.instances)
    {
        struct load_ring *ring = &list_item(node, struct fleet_instance, node)->load;
        struct load_sample s;
        for (unsigned n = 0; load_ring_second(ring, 0, &s) && n < SAMPLES_MINUTES + SAMPLES_SECONDS; n++) {
            s.at_ns += n < SAMPLES_MINUTES ? 60 * ENV_NS_PER_S : ENV_NS_PER_S;
            load_ring_add(ring, &s);
        }
    }
}

static void on_exposition_closed(void *data)
{
    pollers_close(((struct bench *)data)->pollers, NULL, NULL);
}

static void on_server_closed(void *data)
{
    exposition_close(((struct bench *)data)->exposition, on_exposition_closed, data);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    (void)size;
    struct bench *b = handle->data;
    *buf = uv_buf_init(b->bytes, sizeof b->bytes);
}

static void on_input(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct bench *b = stream->data;
    if (n < 0) {
        uv_close((uv_handle_t *)stream, NULL);
        http_server_close(b->server, 0, on_server_closed, b);
    } else if (n > 0 && buf->base[0] == 's') {
        print_stats(b);
    } else if (n > 0 && buf->base[0] == 'f') {
        fill(b);
        print_stats(b);
    } else if (n > 0 && buf->base[0] == 'r') {
        hist_reset(&b->loop.turns);
        print_stats(b);
    }
}

static bool add(struct bench *b, char *line)
{
    char *part[6] = {0};
    size_t n = 0;
    line[strcspn(line, "\n")] = '\0';
    for (char *at = line; at != NULL && n < 6; n++) {
        part[n] = at;
        at = strchr(at, ',');
        if (at != NULL)
            *at++ = '\0';
    }
    if (n != 6)
        return false;
    const struct instance_access access = {
        .host = part[1], .port = atoi(part[2]), .user = part[3], .password = part[4], .dbname = part[5]};
    struct fleet_instance *i;
    return fleet_add_instance(&b->fleet, part[0], "static", &access, &i, NULL) == 0;
}

static bool add_all(struct bench *b, const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        perror(path);
        return false;
    }
    char line[LINE_MAX_BYTES];
    bool ok = true;
    while (ok && fgets(line, sizeof line, file) != NULL)
        ok = add(b, line);
    fclose(file);
    if (!ok)
        fprintf(stderr, "%s: bad target %s\n", path, line);
    return ok;
}

static struct pollers_options options_of(const char *groups, const char *connects)
{
    struct pollers_options o = {.connects_per_second = (unsigned)atoi(connects), .restless = true};
    for (int g = 0; g < POLL_GROUPS; g++) {
        if (strcmp(groups, "all") == 0 || g == POLL_LOAD)
            o.period_ns[g] = ENV_NS_PER_S;
        else if (strcmp(groups, "load") == 0)
            o.period_ns[g] = POLL_OFF;
    }
    return o;
}

static bool serve(struct bench *b)
{
    struct err err = {0};
    const struct exposition_options own = {.version = "0", .commit = "bench"};
    b->exposition = exposition_new(&b->loop, b->pollers, &own);
    const struct http_server_options http = {.address = "127.0.0.1"};
    if (http_server_open(&b->loop, &http, handle, b, &b->server, &err) != 0) {
        fprintf(stderr, "%s\n", err.message);
        return false;
    }
    printf("%d\n", http_server_port(b->server));
    fflush(stdout);
    uv_pipe_init(&b->loop.uv, &b->input, 0);
    b->input.data = b;
    return uv_pipe_open(&b->input, 0) == 0 &&
           uv_read_start((uv_stream_t *)&b->input, on_alloc, on_input) == 0;
}

int main(int argc, char **argv)
{
    static struct bench b;
    if (argc != 4) {
        fprintf(stderr, "usage: bench_poller all|load|default CONNECTS_PER_SECOND FILE\n");
        return 2;
    }
    mem_share_heap();
    if (loop_init(&b.loop, env_system(), NULL) != 0)
        return 1;
    fleet_init(&b.fleet);
    const struct pollers_options options = options_of(argv[1], argv[2]);
    b.pollers = pollers_new(&b.loop, &b.fleet, &options, NULL, NULL);
    if (!add_all(&b, argv[3]))
        return 1;
    pollers_sync(b.pollers);
    if (!serve(&b))
        return 1;
    loop_run(&b.loop);
    fleet_fini(&b.fleet);
    return loop_fini(&b.loop);
}
