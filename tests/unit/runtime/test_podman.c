/*
 * The container back end against an engine that says what the test wants: which requests it makes, what it
 * takes back, what it leaves alone. Against a real engine: tests/live/test_podman.py.
 */
#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/env.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "runtime/local.h"
#include "runtime/podman.h"

#define C "/v1.41/containers/shardherd-shop-s1-0"
#define V "/v1.41/volumes/shardherd-shop-s1-0"
#define I "/v1.41/images/shardherd:t/json"

/* ---- an engine with prepared answers, on a thread of its own ---- */

struct row {
    const char *request; /* "GET /path", without the query */
    int status;
    const char *body; /* %s: the directory */
};

struct fixture {
    struct loop loop;
    struct runtime *rt;
    char directory[64], state[96], socket[96];
    int listener;
    pthread_t thread;
    pthread_mutex_t lock;
    struct row rows[24];
    char requests[4096]; /* "GET /path\n", without the query */
    struct buf bodies;
};

static bool request_read(int fd, struct buf *in)
{
    char bytes[4096];
    size_t wanted = 0;
    for (;;) {
        const char *end = in->length > 0 ? strstr(buf_text(in), "\r\n\r\n") : NULL;
        if (end != NULL) {
            const char *length = strstr(buf_text(in), "Content-Length: ");
            wanted = (size_t)(end + 4 - in->data) +
                     (length != NULL && length < end ? (size_t)atoi(length + 16) : 0);
        }
        if (end != NULL && in->length >= wanted)
            return true;
        ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        if (n <= 0)
            return false;
        buf_add(in, bytes, (size_t)n);
    }
}

static void request_answer(struct fixture *f, int fd, struct buf *in)
{
    char request[300];
    struct buf body = {0}, out = {0};
    int status = 501;
    const char *text = buf_text(in);
    size_t method = strcspn(text, " "), path = strcspn(text + method + 1, " ?");
    snprintf(request, sizeof request, "%.*s", (int)(method + 1 + path), text);
    pthread_mutex_lock(&f->lock);
    snprintf(f->requests + strlen(f->requests), sizeof f->requests - strlen(f->requests), "%s\n", request);
    buf_add(&f->bodies, in->data, in->length);
    for (struct row *row = f->rows; row->request != NULL; row++) {
        if (strcmp(row->request, request) != 0)
            continue;
        status = row->status;
        for (const char *p = row->body; *p != '\0'; p++) {
            if (p[0] == '%' && p[1] == 's')
                buf_add_text(&body, f->state), p++;
            else
                buf_addc(&body, *p);
        }
        break;
    }
    pthread_mutex_unlock(&f->lock);
    buf_printf(&out, "HTTP/1.1 %d x\r\nContent-Length: %zu\r\n\r\n", status, body.length);
    buf_add(&out, buf_text(&body), body.length);
    (void)!send(fd, out.data, out.length, MSG_NOSIGNAL);
    buf_free(&body);
    buf_free(&out);
}

static void *engine_run(void *data)
{
    struct fixture *f = data;
    int fd;
    while ((fd = accept(f->listener, NULL, NULL)) >= 0) {
        struct buf in = {0};
        while (request_read(fd, &in)) {
            request_answer(f, fd, &in);
            buf_reset(&in);
        }
        buf_free(&in);
        close(fd);
    }
    return NULL;
}

/* What is answered from now on; the list ends with an empty row. */
static void engine_says(struct fixture *f, const struct row *rows)
{
    pthread_mutex_lock(&f->lock);
    memset(f->rows, 0, sizeof f->rows);
    for (size_t i = 0; rows[i].request != NULL; i++)
        f->rows[i] = rows[i];
    f->requests[0] = '\0';
    buf_reset(&f->bodies);
    pthread_mutex_unlock(&f->lock);
}
#define SAYS(f, ...) engine_says(f, (const struct row[]){__VA_ARGS__, {NULL, 0, NULL}})

static void requests_are(struct fixture *f, const char *expected)
{
    pthread_mutex_lock(&f->lock);
    char *got = mem_strdup(f->requests);
    pthread_mutex_unlock(&f->lock);
    if (strcmp(got, expected) != 0)
        fail_msg("expected\n%s\ngot\n%s", expected, got);
    free(got);
}

