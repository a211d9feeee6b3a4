/* The reflector without a wire: what it asks, what it makes of the answers, when it gives up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/buf.h"
#include "k8s/reflector.h"

struct fixture {
    struct reflector *r;
    struct reflector_server server;
    struct reflector_step step;
    struct buf changes;
    uint64_t now;
};

static void record(enum k8s_change change, const struct k8s_object *now, const struct k8s_object *before,
                   void *data)
{
    struct fixture *f = data;
    const struct object_store *store = reflector_store(f->r);
    const struct k8s_object *object = now != NULL ? now : before;
    static const char marks[] = {'+', '*', '-'};
    buf_printf(&f->changes, "%c%s@%s ", marks[change], object->key, object->version);
    /* the store is always one that the server once had: what is reported is in it */
    assert_int_equal(object_store_find(store, object->key) != NULL,
                     now != NULL || object_store_find(store, object->key) != NULL);
    if (change == K8S_ADDED || change == K8S_MODIFIED)
        assert_string_equal(object_store_find(store, object->key)->version, now->version);
}

static void fixture_new(struct fixture *f, bool watch_lists)
{
    memset(f, 0, sizeof *f);
    f->server.no_watch_list = !watch_lists;
    const struct reflector_options o = {
        .env = env_system(), .server = &f->server, .changed = record, .data = f, .object_limit = 4096};
    f->r = reflector_new(&o);
    f->now = 1000 * ENV_NS_PER_S;
    reflector_start(f->r, f->now, &f->step);
}

static void fixture_free(struct fixture *f)
{
    reflector_stop(f->r, &f->step);
    reflector_free(f->r);
    buf_free(&f->changes);
}

static void expect_changes(struct fixture *f, const char *text)
{
    assert_string_equal(buf_text(&f->changes), text);
    buf_reset(&f->changes);
}

static void expect_query(const struct fixture *f, const char *text)
{
    assert_true(f->step.send);
    assert_string_equal(f->step.query, text);
}

static bool asks(const struct fixture *f, const char *part)
{
    return f->step.send && strstr(f->step.query, part) != NULL;
}

static void head(struct fixture *f, int status)
{
    reflector_head(f->r, f->now, status, NULL, &f->step);
    assert_false(f->step.send);
}

static void data(struct fixture *f, const char *text)
{
    reflector_data(f->r, f->now, text, strlen(text), &f->step);
}

static void end(struct fixture *f)
{
    reflector_end(f->r, f->now, NULL, &f->step);
}

static void lost(struct fixture *f)
{
    const struct err err = {.code = ERRC_UNAVAILABLE, .message = "connection refused"};
    reflector_end(f->r, f->now, &err, &f->step);
}

static void answer(struct fixture *f, int status, const char *body, const char *retry_after)
{
    reflector_head(f->r, f->now, status, retry_after, &f->step);
    data(f, body);
    end(f);
}

/* Goes to the deadline and ticks. Returns the nanoseconds it took. */
static uint64_t wait(struct fixture *f)
{
    uint64_t before = f->now;
    assert_true(f->step.deadline_ns > f->now);
    f->now = f->step.deadline_ns - 1;
    struct reflector_step early;
    reflector_tick(f->r, f->now, &early);
    assert_false(early.send || early.abort);
    f->now++;
    reflector_tick(f->r, f->now, &f->step);
    return f->now - before;
}

#define POD(name, version)                                                                                   \
    "{\"metadata\":{\"namespace\":\"ns\",\"name\":\"" name "\",\"uid\":\"u-" name                            \
    "\",\"resourceVersion\":\"" version "\"}}"
#define EVENT(type, object) "{\"type\":\"" type "\",\"object\":" object "}\n"
#define BOOKMARK(version)   EVENT("BOOKMARK", "{\"metadata\":{\"resourceVersion\":\"" version "\"}}")
#define END_MARK(version)                                                                                    \
    EVENT("BOOKMARK", "{\"metadata\":{\"resourceVersion\":\"" version                                        \
                      "\",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}")
