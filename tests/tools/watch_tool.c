/* links: k8s */
/*
 * watch_tool: the Kubernetes client of src/k8s as a program, for the tests in tests/kube and for bench/.
 *
 *   watch_tool KUBECONFIG watch PATH [SELECTOR] [metadata]   prints "+key@version", "*...", "-...", "synced
 * N" watch_tool KUBECONFIG METHOD PATH [BODY]                 one call; prints status and body watch_tool
 * KUBECONFIG apply|event|lease|repeat ...       see below
 *
 * WATCH_TOOL_FRESH_MS: files and programs of credentials are asked again after so long.
 * Ends orderly at SIGTERM; then prints CPU time, memory and what the reflector counted.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/mem.h"
#include <yyjson.h>

#include "k8s/access.h"
#include "k8s/apply.h"
#include "k8s/client.h"
#include "k8s/event.h"
#include "k8s/lease.h"
#include "k8s/watch.h"
#include "loop/loop.h"

struct tool {
    struct loop loop;
    struct k8s_client *client;
    struct k8s_watch *watch;
    struct k8s_events *events;
    struct k8s_lease *lease;
    struct loop_timer timer;
    char **argv;
    bool repeating, calling, ending;
    struct loop_signal term;
    bool quiet;
    uint64_t changes;
    int result;
};

static void changed(enum k8s_change change, const struct k8s_object *now, const struct k8s_object *before,
                    void *data)
{
    struct tool *t = data;
    const struct k8s_object *object = now != NULL ? now : before;
    t->changes++;
    if (!t->quiet)
        printf("%c%s@%s\n", "+*-"[change], object -> key, object -> version);
}

static void synced(struct k8s_watch *watch, void *data)
{
    (void)data;
    printf("synced %zu\n", reflector_store(k8s_watch_reflector(watch))->count);
    fflush(stdout);
}

static void client_closed(void *data)
{
    struct tool *t = data;
    loop_signal_stop(&t->term);
}

static void watch_closed(void *data)
{
    struct tool *t = data;
    k8s_client_close(t->client, client_closed, t);
}

static void report(const struct tool *t)
{
    struct reflector_facts f;
    struct rusage usage;
    reflector_facts(k8s_watch_reflector(t->watch), &f);
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"state\":\"%s\",\"version\":\"%s\",\"objects\":%zu,\"changes\":%llu,\"lists\":%llu,\"watches\":"
           "%llu,"
           "\"watch_lists\":%llu,\"events\":%llu,\"bookmarks\":%llu,\"relists\":%llu,\"skipped\":%llu,"
           "\"errors\":%llu,\"last_error\":\"%s\",\"cpu_us\":%lld,\"max_rss_kib\":%ld,\"longest_turn_us\":%"
           "llu}\n",
           f.state, f.version, reflector_store(k8s_watch_reflector(t->watch))->count,
           (unsigned long long)t->changes, (unsigned long long)f.lists, (unsigned long long)f.watches,
           (unsigned long long)f.watch_lists, (unsigned long long)f.events, (unsigned long long)f.bookmarks,
           (unsigned long long)f.relists, (unsigned long long)f.skipped, (unsigned long long)f.errors,
           f.last_error.code != ERRC_NONE ? f.last_error.message : "",
           (long long)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec +
               usage.ru_stime.tv_usec,
           usage.ru_maxrss, (unsigned long long)t->loop.longest_turn_us);
}

static void lease_closed(void *data);

static void caught(struct loop_signal *s, int number, void *data)
{
    struct tool *t = data;
    (void)s;
    (void)number;
    if (t->watch != NULL) {
        report(t);
        k8s_watch_close(t->watch, watch_closed, t);
        t->watch = NULL;
    } else if (t->lease != NULL) {
        loop_timer_stop(&t->timer);
        k8s_lease_close(t->lease, lease_closed, t);
        t->lease = NULL;
    } else if (t->repeating) {
        t->ending = true;
        loop_timer_stop(&t->timer);
        if (!t->calling)
            k8s_client_close(t->client, client_closed, t);
    }
}

static void answered(const struct k8s_answer *a, void *data)
{
    struct tool *t = data;
    if (a->err != NULL)
        fprintf(stderr, "%s\n", a->err->message);
    printf("%d %s\n", a->http_status, a->http_status != 0 ? a->body : "");
    t->result = a->err != NULL;
    k8s_client_close(t->client, client_closed, t);
}

static void call(struct tool *t, char **argv)
{
    const char *body = argv[4];
    struct k8s_call *started;
    struct err err = {0};
    const struct k8s_request request = {
        .method = argv[2], .path = argv[3], .body = body, .body_length = body != NULL ? strlen(body) : 0};
    if (k8s_call_start(t->client, &request, answered, t, &started, &err) != 0) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
}

/* apply COLLECTION NAME MANAGER BODY [force] */
static void apply(struct tool *t, int argc, char **argv)
{
    struct err err = {0};
    struct k8s_call *started;
    yyjson_doc *doc = argc > 6 ? yyjson_read(argv[6], strlen(argv[6]), 0) : NULL;
    yyjson_mut_doc *copy = doc != NULL ? yyjson_doc_mut_copy(doc, NULL) : NULL;
    const struct k8s_apply a = {
        .collection = argv[3],
        .name = argc > 4 ? argv[4] : "",
        .manager = argc > 5 ? argv[5] : "",
        .force = argc > 7,
        .object = yyjson_mut_doc_get_root(copy),
    };
    if (copy == NULL || k8s_apply_start(t->client, &a, answered, t, &started, &err) != 0) {
        fprintf(stderr, "apply: %s\n", copy == NULL ? "no JSON" : err.message);
        exit(2);
    }
    yyjson_mut_doc_free(copy);
    yyjson_doc_free(doc);
}