static bool engine_was_asked(struct fixture *f, const char *path)
{
    pthread_mutex_lock(&f->lock);
    bool asked = strstr(f->requests, path) != NULL;
    pthread_mutex_unlock(&f->lock);
    return asked;
}

/* ---- the fixture ---- */

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct err err = {0};
    snprintf(f->directory, sizeof f->directory, "/tmp/shardherd-test-podman-XXXXXX");
    if (mkdtemp(f->directory) == NULL || loop_init(&f->loop, env_system(), &err) != 0)
        return -1;
    snprintf(f->state, sizeof f->state, "%s/containers", f->directory);
    snprintf(f->socket, sizeof f->socket, "%s/api.sock", f->directory);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", f->socket);
    f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(f->listener, (struct sockaddr *)&a, sizeof a) != 0 || listen(f->listener, 8) != 0)
        return -1;
    pthread_mutex_init(&f->lock, NULL);
    if (pthread_create(&f->thread, NULL, engine_run, f) != 0)
        return -1;
    const struct runtime_podman_options o = {.directory = f->state,
                                             .socket = f->socket,
                                             .image = "shardherd:t",
                                             .first_port = 12000 + (getpid() * 7) % 10000};
    if (runtime_podman_open(&f->loop, &o, &f->rt, &err) != 0)
        return -1;
    *state = f;
    return 0;
}

static void set_true(void *flag)
{
    *(bool *)flag = true;
}

static void run_until(struct fixture *f, const bool *done)
{
    while (!*done)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
}

static void close_runtime(struct fixture *f)
{
    bool closed = false;
    runtime_close(f->rt, set_true, &closed);
    assert_false(closed);
    run_until(f, &closed);
    f->rt = NULL;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->rt != NULL)
        close_runtime(f);
    int left = loop_fini(&f->loop);
    (void)shutdown(f->listener, SHUT_RDWR);
    pthread_join(f->thread, NULL);
    close(f->listener);
    (void)local_tree_delete(f->directory, NULL);
    buf_free(&f->bodies);
    pthread_mutex_destroy(&f->lock);
    free(f);
    return left == 0 ? 0 : -1;
}

/* ---- calls ---- */

struct answer {
    bool done;
    struct err err;
    char engine[100];
    int count, pid, port;
    char host[64];
};

static void on_instance(const struct err *err, const struct runtime_instance *i, void *data)
{
    struct answer *a = data;
    assert_false(a->done);
    a->done = true;
    err_copy(&a->err, err);
    if (i != NULL) {
        a->pid = i->pid;
        a->port = i->access.port;
        snprintf(a->host, sizeof a->host, "%s", i->access.host);
    }
}

static void on_done(const struct err *err, void *data)
{
    on_instance(err, NULL, data);
}

static void on_list(const struct err *err, const struct runtime_instance *all, int count, void *data)
{
    struct answer *a = data;
    on_instance(err, count > 0 ? &all[0] : NULL, data);
    a->count = count;
}

static void on_check(const struct err *err, const char *engine, void *data)
{
    struct answer *a = data;
    on_instance(err, NULL, data);
    snprintf(a->engine, sizeof a->engine, "%s", engine != NULL ? engine : "");
}

static struct answer ensure(struct fixture *f, bool must_exist)
{
    static const char *const settings[] = {"work_mem = 7MB", NULL};
    const struct runtime_spec spec = {.name = "shop-s1-0",
                                      .database = "shop",
                                      .shard = "s1",
                                      .owner = "app",
                                      .owner_password = "owners",
                                      .settings = settings,
                                      .min_free_bytes = 1,
                                      .must_exist = must_exist};
    struct answer a = {0};
    assert_int_equal(runtime_ensure(f->rt, &spec, on_instance, &a, &a.err), 0);
    assert_false(a.done);
    run_until(f, &a.done);
    return a;
}

static struct answer remove_it(struct fixture *f)
{
    struct answer a = {0};
    assert_int_equal(runtime_remove(f->rt, "shop-s1-0", on_done, &a, &a.err), 0);
    run_until(f, &a.done);
    return a;
}

