/*
 * The local runtime's members: an agent each, which is ordered by HTTP as somebody who drives a shard would.
 *
 * The creator that is killed half-way is this program itself, started with the arguments "create DIRECTORY
 * BIN PORT PROGRAM".
 */
#include "runtime/local_fixture.h"

#include <sys/wait.h>

#include "support/member_call.h"

#define PASSWORD "the-shard's secret"
#define MEMBER(instance)                                                                                     \
    {                                                                                                        \
        .name = (instance), .database = "shop", .shard = "s1", .owner = "app", .owner_password = "x",        \
        .member = true, .password = PASSWORD                                                                 \
    }

static int call(const struct answer *a, const char *token, const char *method, const char *path,
                const char *body, char *ret, size_t size)
{
    return member_call(a->agent_port, token, method, path, body, ret, size);
}

static void assign(const struct answer *a, const char *order)
{
    member_assign(a->agent_port, a->token, order);
}

static void wait_for(const struct answer *a, const char *word)
{
    member_wait(a->agent_port, a->token, word);
}

/* ---- members ---- */

static struct answer member_make(struct fixture *f, const char *name)
{
    const struct runtime_spec spec = MEMBER(name);
    struct answer a = fixture_ensure(f, &spec);
    if (a.err.code != ERRC_NONE)
        fail_msg("%s", a.err.message);
    assert_true(a.member);
    assert_int_not_equal(a.agent_pid, 0);
    assert_int_not_equal(a.agent_port, a.port);
    return a;
}

