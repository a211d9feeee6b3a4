#include "loop/loop_test.h"

#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "loop/process.h"

#define MS ENV_NS_PER_MS

struct seen {
    int calls;
    struct process_result result;
    struct buf out;
    struct buf errors;
    struct err described;
};

static void on_done(const struct process_result *result, void *data)
{
    struct seen *s = data;
    s->calls++;
    s->result = *result;
    buf_add(&s->out, result->out, result->out_length);
    buf_add(&s->errors, result->errors, result->errors_length);
    process_describe(result, "child", &s->described);
}

static void seen_free(struct seen *s)
{
    buf_free(&s->out);
    buf_free(&s->errors);
}

static struct process *start(struct fixture *f, struct process_options *o, const char *script, struct seen *s)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    struct process *p = NULL;
    o->argv = argv;
    memset(s, 0, sizeof *s);
    int rc = process_start(&f->loop, o, on_done, s, &p, &f->err);
    if (rc != 0)
        fail_msg("%s", f->err.message);
    assert_int_equal(s->calls, 0);
    return p;
}

static void run(struct fixture *f, struct process_options *o, const char *script, struct seen *s)
{
    start(f, o, script, s);
    RUN_UNTIL(f, s->calls > 0);
    assert_int_equal(s->calls, 1);
}

static void test_exit_code_and_outputs(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    run(f, &(struct process_options){0}, "echo out; echo first >&2; echo last >&2; exit 7", &s);
    assert_int_equal(s.result.err.code, ERRC_NONE);
    assert_int_equal(s.result.exit_code, 7);
    assert_int_equal(s.result.term_signal, 0);
    assert_string_equal(buf_text(&s.out), "out\n");
    assert_string_equal(buf_text(&s.errors), "first\nlast\n");
    assert_string_equal(s.described.message, "child exited with 7: last");
    assert_false(s.result.truncated);
    seen_free(&s);
}

static void test_success_without_output(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    run(f, &(struct process_options){0}, "exit 0", &s);
    assert_int_equal(s.result.exit_code, 0);
    assert_int_equal(s.out.length, 0);
    seen_free(&s);
}

static void test_ended_by_a_signal(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    run(f, &(struct process_options){0}, "kill -9 $$", &s);
    assert_int_equal(s.result.err.code, ERRC_NONE);
    assert_int_equal(s.result.exit_code, -1);
    assert_int_equal(s.result.term_signal, 9);
    assert_string_equal(s.described.message, "child was ended by signal 9");
    seen_free(&s);
}

static void test_capture_limit(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    run(f, &(struct process_options){.capture_limit = 1000},
        "head -c 3000000 /dev/zero | tr '\\0' x; echo e >&2", &s);
    assert_int_equal(s.result.exit_code, 0);
    assert_int_equal(s.out.length, 1000);
    assert_string_equal(buf_text(&s.errors), "e\n");
    assert_true(s.result.truncated);
    seen_free(&s);
}

static void test_input_reaches_the_child(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    size_t length = 500000; /* more than a pipe holds */
    char *input = mem_alloc(length);
    memset(input, 'i', length);
    run(f, &(struct process_options){.input = input, .input_length = length}, "wc -c", &s);
    assert_int_equal(atoi(buf_text(&s.out)), length);
    free(input);
    seen_free(&s);
}

static void test_input_nobody_reads(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    size_t length = 500000;
    char *input = mem_zalloc(length);
    run(f, &(struct process_options){.input = input, .input_length = length}, "exit 3", &s);
    assert_int_equal(s.result.exit_code, 3);
    free(input);
    seen_free(&s);
}

static void test_without_input_stdin_is_empty(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    run(f, &(struct process_options){0}, "wc -c", &s);
    assert_int_equal(atoi(buf_text(&s.out)), 0);
    seen_free(&s);
}

static void test_missing_program(void **state)
{
    struct fixture *f = *state;
    const char *const argv[] = {"no-such-program-at-all", NULL};
    struct seen s = {0};
    struct process_options o = {.argv = argv, .input = "x", .input_length = 1};
    assert_int_equal(process_start(&f->loop, &o, on_done, &s, NULL, &f->err), ERRC_NOT_FOUND);
    assert_non_null(strstr(f->err.message, "no-such-program-at-all"));
    RUN_UNTIL(f, f->loop.handles == 0);
    assert_int_equal(s.calls, 0);
}