#define FAILURE(code, reason)                                                                                \
    EVENT("ERROR", "{\"kind\":\"Status\",\"code\":" #code ",\"reason\":\"" reason "\",\"message\":\"m\"}")
#define LIST(version, more, items)                                                                           \
    "{\"kind\":\"PodList\",\"metadata\":{\"resourceVersion\":\"" version "\",\"continue\":\"" more           \
    "\"},\"items\":[" items "]}"
#define STATUS(code, reason)                                                                                 \
    "{\"kind\":\"Status\",\"code\":" #code ",\"reason\":\"" reason "\",\"message\":\"m\"}"

/* A watch that runs from version 10 with the pods a and b. */
static void to_watch(struct fixture *f)
{
    fixture_new(f, false);
    answer(f, 200, LIST("10", "", POD("a", "7") "," POD("b", "9")), NULL);
    assert_true(asks(f, "watch=true&resourceVersion=10&"));
    head(f, 200);
    buf_reset(&f->changes);
    f->now += 5 * ENV_NS_PER_S;
}

static void test_K1_versions_of_lists(void **state)
{
    struct fixture f;
    (void)state;
    fixture_new(&f, false);
    expect_query(&f, "resourceVersion=0&limit=500");
    answer(&f, 200, LIST("10", "", POD("a", "7")), NULL);
    expect_changes(&f, "+ns/a@7 ");
    assert_true(reflector_synced(f.r));
    head(&f, 200);
    data(&f, FAILURE(410, "Expired"));
    assert_true(f.step.abort);
    expect_query(&f, "resourceVersion=10"); /* a relist: not older than what we had */
    answer(&f, 410, STATUS(410, "Expired"), NULL);
    expect_query(&f, "resourceVersion=&limit=500"); /* only now a quorum read */
    answer(&f, 410, STATUS(410, "Expired"), NULL);
    assert_false(f.step.send); /* one step, then pauses */
    wait(&f);
    expect_query(&f, "resourceVersion=&limit=500");
    answer(&f, 200, LIST("12", "", POD("a", "11")), NULL);
    expect_changes(&f, "*ns/a@11 ");
    head(&f, 200);
    data(&f, FAILURE(410, "Gone"));
    expect_query(&f, "resourceVersion=12");
    fixture_free(&f);
}

static void test_K1_a_version_too_large_is_given_up(void **state)
{
    struct fixture f;
    (void)state;
    to_watch(&f);
    data(&f, FAILURE(410, "Expired"));
    answer(
        &f, 504,
        "{\"kind\":\"Status\",\"code\":504,\"reason\":\"Timeout\",\"details\":{\"causes\":[{\"reason\":"
        "\"ResourceVersionTooLarge\",\"message\":\"Too large resource version\"}],\"retryAfterSeconds\":1}}",
        "1");
    expect_query(&f, "resourceVersion=&limit=500");
    fixture_free(&f);
}

static void test_K2_expired_versions_lead_to_a_relist(void **state)
{
    static const char *const events[] = {FAILURE(410, "Expired"), FAILURE(410, "Gone"), FAILURE(410, ""),
                                         FAILURE(0, "Expired"), FAILURE(0, "Gone")};
    struct fixture f;
    (void)state;
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        to_watch(&f);
        data(&f, events[i]);
        assert_true(f.step.abort && f.step.send && !f.step.watch);
        fixture_free(&f);
    }
    to_watch(&f);
    end(&f);
    assert_true(f.step.watch);
    answer(&f, 410, STATUS(410, "Expired"), NULL);
    assert_true(f.step.send && !f.step.watch);
    fixture_free(&f);
}

static void test_K3_an_orderly_end_leads_to_a_watch_from_the_last_version(void **state)
{
    struct fixture f;
    (void)state;
    to_watch(&f);
    data(&f, EVENT("MODIFIED", POD("a", "21")));
    end(&f);
    assert_true(asks(&f, "watch=true&resourceVersion=21&allowWatchBookmarks=true"));
    head(&f, 200);
    f.now += 5 * ENV_NS_PER_S;
    data(&f, BOOKMARK("30"));
    end(&f);
    assert_true(asks(&f, "watch=true&resourceVersion=30&"));
    expect_changes(&f, "*ns/a@21 ");
    fixture_free(&f);
}

static void test_K4_short_watches_back_off(void **state)
{
    struct fixture f;
    uint64_t start;
    (void)state;
    to_watch(&f);
    end(&f);
    start = f.now;
    for (int i = 0; i < 100; i++) {
        assert_true(asks(&f, "watch=true"));
        head(&f, 200);
        f.now += ENV_NS_PER_MS;
        end(&f);
        assert_false(f.step.send);
        uint64_t pause = wait(&f);
        uint64_t base = i < 6 ? (800 * ENV_NS_PER_MS) << i : 30 * ENV_NS_PER_S;
        base = base > 30 * ENV_NS_PER_S ? 30 * ENV_NS_PER_S : base;
        assert_true(pause >= base && pause < 2 * base);
        assert_true(asks(&f, "resourceVersion=10")); /* by way of a list */
        answer(&f, 200, LIST("10", "", POD("a", "7") "," POD("b", "9")), NULL);
    }
    assert_true(f.now - start > 94 * 30 * ENV_NS_PER_S);
    fixture_free(&f);
}