/* Neither of its secrets is where others can read it. */
static void check_secrets(const struct fixture *f, const struct answer *a)
{
    char path[256], text[8192] = {0};
    snprintf(path, sizeof path, "%s/%s", f->directory, a->name);
    assert_int_equal(file_mode(path, "password"), 0600);
    assert_int_equal(file_mode(path, "token"), 0600);
    assert_int_equal(file_mode(path, "instance.json"), 0600);
    assert_int_equal(file_mode(path, "member"), 0700);
    assert_int_equal(file_mode(path, "log"), 0600);
    assert_true(file_has(path, "password", PASSWORD));
    assert_true(file_has(path, "token", a->token));
    const char *const open[] = {"instance.json", "settings", "log"};
    for (size_t i = 0; i < sizeof open / sizeof open[0]; i++) {
        assert_false(file_has(path, open[i], PASSWORD));
        assert_false(file_has(path, open[i], a->token));
    }
    snprintf(path, sizeof path, "/proc/%d/cmdline", a->agent_pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    for (size_t i = 0; i < length; i++)
        text[i] = text[i] == '\0' ? ' ' : text[i];
    assert_non_null(strstr(text, "--member"));
    assert_null(strstr(text, "secret"));
    assert_null(strstr(text, a->token));
}

static void check_user(const struct answer *a)
{
    struct stat st;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d", a->agent_pid);
    assert_int_equal(stat(path, &st), 0);
    assert_int_not_equal(st.st_uid, 0);
}

static void test_made_and_removed(void **state)
{
    struct fixture *f = *state;
    char text[16384];
    fixture_open(f);
    struct answer a = member_make(f, "shop-s1-0");
    assert_int_equal(a.pid, 0);
    assert_string_equal(a.password, PASSWORD);
    assert_int_equal(strlen(a.token), LOCAL_TOKEN_LENGTH);
    check_user(&a);
    wait_for(&a, "\"reported\":\"empty\"");
    assert_int_equal(call(&a, "wrong", "GET", "/v1/status", "", text, sizeof text), 401);
    check_secrets(f, &a);
    struct answer again = member_make(f, "shop-s1-0");
    assert_int_equal(again.agent_pid, a.agent_pid);
    assert_int_equal(again.agent_port, a.agent_port);
    assert_string_equal(again.token, a.token);
    struct answer listed = fixture_list(f);
    assert_int_equal(listed.count, 1);
    assert_true(listed.member);
    assert_int_equal(listed.agent_pid, a.agent_pid);
    assert_string_equal(listed.token, a.token);
    assert_int_equal(fixture_stop(f, "shop-s1-0").err.code, ERRC_NONE);
    assert_int_equal(fixture_processes(f), 0);
    listed = fixture_list(f); /* also when it does not run */
    assert_int_equal(listed.count, 1);
    assert_true(listed.member);
    assert_int_equal(listed.agent_pid, 0);
    assert_int_equal(listed.agent_port, a.agent_port);
    assert_int_not_equal(member_make(f, "shop-s1-0").agent_pid, a.agent_pid);
    assert_int_equal(fixture_remove(f, "shop-s1-0").err.code, ERRC_NONE);
    assert_int_equal(fixture_processes(f), 0);
    assert_int_equal(fixture_list(f).count, 0);
    assert_int_equal(fixture_remove(f, "shop-s1-0").err.code, ERRC_NONE);
    fixture_fini(f);
}

/* ---- a shard of three ---- */

static const char *ask_member(const struct answer *a, const char *text)
{
    static char value[512];
    sql(a, "shardherd", PASSWORD, "postgres", text, value, sizeof value);
    return value;
}

static void ask_until(const struct answer *a, const char *text, const char *wanted)
{
    for (int i = 0; i < 1500; i++) {
        if (strcmp(ask_member(a, text), wanted) == 0)
            return;
        pg_server_wait_ms(20);
    }
    fail_msg("%s: \"%s\" never gave %s but %s", a->name, text, wanted, ask_member(a, text));
}

static void order_primary(const struct answer *a, int term)
{
    char order[1024];
    snprintf(order, sizeof order,
             "{\"term\": \"%d\", \"role\": \"primary\", \"initialize\": true, \"slots\": "
             "[\"shardherd_shop_s1_1\", \"shardherd_shop_s1_2\"], \"sync\": {\"need\": 1, \"members\": "
             "[\"shop-s1-1\", \"shop-s1-2\"]}}",
             term);
    assign(a, order);
}

static void order_standby(const struct answer *a, const struct answer *primary, int term)
{
    char order[1024];
    snprintf(
        order, sizeof order,
        "{\"term\": \"%d\", \"role\": \"standby\", \"rejoin\": \"auto\", \"upstream\": {\"host\": \"%s\", "
        "\"port\": %d, \"slot\": \"shardherd_shop_s1_%c\"}}",
        term, primary->host, primary->port, a->name[strlen(a->name) - 1]);
    assign(a, order);
}

/* One primary, two standbys that stream. */
static void shard_make(struct fixture *f, struct answer m[3])
{
    static const char *const names[] = {"shop-s1-0", "shop-s1-1", "shop-s1-2"};
    for (int i = 0; i < 3; i++)
        m[i] = member_make(f, names[i]);
    order_primary(&m[0], 1);
    wait_for(&m[0], "\"reported\":\"primary\"");
    for (int i = 1; i < 3; i++)
        order_standby(&m[i], &m[0], 1);
    for (int i = 1; i < 3; i++)
        wait_for(&m[i], "\"receiver\":\"streaming\"");
    ask_until(&m[0],
              "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum'",
              "2");
}

static void shard_remove(struct fixture *f, const struct answer m[3])
{
    for (int i = 0; i < 3; i++)
        assert_int_equal(fixture_remove(f, m[i].name).err.code, ERRC_NONE);
    assert_int_equal(fixture_processes(f), 0);
}

/* A standby is stopped and started: its agent follows again by itself, on the same ports. */
static void check_restart(struct fixture *f, const struct answer m[3])
{
    assert_int_equal(fixture_stop(f, "shop-s1-1").err.code, ERRC_NONE);
    assert_int_equal(fixture_stop(f, "shop-s1-1").err.code, ERRC_NONE);
    assert_false(local_agent_alive(m[1].agent_pid, m[1].data));
    assert_int_equal(local_orphans(m[1].data, 0), 0);
    ask_member(&m[0], "INSERT INTO t VALUES (2)");
    struct answer again = member_make(f, "shop-s1-1");
    assert_int_not_equal(again.agent_pid, m[1].agent_pid);
    assert_int_equal(again.port, m[1].port);
    assert_int_equal(again.agent_port, m[1].agent_port);
    wait_for(&again, "\"receiver\":\"streaming\"");
    ask_until(&again, "SELECT count(*) FROM t", "2");
}

/* The manager goes and comes: agents and servers went on, and are found. */
static void check_adoption(struct fixture *f, const struct answer *primary)
{
    fixture_close(f);
    assert_true(local_agent_alive(primary->agent_pid, primary->data));
    fixture_open(f);
    assert_int_equal(fixture_list(f).count, 3);
    struct answer again = member_make(f, primary->name);
    assert_int_equal(again.agent_pid, primary->agent_pid);
    assert_int_not_equal(again.pid, 0);
    assert_string_equal(ask_member(&again, "SELECT count(*) FROM t"), "2");
}

/* The server of an agent that was killed has ended; the new agent waits until somebody confirms its primary.
 */
static void check_killed_agent(struct fixture *f, const struct answer *primary)
{
    kill(primary->agent_pid, SIGKILL);
    struct answer again = member_make(f, primary->name);
    assert_int_not_equal(again.agent_pid, primary->agent_pid);
    wait_for(&again, "\"reported\":\"stopped\"");
    assert_int_equal(local_orphans(again.data, 0), 0);
    order_primary(&again, 1);
    wait_for(&again, "\"reported\":\"primary\"");
    ask_until(&again, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "2");
}

static void test_a_shard_of_three(void **state)
{
    struct fixture *f = *state;
    struct answer m[3];
    fixture_open(f);
    shard_make(f, m);
    ask_member(&m[0], "CREATE TABLE t AS SELECT 1 AS x");
    for (int i = 1; i < 3; i++) { /* what is flushed there is replayed a little later */
        ask_until(&m[i], "SELECT count(to_regclass('t'))", "1");
        ask_until(&m[i], "SELECT count(*) FROM t", "1");
    }
    check_secrets(f, &m[0]);
    check_secrets(f, &m[1]);
    check_restart(f, m);
    check_adoption(f, &m[0]);
    check_killed_agent(f, &m[0]);
    shard_remove(f, m);
    fixture_fini(f);
}

/* ---- faults ---- */

static uint64_t skew_ns; /* how far the test's clock is ahead */

static uint64_t skewed_monotonic(struct env *env)
{
    (void)env;
    return env_system()->monotonic_ns(env_system()) + skew_ns;
}

static void on_turn(uv_timer_t *timer)
{
    (void)timer;
}

static void run_for(struct fixture *f, uint64_t ms)
{
    uint64_t end = skewed_monotonic(NULL) + ms * ENV_NS_PER_MS;
    uv_timer_t timer;
    bool closed = false;
    uv_timer_init(&f->loop.uv, &timer);
    uv_timer_start(&timer, on_turn, 10, 10); /* so that a turn ends */
    while (skewed_monotonic(NULL) < end)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    timer.data = &closed;
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(&f->loop.uv, UV_RUN_NOWAIT);
}

/* SIGTERM cannot end it, and SIGKILL comes when its time is over; the watchdog ends the server. */
static void test_a_frozen_agent(void **state)
{
    struct fixture *f = *state;
    struct env env = *env_system();
    struct answer done = {0};
    env.monotonic_ns = skewed_monotonic;
    f->loop.env = &env;
    fixture_open(f);
    struct answer a = member_make(f, "shop-s1-0");
    assign(&a, "{\"term\": \"1\", \"role\": \"primary\", \"initialize\": true}");
    wait_for(&a, "\"reported\":\"primary\"");
    assert_true(local_orphans(a.data, 0) > 0);
    kill(a.agent_pid, SIGSTOP);
    assert_int_equal(runtime_stop(f->rt, a.name, on_done, &done, &done.err), 0);
    run_for(f, 500);
    assert_false(done.done);
    assert_true(local_agent_alive(a.agent_pid, a.data));
    skew_ns += 46 * ENV_NS_PER_S;
    fixture_run(f, &done.done);
    assert_int_equal(done.err.code, ERRC_NONE);
    assert_false(local_agent_alive(a.agent_pid, a.data));
    assert_int_equal(local_orphans(a.data, 0), 0);
    assert_int_equal(fixture_remove(f, a.name).err.code, ERRC_NONE);
    f->loop.env = env_system();
    fixture_fini(f);
}

/* Agent and watchdog killed at once: what they leave is ended before a new agent begins. */
static void test_nobody_answers_for_the_server(void **state)
{
    struct fixture *f = *state;
    fixture_open(f);
    struct answer a = member_make(f, "shop-s1-0");
    struct local_record seen = {.name = a.name, .member = true};
    assign(&a, "{\"term\": \"1\", \"role\": \"primary\", \"initialize\": true}");
    wait_for(&a, "\"reported\":\"primary\"");
    local_agent_look(f->directory, &seen);
    assert_int_equal(seen.agent_pid, a.agent_pid);
    assert_int_not_equal(seen.watch_pid, 0);
    kill(seen.watch_pid, SIGSTOP);
    kill(seen.agent_pid, SIGKILL);
    kill(seen.watch_pid, SIGKILL);
    struct answer again = member_make(f, "shop-s1-0");
    wait_for(&again, "\"reported\":\"stopped\"");
    assert_int_equal(local_orphans(a.data, 0), 0);
    assert_int_equal(fixture_remove(f, a.name).err.code, ERRC_NONE);
    fixture_fini(f);
}

static int listener_open(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 5), 0);
    return fd;
}