static void test_environment_and_directory(void **state)
{
    struct fixture *f = *state;
    const char *const env[] = {"SH_TEST_A=one two", "HOME=/nowhere", NULL};
    struct seen s;
    run(f, &(struct process_options){.env = env, .directory = "/usr"},
        "echo \"$SH_TEST_A,$HOME,$PWD\"; env | grep -c ^HOME=", &s);
    assert_string_equal(buf_text(&s.out), "one two,/nowhere,/usr\n1\n");
    seen_free(&s);
}

static bool alive(pid_t pid)
{
    /* a zombie that its new parent has not reaped yet is dead as well */
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = '\0';
    const char *after = strrchr(text, ')');
    return after != NULL && after[2] != 'Z' && after[2] != 'X';
}

/* The deadline ends the child and its children: the script's `sleep` is a grandchild. */
static void test_timeout_ends_the_group(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    run(f, &(struct process_options){.timeout_ns = 300 * MS}, "sleep 100 & echo $!; wait", &s);
    assert_int_equal(s.result.err.code, ERRC_TIMEOUT);
    assert_int_equal(s.result.term_signal, SIGTERM);
    pid_t grandchild = (pid_t)atoi(buf_text(&s.out));
    assert_true(grandchild > 1);
    RUN_UNTIL(f, !alive(grandchild));
    assert_non_null(strstr(s.described.message, "in time"));
    seen_free(&s);
}

static void test_timeout_kills_who_ignores_sigterm(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    uint64_t start_ns = loop_clock(&f->loop);
    run(f, &(struct process_options){.timeout_ns = 300 * MS},
        "trap '' TERM; sleep 100 & echo $!; while :; do sleep 0.1; done", &s);
    assert_int_equal(s.result.err.code, ERRC_TIMEOUT);
    assert_int_equal(s.result.term_signal, SIGKILL);
    assert_true(loop_clock(&f->loop) - start_ns >= 2300 * MS);
    pid_t grandchild = (pid_t)atoi(buf_text(&s.out));
    RUN_UNTIL(f, !alive(grandchild));
    seen_free(&s);
}

static void test_cancel(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    struct process *p = start(f, &(struct process_options){0}, "sleep 100", &s);
    process_cancel(p);
    process_cancel(p);
    assert_int_equal(s.calls, 0);
    RUN_UNTIL(f, s.calls == 1);
    assert_int_equal(s.result.err.code, ERRC_CANCELED);
    assert_int_equal(s.result.term_signal, SIGKILL);
    seen_free(&s);
}

/* A grandchild keeps stdout open after the child's exit: complete within about a second, and it lives on. */
static void test_grandchild_holds_the_pipe(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    uint64_t start_ns = loop_clock(&f->loop);
    run(f, &(struct process_options){0}, "sleep 100 & echo $!", &s);
    assert_int_equal(s.result.err.code, ERRC_NONE);
    assert_int_equal(s.result.exit_code, 0);
    assert_true(loop_clock(&f->loop) - start_ns < 10 * ENV_NS_PER_S);
    pid_t grandchild = (pid_t)atoi(buf_text(&s.out));
    assert_true(alive(grandchild));
    kill(grandchild, SIGKILL);
    seen_free(&s);
}

static void test_cancel_while_draining(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    struct process *p = start(f, &(struct process_options){0}, "sleep 100 & echo $!", &s);
    pid_t child = process_pid(p);
    RUN_UNTIL(f, kill(child, 0) != 0); /* reaped, so only the pipes are waited for */
    process_cancel(p);
    assert_int_equal(s.calls, 0);
    RUN_UNTIL(f, s.calls == 1);
    assert_int_equal(s.result.err.code, ERRC_CANCELED);
    kill((pid_t)atoi(buf_text(&s.out)), SIGKILL);
    seen_free(&s);
}

static void test_signal(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    struct process *p = start(f, &(struct process_options){0}, "sleep 100", &s);
    assert_int_equal(process_signal(p, SIGUSR1), 0);
    RUN_UNTIL(f, s.calls == 1);
    assert_int_equal(s.result.err.code, ERRC_NONE);
    assert_int_equal(s.result.term_signal, SIGUSR1);
    seen_free(&s);
}