static struct answer stop_it(struct fixture *f)
{
    struct answer a = {0};
    assert_int_equal(runtime_stop(f->rt, "shop-s1-0", on_done, &a, &a.err), 0);
    run_until(f, &a.done);
    return a;
}

static struct answer list_all(struct fixture *f)
{
    struct answer a = {0};
    assert_int_equal(runtime_list(f->rt, on_list, &a, &a.err), 0);
    run_until(f, &a.done);
    return a;
}

static struct answer check(struct fixture *f)
{
    struct answer a = {0};
    assert_int_equal(runtime_podman_check(f->rt, on_check, &a, &a.err), 0);
    run_until(f, &a.done);
    return a;
}

/* Files of instances. */
static int entries(const struct fixture *f)
{
    DIR *dir = opendir(f->state);
    int count = 0;
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return count;
}

/* An instance that is known, whole or being made. */
static void know(const struct fixture *f, const char *name, bool creating)
{
    char path[200], text[] = "secret-of-the-superuser\n";
    struct local_record r = {.database = (char[]){"shop"},
                             .shard = (char[]){"s1"},
                             .owner = (char[]){"app"},
                             .host = (char[]){"127.0.0.1"},
                             .port = 11999,
                             .creating = creating};
    r.name = mem_strdup(name);
    snprintf(path, sizeof path, "%s/%s", f->state, name);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(local_record_save(path, &r, NULL), 0);
    free(r.name);
    snprintf(path, sizeof path, "%s/%s/password", f->state, name);
    assert_int_equal(local_file_write(path, text, 0600, NULL, NULL), 0);
}

#define expect(a, wanted, words)                                                                             \
    do {                                                                                                     \
        if ((a).err.code != (wanted) || strstr((a).err.message, (words)) == NULL)                            \
            fail_msg("%s (%s)", (a).err.message, err_code_name((a).err.code));                               \
    } while (0)

#define OURS    "{\"State\":{\"Status\":\"running\",\"Running\":true},\"Config\":{\"Labels\":{" LABEL "}}}"
#define LABEL   "\"shardherd.io/directory\":\"%s\",\"shardherd.io/instance\":\"shop-s1-0\""
#define FOREIGN "{\"State\":{\"Status\":\"running\",\"Running\":true},\"Config\":{\"Labels\":{\"a\":\"b\"}}}"
#define ENDED                                                                                                \
    "{\"State\":{\"Status\":\"exited\",\"Running\":false,\"ExitCode\":3},\"Config\":{\"Labels\":{" LABEL "}" \
    "}"                                                                                                      \
    "}"
#define VOLUME "{\"Name\":\"x\",\"Mountpoint\":\"/nowhere\",\"Labels\":{" LABEL "}}"
#define NONE   "{\"message\":\"no such thing\"}"
#define PODMAN_4                                                                                             \
    "{\"Components\":[{\"Name\":\"Podman Engine\"}],\"Version\":\"4.3.1\",\"ApiVersion\":\"1.41\"}"

/* ---- check ---- */

static void test_check(void **state)
{
    struct fixture *f = *state;
    SAYS(f, {"GET /version", 200, PODMAN_4}, {"GET " I, 200, "{}"});
    struct answer a = check(f);
    expect(a, ERRC_NONE, "");
    assert_string_equal(a.engine, "Podman Engine 4.3.1");
    SAYS(f, {"GET /version", 200, PODMAN_4}, {"GET " I, 404, NONE});
    a = check(f);
    expect(a, ERRC_UNSUPPORTED, "image shardherd:t is not there");
    assert_non_null(strstr(a.err.message, "podman build -f deploy/Containerfile"));
    assert_string_equal(a.engine, "Podman Engine 4.3.1");
    SAYS(f, {"GET /version", 200, "<html>"});
    a = check(f);
    expect(a, ERRC_PROTOCOL, "neither podman nor Docker");
    assert_string_equal(a.engine, "");
    SAYS(f, {"GET /version", 200, "{\"Version\":\"29\",\"ApiVersion\":\"1.52\",\"MinAPIVersion\":\"1.44\"}"},
         {"GET /v1.44/images/shardherd:t/json", 200, "{}"});
    a = check(f);
    expect(a, ERRC_NONE, "");
    assert_string_equal(a.engine, "Docker Engine 29");
}