static void refused(struct fixture *f, const struct runtime_spec *spec, int code, const char *text)
{
    struct answer a = fixture_ensure(f, spec);
    if (a.err.code != (enum err_code)code || strstr(a.err.message, text) == NULL)
        fail_msg("expected %s with \"%s\", got %s: %s", err_code_name((enum err_code)code), text,
                 err_code_name(a.err.code), a.err.message);
}

static void test_a_taken_port_of_the_agent(void **state)
{
    struct fixture *f = *state;
    const struct runtime_spec spec = MEMBER("shop-s1-0");
    char text[64];
    fixture_open(f);
    int first = listener_open(f->port + 1); /* a new one goes round it */
    struct answer a = member_make(f, "shop-s1-0");
    assert_int_equal(a.port, f->port);
    assert_int_equal(a.agent_port, f->port + 2);
    struct answer b = member_make(f, "shop-s1-1");
    assert_int_equal(b.port, f->port + 3);
    close(first);
    assert_int_equal(fixture_stop(f, a.name).err.code, ERRC_NONE);
    int taken = listener_open(a.agent_port);
    snprintf(text, sizeof text, "port %d on 127.0.0.1 is taken by process %d (", a.agent_port, (int)getpid());
    refused(f, &spec, ERRC_CONFLICT, text);
    close(taken);
    assert_int_equal(member_make(f, a.name).agent_port, a.agent_port);
    assert_int_equal(fixture_remove(f, a.name).err.code, ERRC_NONE);
    assert_int_equal(fixture_remove(f, b.name).err.code, ERRC_NONE);
    fixture_fini(f);
}

