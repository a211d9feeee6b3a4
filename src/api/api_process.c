/* Answers about this process: is it alive, is it ready, what is it, how long are its turns. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "api/api_impl.h"

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

/* From procfs, so without touching a disk; 0 if it is not there. */
static uint64_t resident_bytes(void)
{
    unsigned long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%lu %lu", &total, &resident) != 2)
        resident = 0;
    fclose(f);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void print_process(yyjson_mut_doc *doc, yyjson_mut_val *root)
{
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    yyjson_mut_val *p = yyjson_mut_obj_add_obj(doc, root, "process");
    json_real(doc, p, "cpu_seconds", seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime));
    json_real(doc, p, "user_seconds", seconds_of(usage.ru_utime));
    json_real(doc, p, "system_seconds", seconds_of(usage.ru_stime));
    json_uint64(doc, p, "rss_bytes", resident_bytes());
    json_uint64(doc, p, "rss_max_bytes", (uint64_t)usage.ru_maxrss * 1024); /* Linux counts KiB */
}

void api_get_debug_loop(struct api_call *call)
{
    const struct loop *loop = call->api->services.loop;
    static const struct {
        const char *name;
        double q;
    } shares[] = {{"p50", 0.5}, {"p99", 0.99}, {"p99_9", 0.999}, {"max", 1}};
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    json_uint64(doc, root, "turns", loop->turns.count);
    yyjson_mut_val *turn = yyjson_mut_obj_add_obj(doc, root, "turn_us");
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++)
        json_uint64(doc, turn, shares[i].name, hist_quantile(&loop->turns, shares[i].q));
    json_uint64(doc, root, "longest_turn_us", loop->longest_turn_us);
    yyjson_mut_obj_add_int(doc, root, "handles", loop->handles);
    yyjson_mut_obj_add_int(doc, root, "jobs", loop->jobs);
    print_process(doc, root);
    api_respond(call, 200, doc);
}

/* The texts of kube-apiserver: "[+]name ok", "[-]name failed: why". */
static bool components_print(struct api_call *call, struct buf *verbose, struct buf *failed)
{
    const struct api_services *s = &call->api->services;
    struct api_component c = {0};
    for (unsigned n = 0; s->component != NULL && s->component(s->data, n, &c); n++) {
        const char *message = c.message != NULL && c.message[0] != '\0' ? c.message : NULL;
        if (c.ok)
            buf_printf(verbose, "[+]%s ok%s%s\n", c.name, message != NULL ? ": " : "",
                       message != NULL ? message : "");
        else
            buf_printf(verbose, "[-]%s failed: %s\n", c.name, message != NULL ? message : "not ready");
        if (!c.ok)
            buf_printf(failed, "%s%s: %s", failed->length > 0 ? "; " : "", c.name,
                       message != NULL ? message : "not ready");
        memset(&c, 0, sizeof c);
    }
    return failed->length == 0;
}

void api_get_readyz(struct api_call *call)
{
    struct buf text = {0}, failed = {0};
    bool verbose;
    if (!api_query_flag(call, "verbose", &verbose))
        return;
    bool ready = components_print(call, &text, &failed);
    buf_printf(&text, "readyz check %s\n", ready ? "passed" : "failed");
    if (verbose)
        http_respond(call->ex, ready ? 200 : 503, "text/plain; charset=utf-8", text.data, text.length);
    else if (ready)
        http_respond(call->ex, 200, "text/plain; charset=utf-8", "ok\n", 3);
    else
        http_problem(call->ex, 503, "not_ready", "not ready: %s", buf_text(&failed));
    buf_free(&text);
    buf_free(&failed);
}

/* That we answer at all is the proof. */
void api_get_livez(struct api_call *call)
{
    bool verbose;
    if (!api_query_flag(call, "verbose", &verbose))
        return;
    const char *text = verbose ? "[+]loop ok\nlivez check passed\n" : "ok\n";
    http_respond(call->ex, 200, "text/plain; charset=utf-8", text, strlen(text));
}

void api_get_openapi(struct api_call *call)
{
    struct http_piece piece = {api_openapi(), strlen(api_openapi())};
    http_respond_pieces(call->ex, 200, "application/json", &piece, 1, NULL, NULL);
}

void api_get_version(struct api_call *call)
{
    yyjson_mut_doc *doc;
    yyjson_mut_val *root = api_object(&doc);
    json_text(doc, root, "version", call->api->services.version);
    json_text(doc, root, "commit", call->api->services.commit);
    json_text(doc, root, "api", "v1");
    yyjson_mut_obj_add_bool(doc, root, "leader", call->api->services.operations->services.term > 0);
    json_int64(doc, root, "term", call->api->services.operations->services.term);
    api_respond(call, 200, doc);
}

void api_get_metrics(struct api_call *call)
{
    const struct api_services *s = &call->api->services;
    if (s->metrics != NULL)
        s->metrics(s->data, call->ex);
    else
        http_problem(call->ex, 404, "not_found", "no metrics are served here");
}