static void test_nobody_there(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(unlink(f->socket), 0);
    struct answer a = check(f);
    expect(a, ERRC_UNAVAILABLE, f->socket);
    assert_non_null(strstr(a.err.message, "runtime.podman_socket"));
    a = ensure(f, false);
    expect(a, ERRC_UNAVAILABLE, "instance shop-s1-0: inspect the container: ");
    assert_int_equal(entries(f), 0);
}

static void test_options(void **state)
{
    struct fixture *f = *state;
    struct runtime_podman_options o = {
        .directory = f->state, .socket = "unix:///x", .image = "x", .network = "shards"};
    struct runtime *rt;
    struct answer a = {0};
    assert_int_equal(runtime_podman_open(&f->loop, &o, &rt, &a.err), ERRC_INVALID);
    expect(a, ERRC_INVALID, "containers in the network \"shards\" do not reach 127.0.0.1");
    o.network = NULL;
    o.image = "x y";
    assert_int_equal(runtime_podman_open(&f->loop, &o, &rt, &a.err), ERRC_INVALID);
    o.image = "x";
    o.ulimits = "x";
    assert_int_equal(runtime_podman_open(&f->loop, &o, &rt, &a.err), ERRC_INVALID);
    o.ulimits = NULL;
    o.socket = "tcp://127.0.0.1:2375";
    assert_int_equal(runtime_podman_open(&f->loop, &o, &rt, &a.err), ERRC_INVALID);
    o.socket = "/x";
    o.address = "0.0.0.0";
    assert_int_equal(runtime_podman_open(&f->loop, &o, &rt, &a.err), ERRC_INVALID);
}

/* ---- ensure, where it does not come to an end ---- */

static void test_no_image(void **state)
{
    struct fixture *f = *state;
    SAYS(f, {"GET " C "/json", 404, NONE}, {"GET " I, 404, NONE});
    struct answer a = ensure(f, false);
    expect(a, ERRC_UNSUPPORTED, "instance shop-s1-0: image shardherd:t is not there");
    requests_are(f, "GET " C "/json\nGET " I "\n");
    assert_int_equal(entries(f), 0);
}

static void test_must_exist(void **state)
{
    struct fixture *f = *state;
    SAYS(f, {"GET /", 200, ""});
    struct answer a = ensure(f, true);
    expect(a, ERRC_NOT_FOUND, "no such instance");
    requests_are(f, "");
}

static void test_what_is_not_ours_stays(void **state)
{
    struct fixture *f = *state;
    SAYS(f, {"GET " C "/json", 200, FOREIGN});
    struct answer a = ensure(f, false);
    expect(a, ERRC_CONFLICT, "the container shardherd-shop-s1-0 belongs to somebody else");
    requests_are(f, "GET " C "/json\n");
    SAYS(f, {"GET " C "/json", 404, NONE}, {"GET " I, 200, "{}"}, {"GET " V, 200, "{\"Labels\":null}"});
    a = ensure(f, false);
    expect(a, ERRC_CONFLICT, "the volume shardherd-shop-s1-0 belongs to somebody else");
    requests_are(f, "GET " C "/json\nGET " I "\nGET " V "\n");
    SAYS(f, {"GET " C "/json", 200, FOREIGN}, {"GET " V, 200, "{\"Labels\":null}"});
    a = remove_it(f);
    expect(a, ERRC_NONE, "");
    requests_are(f, "GET " C "/json\nGET " V "\n");
    a = stop_it(f);
    expect(a, ERRC_NONE, "");
    assert_int_equal(entries(f), 0);
}

