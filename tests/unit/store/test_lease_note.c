/* Who stood for election before us in this directory, and is dead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/lease_note.h"

static char path[64];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(path, sizeof path, "/tmp/lease-note-%d", (int)getpid());
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return unlink(path);
}

static struct lease_note *opened(const char *identity)
{
    struct lease_note *note = NULL;
    struct err err = {0};
    if (lease_note_open(path, identity, &note, &err) != 0)
        fail_msg("%s", err.message);
    assert_string_equal(lease_note_identity(note), identity);
    return note;
}

static void write_text(const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    (void)close(fd);
}

static void test_one_after_the_other(void **state)
{
    (void)state;
    struct lease_note *note = opened("a_1");
    assert_string_equal(lease_note_dead(note), "");
    lease_note_close(note);
    note = opened("a_2");
    assert_string_equal(lease_note_dead(note), "a_1\n");
    lease_note_close(note);
    note = opened("a_3");
    assert_string_equal(lease_note_dead(note), "a_1\na_2\n");
    lease_note_close(note);
}

/* A process that lives is not dead, however it is: its names are nobody's, and stay its own. */
static void test_one_that_lives(void **state)
{
    int ready[2], status;
    char byte;
    (void)state;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        struct lease_note *note = NULL;
        struct err err = {0};
        (void)!write(ready[1], lease_note_open(path, "child_1", &note, &err) == 0 ? "y" : "n", 1);
        for (;;)
            (void)pause();
    }
    bool told = read(ready[0], &byte, 1) == 1;
    (void)kill(child, SIGSTOP);
    struct lease_note *note = NULL;
    struct err err = {0};
    int rc = lease_note_open(path, "me_1", &note, &err);
    (void)kill(child, SIGKILL); /* before anything can fail */
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(told && byte == 'y');
    assert_int_equal(rc, ERRC_CONFLICT);
    assert_null(note);
    note = opened("me_2");
    assert_string_equal(lease_note_dead(note), "child_1\n");
    lease_note_close(note);
    (void)close(ready[0]);
    (void)close(ready[1]);
}

/* A name that was being written when its process died was not stood for election under yet. */
static void test_half_a_name(void **state)
{
    (void)state;
    write_text("a_1\na_2");
    struct lease_note *note = opened("a_3");
    assert_string_equal(lease_note_dead(note), "a_1\n");
    lease_note_close(note);
    write_text("a");
    note = opened("a_4");
    assert_string_equal(lease_note_dead(note), "");
    lease_note_close(note);
}

static void test_it_does_not_grow(void **state)
{
    char name[32];
    (void)state;
    for (int i = 0; i < 600; i++) {
        (void)snprintf(name, sizeof name, "shardherd-manager-%d", i);
        lease_note_close(opened(name));
    }
    struct lease_note *note = opened("last");
    const char *dead = lease_note_dead(note);
    assert_true(strlen(dead) <= 2048 && strlen(dead) > 1900);
    assert_int_equal(strncmp(dead, "shardherd-manager-", 18), 0); /* whole names only */
    assert_non_null(strstr(dead, "\nshardherd-manager-599\n"));
    lease_note_close(note);
}

static void test_no_place_for_it(void **state)
{
    struct lease_note *note = NULL;
    struct err err = {0};
    (void)state;
    assert_int_not_equal(lease_note_open("/proc/nowhere/lease", "a", &note, &err), 0);
    assert_null(note);
    assert_non_null(strstr(err.message, "/proc/nowhere/lease"));
    write_text("");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_one_after_the_other, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_that_lives, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_a_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_it_does_not_grow, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_place_for_it, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
