/*
 * member_link against the real agent: `shardherd agent --member` of this build, with a real server. The cases
 * are the life of one member, in order.
 */
#include "http/http_test.h"
#include "support/pg_server.h"

#include "ha/member_link.h"

#define TOKEN "a-token-that-nobody-guesses"

struct rig {
    struct fixture *f;
    struct pg_server s; /* for its directory and user; the server is the agent's */
    char program[512], bin[512];
    int http_port;
    pid_t agent; /* 0 = none */
    struct member_link *link;
    unsigned told, heard;
    bool hears;  /* statuses without news are told apart */
    bool proves; /* that the term stands, whenever that is asked for */
    bool closed;
};

static uint64_t prove(struct rig *rig)
{
    uint64_t clock = 0, heard = 0;
    if (member_link_wants_proof(rig->link, &clock, &heard))
        member_link_proved(rig->link, clock);
    return clock;
}

static void told(struct member_link *link, void *data)
{
    struct rig *rig = data;
    (void)link;
    rig->told++;
    if (rig->proves)
        (void)prove(rig);
}

static void heard(struct member_link *link, void *data)
{
    struct rig *rig = data;
    (void)link;
    rig->heard++;
}

static void file_write(const struct rig *rig, const char *name, const char *text)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", rig->s.dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    assert_int_equal(rig->s.uid != 0 ? fchown(fd, rig->s.uid, rig->s.gid) : 0, 0);
    (void)close(fd);
}

static void agent_start(struct rig *rig)
{
    char data[96], token[96], password[96], run[96], bin[530], port[32], http[32];
    (void)snprintf(data, sizeof data, "--data=%s/member", rig->s.dir);
    (void)snprintf(token, sizeof token, "--token-file=%s/token", rig->s.dir);
    (void)snprintf(password, sizeof password, "--password-file=%s/password", rig->s.dir);
    (void)snprintf(run, sizeof run, "--run=%s", rig->s.dir);
    (void)snprintf(bin, sizeof bin, "--bin=%s", rig->bin);
    (void)snprintf(port, sizeof port, "--port=%d", rig->s.port);
    (void)snprintf(http, sizeof http, "--http-port=%d", rig->http_port);
    const char *const argv[] = {rig->program, "agent", "--member=s1-0",      token, data, password, run, bin,
                                port,         http,    "--listen=127.0.0.1", NULL};
    rig->agent = pg_server_spawn(&rig->s, argv);
    assert_true(rig->agent > 0);
}

static void agent_kill(struct rig *rig)
{
    if (rig->agent == 0)
        return;
    (void)kill(rig->agent, SIGKILL);
    (void)waitpid(rig->agent, NULL, 0);
    rig->agent = 0;
}

static void link_open(struct rig *rig, const char *token)
{
    const struct member_link_options o = {.name = "s1-0",
                                          .host = "127.0.0.1",
                                          .http_port = rig->http_port,
                                          .port = rig->s.port,
                                          .token = token,
                                          .changed = told,
                                          .heard = rig->hears ? heard : NULL,
                                          .data = rig};
    rig->closed = false;
    rig->link = member_link_new(&rig->f->loop, &o);
}

static void link_close(struct rig *rig)
{
    member_link_close(rig->link, set_true, &rig->closed);
    RUN_UNTIL(rig->f, rig->closed);
    rig->link = NULL;
}

static struct ha_instance facts(const struct rig *rig)
{
    struct ha_instance i = {0};
    member_link_facts(rig->link, &i);
    return i;
}

static bool reports(const struct rig *rig, const char *state)
{
    const struct member_status *s = member_link_status(rig->link);
    return s != NULL && strcmp(s->reported, state) == 0;
}

static bool settled(const struct rig *rig, uint64_t term, uint64_t seq)
{
    const struct member_status *s = member_link_status(rig->link);
    return member_link_taken(rig->link) && s->term == term && s->seq == seq && s->settled;
}

static int setup(void **state)
{
    struct rig *rig = mem_zalloc(sizeof *rig);
    void *fixture = NULL;
    ssize_t length = readlink("/proc/self/exe", rig->program, sizeof rig->program - 16);
    for (int up = 0; up < 2 && length > 0; up++) {
        char *slash = strrchr(rig->program, '/');
        if (slash != NULL)
            *slash = '\0';
    }
    (void)strncat(rig->program, "/shardherd", sizeof rig->program - strlen(rig->program) - 1);
    *state = rig;
    if (access(rig->program, X_OK) != 0 || !pg_server_find(rig->bin, sizeof rig->bin))
        return 0; /* each case skips */
    if (!pg_server_make(&rig->s, rig->bin) || fixture_setup(&fixture) != 0)
        return -1;
    rig->f = fixture;
    rig->s.port = pg_server_free_port();
    rig->http_port = pg_server_free_port();
    file_write(rig, "token", TOKEN "\n");
    file_write(rig, "password", "secret\n");
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;
    int rc = 0;
    if (rig->f != NULL) {
        void *fixture = rig->f;
        if (rig->link != NULL)
            link_close(rig);
        agent_kill(rig);
        rc = fixture_teardown(&fixture);
        pg_server_stop(&rig->s);
    }
    free(rig);
    return rc;
}

