/* What goes to the engine's API and what comes back, without an engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <yyjson.h>

#include "base/mem.h"
#include "runtime/podman_wire.h"

static const struct podman_wanted plain = {.instance = "shop-s1-0",
                                           .database = "shop",
                                           .shard = "s1",
                                           .directory = "/var/lib/shardherd/containers",
                                           .image = "shardherd:0.1.0",
                                           .network = "host",
                                           .address = "127.0.0.1",
                                           .port = 25432};

/* ---- requests ---- */

static bool has(const char *json, const char *text)
{
    if (strstr(json, text) != NULL)
        return true;
    print_message("%s lacks %s\n", json, text);
    return false;
}

static void test_container_in_the_host_network(void **state)
{
    (void)state;
    char *json = podman_container_body(&plain);
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    assert_non_null(doc);
    assert_true(has(json, "\"Image\":\"shardherd:0.1.0\""));
    assert_true(has(json, "\"User\":\"999:999\""));
    assert_true(has(json, "\"Entrypoint\":[\"shardherd\"]"));
    assert_true(has(json, "\"--listen=127.0.0.1\",\"--port=25432\""));
    assert_true(has(json, "\"--password-file=/var/lib/postgresql/shardherd/password\""));
    assert_true(has(json, "\"Binds\":[\"shardherd-shop-s1-0:/var/lib/postgresql\"]"));
    assert_true(has(json, "\"NetworkMode\":\"host\""));
    assert_true(has(json, "\"ReadonlyRootfs\":true"));
    assert_true(has(json, "\"CapDrop\":[\"ALL\"]"));
    assert_true(has(json, "\"SecurityOpt\":[\"no-new-privileges\"]"));
    assert_true(has(json, "\"shardherd.io/directory\":\"/var/lib/shardherd/containers\""));
    assert_true(has(json, "\"shardherd.io/instance\":\"shop-s1-0\""));
    assert_null(strstr(json, "PortBindings"));
    assert_null(strstr(json, "\"Env\""));
    assert_null(strstr(json, "Memory")); /* no limit that nobody asked for */
    assert_null(strstr(json, "PidsLimit"));
    assert_null(strstr(json, "Ulimits"));
    yyjson_doc_free(doc);
    free(json);
}

static void test_container_with_a_network_and_limits(void **state)
{
    (void)state;
    struct podman_wanted w = plain;
    w.network = "shards";
    w.address = "10.0.0.5";
    w.memory_bytes = 1ull << 30;
    w.cpus = 1.5;
    w.pids = 500;
    w.ulimits = "nofile=1024:4096,nproc=1000";
    char *json = podman_container_body(&w);
    assert_true(has(json, "\"--listen=*\",\"--port=5432\""));
    assert_true(has(json, "\"ExposedPorts\":{\"5432/tcp\":{}}"));
    assert_true(
        has(json, "\"PortBindings\":{\"5432/tcp\":[{\"HostIp\":\"10.0.0.5\",\"HostPort\":\"25432\"}]}"));
    assert_true(has(json, "\"Memory\":1073741824"));
    assert_true(has(json, "\"NanoCpus\":1500000000"));
    assert_true(has(json, "\"PidsLimit\":500"));
    assert_true(has(json, "\"Ulimits\":[{\"Name\":\"nofile\",\"Soft\":1024,\"Hard\":4096},"
                          "{\"Name\":\"nproc\",\"Soft\":1000,\"Hard\":1000}]"));
    free(json);
}

/* It is the same for the same, and another one for each change that needs another container. */
static void test_revision(void **state)
{
    (void)state;
    char first[17], again[17];
    struct podman_wanted rows[5] = {plain, plain, plain, plain, plain};
    podman_revision(&plain, first);
    podman_revision(&plain, again);
    assert_string_equal(first, again);
    rows[0].image = "shardherd:0.2.0";
    rows[1].memory_bytes = 1;
    rows[2].port = 25433;
    rows[3].network = "shards";
    rows[4].ulimits = "nofile=1:1";
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        podman_revision(&rows[i], again);
        assert_string_not_equal(first, again);
    }
    char *json = podman_container_body(&plain),
         *label = mem_printf("\"shardherd.io/revision\":\"%s\"", first);
    assert_true(has(json, label));
    free(label);
    free(json);
}

static void test_volume_and_filters(void **state)
{
    (void)state;
    char *json = podman_volume_body(&plain);
    assert_true(has(json, "\"Name\":\"shardherd-shop-s1-0\""));
    assert_true(has(json, "\"shardherd.io/directory\":\"/var/lib/shardherd/containers\""));
    assert_null(strstr(json, "revision"));
    free(json);
    char *query = podman_filters("/a b");
    assert_string_equal(query,
                        "filters=%7B%22label%22%3A%5B%22shardherd%2Eio%2Fdirectory%3D%2Fa%20b%22%5D%7D");
    free(query);
}

