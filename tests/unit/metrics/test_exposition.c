/* Scrapes over instances whose texts are made by hand: what is served, and what a large scrape costs the
 * loop. */
#include "metrics_test.h"

#include <math.h>
#include <pthread.h>

#include "metrics/exposition_impl.h"
#include "metrics/render.h"

#define SERIES_INSTANCES 2000

struct scraper {
    struct env env; /* first: the clock's callback finds the scraper by it */
    uint64_t ahead_ns;
    struct fixture f;
    struct exposition *exposition;
    struct http_server *server;
    int exposition_closed, server_closed;
    struct exposition_numbers numbers;
};

static uint64_t scraper_monotonic(struct env *env)
{
    return env_system()->monotonic_ns(env_system()) + ((struct scraper *)(void *)env)->ahead_ns;
}

static void give_numbers(struct exposition_numbers *ret, void *data)
{
    *ret = ((struct scraper *)data)->numbers;
}

static void scraper_open(struct scraper *s)
{
    /* nobody is polled: the tests make the texts */
    const struct pollers_options options = {
        .period_ns = {3600 * ENV_NS_PER_S, POLL_OFF, POLL_OFF, 3600 * ENV_NS_PER_S, 3600 * ENV_NS_PER_S},
        .connects_per_second = 1};
    memset(s, 0, sizeof *s);
    s->env = *env_system();
    s->env.monotonic_ns = scraper_monotonic;
    struct fixture *f = &s->f;
    assert_int_equal(loop_init(&f->loop, &s->env, NULL), 0);
    loop_timer_init(&f->loop, &f->tick, fixture_tick, NULL);
    fleet_init(&f->fleet);
    f->pollers = pollers_new(&f->loop, &f->fleet, &options, NULL, NULL);
    f->pollers->options.connecting_max = 0;
    const struct exposition_options own = {
        .version = "1.2.3", .commit = "abc", .numbers = give_numbers, .data = s};
    s->exposition = exposition_new(&f->loop, f->pollers, &own);
    const struct http_server_options http = {.address = "127.0.0.1"};
    assert_int_equal(http_server_open(&f->loop, &http, exposition_handle, s->exposition, &s->server, NULL),
                     0);
}

static void count_closed(void *data)
{
    (*(int *)data)++;
}

static void scraper_close(struct scraper *s)
{
    http_server_close(s->server, 0, count_closed, &s->server_closed);
    exposition_close(s->exposition, count_closed, &s->exposition_closed);
    assert_int_equal(s->exposition_closed, 0);
    assert_true(WAIT_UNTIL(&s->f, 10000, s->server_closed == 1 && s->exposition_closed == 1));
    fixture_close(&s->f);
}

/* Puts the clock forward; a timer of the past lets the loop see it at once. */
static void jump(struct scraper *s, uint64_t ns)
{
    s->ahead_ns += ns;
    loop_timer_start_at(&s->f.tick, 1);
    for (int turns = 0; turns < 3; turns++)
        uv_run(&s->f.loop.uv, UV_RUN_NOWAIT);
}

/* ---- instances ---- */

static struct fleet_instance *add_instance_only(struct scraper *s, int number)
{
    char name[32], host[] = "127.0.0.1", user[] = "nobody", db[] = "nothing";
    const struct instance_access access = {.host = host, .port = 1, .user = user, .dbname = db};
    struct fleet_instance *i;
    snprintf(name, sizeof name, "shop-s%d-0", number);
    assert_int_equal(fleet_add_instance(&s->f.fleet, name, "static", &access, &i, NULL), 0);
    return i;
}

static struct poller *add_member(struct scraper *s, int number)
{
    struct fleet_instance *i = add_instance_only(s, number);
    pollers_sync(s->f.pollers);
    return i->observer;
}

