/* The watchdog ends a server at its deadline, whatever the agent does, and not before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/postmaster.h"
#include "agent/watchdog.h"
#include "base/env.h"

#define MS ENV_NS_PER_MS

/* A child that stays until it is killed. */
static pid_t child_make(bool deaf)
{
    int ends[2];
    char c;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (deaf)
            (void)signal(SIGQUIT, SIG_IGN);
        (void)!write(ends[1], "r", 1);
        for (;;)
            (void)pause();
    }
    assert_true(pid > 0);
    assert_int_equal(read(ends[0], &c, 1), 1); /* it is ready */
    (void)close(ends[0]);
    (void)close(ends[1]);
    return pid;
}

static int ended_by(pid_t pid)
{
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    return WTERMSIG(status);
}

static void test_at_the_deadline(void **state)
{
    (void)state;
    for (int deaf = 0; deaf < 2; deaf++) {
        struct watchdog *w;
        struct err err = {0};
        pid_t pid = child_make(deaf != 0);
        assert_int_equal(watchdog_start("/nowhere/data", &w, &err), 0);
        uint64_t deadline = env_boot_ns() + 1000 * MS;
        watchdog_set_deadline(w, deadline);
        watchdog_set_postmaster(w, pid);
        assert_int_equal(ended_by(pid), deaf ? SIGKILL : SIGQUIT);
        uint64_t now = env_boot_ns();
        assert_true(now > deadline - 250 * MS && now < deadline);
        assert_int_equal(watchdog_fired(w), 1);
        watchdog_set_postmaster(w, 0);
        watchdog_stop(w);
    }
}

/* The lease holds, but the agent does not turn; and the other way round. */
static void test_either_deadline(void **state)
{
    (void)state;
    for (int which = 0; which < 2; which++) {
        struct watchdog *w;
        struct err err = {0};
        pid_t pid = child_make(false);
        assert_int_equal(watchdog_start("/nowhere/data", &w, &err), 0);
        uint64_t now = env_boot_ns();
        watchdog_set_postmaster(w, pid);
        watchdog_set_deadline(w, now + (which == 0 ? 60000 : 600) * MS);
        watchdog_set_turn(w, now + (which == 0 ? 600 : 60000) * MS, 0);
        assert_int_equal(ended_by(pid), SIGQUIT);
        assert_true(env_boot_ns() < now + 5000 * MS);
        watchdog_set_postmaster(w, 0);
        watchdog_stop(w);
    }
}

/* An agent that does not turn for a second: only one that is stopped costs its server that soon. */
static void test_a_stopped_agent(void **state)
{
    (void)state;
    for (int stopped = 0; stopped < 2; stopped++) {
        pid_t server = child_make(false), agent = fork();
        if (agent == 0) {
            struct watchdog *w;
            struct err err = {0};
            if (watchdog_start("/nowhere/data", &w, &err) != 0)
                _exit(1);
            watchdog_set_postmaster(w, server);
            watchdog_set_turn(w, env_boot_ns() + 60000 * MS, env_boot_ns() + 300 * MS);
            for (;;)
                (void)pause();
        }
        assert_true(agent > 0);
        postmaster_pause_ms(200);
        if (stopped)
            assert_int_equal(kill(agent, SIGSTOP), 0);
        postmaster_pause_ms(2000);
        int status = 0;
        pid_t ended = waitpid(server, &status, WNOHANG);
        assert_int_equal(ended, stopped ? server : 0);
        assert_true(!stopped || (WIFSIGNALED(status) && WTERMSIG(status) == SIGQUIT));
        if (!stopped) {
            assert_int_equal(kill(server, SIGKILL), 0);
            assert_int_equal(ended_by(server), SIGKILL);
        }
        assert_int_equal(kill(agent, SIGKILL), 0);
        assert_int_equal(ended_by(agent), SIGKILL);
    }
}

static void test_a_later_deadline_counts(void **state)
{
    struct watchdog *w;
    struct err err = {0};
    pid_t pid = child_make(false);
    (void)state;
    assert_int_equal(watchdog_start("/nowhere/data", &w, &err), 0);
    watchdog_set_postmaster(w, pid);
    for (int i = 0; i < 8; i++) {
        watchdog_set_deadline(w, env_boot_ns() + 600 * MS);
        postmaster_pause_ms(100);
    }
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0); /* it lives */
    watchdog_set_deadline(w, 0);
    postmaster_pause_ms(700);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
    assert_int_equal(watchdog_fired(w), 0);
    watchdog_set_deadline(w, env_boot_ns()); /* at once */
    assert_int_not_equal(ended_by(pid), 0);
    watchdog_set_postmaster(w, 0);
    watchdog_stop(w);
}

static void test_a_server_dies_with_its_agent(void **state)
{
    int ends[2];
    pid_t server = 0;
    char c;
    (void)state;
    assert_int_equal(pipe(ends), 0);
    pid_t agent = fork();
    if (agent == 0) {
        static const char *const argv[] = {"sleep", "60", NULL};
        struct err err = {0};
        pid_t pid = 0;
        (void)postmaster_spawn(argv, &pid, &err);
        (void)!write(ends[1], &pid, sizeof pid);
        for (;;)
            (void)pause();
    }
    (void)close(ends[1]);
    assert_int_equal(read(ends[0], &server, sizeof server), sizeof server);
    assert_true(server > 0);
    assert_int_equal(kill(server, 0), 0);
    assert_int_equal(kill(agent, SIGKILL), 0);
    assert_int_equal(ended_by(agent), SIGKILL);
    /* the server has the other end of the pipe as well: its end is the end of file */
    assert_int_equal(read(ends[0], &c, 1), 0);
    (void)close(ends[0]);
}

static void test_no_program(void **state)
{
    static const char *const argv[] = {"/nowhere/postgres", NULL};
    struct err err = {0};
    pid_t pid = 0;
    (void)state;
    assert_int_equal(postmaster_spawn(argv, &pid, &err), ERRC_IO);
    assert_int_equal(pid, 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* the child that could not is gone */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_at_the_deadline),
        cmocka_unit_test(test_either_deadline),
        cmocka_unit_test(test_a_stopped_agent),
        cmocka_unit_test(test_a_later_deadline_counts),
        cmocka_unit_test(test_a_server_dies_with_its_agent),
        cmocka_unit_test(test_no_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