/* Rows may be in it: neither used without a password nor wiped. */
static void test_volume_without_a_password_and_the_other_way_round(void **state)
{
    struct fixture *f = *state;
    SAYS(f, {"GET " C "/json", 404, NONE}, {"GET " I, 200, "{}"}, {"GET " V, 200, VOLUME});
    struct answer a = ensure(f, false);
    expect(a, ERRC_CORRUPT, "its password is not in");
    SAYS(f, {"GET " C "/json", 200, OURS});
    a = ensure(f, false);
    expect(a, ERRC_CORRUPT, "its password is not in");
    know(f, "shop-s1-0", false);
    SAYS(f, {"GET " C "/json", 404, NONE}, {"GET " I, 200, "{}"}, {"GET " V, 404, NONE});
    a = ensure(f, false);
    expect(a, ERRC_CORRUPT, "its volume shardherd-shop-s1-0 is gone");
    assert_int_equal(entries(f), 1); /* what is known of it stays */
}

#define MAKE                                                                                                 \
    {"GET " C "/json", 404, NONE}, {"GET " I, 200, "{}"}, {"GET " V, 404, NONE},                             \
    {                                                                                                        \
        "POST /v1.41/volumes/create", 201, VOLUME                                                            \
    }

static void test_failed_creation_is_undone(void **state)
{
    struct fixture *f = *state;
    SAYS(f, MAKE, {"POST /v1.41/containers/create", 500, "{\"message\":\"no space left\"}"});
    struct answer a = ensure(f, false);
    expect(a, ERRC_IO, "instance shop-s1-0: create the container: no space left (status 500)");
    requests_are(f, "GET " C "/json\nGET " I "\nGET " V "\nPOST /v1.41/volumes/create\n"
                    "POST /v1.41/containers/create\nGET " C "/json\nGET " V "\n");
    assert_int_equal(entries(f), 0);
}

static void test_failed_undoing_is_told(void **state)
{
    struct fixture *f = *state;
    SAYS(f, MAKE, {"POST /v1.41/containers/create", 500, "{\"message\":\"no space left\"}"});
    struct answer a = {0};
    const struct runtime_spec spec = {
        .name = "shop-s1-0", .database = "shop", .shard = "s1", .owner = "app", .min_free_bytes = 1};
    assert_int_equal(runtime_ensure(f->rt, &spec, on_instance, &a, &a.err), 0);
    while (!engine_was_asked(f, "/volumes/create"))
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    SAYS(f, {"POST /v1.41/containers/create", 500, "{\"message\":\"no space left\"}"},
         {"GET " C "/json", 500, "{\"message\":\"broken\"}"});
    run_until(f, &a.done);
    expect(a, ERRC_IO,
           "no space left (status 500); what was made could not be removed: inspect the container");
    assert_int_equal(entries(f), 1);
    SAYS(f, {"GET " C "/json", 404, NONE}, {"GET " V, 200, VOLUME}, {"DELETE " V, 204, ""});
    a = remove_it(f);
    expect(a, ERRC_NONE, "");
    assert_int_equal(entries(f), 0);
}

/* The password is in the archive and nowhere else. */
static void test_secret_goes_into_the_archive_only(void **state)
{
    struct fixture *f = *state;
    know(f, "shop-s1-0", false);
    SAYS(f, {"GET " C "/json", 404, NONE}, {"GET " I, 200, "{}"}, {"GET " V, 200, VOLUME},
         {"POST /v1.41/containers/create", 201, "{}"}, {"PUT " C "/archive", 403, "{\"message\":\"no\"}"});
    struct answer a = ensure(f, false);
    expect(a, ERRC_UNAVAILABLE, "put password and settings into the volume: no (status 403)");
    requests_are(f,
                 "GET " C "/json\nGET " I "\nGET " V "\nPOST /v1.41/containers/create\nPUT " C "/archive\n");
    const char *all = f->bodies.data, *end = all + f->bodies.length;
    const char *put = memmem(all, f->bodies.length, "PUT " C "/archive?path=/var/lib/postgresql ",
                             strlen("PUT " C "/archive?path=/var/lib/postgresql "));
    assert_non_null(put);
    assert_null(memmem(all, (size_t)(put - all), "secret-of-the-superuser", 23));
    assert_non_null(memmem(put, (size_t)(end - put), "secret-of-the-superuser\n", 24));
    assert_non_null(memmem(put, (size_t)(end - put), "work_mem = 7MB\n", 15));
    assert_int_equal(entries(f), 1);
}