/* An answer to `query` with so many rows; each cell is its row's number, from `first`. */
static PGresult *make_answer_from(enum query_id id, int rows, int first)
{
    const struct query *query = query_get(id);
    PGresult *result = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    PGresAttDesc attributes[40] = {{0}};
    char label[][16] = {"datname", "schemaname", "relname"}, cell[16];
    int columns = 0;
    for (int l = 0; l < 3; l++)
        attributes[columns++].name = label[l];
    for (size_t c = 0; c < query->column_count; c++)
        attributes[columns++].name = (char *)(uintptr_t)query->columns[c].column;
    assert_true(PQsetResultAttrs(result, columns, attributes));
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            snprintf(cell, sizeof cell, "%d", r + first);
            assert_true(PQsetvalue(result, r, c, cell, (int)strlen(cell)));
        }
    return result;
}

static PGresult *make_answer(enum query_id id, int rows)
{
    return make_answer_from(id, rows, 100000);
}

static void give_answer(struct poller *p, enum query_id id, PGresult *result)
{
    PGresult *const results[] = {result};
    const struct pg_reply reply = {.count = 1, .results = results};
    poller_text_take(p, &p->slots[id], &reply);
}

/* As after a poll that succeeded just now. */
static void set_up(struct poller *p)
{
    p->up = true;
    p->pollers->counts.up++;
    p->tried = true;
    p->values_ns = loop_now(p->pollers->loop);
}

/* ---- clients ---- */

struct client {
    int port, fd;
    const char *request;
    bool silent; /* does not read */
    pthread_t thread;
    struct buf answer;
    volatile bool done;
};