static void test_what_is_refused(void **state)
{
    struct fixture *f = *state;
    struct runtime_spec spec = MEMBER("shop-s1-0");
    fixture_open(f);
    spec.password = NULL;
    refused(f, &spec, ERRC_INVALID, "a member needs the password of its shard");
    spec.password = PASSWORD;
    spec.must_exist = true;
    refused(f, &spec, ERRC_NOT_FOUND, "there is no such instance");
    spec.must_exist = false;
    member_make(f, "shop-s1-0");
    spec.member = false;
    refused(f, &spec, ERRC_CONFLICT, "it exists as one of several of its shard");
    spec.member = true;
    spec.shard = "s2";
    refused(f, &spec, ERRC_CONFLICT, "it exists for database \"shop\", shard \"s1\"");
    assert_int_equal(fixture_remove(f, "shop-s1-0").err.code, ERRC_NONE);
    fixture_fini(f);
}

/* The program is missing or is none: the directory goes again, and the message says where its log was. */
static void test_an_agent_that_does_not_start(void **state)
{
    struct fixture *f = *state;
    const struct runtime_spec spec = MEMBER("shop-s1-0");
    snprintf(f->program, sizeof f->program, "/nowhere/shardherd");
    fixture_open(f);
    refused(f, &spec, ERRC_NOT_FOUND, "/nowhere/shardherd");
    assert_int_equal(fixture_entries(f), 0);
    fixture_close(f);
    snprintf(f->program, sizeof f->program, "/bin/false");
    fixture_open(f);
    refused(f, &spec, ERRC_IO, "the agent ended while it started");
    assert_int_equal(fixture_entries(f), 0);
    fixture_fini(f);
}

