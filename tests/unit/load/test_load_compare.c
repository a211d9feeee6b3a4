#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "load/load_compare.h"
#include "load/load_keys.h"

#define CUSTOMERS 20
#define ORDERS    3

struct fixture {
    struct routing *routing;
    struct load_state state;
    struct load_findings findings;
    struct load_compare *compare;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    const struct load_shape shape = {KEY_BIGINT, CUSTOMERS, ORDERS};
    const struct range low = {INT64_MIN, -1}, high = {0, INT64_MAX};
    f->routing = routing_new("shop");
    range_set_add(&routing_add_shard(f->routing, "s1", "127.0.0.1", 1)->ranges, &low, NULL);
    range_set_add(&routing_add_shard(f->routing, "s2", "127.0.0.1", 2)->ranges, &high, NULL);
    load_state_init(&f->state, &shape);
    load_findings_init(&f->findings, NULL, NULL);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    load_compare_free(f->compare);
    load_findings_fini(&f->findings);
    load_state_fini(&f->state);
    routing_free(f->routing);
    free(f);
    return 0;
}

static size_t owner(uint32_t number)
{
    return load_key_hash(KEY_BIGINT, number) < 0 ? 0 : 1;
}

static void customer(struct fixture *f, size_t shard, uint32_t number, uint32_t version)
{
    char line[128];
    int n = snprintf(line, sizeof line, "%u\t%u\t%lld\n", number + 1, version,
                     (long long)load_balance_of(number, version));
    load_compare_customer(f->compare, shard, line, (size_t)n);
}

static void order(struct fixture *f, size_t shard, uint32_t number, uint32_t id)
{
    char line[128];
    int n =
        snprintf(line, sizeof line, "%u\t%u\t%lld\n", number + 1, id, (long long)load_amount_of(number, id));
    load_compare_order(f->compare, shard, line, (size_t)n);
}

/* every row that the state asks for, but customer `skip` and order `skip_order` of customer 0 */
static void feed(struct fixture *f, uint32_t skip, uint32_t skip_order)
{
    f->compare = load_compare_new(&f->state, f->routing, &f->findings);
    for (uint32_t n = 0; n < CUSTOMERS; n++) {
        if (n != skip)
            customer(f, owner(n), n, f->state.version[n]);
        for (uint32_t id = f->state.first[n]; id < f->state.next[n]; id++) {
            if (n != 0 || id != skip_order)
                order(f, owner(n), n, id);
        }
    }
}

static void expect(struct fixture *f, unsigned lost, unsigned resurrected, unsigned duplicated,
                   unsigned misplaced, unsigned unexpected)
{
    load_compare_finish(f->compare);
    const uint64_t *counts = f->findings.counts;
    if (counts[FINDING_LOST] != lost || counts[FINDING_RESURRECTED] != resurrected ||
        counts[FINDING_DUPLICATED] != duplicated || counts[FINDING_MISPLACED] != misplaced ||
        counts[FINDING_UNEXPECTED] != unexpected) {
        for (unsigned i = 0; i < f->findings.shown_count; i++)
            print_error("%s\n", f->findings.shown[i]);
        fail_msg("lost %d resurrected %d duplicated %d misplaced %d unexpected %d", (int)counts[0],
                 (int)counts[1], (int)counts[2], (int)counts[3], (int)counts[4]);
    }
}

static void change(struct fixture *f, enum load_change what, uint32_t number)
{
    struct load_write w;
    load_state_plan(&f->state, what, number, &w);
    assert_int_equal(load_state_apply(&f->state, &w, NULL), 0);
}

static void doubt(struct fixture *f, enum load_change what, uint32_t number)
{
    struct load_write w;
    load_state_plan(&f->state, what, number, &w);
    assert_int_equal(load_state_doubt(&f->state, &w, NULL), 0);
}

static void test_all_right(void **state)
{
    struct fixture *f = *state;
    change(f, CHANGE_TX, 3);
    change(f, CHANGE_DELETE, 5);
    for (int i = 0; i < ORDERS; i++)
        change(f, CHANGE_DELETE, 6);
    feed(f, UINT32_MAX, 0);
    expect(f, 0, 0, 0, 0, 0);
    assert_int_equal(load_compare_rows(f->compare), CUSTOMERS + CUSTOMERS * ORDERS + 1 - 1 - ORDERS);
}

static void test_missing_customer(void **state)
{
    feed(*state, 7, 0);
    expect(*state, 1, 0, 0, 0, 0);
    assert_non_null(strstr(((struct fixture *)*state)->findings.shown[0], "customer 8 "));
}

static void test_missing_orders(void **state)
{
    for (uint32_t id = 1; id <= ORDERS; id++) {
        struct fixture *f = *state;
        load_compare_free(f->compare);
        load_findings_reset(&f->findings);
        feed(f, UINT32_MAX, id);
        expect(f, 1, 0, 0, 0, 0);
    }
}

static void test_older_and_newer_version(void **state)
{
    struct fixture *f = *state;
    change(f, CHANGE_UPDATE, 1);
    feed(f, 1, 0);
    customer(f, owner(1), 1, 0); /* acknowledged was 1 */
    expect(f, 1, 0, 0, 0, 0);
    load_compare_free(f->compare);
    load_findings_reset(&f->findings);
    feed(f, 1, 0);
    customer(f, owner(1), 1, 2);
    expect(f, 0, 0, 0, 0, 1);
}