#define SKIP_WITHOUT(rig)                                                                                    \
    if ((rig)->f == NULL)                                                                                    \
    skip()

static void test_nobody_there(void **state)
{
    struct rig *rig = *state;
    SKIP_WITHOUT(rig);
    link_open(rig, TOKEN);
    RUN_UNTIL(rig->f, facts(rig).closed && facts(rig).refused);
    assert_true(facts(rig).heard_ns == 0 && facts(rig).reached_ns == 0);
    assert_null(member_link_status(rig->link));
    member_link_want(rig->link, "{\"term\":\"1\",\"role\":\"stopped\"}", false);
    assert_false(member_link_taken(rig->link));
    link_close(rig);
}

static void test_wrong_token(void **state)
{
    struct rig *rig = *state;
    SKIP_WITHOUT(rig);
    agent_start(rig);
    link_open(rig, TOKEN "x");
    RUN_UNTIL(rig->f, !facts(rig).closed && rig->told > 0);
    run_for(rig->f, 500 * ENV_NS_PER_MS);
    assert_true(facts(rig).heard_ns == 0);
    link_close(rig);
}

static void test_a_primary_with_a_lease(void **state)
{
    struct rig *rig = *state;
    SKIP_WITHOUT(rig);
    link_open(rig, TOKEN);
    RUN_UNTIL(rig->f, reports(rig, "empty"));
    assert_int_equal(facts(rig).server, HA_SERVER_DOWN);
    assert_true(facts(rig).ended_ns != 0 && !facts(rig).closed);
    member_link_lease(rig->link, 3);
    member_link_want(
        rig->link,
        "{\"term\":\"3\",\"seq\":\"5\",\"role\":\"primary\",\"initialize\":true,\"lease_ms\":2500}", true);
    run_for(rig->f, 500 * ENV_NS_PER_MS); /* nobody has said yet that the term is not passed */
    assert_true(reports(rig, "empty") && member_link_status(rig->link)->term == 0);
    rig->proves = true;
    (void)prove(rig);
    RUN_UNTIL(rig->f, settled(rig, 3, 5) && reports(rig, "primary"));
    const struct member_status *s = member_link_status(rig->link);
    assert_true(s->known && s->primary && s->timeline == 1 && s->wal_term == 3 && s->flushed != 0);
    assert_int_equal(facts(rig).server, HA_SERVER_PRIMARY);
    assert_true(facts(rig).ended_ns == 0);
    member_link_look(rig->link);
    RUN_UNTIL(rig->f, facts(rig).reached_ns != 0);
    run_for(rig->f, 3500 * ENV_NS_PER_MS); /* longer than the lease that the order gave */
    assert_true(reports(rig, "primary"));
    assert_int_equal(member_link_status(rig->link)->term, 3);
    /* nobody renews it any more */
    member_link_lease(rig->link, 0);
    RUN_UNTIL(rig->f, reports(rig, "fenced"));
    assert_true(facts(rig).ended_ns != 0);
    member_link_lease(rig->link, 3);
    RUN_UNTIL(rig->f, reports(rig, "primary"));
    /* or nobody proves it */
    rig->proves = false;
    RUN_UNTIL(rig->f, reports(rig, "fenced"));
    (void)prove(rig);
    RUN_UNTIL(rig->f, reports(rig, "primary"));
}

static void test_confirm_and_stale(void **state)
{
    struct rig *rig = *state;
    SKIP_WITHOUT(rig);
    member_link_lease(rig->link, 0);
    member_link_want(rig->link, "{\"term\":\"4\",\"seq\":\"1\",\"role\":\"standby\"}", false);
    RUN_UNTIL(rig->f, settled(rig, 4, 1));
    const struct member_status *s = member_link_status(rig->link);
    assert_true(s->nobody && s->known && !s->primary && s->wal_term == 3 && s->receiver[0] == '\0');
    assert_int_equal(facts(rig).server, HA_SERVER_STANDBY);
    member_link_want(rig->link, "{\"term\":\"3\",\"seq\":\"9\",\"role\":\"standby\"}", false);
    RUN_UNTIL(rig->f, member_link_stale(rig->link) != NULL);
    assert_int_equal(member_link_stale(rig->link)->code, ERRC_STALE);
    assert_false(member_link_taken(rig->link));
    /* under the next term it begins a timeline, whose term is the order's */
    member_link_want(rig->link, "{\"term\":\"5\",\"seq\":\"3\",\"role\":\"primary\"}", false);
    assert_null(member_link_stale(rig->link));
    RUN_UNTIL(rig->f, settled(rig, 5, 3));
    s = member_link_status(rig->link);
    assert_true(s->primary && s->timeline == 2 && s->wal_term == 5);
}