/* A standby is made with the major version that its shard has, whatever is the newest now. */
static void test_the_version_of_the_shard(void **state)
{
    struct fixture *f = *state;
    const struct runtime_spec spec = MEMBER("shop-s1-1");
    char bins[8][512];
    int count = pg_server_all(bins, 8);
    if (count < 2)
        skip();
    snprintf(f->bin, sizeof f->bin, "%s", bins[0]);
    fixture_open(f);
    member_make(f, "shop-s1-0");
    fixture_close(f);
    snprintf(f->bin, sizeof f->bin, "%s", bins[count - 1]);
    fixture_open(f);
    refused(f, &spec, ERRC_UNSUPPORTED, "PostgreSQL");
    assert_int_equal(fixture_entries(f), 1);
    assert_int_equal(fixture_remove(f, "shop-s1-0").err.code, ERRC_NONE);
    fixture_fini(f);
}

static void test_a_new_password(void **state)
{
    struct fixture *f = *state;
    struct runtime_spec spec = MEMBER("shop-s1-0");
    char path[256];
    fixture_open(f);
    member_make(f, "shop-s1-0");
    spec.password = "another";
    struct answer a = fixture_ensure(f, &spec);
    assert_int_equal(a.err.code, ERRC_NONE);
    assert_string_equal(a.password, "another");
    snprintf(path, sizeof path, "%s/shop-s1-0", f->directory);
    assert_true(file_has(path, "password", "another"));
    assert_int_equal(file_mode(path, "password"), 0600);
    assert_int_equal(fixture_remove(f, "shop-s1-0").err.code, ERRC_NONE);
    fixture_fini(f);
}

/* ---- kill -9 of the creating process ---- */

static int creator_main(char **argv)
{
    struct loop loop;
    struct runtime *rt;
    struct answer a = {0};
    const struct runtime_local_options o = {
        .directory = argv[2], .bin_directory = argv[3], .first_port = atoi(argv[4]), .program = argv[5]};
    const struct runtime_spec spec = MEMBER("shop-s1-0");
    if (loop_init(&loop, env_system(), NULL) != 0 || runtime_local_open(&loop, &o, &rt, NULL) != 0 ||
        runtime_ensure(rt, &spec, on_instance, &a, NULL) != 0)
        return 2;
    while (!a.done)
        uv_run(&loop.uv, UV_RUN_ONCE);
    return a.err.code == ERRC_NONE ? 0 : 1;
}

static void create_and_kill(const struct fixture *f, const char *moment)
{
    char port[16], path[300];
    snprintf(port, sizeof port, "%d", f->port);
    snprintf(path, sizeof path, "%s/%s", f->directory, moment);
    pid_t creator = fork();
    if (creator == 0) {
        execl("/proc/self/exe", "test_local_member", "create", f->directory, f->bin, port, f->program,
              (char *)NULL);
        _exit(127);
    }
    for (int ms = 0; access(path, F_OK) != 0; ms++) {
        if (ms > 30000)
            fail_msg("%s never came", path);
        pg_server_wait_ms(1);
    }
    kill(creator, SIGKILL);
    waitpid(creator, NULL, 0);
}