static void events_closed(void *data)
{
    struct tool *t = data;
    k8s_client_close(t->client, client_closed, t);
}

/* event NAMESPACE NAME COUNT NOTE: says it so often, then ends */
static void event(struct tool *t, int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: watch_tool KUBECONFIG event NAMESPACE NAME COUNT NOTE\n");
        exit(2);
    }
    const struct k8s_reporter reporter = {"shardherd.io/watch-tool", "watch-tool-1"};
    const struct k8s_reference about = {"v1", "ConfigMap", argv[3], argv[4], "0a-1b"};
    t->events = k8s_events_new(t->client, &reporter);
    for (int i = 0; i < atoi(argv[5]); i++)
        k8s_events_emit(t->events, &about, K8S_EVENT_WARNING, "Tested", "Test", argv[6]);
    k8s_events_close(t->events, events_closed, t);
}

/* ---- repeat METHOD PATH [BODY]: a call each 100 ms until SIGTERM ---- */

static void repeat(struct loop_timer *timer, void *data);

static void repeated(const struct k8s_answer *a, void *data)
{
    struct tool *t = data;
    printf("%d %s\n", a->http_status, a->err != NULL ? a->err->message : a->body);
    if (t->ending)
        k8s_client_close(t->client, client_closed, t);
    else
        loop_timer_start(&t->timer, 100 * ENV_NS_PER_MS);
    t->calling = false;
}

static void repeat(struct loop_timer *timer, void *data)
{
    struct tool *t = data;
    struct k8s_call *started;
    char **argv = t->argv;
    const struct k8s_request request = {.method = argv[3],
                                        .path = argv[4],
                                        .body = argv[5],
                                        .body_length = argv[5] != NULL ? strlen(argv[5]) : 0,
                                        .once = true};
    (void)timer;
    t->calling = k8s_call_start(t->client, &request, repeated, t, &started, NULL) == 0;
}

/* ---- lease NAMESPACE NAME IDENTITY: "won", "lost", and "leads" each 20 ms while it may write ---- */

static void won(struct k8s_lease *lease, void *data)
{
    (void)lease;
    (void)data;
    printf("won\n");
}

static void lost(struct k8s_lease *lease, void *data)
{
    (void)lease;
    (void)data;
    printf("lost\n");
}

static void lease_ask(struct loop_timer *timer, void *data)
{
    struct tool *t = data;
    struct env *env = env_system();
    if (k8s_lease_leads(t->lease)) /* asked before each write, right after a pause too */
        printf("leads %llu\n", (unsigned long long)env->monotonic_ns(env));
    loop_timer_start(timer, 20 * ENV_NS_PER_MS);
}

static void lease(struct tool *t)
{
    const struct k8s_lease_options o = {.name_space = t->argv[3],
                                        .name = t->argv[4],
                                        .identity = t->argv[5],
                                        .won = won,
                                        .lost = lost,
                                        .data = t};
    t->lease = k8s_lease_start(t->client, &o);
    loop_timer_init(&t->loop, &t->timer, lease_ask, t);
    lease_ask(&t->timer, t);
}

static void lease_closed(void *data)
{
    struct tool *t = data;
    k8s_client_close(t->client, client_closed, t);
}

static void watch(struct tool *t, int argc, char **argv)
{
    const struct k8s_watch_options o = {
        .path = argv[3],
        .selector = argc > 4 && argv[4][0] != '\0' ? argv[4] : NULL,
        .metadata_only = argc > 5 && strcmp(argv[5], "metadata") == 0,
        .changed = changed,
        .synced = synced,
        .data = t,
    };
    t->quiet = argc > 6;
    t->watch = k8s_watch_start(t->client, &o);
}

int main(int argc, char **argv)
{
    static struct tool t;
    struct err err = {0};
    struct k8s_access *access = NULL;
    if (argc < 4) {
        fprintf(stderr,
                "usage: watch_tool KUBECONFIG watch PATH [SELECTOR] [metadata] | METHOD PATH [BODY]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (kubeconfig_load(argv[1], NULL, &access, &err) != 0 || loop_init(&t.loop, env_system(), &err) != 0) {
        fprintf(stderr, "%s\n", err.message);
        return 2;
    }
    if (getenv("WATCH_TOOL_FRESH_MS") != NULL)
        access->fresh_ns = strtoull(getenv("WATCH_TOOL_FRESH_MS"), NULL, 10) * ENV_NS_PER_MS;
    t.argv = argv;
    t.client = k8s_client_new(&t.loop, access);
    (void)loop_signal_start(&t.loop, &t.term, SIGTERM, caught, &t, NULL);
    if (strcmp(argv[2], "watch") == 0)
        watch(&t, argc, argv);
    else if (strcmp(argv[2], "apply") == 0)
        apply(&t, argc, argv);
    else if (strcmp(argv[2], "event") == 0)
        event(&t, argc, argv);
    else if (strcmp(argv[2], "lease") == 0 && argc == 6)
        lease(&t);
    else if (strcmp(argv[2], "repeat") == 0 && argc >= 5) {
        t.repeating = true;
        loop_timer_init(&t.loop, &t.timer, repeat, &t);
        repeat(&t.timer, &t);
    } else
        call(&t, argv);
    loop_run(&t.loop);
    return loop_fini(&t.loop) != 0 ? 3 : t.result;
}
