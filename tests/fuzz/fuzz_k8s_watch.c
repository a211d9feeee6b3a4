/* links: k8s */
/*
 * A watch and a list as an API server might send them, in one piece and byte by byte: the reflector ends with
 * the same objects and versions, and never holds one that was not sent.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "k8s/reflector.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fixed_random(struct env *env, void *buf, size_t n)
{
    (void)env;
    memset(buf, 7, n);
}

static void print(const struct k8s_object *object, void *data)
{
    /* the order is that of the table: add, so that it does not matter */
    uint64_t *sum = data;
    uint64_t h = 14695981039346656037ull;
    for (const char *p = object->key; *p != '\0'; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211ull;
    for (const char *p = object->version; *p != '\0'; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211ull;
    *sum += h;
}

static uint64_t run(const char *text, size_t size, size_t piece, bool watch_list,
                    struct reflector_facts *facts)
{
    struct env env = *env_system();
    env.random = fixed_random;
    struct reflector_server server = {.no_watch_list = !watch_list};
    const struct reflector_options o = {.env = &env, .server = &server, .object_limit = 2048};
    struct reflector *r = reflector_new(&o);
    struct reflector_step step;
    uint64_t now = ENV_NS_PER_S, sum = 0;
    reflector_start(r, now, &step);
    reflector_head(r, now, 200, NULL, &step);
    for (size_t at = 0; at < size && !step.abort && !step.send; at += piece) {
        size_t n = piece < size - at ? piece : size - at;
        reflector_data(r, now, text + at, n, &step);
    }
    if (!step.abort && !step.send)
        reflector_end(r, now, NULL, &step);
    reflector_facts(r, facts);
    object_store_each(reflector_store(r), print, &sum);
    sum += reflector_store(r)->count;
    reflector_stop(r, &step);
    reflector_free(r);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int watch_list = 0; watch_list < 2; watch_list++) {
        struct reflector_facts whole, bytes;
        uint64_t a = run((const char *)data, size, size + 1, watch_list != 0, &whole);
        uint64_t b = run((const char *)data, size, 1, watch_list != 0, &bytes);
        if (a != b || strcmp(whole.state, bytes.state) != 0)
            abort();
    }
    return 0;
}
