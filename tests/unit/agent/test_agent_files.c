/* What the agent writes for the server: who is let in, and what is refused before anything is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/agent_files.h"
#include "base/mem.h"

struct folders {
    char root[40], data[60], tls[60];
    struct agent_options o;
};

static char *path_in(const char *folder, const char *name)
{
    return mem_printf("%s/%s", folder, name);
}

static void file_put(const char *folder, const char *name, const char *text)
{
    char *path = path_in(folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    free(path);
}

/* NULL if it is not there. */
static char *file_text(const char *folder, const char *name)
{
    char *path = path_in(folder, name), *text = mem_zalloc(8192);
    FILE *f = fopen(path, "r");
    free(path);
    if (f == NULL) {
        free(text);
        return NULL;
    }
    text[fread(text, 1, 8191, f)] = '\0';
    (void)fclose(f);
    return text;
}

static int setup(void **state)
{
    struct folders *x = mem_zalloc(sizeof *x);
    snprintf(x->root, sizeof x->root, "/tmp/agent-files-XXXXXX");
    assert_non_null(mkdtemp(x->root));
    snprintf(x->data, sizeof x->data, "%s/data", x->root);
    snprintf(x->tls, sizeof x->tls, "%s/tls", x->root);
    assert_int_equal(mkdir(x->data, 0700) | mkdir(x->tls, 0700), 0);
    file_put(x->data, "postgresql.conf", "");
    x->o = (struct agent_options){.env = env_system(), .data = x->data, .run = "/tmp", .listen = "*"};
    x->o.port = 5432;
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    static const char *const names[] = {"data/postgresql.conf",
                                        "data/shardherd.conf",
                                        "data/shardherd_hba.conf",
                                        "data/shardherd_ident.conf",
                                        "data/shardherd.crt",
                                        "data/shardherd.key",
                                        "tls/tls.crt",
                                        "tls/tls.key",
                                        "tls/ca.crt"};
    struct folders *x = *state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *path = path_in(x->root, names[i]);
        (void)unlink(path);
        free(path);
    }
    assert_int_equal(rmdir(x->data) | rmdir(x->tls) | rmdir(x->root), 0);
    free(x);
    return 0;
}

static void secret_put(struct folders *x, bool authority)
{
    file_put(x->tls, "tls.crt", "certificate\n");
    file_put(x->tls, "tls.key", "key\n");
    if (authority)
        file_put(x->tls, "ca.crt", "authority\n");
    x->o.tls = x->tls;
}

/* Lines for TCP: how many there are, how many of them are for TLS alone and ask for a certificate. */
static void hba_counts(const struct folders *x, int *all, int *encrypted, int *certified)
{
    char *text = file_text(x->data, "shardherd_hba.conf"), *rest = text, *line;
    assert_non_null(text);
    *all = *encrypted = *certified = 0;
    while ((line = strsep(&rest, "\n")) != NULL) {
        if (strncmp(line, "host", 4) != 0)
            continue;
        ++*all;
        assert_non_null(strstr(line, " scram-sha-256"));
        *encrypted += strncmp(line, "hostssl ", 8) == 0;
        *certified += strstr(line, " scram-sha-256 clientcert=verify-ca") != NULL;
    }
    free(text);
}

static void test_everybody_by_password(void **state)
{
    struct folders *x = *state;
    struct err err = {0};
    int all, encrypted, certified;
    assert_int_equal(agent_configure(&x->o, &err), 0);
    hba_counts(x, &all, &encrypted, &certified);
    assert_int_equal(all, 4);
    assert_int_equal(encrypted, 0);
    assert_int_equal(certified, 0);
    secret_put(x, true);
    assert_int_equal(agent_configure(&x->o, &err), 0);
    hba_counts(x, &all, &encrypted, &certified);
    assert_int_equal(all, 4);
    assert_int_equal(encrypted, 4);
    assert_int_equal(certified, 0);
}