static void test_K5_watch_timeouts_differ(void **state)
{
    struct fixture f;
    int seen[601] = {0}, different = 0;
    (void)state;
    to_watch(&f);
    for (int i = 0; i < 50; i++) {
        end(&f);
        const char *at = strstr(f.step.query, "timeoutSeconds=");
        assert_non_null(at);
        int seconds = atoi(at + strlen("timeoutSeconds="));
        assert_in_range(seconds, 300, 600);
        different += seen[seconds]++ == 0;
        assert_int_equal(f.step.request_ends, f.now + ((uint64_t)seconds + 30) * ENV_NS_PER_S);
        head(&f, 200);
        f.now += 2 * ENV_NS_PER_S;
    }
    assert_true(different > 10);
    fixture_free(&f);
}

static void test_K6_bookmarks_change_the_version_only(void **state)
{
    struct fixture f;
    struct reflector_facts facts;
    (void)state;
    to_watch(&f);
    data(&f, BOOKMARK("99"));
    expect_changes(&f, "");
    reflector_facts(f.r, &facts);
    assert_string_equal(facts.version, "99");
    assert_int_equal(reflector_store(f.r)->count, 2);
    fixture_free(&f);
}

static void test_K7_versions_of_a_snapshot_are_not_continued_from(void **state)
{
    struct fixture f;
    (void)state;
    fixture_new(&f, true);
    head(&f, 200);
    data(&f, EVENT("ADDED", POD("a", "70")) EVENT("ADDED", POD("b", "20")));
    lost(&f);
    wait(&f);
    assert_true(asks(&f, "sendInitialEvents=true"));
    assert_true(asks(&f, "&resourceVersion=&"));
    expect_changes(&f, "");
    fixture_free(&f);
}

static void test_K8_a_snapshot_shows_when_it_is_complete(void **state)
{
    struct fixture f;
    (void)state;
    fixture_new(&f, true);
    assert_true(f.step.watch);
    assert_true(asks(&f,
                     "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=&"
                     "allowWatchBookmarks=true&timeoutSeconds="));
    head(&f, 200);
    data(&f, EVENT("ADDED", POD("a", "7")) EVENT("ADDED", POD("b", "8")) BOOKMARK("9"));
    assert_false(reflector_synced(f.r));
    assert_int_equal(reflector_store(f.r)->count, 0);
    data(&f, END_MARK("12") EVENT("DELETED", POD("a", "13")));
    assert_true(reflector_synced(f.r));
    assert_false(f.step.send || f.step.abort); /* the same connection goes on */
    assert_int_equal(reflector_store(f.r)->count, 1);
    assert_non_null(strstr(buf_text(&f.changes), "-ns/a@7 "));
    end(&f);
    assert_true(asks(&f, "watch=true&resourceVersion=13&"));
    fixture_free(&f);
}

static void test_K9_a_refused_snapshot_becomes_list_and_watch(void **state)
{
    static const struct {
        int status;
        bool of_server;
    } rows[] = {{400, true}, {422, true}, {403, false}, {404, false}, {500, false}};
    struct fixture f;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fixture_new(&f, true);
        answer(&f, rows[i].status, "{\"kind\":\"Status\",\"reason\":\"Invalid\"}", NULL);
        expect_query(&f, "resourceVersion=0&limit=500");
        assert_int_equal(f.server.no_watch_list, rows[i].of_server);
        fixture_free(&f);
    }
}

static void test_K9_a_silent_snapshot_becomes_list_and_watch(void **state)
{
    struct fixture f;
    (void)state;
    fixture_new(&f, true);
    head(&f, 200);
    f.now += 4 * ENV_NS_PER_S;
    data(&f, EVENT("ADDED", POD("a", "7")));
    f.now += 4 * ENV_NS_PER_S;
    data(&f, BOOKMARK("9")); /* an ordinary one does not count */
    assert_true(wait(&f) <= 6 * ENV_NS_PER_S);
    assert_true(f.step.abort);
    expect_query(&f, "resourceVersion=0&limit=500");
    assert_true(f.server.no_watch_list);
    answer(&f, 200, LIST("10", "", POD("a", "7")), NULL);
    expect_changes(&f, "+ns/a@7 ");
    fixture_free(&f);
}