static int client_socket(int port, int receive_buffer)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    a.sin_port = htons((uint16_t)port);
    if (receive_buffer > 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void *client_run(void *data)
{
    struct client *c = data;
    ssize_t n = write(c->fd, c->request, strlen(c->request));
    while (n > 0) {
        n = read(c->fd, buf_reserve(&c->answer, 65536), 65536);
        if (n > 0)
            c->answer.length += (size_t)n;
    }
    buf_addc(&c->answer, '\0');
    c->done = true;
    return NULL;
}

static void client_start(struct scraper *s, struct client *c, const char *method)
{
    static char request[100];
    snprintf(request, sizeof request, "%s /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method);
    memset(c, 0, sizeof *c);
    c->request = request;
    c->fd = client_socket(http_server_port(s->server), 0);
    assert_int_equal(pthread_create(&c->thread, NULL, client_run, c), 0);
}

/* The body; the head's first line is checked. */
static const char *client_end(struct scraper *s, struct client *c, const char *status)
{
    assert_true(WAIT_UNTIL(&s->f, 20000, c->done));
    pthread_join(c->thread, NULL);
    close(c->fd);
    if (strstr(c->answer.data, status) != c->answer.data + strlen("HTTP/1.1 "))
        fail_msg("not %s: %.60s", status, c->answer.data);
    const char *body = strstr(c->answer.data, "\r\n\r\n");
    assert_non_null(body);
    return body + 4;
}

static char *scrape(struct scraper *s)
{
    struct client c;
    client_start(s, &c, "GET");
    char *body = mem_strdup(client_end(s, &c, "200"));
    assert_non_null(
        strstr(c.answer.data, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n")); /* M1 */
    buf_free(&c.answer);
    jump(s, ENV_NS_PER_S); /* the next scrape is not served from this one */
    return body;
}

/* Lines one after the other, by memchr(): the string functions of the sanitizers look at the whole rest of
 * the text each time, which takes minutes for one of 20 MB. */
struct lines {
    const char *line, *next, *end;
    size_t length;
};

static struct lines lines_of(const char *text)
{
    return (struct lines){.next = text, .end = text + strlen(text)};
}

static bool next_line(struct lines *l)
{
    if (l->next == l->end)
        return false;
    const char *newline = memchr(l->next, '\n', (size_t)(l->end - l->next));
    assert_non_null(newline);
    l->line = l->next;
    l->length = (size_t)(newline - l->line);
    l->next = newline + 1;
    return true;
}

static bool starts_with(const struct lines *l, const char *start, size_t n)
{
    return l->length >= n && memcmp(l->line, start, n) == 0;
}

/* Every family once, samples only below their own head; returns the samples. */
static size_t check_families(const char *text)
{
    static char seen[4000][64];
    size_t families = 0, samples = 0, name_length = 0;
    for (struct lines l = lines_of(text); next_line(&l);) {
        if (starts_with(&l, "# HELP ", 7)) {
            const char *blank = memchr(l.line + 7, ' ', l.length - 7);
            assert_non_null(blank);
            name_length = (size_t)(blank - l.line) - 7;
            snprintf(seen[families], sizeof seen[0], "%.*s", (int)name_length, l.line + 7);
            for (size_t i = 0; i < families; i++)
                assert_string_not_equal(seen[i], seen[families]);
            families++;
        } else if (l.line[0] != '#') {
            assert_true(families > 0 && starts_with(&l, seen[families - 1], name_length));
            samples++;
        }
    }
    return samples;
}

static size_t count_lines(const char *text, const char *start)
{
    size_t n = 0, length = strlen(start);
    for (struct lines l = lines_of(text); next_line(&l);)
        n += starts_with(&l, start, length);
    return n;
}

/* ---- tests ---- */

static void test_an_empty_fleet(void **state)
{
    (void)state;
    struct scraper s;
    scraper_open(&s);
    char *text = scrape(&s);
    assert_non_null(strstr(text, "\nshardherd_build_info{version=\"1.2.3\",commit=\"abc\"} 1\n"));
    assert_non_null(strstr(text, "\nprocess_cpu_seconds_total "));
    assert_non_null(strstr(text, "\nshardherd_loop_longest_turn_seconds "));
    assert_non_null(strstr(text, "\nshardherd_loop_long_turns_total "));
    assert_true(check_families(text) > 10);
    free(text);
    scraper_close(&s);
}

static void test_methods(void **state)
{
    (void)state;
    struct scraper s;
    struct client c;
    scraper_open(&s);
    client_start(&s, &c, "POST");
    assert_non_null(strstr(client_end(&s, &c, "405"), "method_not_allowed"));
    assert_non_null(strstr(c.answer.data, "Allow: GET, HEAD\r\n"));
    buf_free(&c.answer);
    client_start(&s, &c, "HEAD");
    assert_string_equal(client_end(&s, &c, "200"), "");
    buf_free(&c.answer);
    scraper_close(&s);
}

static void test_the_managers_numbers(void **state)
{
    (void)state;
    struct scraper s;
    scraper_open(&s);
    static const struct exposition_operation operations[] = {{"move", "running", 1}, {"move", "failed", 2}};
    static const struct exposition_decision decisions[] = {{"shop", "R7", 5}};
    const struct exposition_move moves[] = {{.op = "m1",
                                             .database = "shop",
                                             .shard = "s1",
                                             .target = "s2",
                                             .state = "copy",
                                             .progress = 0.5,
                                             .eta_seconds = (double)NAN,
                                             .lag_seconds = (double)NAN,
                                             .bytes = 1000,
                                             .throttle_rate = 4096}};
    static const struct exposition_database databases[] = {{"shop", 42, 2, 3}};
    struct hist blocked;
    hist_reset(&blocked);
    hist_add(&blocked, 300000);
    const struct exposition_failovers failovers[] = {{"shop", "failover", 1, 0, &blocked}};
    static const struct exposition_unwritable unwritable[] = {{"shop", "s2", 1.5}};
    s.numbers = (struct exposition_numbers){.operations = operations,
                                            .failovers = failovers,
                                            .failover_count = 1,
                                            .unwritable = unwritable,
                                            .unwritable_count = 1,
                                            .operation_count = 2,
                                            .decisions = decisions,
                                            .decision_count = 1,
                                            .databases = databases,
                                            .database_count = 1,
                                            .moves = moves,
                                            .move_count = 1,
                                            .store_kind = "sqlite",
                                            .store_up = true,
                                            .leader = true,
                                            .term = 7};
    char *text = scrape(&s);
    assert_non_null(strstr(text, "\nshardherd_operations{kind=\"move\",status=\"failed\"} 2\n"));
    assert_non_null(strstr(text, "\nshardherd_decisions_total{db=\"shop\",rule=\"R7\"} 5\n"));
    assert_non_null(strstr(text, "\nshardherd_routing_epoch{db=\"shop\"} 42\n"));
    assert_non_null(strstr(text, "\nshardherd_guard_findings{db=\"shop\"} 3\n"));
    assert_non_null(strstr(text, "\nshardherd_store_up{kind=\"sqlite\"} 1\n"));
    assert_non_null(strstr(text, "\nshardherd_term 7\n"));
    assert_non_null(strstr(text, "\nshardherd_move_copied_bytes{op=\"m1\",db=\"shop\",shard=\"s1\","
                                 "target=\"s2\"} 1000\n"));
    assert_non_null(strstr(text, "\nshardherd_move_phase{op=\"m1\",db=\"shop\",shard=\"s1\","
                                 "target=\"s2\",phase=\"copy\"} 1\n"));
    assert_non_null(strstr(text, "\nshardherd_move_throttle_bytes_per_second{"));
    assert_null(strstr(text, "\nshardherd_move_eta_seconds{"));
    assert_non_null(
        strstr(text, "\nshardherd_failovers_total{db=\"shop\",kind=\"failover\",outcome=\"done\"} 1\n"));
    assert_non_null(
        strstr(text, "\nshardherd_failovers_total{db=\"shop\",kind=\"failover\",outcome=\"undone\"} 0\n"));
    assert_non_null(
        strstr(text, "\nshardherd_failover_blocked_seconds_sum{db=\"shop\",kind=\"failover\"} 0.3\n"));
    assert_non_null(strstr(text, "\nshardherd_shard_unwritable_seconds{db=\"shop\",shard=\"s2\"} 1.5\n"));
    check_families(text);
    free(text);
    scraper_close(&s);
}

/* M5: what is not polled any more stops after three periods, up and the timestamps stay. */
static void test_stale_values_stop(void **state)
{
    (void)state;
    struct scraper s;
    scraper_open(&s);
    struct poller *p = add_member(&s, 1);
    PGresult *answer = make_answer(QUERY_WAL, 1);
    give_answer(p, QUERY_WAL, answer);
    PQclear(answer);
    set_up(p);
    char *text = scrape(&s);
    assert_non_null(strstr(text, "\npg_wal_segments{shard=\"\",member=\"shop-s1-0\"} 100000\n"));
    assert_non_null(strstr(text, "\npg_up{shard=\"\",member=\"shop-s1-0\"} 1\n"));
    assert_non_null(strstr(text, "\nshardherd_timeline{"));
    free(text);
    jump(&s, 3 * 3600 * ENV_NS_PER_S - 60 * ENV_NS_PER_S);
    text = scrape(&s);
    assert_non_null(strstr(text, "\npg_wal_segments{"));
    free(text);
    jump(&s, 120 * ENV_NS_PER_S);
    text = scrape(&s);
    assert_null(strstr(text, "pg_wal_segments"));
    assert_null(strstr(text, "shardherd_timeline"));
    assert_non_null(strstr(text, "\nshardherd_poll_last_success_timestamp_seconds{"));
    assert_non_null(strstr(text, "\nshardherd_instance_up{"));
    free(text);
    scraper_close(&s);
}

static void test_health(void **state)
{
    (void)state;
    struct scraper s;
    scraper_open(&s);
    struct poller *p = add_member(&s, 1);
    static const struct {
        enum instance_health health;
        const char *line;
    } cases[] = {{HEALTH_UNKNOWN, "\nshard_health_status{db=\"\",shard=\"\",member=\"shop-s1-0\"} 0\n"},
                 {HEALTH_UP, "\nshard_health_status{db=\"\",shard=\"\",member=\"shop-s1-0\"} 1\n"},
                 {HEALTH_SUSPECT, "\nshard_health_status{db=\"\",shard=\"\",member=\"shop-s1-0\"} 1\n"},
                 {HEALTH_DOWN, "\nshard_health_status{db=\"\",shard=\"\",member=\"shop-s1-0\"} 0\n"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        p->instance->facts.health = cases[i].health;
        char *text = scrape(&s);
        assert_non_null(strstr(text, cases[i].line));
        free(text);
    }
    scraper_close(&s);
}

/* Gives every instance this answer, as if all had been polled just now. */
static void answer_all(struct scraper *s, enum query_id id, PGresult *answer)
{
    list_each(node, &s->f.fleet.instances)
    {
        struct poller *p = list_item(node, struct fleet_instance, node)->observer;
        give_answer(p, id, answer);
    }
}

static void make_large(struct scraper *s)
{
    PGresult *answer = make_answer(QUERY_USER_TABLES, 3); /* 57 series */
    for (int i = 0; i < SERIES_INSTANCES; i++)
        add_instance_only(s, i);
    pollers_sync(s->f.pollers);
    answer_all(s, QUERY_USER_TABLES, answer);
    list_each(node, &s->f.fleet.instances) set_up(list_item(node, struct fleet_instance, node)->observer);
    PQclear(answer);
}

/* M4 */
static void test_a_large_scrape_does_not_stall_the_loop(void **state)
{
    (void)state;
    struct scraper s;
    struct client c;
    scraper_open(&s);
    make_large(&s);
    uint64_t best_us = UINT64_MAX;
    for (int round = 0; round < 3; round++) {
        uv_run(&s.f.loop.uv, UV_RUN_NOWAIT);
        loop_turns_reset(&s.f.loop);
        uint64_t start = loop_clock(&s.f.loop);
        client_start(&s, &c, "GET");
        const char *body = client_end(&s, &c, "200");
        uint64_t took = loop_clock(&s.f.loop) - start;
        size_t samples = check_families(body);
        assert_true(count_lines(body, "pg_stat_user_tables_seq_scan{") == SERIES_INSTANCES * 3);
        assert_true(samples > 120000);
        print_message("%zu series, %zu bytes: %.1f ms, assembly %.1f ms, longest turn %.1f ms\n", samples,
                      strlen(body), (double)took / 1e6, (double)s.exposition->assembly_ns / 1e6,
                      (double)s.f.loop.longest_turn_us / 1e3);
        if (s.f.loop.longest_turn_us < best_us)
            best_us = s.f.loop.longest_turn_us;
        /* on a machine that is busy the clock alone proves nothing: the work must have been cut up */
        assert_true(round > 0 || s.exposition->slices >= 5);
        buf_free(&c.answer);
        jump(&s, ENV_NS_PER_S);
    }
    assert_true(best_us < 50000);
    scraper_close(&s);
}

/* P17: instances that come and go while a scrape is put together are there once or not at all. */
static void test_the_set_changes_during_a_scrape(void **state)
{
    (void)state;
    struct scraper s;
    struct client c;
    scraper_open(&s);
    make_large(&s);
    client_start(&s, &c, "GET");
    assert_true(WAIT_UNTIL(&s.f, 5000, s.exposition->making != NULL && s.exposition->cursor.place > 0));
    struct fleet_instance *gone = fleet_find_instance(&s.f.fleet, "shop-s0-0");
    pollers_forget(s.f.pollers, gone);
    fleet_remove_instance(&s.f.fleet, gone);
    add_member(&s, SERIES_INSTANCES);
    add_member(&s, 0); /* the same name again, in another place */
    const char *body = client_end(&s, &c, "200");
    check_families(body);
    assert_true(count_lines(body, "pg_up{") == SERIES_INSTANCES + 1);
    assert_true(count_lines(body, "pg_up{shard=\"\",member=\"shop-s0-0\"}") == 1);
    assert_true(s.exposition->restarts == 1);
    buf_free(&c.answer);
    scraper_close(&s);
}

static void send_request(int fd)
{
    static const char request[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_true(write(fd, request, sizeof request - 1) == (ssize_t)sizeof request - 1);
}

/* Readers that do not read keep a bounded number of texts alive; the others are told to come again. */
static void test_slow_readers_are_bounded(void **state)
{
    (void)state;
    enum { SLOW = 8 };
    struct scraper s;
    struct client c;
    int fds[SLOW];
    scraper_open(&s);
    make_large(&s);
    for (int i = 0; i < SLOW; i++) {
        uint64_t before = s.exposition->scrapes_total;
        fds[i] = client_socket(http_server_port(s.server), 4096);
        send_request(fds[i]);
        assert_true(
            WAIT_UNTIL(&s.f, 10000, s.exposition->scrapes_total > before && s.exposition->making == NULL));
        jump(&s, ENV_NS_PER_S); /* no sharing */
        assert_true(WAIT_UNTIL(&s.f, 5000, s.exposition->fresh == NULL));
    }
    assert_true(s.exposition->snapshots == SLOW);
    client_start(&s, &c, "GET");
    client_end(&s, &c, "503");
    assert_non_null(strstr(c.answer.data, "Retry-After: 1\r\n"));
    buf_free(&c.answer);
    close(fds[0]);
    assert_true(WAIT_UNTIL(&s.f, 5000, s.exposition->snapshots < SLOW));
    free(scrape(&s));
    for (int i = 1; i < SLOW; i++)
        close(fds[i]);
    scraper_close(&s);
}

/* A text that is being written stays what it was, whatever comes meanwhile: first by one slow reader alone,
 * then while a second one makes the next text. */
static void test_texts_in_flight_do_not_change(void **state)
{
    (void)state;
    struct scraper s;
    struct client c[2];
    scraper_open(&s);
    make_large(&s);
    for (int i = 0; i < 2; i++) {
        memset(&c[i], 0, sizeof c[i]);
        c[i].request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        c[i].fd = client_socket(http_server_port(s.server), 4096);
        uint64_t before = s.exposition->scrapes_total;
        assert_true(write(c[i].fd, c[i].request, strlen(c[i].request)) == (ssize_t)strlen(c[i].request));
        assert_true(
            WAIT_UNTIL(&s.f, 10000, s.exposition->scrapes_total > before && s.exposition->making == NULL));
        PGresult *answer = make_answer_from(QUERY_USER_TABLES, 3, (i + 2) * 100000);
        answer_all(&s, QUERY_USER_TABLES, answer);
        PQclear(answer);
        jump(&s, ENV_NS_PER_S); /* no sharing */
        assert_true(WAIT_UNTIL(&s.f, 5000, s.exposition->fresh == NULL));
    }
    char *now = scrape(&s);
    for (int i = 0; i < 2; i++) {
        c[i].request = "\r\n"; /* allowed between requests, and nothing is read any more */
        assert_int_equal(pthread_create(&c[i].thread, NULL, client_run, &c[i]), 0);
    }
    const char *bodies[] = {client_end(&s, &c[0], "200"), client_end(&s, &c[1], "200"), now};
    for (int i = 0; i < 3; i++) {
        char start[80];
        check_families(bodies[i]);
        for (int value = 1; value <= 3; value++) {
            snprintf(start, sizeof start,
                     "pg_stat_user_tables_seq_scan{shard=\"\",member=\"shop-s7-0\",datname=\"%d0000", value);
            assert_true(count_lines(bodies[i], start) == (value == i + 1 ? 3 : 0));
        }
        assert_true(count_lines(bodies[i], "pg_stat_user_tables_seq_scan{") == SERIES_INSTANCES * 3);
    }
    free(now);
    for (int i = 0; i < 2; i++)
        buf_free(&c[i].answer);
    scraper_close(&s);
}

static size_t count_value(const char *text, const char *family, int value)
{
    size_t n = 0;
    char end[16];
    snprintf(end, sizeof end, " %d", value);
    for (struct lines l = lines_of(text); next_line(&l);)
        n += starts_with(&l, family, strlen(family)) && l.length > strlen(end) &&
             memcmp(l.line + l.length - strlen(end), end, strlen(end)) == 0;
    return n;
}

/* What is kept from one scrape to the next is given up where there is something new, and by and by. */
static void test_kept_blocks(void **state)
{
    (void)state;
    enum { MEMBERS = BLOCK_INSTANCES * 2 + 5, LAST = MEMBERS - 1 };
    static const char family[] = "pg_wal_segments{";
    struct scraper s;
    struct poller *p[MEMBERS];
    scraper_open(&s);
    PGresult *old = make_answer(QUERY_WAL, 1), *new = make_answer_from(QUERY_WAL, 1, 200000);
    for (int i = 0; i < MEMBERS; i++) {
        p[i] = add_member(&s, i);
        give_answer(p[i], QUERY_WAL, old);
        set_up(p[i]);
    }
    char *text = scrape(&s);
    assert_int_equal(count_value(text, family, 100000), MEMBERS);
    free(text);
    struct text_block *first = s.exposition->blocks[1 + QUERY_WAL];
    assert_true(first != NULL && first->users == 1);
    give_answer(p[LAST], QUERY_WAL, new);
    give_answer(p[0], QUERY_WAL, old); /* again the same */
    uint64_t version = first->versions[0];
    text = scrape(&s);
    assert_int_equal(count_value(text, family, 100000), MEMBERS - 1);
    assert_int_equal(count_value(text, family, 200000), 1);
    assert_true(s.exposition->blocks[1 + QUERY_WAL] == first && first->versions[0] == version);
    free(text);
    /* down for long: its values stop; it comes back with the texts it had */
    p[1]->up = false;
    p[1]->down_ns = loop_now(&s.f.loop) - 4 * 3600 * ENV_NS_PER_S;
    text = scrape(&s);
    assert_int_equal(count_lines(text, family), MEMBERS - 1);
    free(text);
    p[1]->up = true;
    text = scrape(&s);
    assert_int_equal(count_lines(text, family), MEMBERS);
    free(text);
    struct fleet_instance *gone = p[2]->instance;
    pollers_forget(s.f.pollers, gone);
    fleet_remove_instance(&s.f.fleet, gone);
    text = scrape(&s);
    assert_int_equal(count_lines(text, family), MEMBERS - 1);
    free(text);
    jump(&s, 100 * ENV_NS_PER_S);
    assert_true(s.exposition->blocks == NULL);
    text = scrape(&s);
    assert_int_equal(count_lines(text, family), MEMBERS - 1);
    free(text);
    PQclear(old);
    PQclear(new);
    scraper_close(&s);
}

/* Scrapes at the same time share one text. */
static void test_scrapes_share(void **state)
{
    (void)state;
    struct scraper s;
    struct client c[5];
    scraper_open(&s);
    set_up(add_member(&s, 1));
    for (int i = 0; i < 5; i++)
        client_start(&s, &c[i], "GET");
    for (int i = 0; i < 5; i++)
        client_end(&s, &c[i], "200");
    for (int i = 1; i < 5; i++)
        assert_string_equal(strstr(c[i].answer.data, "\r\n\r\n"), strstr(c[0].answer.data, "\r\n\r\n"));
    for (int i = 0; i < 5; i++)
        buf_free(&c[i].answer);
    assert_true(s.exposition->snapshots <= 2);
    scraper_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_empty_fleet),
        cmocka_unit_test(test_methods),
        cmocka_unit_test(test_the_managers_numbers),
        cmocka_unit_test(test_stale_values_stop),
        cmocka_unit_test(test_health),
        cmocka_unit_test(test_a_large_scrape_does_not_stall_the_loop),
        cmocka_unit_test(test_the_set_changes_during_a_scrape),
        cmocka_unit_test(test_slow_readers_are_bounded),
        cmocka_unit_test(test_texts_in_flight_do_not_change),
        cmocka_unit_test(test_kept_blocks),
        cmocka_unit_test(test_scrapes_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