static void test_nobody_without_a_certificate(void **state)
{
    struct folders *x = *state;
    struct err err = {0};
    struct stat s;
    int all, encrypted, certified;
    secret_put(x, true);
    x->o.client_certificates = true;
    assert_int_equal(agent_configure(&x->o, &err), 0);
    hba_counts(x, &all, &encrypted, &certified);
    assert_int_equal(all, 4);
    assert_int_equal(encrypted, 4);
    assert_int_equal(certified, 4);
    char *settings = file_text(x->data, "shardherd.conf"),
         *expected = mem_printf("ssl_ca_file = '%s/ca.crt'", x->tls);
    assert_non_null(strstr(settings, expected));
    free(settings);
    free(expected);
    /* what a subscription of this server shows: its own, closed to others as libpq wants it */
    char *key = path_in(x->data, "shardherd.key");
    assert_int_equal(stat(key, &s), 0);
    assert_int_equal(s.st_mode & 0777, 0600);
    free(key);
}

/* Nothing that would let somebody in is written when certificates cannot be checked. */
static void test_what_cannot_be_checked_is_refused(void **state)
{
    struct folders *x = *state;
    struct err err = {0};
    x->o.client_certificates = true;
    assert_int_equal(agent_configure(&x->o, &err), ERRC_INVALID);
    x->o.tls = x->tls; /* empty */
    assert_int_equal(agent_configure(&x->o, &err), ERRC_INVALID);
    secret_put(x, false);
    assert_int_equal(agent_configure(&x->o, &err), ERRC_INVALID);
    assert_non_null(strstr(err.message, "ca.crt"));
    assert_null(file_text(x->data, "shardherd_hba.conf"));
}

/* A port that somebody listens on, and the same one when that has ended. */
static void test_a_port_that_is_taken(void **state)
{
    struct folders *x = *state;
    struct err err = {0};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&at, size) | listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &size), 0);
    x->o.port = ntohs(at.sin_port);
    static const char *const addresses[] = {"127.0.0.1", "*"};
    for (int i = 0; i < 2; i++) {
        x->o.listen = addresses[i];
        assert_int_equal(agent_port_check(&x->o, &err), ERRC_CONFLICT);
        assert_non_null(strstr(err.message, "another program has port"));
    }
    (void)close(fd);
    assert_int_equal(agent_port_check(&x->o, &err), 0);
    x->o.listen = "localhost"; /* the server's own to find out */
    assert_int_equal(agent_port_check(&x->o, &err), 0);
}

static void locks_put(const struct folders *x, pid_t pid)
{
    char *text = mem_printf("%d\n/data\n", (int)pid);
    file_put(x->data, "postmaster.pid", text);
    file_put(x->root, ".s.PGSQL.5432.lock", text);
    free(text);
}

static bool locks_are_there(const struct folders *x)
{
    char *data = file_text(x->data, "postmaster.pid"), *run = file_text(x->root, ".s.PGSQL.5432.lock");
    assert_int_equal(data != NULL, run != NULL);
    bool there = data != NULL;
    free(data);
    free(run);
    return there;
}

/* A server that was killed and that its new parent has not asked for yet keeps nobody out; one that lives
 * does. */
static void test_locks_of_one_that_ended(void **state)
{
    struct folders *x = *state;
    siginfo_t info = {0};
    x->o.run = x->root;
    x->o.port = 5432;
    agent_locks_clear(&x->o); /* there are none */
    locks_put(x, getpid());
    agent_locks_clear(&x->o);
    assert_true(locks_are_there(x));
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    locks_put(x, child);
    agent_locks_clear(&x->o);
    assert_false(locks_are_there(x));
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_everybody_by_password, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody_without_a_certificate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_checked_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_port_that_is_taken, setup, teardown),
        cmocka_unit_test_setup_teardown(test_locks_of_one_that_ended, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