static void test_K9_a_snapshot_that_ends_without_its_mark(void **state)
{
    struct fixture f;
    (void)state;
    fixture_new(&f, true);
    head(&f, 200);
    data(&f, EVENT("ADDED", POD("a", "7")));
    end(&f);
    wait(&f);
    expect_query(&f, "resourceVersion=0&limit=500");
    fixture_free(&f);
}

static void test_K11_pages(void **state)
{
    struct fixture f;
    (void)state;
    fixture_new(&f, false);
    answer(&f, 200, LIST("10", "to&ken=", POD("a", "7")), NULL);
    expect_query(&f, "continue=to%26ken%3D&limit=500");
    answer(&f, 200, LIST("10", "more", ""), NULL); /* an empty page is no end */
    expect_query(&f, "continue=more&limit=500");
    expect_changes(&f, "");
    answer(&f, 410, STATUS(410, "Expired"), NULL);
    expect_query(&f, "resourceVersion=0"); /* everything at once, as the first page asked */
    answer(&f, 200, LIST("11", "", POD("b", "8")), NULL);
    expect_changes(&f, "+ns/b@8 "); /* nothing of the pages before */
    assert_true(asks(&f, "resourceVersion=11&"));
    fixture_free(&f);
}

static void test_K12_busy_servers_are_left_alone(void **state)
{
    struct fixture f;
    (void)state;
    fixture_new(&f, true);
    answer(&f, 429, "Too many requests, please try again later.\n", "7");
    assert_false(f.step.send);
    assert_true(wait(&f) >= 7 * ENV_NS_PER_S);
    assert_true(asks(&f, "sendInitialEvents=true")); /* that was no refusal of watch-lists */
    answer(&f, 429, "Too many requests", NULL);
    assert_true(wait(&f) >= 1600 * ENV_NS_PER_MS);
    fixture_free(&f);
    to_watch(&f);
    data(&f, EVENT("ERROR", "{\"kind\":\"Status\",\"code\":429,\"reason\":\"TooManyRequests\","
                            "\"details\":{\"retryAfterSeconds\":3}}"));
    assert_true(f.step.abort && !f.step.send);
    assert_true(wait(&f) >= 3 * ENV_NS_PER_S);
    assert_true(asks(&f, "watch=true&resourceVersion=10&"));
    fixture_free(&f);
}

static void test_K13_a_refused_connection_does_not_relist(void **state)
{
    struct fixture f;
    struct reflector_facts facts;
    (void)state;
    to_watch(&f);
    end(&f);
    for (int i = 0; i < 20; i++) {
        lost(&f);
        assert_false(f.step.send);
        wait(&f);
        assert_true(asks(&f, "watch=true&resourceVersion=10&"));
    }
    reflector_facts(f.r, &facts);
    assert_int_equal(facts.lists, 1);
    fixture_free(&f);
}

static void test_K14_silent_connections_are_given_up(void **state)
{
    struct fixture f;
    (void)state;
    to_watch(&f);
    uint64_t longest = wait(&f); /* no bookmark was ever seen: only the watch's own end counts */
    assert_in_range(longest / ENV_NS_PER_S, 300, 630);
    assert_true(f.step.abort && asks(&f, "watch=true&resourceVersion=10&"));
    head(&f, 200);
    data(&f, BOOKMARK("11"));
    f.now += 100 * ENV_NS_PER_S;
    data(&f, BOOKMARK("12"));
    assert_int_equal(wait(&f), 180 * ENV_NS_PER_S);
    assert_true(f.step.abort && asks(&f, "watch=true&resourceVersion=12&"));
    fixture_free(&f);
}

static void test_K15_events_in_any_pieces(void **state)
{
    static const char text[] = EVENT("ADDED", POD("c", "20")) EVENT("MODIFIED", POD("a", "21"))
        EVENT("DELETED", POD("b", "22")) BOOKMARK("23") "{\"type\":\"ADDED\",\"object\":";
    struct fixture f;
    (void)state;
    for (size_t cut = 0; cut < sizeof text; cut++) {
        to_watch(&f);
        reflector_data(f.r, f.now, text, cut, &f.step);
        reflector_data(f.r, f.now, text + cut, sizeof text - 1 - cut, &f.step);
        expect_changes(&f, "+ns/c@20 *ns/a@21 -ns/b@9 ");
        end(&f);
        assert_true(asks(&f, "resourceVersion=23&")); /* what was cut off comes again */
        fixture_free(&f);
    }
}