static void test_checks(void **state)
{
    (void)state;
    static const char *const good[] = {"nofile=1024:4096", "nofile=1024", "nofile=-1:-1,nproc=1000:1000",
                                       "nofile=1:2, nproc=3"};
    static const char *const bad[] = {"nofile",     "=1",       "nofile=",     "nofile=2:1",
                                      "nofile=1:x", "NOFILE=1", "nofile=1:2:3"};
    static const char *const images[] = {"shardherd:0.1.0", "localhost/shardherd",
                                         "quay.io:5000/a/b@sha256:00ff"};
    static const char *const no_images[] = {"", "a b", "../x", "/x", "x?y", "x%2f", "x\r\ny"};
    struct err err = {0};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_int_equal(podman_ulimits_check(good[i], &err), 0);
    assert_int_equal(podman_ulimits_check(NULL, &err), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(podman_ulimits_check(bad[i], &err), ERRC_INVALID);
    for (size_t i = 0; i < sizeof images / sizeof images[0]; i++)
        assert_int_equal(podman_image_check(images[i], &err), 0);
    for (size_t i = 0; i < sizeof no_images / sizeof no_images[0]; i++)
        assert_int_equal(podman_image_check(no_images[i], &err), ERRC_INVALID);
}

/* tar itself reads it. */
static void test_archive(void **state)
{
    (void)state;
    static const struct podman_file files[] = {{"password", "secret\n"}, {"settings.conf", ""}};
    char directory[] = "/tmp/shardherd-test-podman-XXXXXX", command[300], line[200] = "";
    struct buf tar = {0};
    struct stat st;
    assert_non_null(mkdtemp(directory));
    podman_archive(&tar, "shardherd", files, 2, 1700000000000000);
    assert_int_equal(tar.length % 512, 0);
    assert_string_equal(tar.data + 512 + 108, "0001747"); /* of the file: 999 */
    assert_string_equal(tar.data + 512 + 116, "0001747");
    snprintf(command, sizeof command, "tar -C %s --no-same-owner -xpf -", directory);
    FILE *pipe = popen(command, "w");
    assert_int_equal(fwrite(tar.data, 1, tar.length, pipe), tar.length);
    assert_int_equal(pclose(pipe), 0);
    snprintf(command, sizeof command, "%s/shardherd", directory);
    assert_int_equal(stat(command, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    snprintf(command, sizeof command, "%s/shardherd/password", directory);
    assert_int_equal(stat(command, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_mtime, 1700000000);
    FILE *file = fopen(command, "r");
    assert_non_null(fgets(line, sizeof line, file));
    assert_string_equal(line, "secret\n");
    fclose(file);
    assert_int_equal(unlink(command), 0);
    snprintf(command, sizeof command, "%s/shardherd/settings.conf", directory);
    assert_int_equal(stat(command, &st), 0);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(unlink(command), 0);
    snprintf(command, sizeof command, "%s/shardherd", directory);
    assert_int_equal(rmdir(command), 0);
    assert_int_equal(rmdir(directory), 0);
    buf_free(&tar);
}

static void test_settings(void **state)
{
    (void)state;
    char first[] = "work_mem = 8MB", *lines[] = {first, NULL};
    struct buf out = {0};
    podman_settings(&out, 0, lines);
    assert_string_equal(buf_text(&out), "work_mem = 8MB\n");
    buf_reset(&out);
    podman_settings(&out, 1ull << 30, lines);
    assert_non_null(strstr(buf_text(&out), "shared_buffers = '262144kB'"));
    assert_non_null(strstr(buf_text(&out), "\nwork_mem = 8MB\n")); /* after ours: it wins */
    buf_free(&out);
}

/* ---- answers ---- */

static yyjson_doc *read_json(const char *json)
{
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    assert_non_null(doc);
    return doc;
}

static void test_engines(void **state)
{
    (void)state;
    static const struct {
        const char *json, *name;
        unsigned minor;
    } rows[] = {
        {"{\"Components\":[{\"Name\":\"Podman Engine\",\"Version\":\"4.3.1\"}],\"Version\":\"4.3.1\","
         "\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.24\"}",
         "Podman Engine 4.3.1", 41},
        {"{\"Components\":[{\"Name\":\"Engine\"}],\"Version\":\"29.0.0\",\"ApiVersion\":\"1.52\","
         "\"MinAPIVersion\":\"1.44\"}",
         "Docker Engine 29.0.0", 44},
        {"{\"Version\":\"20.10.5\",\"ApiVersion\":\"1.40\"}", "Docker Engine 20.10.5", 40},
        {"{\"Version\":\"x\"}", NULL, 0},
        {"{\"Version\":\"x\",\"ApiVersion\":\"2.1\"}", NULL, 0},
        {"[]", NULL, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct podman_engine engine = {0};
        struct err err = {0};
        yyjson_doc *doc = read_json(rows[i].json);
        int rc = podman_engine_parse(yyjson_doc_get_root(doc), &engine, &err);
        assert_int_equal(rc, rows[i].name != NULL ? 0 : ERRC_PROTOCOL);
        assert_string_equal(engine.name, rows[i].name != NULL ? rows[i].name : "");
        assert_int_equal(engine.minor, rows[i].minor);
        yyjson_doc_free(doc);
    }
}

static void test_containers(void **state)
{
    (void)state;
    struct podman_container c;
    struct err err = {0};
    yyjson_doc *doc =
        read_json("{\"Id\":\"x\",\"RestartCount\":3,\"State\":{\"Status\":\"exited\",\"Running\":false,"
                  "\"ExitCode\":125,\"Error\":\"no such file\"},\"Config\":{\"Labels\":{"
                  "\"shardherd.io/directory\":\"/d\",\"shardherd.io/instance\":\"a\","
                  "\"shardherd.io/revision\":\"r\"}}}");
    assert_int_equal(podman_container_parse(yyjson_doc_get_root(doc), &c, &err), 0);
    assert_string_equal(c.directory, "/d");
    assert_string_equal(c.instance, "a");
    assert_string_equal(c.revision, "r");
    assert_string_equal(c.status, "exited");
    assert_false(c.running);
    assert_int_equal(c.exit_code, 125);
    assert_int_equal(c.restarts, 3);
    assert_string_equal(c.error, "no such file");
    yyjson_doc_free(doc);
    doc = read_json("{\"State\":{\"Running\":true},\"Config\":{\"Labels\":null}}"); /* somebody else's */
    assert_int_equal(podman_container_parse(yyjson_doc_get_root(doc), &c, &err), 0);
    assert_string_equal(c.directory, "");
    assert_true(c.running);
    yyjson_doc_free(doc);
    doc = read_json("{\"State\":\"running\"}");
    assert_int_equal(podman_container_parse(yyjson_doc_get_root(doc), &c, &err), ERRC_PROTOCOL);
    yyjson_doc_free(doc);
    doc = read_json("{\"Names\":[\"/x\"],\"State\":\"running\",\"Labels\":{\"shardherd.io/instance\":\"a\","
                    "\"shardherd.io/directory\":\"/d\"}}");
    assert_true(podman_listed_parse(yyjson_doc_get_root(doc), &c));
    assert_true(c.running);
    yyjson_doc_free(doc);
    doc = read_json("{\"State\":\"exited\",\"Labels\":{}}");
    assert_false(podman_listed_parse(yyjson_doc_get_root(doc), &c));
    yyjson_doc_free(doc);
}

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *body;
        enum err_code code;
        const char *message;
    } rows[] = {
        {404, "{\"cause\":\"x\",\"message\":\"no such container\",\"response\":404}", ERRC_NOT_FOUND,
         "start: no such container (status 404)"},
        {409, "{\"message\":\"name is in use\\nby x\"}", ERRC_CONFLICT,
         "start: name is in use by x (status 409)"},
        {400, "bad parameter", ERRC_INVALID, "start: bad parameter (status 400)"},
        {500, "{}", ERRC_IO, "start: it gives no reason (status 500)"},
        {503, "", ERRC_UNAVAILABLE, "start: it gives no reason (status 503)"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err err = {0};
        assert_int_equal(podman_error(&err, "start", rows[i].status, rows[i].body, strlen(rows[i].body)),
                         rows[i].code);
        assert_string_equal(err.message, rows[i].message);
    }
}

static void test_logs(void **state)
{
    (void)state;
    static const char frames[] = "\1\0\0\0\0\0\0\6first\n\2\0\0\0\0\0\0\x0f"
                                 "level=error no\n\2\0\0\0\0\0\0\5last\n";
    static const struct {
        const char *bytes;
        size_t length;
        const char *reason;
    } rows[] = {
        {frames, sizeof frames - 1, "level=error no"},
        {"one\ntwo\n", 8, "two"},
        {"x FATAL:  a\ttab\nend", 19, "x FATAL:  a tab"},
        {"", 0, ""},
        {"\1\0\0\0\xff\xff\xff\xff"
         "cut",
         11, "cut"}, /* a frame that is longer than what came */
        {"\1\0\0\0\0", 5, ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char reason[64];
        char *exact = mem_alloc(rows[i].length + 1); /* the sanitizer sees a byte too far */
        memcpy(exact, rows[i].bytes, rows[i].length);
        exact = mem_resize(exact, rows[i].length > 0 ? rows[i].length : 1, 1);
        podman_log_reason(exact, rows[i].length, reason, sizeof reason);
        assert_string_equal(reason, rows[i].reason);
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_container_in_the_host_network),
        cmocka_unit_test(test_container_with_a_network_and_limits),
        cmocka_unit_test(test_revision),
        cmocka_unit_test(test_volume_and_filters),
        cmocka_unit_test(test_checks),
        cmocka_unit_test(test_archive),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_engines),
        cmocka_unit_test(test_containers),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_logs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