static void test_resurrected(void **state)
{
    struct fixture *f = *state;
    change(f, CHANGE_DELETE, 2);
    feed(f, UINT32_MAX, 0);
    order(f, owner(2), 2, 1);
    expect(f, 0, 1, 0, 0, 0);
}

static void test_duplicated_and_misplaced(void **state)
{
    struct fixture *f = *state;
    feed(f, UINT32_MAX, 0);
    customer(f, 1 - owner(4), 4, 0);
    order(f, 1 - owner(4), 4, 2);
    expect(f, 0, 0, 2, 2, 0);
}

static void test_only_elsewhere(void **state)
{
    struct fixture *f = *state;
    feed(f, 0, 2);
    customer(f, 1 - owner(0), 0, 0);
    order(f, 1 - owner(0), 0, 2);
    expect(f, 2, 0, 0, 2, 0);
}

static void test_twice_on_the_owner(void **state)
{
    struct fixture *f = *state;
    feed(f, UINT32_MAX, 0);
    customer(f, owner(9), 9, 0);
    order(f, owner(9), 9, 1);
    expect(f, 0, 0, 2, 0, 0);
}

static void test_rows_of_nobody(void **state)
{
    struct fixture *f = *state;
    static const char *const lines[] = {"21\t0\t0\n",  "x\t0\t0\n",
                                        "1\t0\n",      "1\t0\t0\t0\n",
                                        "\\N\t0\t0\n", "1\t\\N\t0\n",
                                        "1\t0\t\\N\n", "",
                                        "1",           "1\t99999999999999999999\t1\n"};
    feed(f, UINT32_MAX, 0);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        load_compare_customer(f->compare, 0, lines[i], strlen(lines[i]));
    expect(f, 0, 0, 0, 0, sizeof lines / sizeof lines[0]);
}

static void test_wrong_contents(void **state)
{
    struct fixture *f = *state;
    feed(f, 3, 2);
    load_compare_customer(f->compare, owner(3), "4\t0\t-1\n", 7);
    load_compare_order(f->compare, owner(0), "1\t2\t-1\n", 7);
    expect(f, 0, 0, 0, 0, 2);
}

static void test_never_written_order(void **state)
{
    struct fixture *f = *state;
    feed(f, UINT32_MAX, 0);
    order(f, owner(8), 8, ORDERS + 1); /* next: could be in doubt, but is not */
    order(f, owner(8), 8, ORDERS + 9);
    expect(f, 0, 0, 0, 0, 2);
}

static void test_doubts_have_two_right_outcomes(void **state)
{
    struct fixture *f = *state;
    uint64_t applied, open;
    doubt(f, CHANGE_UPDATE, 1);
    doubt(f, CHANGE_INSERT, 2);
    doubt(f, CHANGE_DELETE, 0);
    doubt(f, CHANGE_TX, 4);
    feed(f, UINT32_MAX, 0); /* nothing happened */
    expect(f, 0, 0, 0, 0, 0);
    load_compare_doubts(f->compare, &applied, &open);
    assert_int_equal(applied, 0);
    assert_int_equal(open, 5); /* a transaction counts for both of its rows */
    load_compare_free(f->compare);
    feed(f, 1, 1); /* everything happened: customer 1 is updated, order 1 of customer 0 is gone */
    customer(f, owner(1), 1, 1);
    order(f, owner(2), 2, ORDERS + 1);
    order(f, owner(4), 4, ORDERS + 1);
    expect(f, 0, 0, 0, 0, 0);
    load_compare_doubts(f->compare, &applied, &open);
    assert_int_equal(applied, 4);
}

static void test_doubt_excuses_its_own_row_only(void **state)
{
    struct fixture *f = *state;
    doubt(f, CHANGE_DELETE, 0);
    feed(f, UINT32_MAX, 2); /* order 2 is missing, order 1 was in doubt */
    expect(f, 1, 0, 0, 0, 0);
}

static void test_killed_driver_excuses_one_write_per_client(void **state)
{
    struct fixture *f = *state;
    f->state.unclean_clients = 1; /* one client: at most a transaction, two rows */
    feed(f, 1, 0);
    customer(f, owner(1), 1, 1);
    order(f, owner(1), 1, ORDERS + 1);
    order(f, owner(2), 2, ORDERS + 1);
    expect(f, 0, 0, 0, 0, 1);
}

static void test_found_while_running(void **state)
{
    struct fixture *f = *state;
    f->state.found[FINDING_LOST] = 3;
    feed(f, UINT32_MAX, 0);
    expect(f, 3, 0, 0, 0, 0);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_all_right),
        CASE(test_missing_customer),
        CASE(test_missing_orders),
        CASE(test_older_and_newer_version),
        CASE(test_resurrected),
        CASE(test_duplicated_and_misplaced),
        CASE(test_only_elsewhere),
        CASE(test_twice_on_the_owner),
        CASE(test_rows_of_nobody),
        CASE(test_wrong_contents),
        CASE(test_never_written_order),
        CASE(test_doubts_have_two_right_outcomes),
        CASE(test_doubt_excuses_its_own_row_only),
        CASE(test_killed_driver_excuses_one_write_per_client),
        CASE(test_found_while_running),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