static void test_what_follows_an_error_in_a_stream_is_not_read(void **state)
{
    struct fixture f;
    struct reflector_facts facts;
    (void)state;
    to_watch(&f);
    data(&f, EVENT("ADDED", POD("c", "20")) FAILURE(410, "Expired") EVENT("ADDED", POD("d", "21"))
                 FAILURE(410, "Expired"));
    expect_changes(&f, "+ns/c@20 ");
    expect_query(&f, "resourceVersion=20");
    reflector_facts(f.r, &facts);
    assert_int_equal(facts.relists, 1);
    fixture_free(&f);
}

static void test_K16_vanished_objects_are_reported(void **state)
{
    struct fixture f;
    (void)state;
    to_watch(&f);
    data(&f, FAILURE(410, "Expired"));
    answer(&f, 200,
           LIST("50", "",
                "{\"metadata\":{\"namespace\":\"ns\",\"name\":\"b\",\"uid\":\"another\","
                "\"resourceVersion\":\"40\"}}"),
           NULL);
    expect_changes(&f, "-ns/a@7 -ns/b@9 +ns/b@40 ");
    fixture_free(&f);
}

static void test_K16_the_old_store_stays_until_the_new_one_is_complete(void **state)
{
    struct fixture f;
    (void)state;
    to_watch(&f);
    data(&f, FAILURE(410, "Expired"));
    head(&f, 200);
    data(&f, "{\"metadata\":{\"resourceVersion\":\"50\"},\"items\":[" POD("c", "40") ",");
    assert_int_equal(reflector_store(f.r)->count, 2);
    lost(&f);
    assert_int_equal(reflector_store(f.r)->count, 2);
    wait(&f);
    answer(&f, 200, LIST("51", "", POD("a", "7")), NULL);
    expect_changes(&f, "-ns/b@9 ");
    fixture_free(&f);
}

static void test_what_makes_no_sense_is_skipped_or_asked_again(void **state)
{
    struct fixture f;
    struct reflector_facts facts;
    (void)state;
    to_watch(&f);
    data(&f, "not json\n{}\n[]\n" EVENT("SURPRISE", POD("a", "30")) EVENT("ADDED", "{\"metadata\":{}}")
                 EVENT("ADDED", "7") EVENT("BOOKMARK", "{}"));
    expect_changes(&f, "");
    reflector_facts(f.r, &facts);
    assert_string_equal(facts.version, "10");
    assert_true(facts.skipped >= 5);
    char *line = malloc(8192);
    memset(line, 'x', 8192);
    reflector_data(f.r, f.now, line, 8192, &f.step);
    free(line);
    assert_true(f.step.abort && !f.step.send);
    reflector_facts(f.r, &facts);
    assert_int_equal(facts.last_error.code, ERRC_LIMIT);
    wait(&f);
    answer(&f, 200, "<html>a captive portal</html>", NULL);
    assert_false(f.step.send);
    wait(&f);
    answer(&f, 200, "{}", NULL);
    reflector_facts(f.r, &facts);
    assert_string_equal(facts.last_error.message, "list: the answer is no list with a resourceVersion");
    assert_int_equal(reflector_store(f.r)->count, 2);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_K1_versions_of_lists),
        cmocka_unit_test(test_K1_a_version_too_large_is_given_up),
        cmocka_unit_test(test_K2_expired_versions_lead_to_a_relist),
        cmocka_unit_test(test_K3_an_orderly_end_leads_to_a_watch_from_the_last_version),
        cmocka_unit_test(test_K4_short_watches_back_off),
        cmocka_unit_test(test_K5_watch_timeouts_differ),
        cmocka_unit_test(test_K6_bookmarks_change_the_version_only),
        cmocka_unit_test(test_K7_versions_of_a_snapshot_are_not_continued_from),
        cmocka_unit_test(test_K8_a_snapshot_shows_when_it_is_complete),
        cmocka_unit_test(test_K9_a_refused_snapshot_becomes_list_and_watch),
        cmocka_unit_test(test_K9_a_silent_snapshot_becomes_list_and_watch),
        cmocka_unit_test(test_K9_a_snapshot_that_ends_without_its_mark),
        cmocka_unit_test(test_K11_pages),
        cmocka_unit_test(test_K12_busy_servers_are_left_alone),
        cmocka_unit_test(test_K13_a_refused_connection_does_not_relist),
        cmocka_unit_test(test_K14_silent_connections_are_given_up),
        cmocka_unit_test(test_K15_events_in_any_pieces),
        cmocka_unit_test(test_what_follows_an_error_in_a_stream_is_not_read),
        cmocka_unit_test(test_K16_vanished_objects_are_reported),
        cmocka_unit_test(test_K16_the_old_store_stays_until_the_new_one_is_complete),
        cmocka_unit_test(test_what_makes_no_sense_is_skipped_or_asked_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