static void test_container_that_ends_tells_why(void **state)
{
    struct fixture *f = *state;
    know(f, "shop-s1-0", false);
    SAYS(f, {"GET " C "/json", 200, OURS}, {"GET " C "/logs", 200, "FATAL:  no more disk\n"});
    struct answer a = {0};
    const struct runtime_spec spec = {.name = "shop-s1-0", .database = "shop", .shard = "s1", .owner = "app"};
    assert_int_equal(runtime_ensure(f->rt, &spec, on_instance, &a, &a.err), 0);
    while (!engine_was_asked(f, "/json")) /* it is believed to run */
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    SAYS(f, {"GET " C "/json", 200, ENDED}, {"GET " C "/logs", 200, "FATAL:  no more disk\n"});
    run_until(f, &a.done);
    expect(a, ERRC_IO, "its container ended with exit code 3; its last words: FATAL:  no more disk");
    assert_int_equal(entries(f), 1); /* it was whole before */
}

static void test_stopped_container_is_made_anew_when_the_options_changed(void **state)
{
    struct fixture *f = *state;
    know(f, "shop-s1-0", false);
    SAYS(f, {"GET " C "/json", 200, ENDED}, {"DELETE " C, 204, ""}, {"GET " I, 200, "{}"},
         {"GET " V, 200, VOLUME}, {"POST /v1.41/containers/create", 500, "{\"message\":\"enough\"}"});
    struct answer a = ensure(f, true);
    expect(a, ERRC_IO, "enough");
    requests_are(f, "GET " C "/json\nDELETE " C "\nGET " I "\nGET " V "\nPOST /v1.41/containers/create\n");
    assert_int_equal(entries(f), 1);
}

static void test_interrupted_creation_is_wiped_first(void **state)
{
    struct fixture *f = *state;
    know(f, "shop-s1-0", true);
    SAYS(f, {"GET " C "/json", 404, NONE}, {"GET " V, 200, VOLUME}, {"DELETE " V, 204, ""},
         {"GET " I, 404, NONE});
    struct answer a = ensure(f, false);
    expect(a, ERRC_UNSUPPORTED, "image");
    requests_are(f, "GET " C "/json\nGET " V "\nDELETE " V "\nGET " C "/json\nGET " I "\n");
    assert_int_equal(entries(f), 0);
}

static void test_paused_and_of_another_shard(void **state)
{
    struct fixture *f = *state;
    know(f, "shop-s1-0", false);
    SAYS(f, {"GET " C "/json", 200,
             "{\"State\":{\"Running\":true,\"Paused\":true},\"Config\":{\"Labels\":{" LABEL "}}}"});
    struct answer a = ensure(f, true);
    expect(a, ERRC_CONFLICT, "podman unpause shardherd-shop-s1-0");
    const struct runtime_spec other = {.name = "shop-s1-0", .database = "shop", .shard = "s2"};
    a = (struct answer){0};
    assert_int_equal(runtime_ensure(f->rt, &other, on_instance, &a, &a.err), 0);
    run_until(f, &a.done);
    expect(a, ERRC_CONFLICT, "it exists for database \"shop\", shard \"s1\"");
}

/* The runtime closes while a server that never comes is waited for: what was made goes. */
static void test_close_undoes(void **state)
{
    struct fixture *f = *state;
    struct answer a = {0};
    const struct runtime_spec spec = {
        .name = "shop-s1-0", .database = "shop", .shard = "s1", .owner = "app", .min_free_bytes = 1};
    SAYS(f, MAKE, {"POST /v1.41/containers/create", 201, "{}"}, {"PUT " C "/archive", 200, ""},
         {"POST " C "/start", 204, ""});
    assert_int_equal(runtime_ensure(f->rt, &spec, on_instance, &a, &a.err), 0);
    while (!engine_was_asked(f, "/start"))
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    SAYS(f, {"GET " C "/json", 200, OURS}, {"DELETE " C, 204, ""}, {"GET " V, 200, VOLUME},
         {"DELETE " V, 204, ""});
    close_runtime(f);
    assert_true(a.done);
    expect(a, ERRC_CANCELED, "closed");
    assert_int_equal(entries(f), 0);
    pthread_mutex_lock(&f->lock);
    assert_non_null(strstr(f->requests, "DELETE " C "\n"));
    assert_non_null(strstr(f->requests, "DELETE " V "\n"));
    pthread_mutex_unlock(&f->lock);
}