static void test_enough(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    /* the line comes in two pieces, the text in it as well; what follows it is not waited for */
    run(f, &(struct process_options){.enough = "that far"},
        "printf 'that' >&2; sleep 0.1; printf ' far' >&2; sleep 0.1; echo ' and on' >&2; sleep 60", &s);
    assert_int_equal(s.result.err.code, ERRC_NONE);
    assert_true(s.result.enough);
    assert_int_equal(s.result.term_signal, SIGKILL);
    assert_string_equal(buf_text(&s.errors), "that far and on\n");
    seen_free(&s);
    run(f, &(struct process_options){.enough = "that far"}, "echo 'not so' >&2; echo 'that far'; exit 3", &s);
    assert_false(s.result.enough);
    assert_int_equal(s.result.exit_code, 3);
    seen_free(&s);
}

static void on_output(const char *bytes, size_t length, void *data)
{
    buf_add(data, bytes, length);
}

static void test_output_as_it_comes(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    struct buf pieces = {0};
    struct process *p = start(f, &(struct process_options){.capture_limit = 10}, "seq 1 2000", &s);
    process_on_output(p, on_output, &pieces);
    RUN_UNTIL(f, s.calls == 1);
    assert_int_equal(s.out.length, 0);
    assert_int_equal(pieces.length, 8893);
    assert_false(s.result.truncated);
    buf_free(&pieces);
    seen_free(&s);
}

static void test_output_file(void **state)
{
    struct fixture *f = *state;
    char directory[] = "/tmp/sh-process-XXXXXX";
    assert_non_null(mkdtemp(directory));
    char *path = mem_printf("%s/log", directory);
    struct process_options o = {.output_path = path};
    struct seen s;
    run(f, &o, "echo one", &s);
    seen_free(&s);
    run(f, &o, "echo two >&2", &s);
    seen_free(&s);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char text[32] = "";
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    assert_int_equal(n, 8);
    assert_string_equal(text, "one\ntwo\n");
    struct stat stat_buf;
    assert_int_equal(stat(path, &stat_buf), 0);
    assert_int_equal(stat_buf.st_mode & 0777, 0600);
    char *other = mem_printf("%s/link", directory);
    assert_int_equal(symlink(path, other), 0);
    const char *const argv[] = {"true", NULL};
    struct process_options refused = {.argv = argv, .output_path = other};
    assert_int_equal(process_start(&f->loop, &refused, on_done, &s, NULL, &f->err), ERRC_IO);
    unlink(other);
    unlink(path);
    rmdir(directory);
    free(other);
    free(path);
}

static void test_other_user(void **state)
{
    struct fixture *f = *state;
    if (geteuid() != 0)
        skip();
    struct seen s;
    run(f, &(struct process_options){.uid = 65534, .gid = 65534}, "id -u; id -g; id -G", &s);
    assert_string_equal(buf_text(&s.out), "65534\n65534\n65534\n"); /* none of root's groups */
    seen_free(&s);
}

static void test_release_leaves_it_running(void **state)
{
    struct fixture *f = *state;
    struct seen s;
    struct process_options o = {.detached = true, .output_path = "/dev/null"};
    struct process *p = start(f, &o, "sleep 100", &s);
    pid_t pid = process_pid(p);
    process_release(p);
    assert_int_equal(s.calls, 0);
    RUN_UNTIL(f, s.calls == 1);
    assert_int_equal(s.result.err.code, ERRC_CANCELED);
    assert_true(alive(pid));
    assert_int_equal(getpgid(pid), pid);
    kill(pid, SIGKILL);
    seen_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(test_exit_code_and_outputs),
        LOOP_TEST(test_success_without_output),
        LOOP_TEST(test_ended_by_a_signal),
        LOOP_TEST(test_capture_limit),
        LOOP_TEST(test_input_reaches_the_child),
        LOOP_TEST(test_input_nobody_reads),
        LOOP_TEST(test_without_input_stdin_is_empty),
        LOOP_TEST(test_missing_program),
        LOOP_TEST(test_environment_and_directory),
        LOOP_TEST(test_timeout_ends_the_group),
        LOOP_TEST(test_timeout_kills_who_ignores_sigterm),
        LOOP_TEST(test_cancel),
        LOOP_TEST(test_enough),
        LOOP_TEST(test_grandchild_holds_the_pipe),
        LOOP_TEST(test_cancel_while_draining),
        LOOP_TEST(test_signal),
        LOOP_TEST(test_output_as_it_comes),
        LOOP_TEST(test_output_file),
        LOOP_TEST(test_other_user),
        LOOP_TEST(test_release_leaves_it_running),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
