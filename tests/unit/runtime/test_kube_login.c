/* Logging in at a real server as its superuser: what is made there, and what a standby, of which it was
 * thought that it leads, comes to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime/kube_login.h"
#include "support/pg_server.h"

#define PATIENCE_NS (120 * ENV_NS_PER_S)

struct outcome {
    bool done;
    struct err err;
};

static void on_done(struct kube_login *login, const struct err *err, void *data)
{
    struct outcome *o = data;
    (void)login;
    assert_false(o->done);
    o->done = true;
    if (err != NULL)
        o->err = *err;
}

/* Logs in with this password, or with the previous one (may be NULL) to give the server this one. */
static struct err log_in(const struct pg_server *s, const char *password, const char *previous,
                         const char *owner)
{
    struct loop loop;
    struct outcome o = {0};
    struct kube_login login = {.loop = &loop,
                               .target = {.host = "127.0.0.1",
                                          .port = s->port,
                                          .user = "postgres",
                                          .password = password,
                                          .dbname = "postgres",
                                          .connect_timeout_ns = 5 * ENV_NS_PER_S},
                               .previous_password = previous,
                               .database = "shop",
                               .owner = owner,
                               .owner_password = "of-the-application",
                               .done = on_done,
                               .data = &o};
    assert_int_equal(loop_init(&loop, env_system(), NULL), 0);
    login.deadline_ns = loop_now(&loop) + PATIENCE_NS;
    kube_login_start(&login);
    while (!o.done)
        uv_run(&loop.uv, UV_RUN_ONCE);
    assert_int_equal(loop_fini(&loop), 0);
    return o.err;
}

static void as_standby(struct pg_server *s)
{
    pg_server_halt(s, SIGINT);
    assert_true(pg_server_append(s, "data/standby.signal", ""));
    assert_true(pg_server_boot(s));
}

static void test_login(void **state)
{
    struct pg_server *s = *state;
    assert_true(pg_server_start(s, NULL, NULL));
    assert_int_equal(log_in(s, s->password, NULL, "app").code, ERRC_NONE);
    assert_int_equal(pg_server_sql(s, "shop", "SELECT 1 / count(*) FROM pg_roles WHERE rolname = 'app'"), 0);
    assert_int_equal(log_in(s, "the-second", s->password, "app").code, ERRC_NONE);
    assert_int_equal(log_in(s, "the-second", NULL, "app").code, ERRC_NONE);

    /* It is not asked until the time is over, nor is that a fault that a person has to mend. */
    as_standby(s);
    struct err role = log_in(s, "the-second", NULL, "other");
    assert_int_equal(role.code, ERRC_CONFLICT);
    assert_non_null(strstr(role.message, "cannot create the application's role"));
    struct err password = log_in(s, "the-third", "the-second", "app");
    assert_int_equal(password.code, ERRC_CONFLICT);
    assert_non_null(strstr(password.message, "cannot give the superuser its new password"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_login, pg_server_setup, pg_server_teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