/* ---- list, stop, remove ---- */

static void test_list(void **state)
{
    struct fixture *f = *state;
    SAYS(f, {"GET /v1.41/containers/json", 200, "[]"});
    struct answer a = list_all(f);
    assert_int_equal(a.count, 0);
    know(f, "shop-s1-0", false);
    know(f, "shop-s2-0", true); /* is being made */
    a = list_all(f);
    assert_int_equal(a.count, 1);
    assert_int_equal(a.pid, 0); /* no container: it can be made again */
    assert_int_equal(a.port, 11999);
    assert_string_equal(a.host, "127.0.0.1");
    SAYS(f, {"GET /v1.41/containers/json", 200, "[{\"State\":\"running\",\"Labels\":{" LABEL "}}]"});
    assert_int_not_equal(list_all(f).pid, 0);
    SAYS(f, {"GET /v1.41/containers/json", 200, "[{\"State\":\"exited\",\"Labels\":{" LABEL "}}]"});
    assert_int_equal(list_all(f).pid, 0);
    SAYS(f, {"GET /v1.41/containers/json", 200,
             "[{\"State\":\"running\",\"Labels\":{\"shardherd.io/directory\":\"/other\","
             "\"shardherd.io/instance\":\"shop-s1-0\"}}]"});
    assert_int_equal(list_all(f).pid, 0); /* another manager's */
    SAYS(f, {"GET /v1.41/containers/json", 200, "{}"});
    a = list_all(f);
    expect(a, ERRC_PROTOCOL, "no list");
    SAYS(f, {"GET /v1.41/containers/json", 500, "{\"message\":\"broken\"}"});
    a = list_all(f);
    expect(a, ERRC_IO, "list the containers: broken");
}

static void test_stop_and_remove(void **state)
{
    struct fixture *f = *state;
    know(f, "shop-s1-0", false);
    SAYS(f, {"GET " C "/json", 200, OURS}, {"POST " C "/stop", 304, ""});
    struct answer a = stop_it(f);
    expect(a, ERRC_NONE, "");
    SAYS(f, {"GET " C "/json", 200, OURS}, {"POST " C "/stop", 500, "{\"message\":\"stuck\"}"});
    a = stop_it(f);
    expect(a, ERRC_IO, "stop instance shop-s1-0: stop the container: stuck");
    SAYS(f, {"GET " C "/json", 200, OURS}, {"DELETE " C, 500, "{\"message\":\"busy\"}"});
    a = remove_it(f);
    expect(a, ERRC_IO, "remove instance shop-s1-0: delete the container: busy");
    assert_int_equal(entries(f), 1); /* still known, so that it can be tried again */
    SAYS(f, {"GET " C "/json", 200, OURS}, {"DELETE " C, 204, ""}, {"GET " V, 200, VOLUME},
         {"DELETE " V, 204, ""});
    a = remove_it(f);
    expect(a, ERRC_NONE, "");
    requests_are(f, "GET " C "/json\nDELETE " C "\nGET " V "\nDELETE " V "\n");
    assert_int_equal(entries(f), 0);
    SAYS(f, {"GET " C "/json", 404, NONE}, {"GET " V, 404, NONE});
    a = remove_it(f);
    expect(a, ERRC_NONE, "");
    a = stop_it(f);
    expect(a, ERRC_NONE, "");
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_check),
        TEST(test_nobody_there),
        TEST(test_options),
        TEST(test_no_image),
        TEST(test_must_exist),
        TEST(test_what_is_not_ours_stays),
        TEST(test_volume_without_a_password_and_the_other_way_round),
        TEST(test_failed_creation_is_undone),
        TEST(test_failed_undoing_is_told),
        TEST(test_secret_goes_into_the_archive_only),
        TEST(test_container_that_ends_tells_why),
        TEST(test_stopped_container_is_made_anew_when_the_options_changed),
        TEST(test_interrupted_creation_is_wiped_first),
        TEST(test_paused_and_of_another_shard),
        TEST(test_close_undoes),
        TEST(test_list),
        TEST(test_stop_and_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
