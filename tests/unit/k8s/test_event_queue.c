#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "k8s/event_queue.h"

#define S ENV_NS_PER_S

static const struct k8s_reporter reporter = {"shardherd.io/manager", "manager-0"};
static const struct k8s_reference shop = {"shardherd.io/v1alpha1", "ShardedDatabase", "prod", "shop", "u-1"};

static void emit(struct event_queue *q, uint64_t now_ns, const char *note)
{
    event_queue_emit(q, now_ns, &shop, K8S_EVENT_NORMAL, "ShardSplit", "Split", note);
}

/* Sends everything that is due and answers with 201; how many requests it was. */
static int drain(struct event_queue *q, uint64_t now_ns)
{
    struct event_request request;
    int count = 0;
    for (; event_queue_next(q, now_ns, false, &request); count++)
        assert_false(event_queue_answer(q, now_ns, 201));
    return count;
}

static struct k8s_events_facts facts(const struct event_queue *q)
{
    struct k8s_events_facts f;
    event_queue_facts(q, &f);
    return f;
}

static void test_the_same_again_is_a_series(void **state)
{
    (void)state;
    struct event_queue *q = event_queue_new(env_system(), &reporter);
    struct event_request r;
    emit(q, S, "s1 is hot");
    assert_int_equal(event_queue_due(q), S);
    assert_true(event_queue_next(q, S, false, &r));
    assert_string_equal(r.method, "POST");
    assert_string_equal(r.path, "/apis/events.k8s.io/v1/namespaces/prod/events");
    assert_non_null(strstr(r.body, "\"note\":\"s1 is hot\""));
    assert_non_null(strstr(r.body, "\"uid\":\"u-1\""));
    assert_null(strstr(r.body, "\"series\""));
    assert_false(event_queue_next(q, S, false, &r)); /* one at a time */
    assert_false(event_queue_answer(q, S, 201));

    emit(q, 2 * S, "s1 is hot");
    assert_true(event_queue_next(q, 2 * S, false, &r));
    assert_string_equal(r.method, "PATCH");
    assert_non_null(strstr(r.body, "\"count\":2"));
    assert_false(event_queue_answer(q, 2 * S, 200));

    for (int i = 0; i < 1000; i++)
        emit(q, 3 * S, "s1 is hot");
    assert_false(event_queue_next(q, 3 * S, false, &r));
    assert_int_equal(event_queue_due(q), 32 * S);
    assert_true(event_queue_next(q, 32 * S, false, &r));
    assert_non_null(strstr(r.body, "\"count\":1002"));
    assert_false(event_queue_answer(q, 32 * S, 200));

    emit(q, 500 * S, "s1 is hot"); /* long after: another Event */
    assert_true(event_queue_next(q, 500 * S, false, &r));
    assert_string_equal(r.method, "POST");
    assert_int_equal(facts(q).dropped, 0);
    event_queue_free(q);
}

static void test_an_object_that_says_too_much_is_cut_short(void **state)
{
    (void)state;
    struct event_queue *q = event_queue_new(env_system(), &reporter);
    for (int i = 0; i < 100; i++) {
        char note[16];
        snprintf(note, sizeof note, "note %d", i);
        emit(q, S, note);
    }
    assert_int_equal(drain(q, S), 25);
    assert_int_equal(facts(q).dropped, 75);
    emit(q, 302 * S, "again");
    emit(q, 302 * S, "and again");
    assert_int_equal(drain(q, 302 * S), 1);
    event_queue_free(q);
}

static void test_what_the_server_does_not_take_is_bounded(void **state)
{
    (void)state;
    struct event_queue *q = event_queue_new(env_system(), &reporter);
    struct event_request r;
    for (int i = 0; i < 1000; i++) {
        char name[16];
        snprintf(name, sizeof name, "db-%d", i);
        const struct k8s_reference db = {"v1", "X", "prod", name, NULL};
        event_queue_emit(q, S, &db, K8S_EVENT_WARNING, "R", "A", "n");
    }
    assert_int_equal(facts(q).waiting, 128);
    assert_int_equal(facts(q).dropped, 872);

    /* no answer: a pause, the same Event again; what a try without an answer made is there */
    assert_true(event_queue_next(q, S, false, &r));
    char *body = mem_strdup(r.body);
    assert_false(event_queue_answer(q, S, 0));
    assert_false(event_queue_next(q, S, false, &r));
    uint64_t due = event_queue_due(q);
    assert_true(due > S && due < 3 * S);
    assert_true(event_queue_next(q, due, false, &r));
    assert_string_equal(r.body, body);
    assert_false(event_queue_answer(q, due, 409));
    assert_int_equal(facts(q).waiting, 127);

    /* refused for good */
    assert_true(event_queue_next(q, due, false, &r));
    assert_true(event_queue_answer(q, due, 403));
    assert_int_equal(facts(q).refused, 1);
    assert_int_equal(facts(q).waiting, 126);
    free(body);
    event_queue_free(q);
}

static void test_an_event_that_expired_is_made_again(void **state)
{
    (void)state;
    struct event_queue *q = event_queue_new(env_system(), &reporter);
    struct event_request r;
    emit(q, S, "x");
    assert_int_equal(drain(q, S), 1);
    emit(q, 2 * S, "x");
    assert_true(event_queue_next(q, 2 * S, false, &r));
    assert_string_equal(r.method, "PATCH");
    assert_false(event_queue_answer(q, 2 * S, 404));
    assert_true(event_queue_next(q, 2 * S, false, &r));
    assert_string_equal(r.method, "POST");
    assert_non_null(strstr(r.body, "\"count\":2"));
    event_queue_free(q);
}

static void test_names_and_notes_fit(void **state)
{
    (void)state;
    struct event_queue *q = event_queue_new(env_system(), &reporter);
    struct event_request r;
    char note[2049];
    memset(note, 'n', sizeof note - 1);
    memcpy(note + 1022, "\xe2\x82\xac", 3); /* across the limit */
    note[sizeof note - 1] = '\0';
    const struct k8s_reference role = {"rbac.authorization.k8s.io/v1", "ClusterRole", NULL, "System:Node",
                                       NULL};
    event_queue_emit(q, S, &role, K8S_EVENT_WARNING, "R", "A", note);
    assert_true(event_queue_next(q, S, false, &r));
    assert_string_equal(r.path, "/apis/events.k8s.io/v1/namespaces/default/events");
    assert_non_null(strstr(r.body, "\"name\":\"system-node."));
    assert_null(strstr(r.body, "\xe2\x82"));
    assert_true(strlen(r.body) < 1500);
    event_queue_free(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_again_is_a_series),
        cmocka_unit_test(test_an_object_that_says_too_much_is_cut_short),
        cmocka_unit_test(test_what_the_server_does_not_take_is_bounded),
        cmocka_unit_test(test_an_event_that_expired_is_made_again),
        cmocka_unit_test(test_names_and_notes_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