static void test_creator_killed_half_way(void **state)
{
    struct fixture *f = *state;
    static const char *const moments[] = {".new-shop-s1-0", "shop-s1-0/instance.json", "shop-s1-0/settings",
                                          "shop-s1-0/log", "shop-s1-0/member/data.lock"};
    for (size_t i = 0; i < 2 * sizeof moments / sizeof moments[0]; i++) {
        create_and_kill(f, moments[i / 2]);
        fixture_open(f);
        if (i % 2 == 0) {
            struct answer a = member_make(f, "shop-s1-0");
            wait_for(&a, "\"reported\":\"empty\"");
            assert_int_equal(fixture_entries(f), 1);
        } /* else it is removed without an ensure before */
        assert_int_equal(fixture_remove(f, "shop-s1-0").err.code, ERRC_NONE);
        fixture_close(f);
        assert_int_equal(fixture_processes(f), 0);
        assert_int_equal(fixture_entries(f), 0);
    }
    fixture_fini(f);
}

/* As one whose manager was killed between fork and exec, and that was not there yet when it was looked for.
 */
static void test_a_stray_agent(void **state)
{
    struct fixture *f = *state;
    fixture_open(f);
    struct answer a = member_make(f, "shop-s1-0");
    char path[300], token[320], password[320], port[16];
    snprintf(path, sizeof path, "%s/shop-s1-0", f->directory);
    snprintf(token, sizeof token, "%s/token", path);
    snprintf(password, sizeof password, "%s/password", path);
    snprintf(port, sizeof port, "%d", pg_server_free_port());
    struct local_user user;
    assert_int_equal(local_user_find(NULL, &user, NULL), 0);
    pid_t stray = fork();
    if (stray == 0) {
        if (chdir(path) == 0 && (user.uid == 0 || (setgid(user.gid) == 0 && setuid(user.uid) == 0)))
            execl(f->program, f->program, "agent", "--member", "shop-s1-0", "--data", a.data, "--token-file",
                  token, "--password-file", password, "--http-port", port, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 500 && !local_agent_alive(stray, a.data); i++)
        pg_server_wait_ms(20);
    assert_true(local_agent_alive(stray, a.data));
    assert_int_equal(fixture_remove(f, "shop-s1-0").err.code, ERRC_NONE);
    for (int i = 0; i < 500 && waitpid(stray, NULL, WNOHANG) != stray; i++) {
        if (i == 499 && kill(stray, SIGKILL) == 0)
            fail_msg("the stray agent lives");
        pg_server_wait_ms(20);
    }
    fixture_fini(f);
}

static void test_closed_half_way(void **state)
{
    struct fixture *f = *state;
    const struct runtime_spec spec = MEMBER("shop-s1-0");
    struct answer a = {0};
    char path[300];
    snprintf(path, sizeof path, "%s/shop-s1-0/log", f->directory);
    fixture_open(f);
    assert_int_equal(runtime_ensure(f->rt, &spec, on_instance, &a, &a.err), 0);
    while (!a.done && access(path, F_OK) != 0)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    assert_false(a.done);
    fixture_close(f);
    assert_true(a.done);
    assert_int_equal(a.err.code, ERRC_CANCELED);
    fixture_fini(f);
}

int main(int argc, char **argv)
{
    if (argc == 6 && strcmp(argv[1], "create") == 0)
        _exit(creator_main(argv)); /* it closes nothing, as if killed */
    if (argc == 2)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        TEST(test_made_and_removed),
        TEST(test_a_shard_of_three),
        TEST(test_a_frozen_agent),
        TEST(test_nobody_answers_for_the_server),
        TEST(test_a_taken_port_of_the_agent),
        TEST(test_what_is_refused),
        TEST(test_an_agent_that_does_not_start),
        TEST(test_the_version_of_the_shard),
        TEST(test_a_new_password),
        TEST(test_creator_killed_half_way),
        TEST(test_a_stray_agent),
        TEST(test_closed_half_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
