/* links: metrics */
/*
 * Polls servers and serves /metrics on a free port of 127.0.0.1, which it prints.
 *
 *     metrics_tool PERIOD_MS|load|default INSTANCE...
 *
 * INSTANCE = name,db,shard,host,port,user,password,dbname. "load" polls that group alone, every second.
 *
 * Lines on stdin: "facts" prints one line per instance; end of input ends it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metrics/exposition.h"

struct tool {
    struct loop loop;
    struct fleet fleet;
    struct pollers *pollers;
    struct exposition *exposition;
    struct http_server *server;
    uv_pipe_t input;
    char bytes[256];
};

static void handle(struct http_exchange *ex, const struct http_request *request, void *data)
{
    struct tool *t = data;
    if (strcmp(request->path, "/metrics") == 0)
        exposition_handle(ex, request, t->exposition);
    else
        http_problem(ex, 404, "not_found", "only /metrics is here");
}

static void print_facts(struct tool *t)
{
    list_each(node, &t->fleet.instances)
    {
        const struct fleet_instance *i = list_item(node, struct fleet_instance, node);
        const struct instance_facts *f = &i->facts;
        struct load_sample s;
        bool sampled = load_ring_second(&i->load, 0, &s);
        printf("{\"name\":\"%s\",\"role\":\"%s\",\"version\":%d,\"timeline\":%u,\"system\":\"%" PRIu64
               "\",\"lag\":\"%g\",\"lag_bytes\":%" PRIu64 ",\"seen\":%" PRIu64 ",\"failed\":%" PRIu64
               ",\"started\":%" PRId64 ",\"errors\":%" PRIu64 ",\"rate\":\"%g\",\"longest_turn_us\":%" PRIu64
               "}\n",
               i->name, instance_role_name(f->role), f->server_version, f->timeline, f->system_identifier,
               f->lag_seconds, f->lag_bytes, f->seen_ns, f->failed_ns, f->started_us, f->errors_total,
               sampled ? (double)s.value[LOAD_QUERY_RATE] : -1.0, t->loop.longest_turn_us);
    }
    puts("end");
    fflush(stdout);
}

static void on_exposition_closed(void *data)
{
    pollers_close(((struct tool *)data)->pollers, NULL, NULL);
}

static void on_server_closed(void *data)
{
    exposition_close(((struct tool *)data)->exposition, on_exposition_closed, data);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    (void)size;
    struct tool *t = handle->data;
    *buf = uv_buf_init(t->bytes, sizeof t->bytes);
}

static void on_input(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct tool *t = stream->data;
    if (n < 0) {
        uv_close((uv_handle_t *)stream, NULL);
        http_server_close(t->server, 0, on_server_closed, t);
    } else if (n > 0 && buf->base[0] == 'f') {
        print_facts(t);
    }
}

static void add(struct tool *t, char *text)
{
    char *part[8] = {0};
    size_t n = 0;
    for (char *at = text; at != NULL && n < 8; n++) {
        part[n] = at;
        at = strchr(at, ',');
        if (at != NULL)
            *at++ = '\0';
    }
    if (n != 8) {
        fprintf(stderr, "bad instance %s\n", text);
        exit(2);
    }
    const struct instance_access access = {.host = part[3],
                                           .port = atoi(part[4]),
                                           .user = part[5],
                                           .password = part[6][0] != '\0' ? part[6] : NULL,
                                           .dbname = part[7]};
    struct fleet_instance *i;
    if (fleet_add_instance(&t->fleet, part[0], "static", &access, &i, NULL) != 0)
        exit(2);
    free(i->database);
    free(i->shard);
    i->database = mem_strdup(part[1]);
    i->shard = mem_strdup(part[2]);
}

int main(int argc, char **argv)
{
    static struct tool t;
    struct err err = {0};
    if (argc < 2 || loop_init(&t.loop, env_system(), &err) != 0)
        return 2;
    fleet_init(&t.fleet);
    struct pollers_options options = {0}; /* a word is 0: the default */
    for (int g = 0; g < POLL_GROUPS; g++)
        options.period_ns[g] = strtoul(argv[1], NULL, 10) * ENV_NS_PER_MS;
    for (int g = POLL_LOAD + 1; g < POLL_GROUPS && strcmp(argv[1], "load") == 0; g++)
        options.period_ns[g] = POLL_OFF;
    t.pollers = pollers_new(&t.loop, &t.fleet, &options, NULL, NULL);
    for (int i = 2; i < argc; i++)
        add(&t, argv[i]);
    pollers_sync(t.pollers);
    const struct exposition_options own = {.version = "0", .commit = "test"};
    t.exposition = exposition_new(&t.loop, t.pollers, &own);
    const struct http_server_options http = {.address = "127.0.0.1"};
    if (http_server_open(&t.loop, &http, handle, &t, &t.server, &err) != 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    printf("%d\n", http_server_port(t.server));
    fflush(stdout);
    uv_pipe_init(&t.loop.uv, &t.input, 0);
    t.input.data = &t;
    if (uv_pipe_open(&t.input, 0) != 0 || uv_read_start((uv_stream_t *)&t.input, on_alloc, on_input) != 0)
        return 1;
    loop_run(&t.loop);
    fleet_fini(&t.fleet);
    return loop_fini(&t.loop);
}