static void test_killed_and_started_anew(void **state)
{
    struct rig *rig = *state;
    SKIP_WITHOUT(rig);
    agent_kill(rig);
    uint64_t killed = real_now();
    RUN_UNTIL(rig->f, facts(rig).closed && facts(rig).refused);
    print_message("seen to be gone after %.3f s\n", (double)(real_now() - killed) / 1e9);
    agent_start(rig); /* it waits for the order, and gets it again */
    RUN_UNTIL(rig->f, !facts(rig).closed && settled(rig, 5, 3) && reports(rig, "primary"));
    assert_int_equal(member_link_status(rig->link)->timeline, 2);
    /* frozen: nothing is refused, nothing is said */
    uint64_t heard = facts(rig).heard_ns;
    (void)kill(rig->agent, SIGSTOP);
    run_for(rig->f, 1500 * ENV_NS_PER_MS);
    heard = facts(rig).heard_ns;
    run_for(rig->f, 4000 * ENV_NS_PER_MS);
    assert_true(facts(rig).heard_ns == heard && !facts(rig).closed);
    (void)kill(rig->agent, SIGCONT);
    RUN_UNTIL(rig->f, facts(rig).heard_ns > heard && settled(rig, 5, 3));
}

static void test_guarded(void **state)
{
    struct rig *rig = *state;
    SKIP_WITHOUT(rig);
    uint64_t clock = 0, heard = 0, before = member_link_status(rig->link)->clock;
    member_link_guard(rig->link, true);
    assert_false(member_link_wants_proof(rig->link, &clock, &heard)); /* it is confirmed */
    agent_kill(rig);
    RUN_UNTIL(rig->f, facts(rig).closed);
    agent_start(rig);
    RUN_UNTIL(rig->f, !facts(rig).closed && member_link_wants_proof(rig->link, &clock, &heard));
    member_link_proved(rig->link, before); /* of when it was another life */
    run_for(rig->f, 1000 * ENV_NS_PER_MS);
    assert_true(reports(rig, "stopped") && !member_link_taken(rig->link));
    assert_true(prove(rig) > before);
    RUN_UNTIL(rig->f, settled(rig, 5, 3) && reports(rig, "primary"));
    assert_false(member_link_wants_proof(rig->link, &clock, &heard));
    /* a lease needs a proof of its own */
    member_link_want(rig->link, "{\"term\":\"5\",\"seq\":\"4\",\"role\":\"primary\",\"lease_ms\":4000}",
                     true);
    member_link_lease(rig->link, 5);
    run_for(rig->f, 300 * ENV_NS_PER_MS);
    assert_false(member_link_taken(rig->link));
    RUN_UNTIL(rig->f, prove(rig) != 0 && settled(rig, 5, 4));
    RUN_UNTIL(rig->f, reports(rig, "fenced"));
    RUN_UNTIL(rig->f, prove(rig) != 0 && reports(rig, "primary"));
    member_link_guard(rig->link, false);
}

/* Heartbeats of a member at rest are no news, its end is; and so is the first word of the next life. */
static void test_heartbeats_are_no_news(void **state)
{
    struct rig *rig = *state;
    SKIP_WITHOUT(rig);
    link_close(rig);
    rig->hears = true;
    rig->proves = false;
    link_open(rig, TOKEN);
    RUN_UNTIL(rig->f, reports(rig, "primary"));
    member_link_want(rig->link, "{\"term\":\"5\",\"seq\":\"5\",\"role\":\"primary\"}", false);
    RUN_UNTIL(rig->f, settled(rig, 5, 5));
    run_for(rig->f, 500 * ENV_NS_PER_MS);
    unsigned told = rig->told, heard = rig->heard;
    uint64_t at = facts(rig).heard_ns;
    run_for(rig->f, 3500 * ENV_NS_PER_MS);
    assert_int_equal(rig->told, told);
    assert_true(rig->heard >= heard + 2 && facts(rig).heard_ns > at);
    agent_kill(rig);
    RUN_UNTIL(rig->f, facts(rig).closed);
    assert_true(rig->told > told);
    told = rig->told;
    agent_start(rig);
    RUN_UNTIL(rig->f, !facts(rig).closed && rig->told > told);
    rig->hears = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_there),
        cmocka_unit_test(test_wrong_token),
        cmocka_unit_test(test_a_primary_with_a_lease),
        cmocka_unit_test(test_confirm_and_stale),
        cmocka_unit_test(test_killed_and_started_anew),
        cmocka_unit_test(test_guarded),
        cmocka_unit_test(test_heartbeats_are_no_news),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
