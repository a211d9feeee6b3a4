/* links: http k8s */
/*
 * The bytes of a whole answer as the client reads them: chunks, gzip in them, a watch in that. In one piece
 * and byte by byte: the same objects at the end.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "http/http_parse.h"
#include "k8s/inflate.h"
#include "k8s/reflector.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct reading {
    struct reflector *reflector;
    struct inflate *inflate;
    struct reflector_step step;
    bool broken, headed;
};

static void text(const char *bytes, size_t length, void *data)
{
    struct reading *r = data;
    if (!r->step.abort && !r->step.send)
        reflector_data(r->reflector, ENV_NS_PER_S, bytes, length, &r->step);
}

static bool on_head(struct http_parser *p, void *data)
{
    struct reading *r = data;
    const char *encoding = http_parser_field(p, "content-encoding");
    if (encoding != NULL && strcmp(encoding, "gzip") == 0)
        r->inflate = inflate_new();
    r->headed = true;
    reflector_head(r->reflector, ENV_NS_PER_S, http_parser_status(p), NULL, &r->step);
    return true;
}

static bool on_body(struct http_parser *p, const char *bytes, size_t length, void *data)
{
    struct reading *r = data;
    (void)p;
    if (r->inflate == NULL)
        text(bytes, length, r);
    else if (inflate_feed(r->inflate, bytes, length, text, r, NULL) != 0)
        r->broken = true;
    return !r->broken;
}

static const struct http_parser_hooks hooks = {on_head, on_body};

static void fixed_random(struct env *env, void *buf, size_t n)
{
    (void)env;
    memset(buf, 7, n);
}

static uint64_t run(const char *data, size_t size, size_t piece, bool *ret_broken)
{
    struct env env = *env_system();
    env.random = fixed_random;
    struct reflector_server server = {0};
    const struct reflector_options o = {.env = &env, .server = &server, .object_limit = 2048};
    struct reading r = {.reflector = reflector_new(&o)};
    struct http_parser parser;
    enum http_feed fed = HTTP_FEED_MORE;
    reflector_start(r.reflector, ENV_NS_PER_S, &r.step);
    memset(&r.step, 0, sizeof r.step);
    http_parser_init(&parser, false, &hooks, &r);
    for (size_t at = 0; at < size && fed == HTTP_FEED_MORE;) {
        size_t used = 0, n = piece < size - at ? piece : size - at;
        fed = http_parser_feed(&parser, data + at, n, &used);
        at += used;
    }
    struct reflector_facts facts;
    reflector_facts(r.reflector, &facts);
    uint64_t sum = facts.events * 1000 + reflector_store(r.reflector)->count;
    *ret_broken = r.broken;
    reflector_free(r.reflector);
    inflate_free(r.inflate);
    http_parser_free(&parser);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool whole_broken, bytes_broken;
    uint64_t whole = run((const char *)data, size, size + 1, &whole_broken);
    uint64_t bytes = run((const char *)data, size, 1, &bytes_broken);
    if (whole_broken != bytes_broken)
        abort();
    if (!whole_broken &&
        whole != bytes) /* of a broken stream, bytes may see what came before a wrong checksum */
        abort();
    return 0;
}
