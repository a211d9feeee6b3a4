#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "health/health.h"

#define PERIOD 1000 /* any unit will do */
#define T0     100000

struct judge_case {
    const char *name;
    uint64_t seen, failed, errors, now;
    enum instance_health health;
    unsigned missed;
    int rule;
};

static const struct judge_case judge_cases[] = {
    {"never polled", 0, 0, 0, T0, HEALTH_UNKNOWN, 0, HEALTH_R_UNKNOWN},
    {"first poll failed", 0, T0, 1, T0, HEALTH_SUSPECT, 1, HEALTH_R_NEVER_SEEN},
    {"two polls failed, none ever worked", 0, T0, 2, T0, HEALTH_DOWN, 2, HEALTH_R_NEVER_SEEN},
    {"just answered", T0, 0, 0, T0, HEALTH_UP, 0, HEALTH_R_UP},
    {"the next answer is due", T0, 0, 0, T0 + PERIOD, HEALTH_UP, 0, HEALTH_R_UP},
    {"a slow answer is no miss", T0, 0, 0, T0 + PERIOD * 5 / 4 - 1, HEALTH_UP, 0, HEALTH_R_UP},
    {"silent for one period", T0, 0, 0, T0 + PERIOD * 5 / 4, HEALTH_SUSPECT, 1, HEALTH_R_SUSPECT},
    {"not yet two", T0, 0, 0, T0 + PERIOD * 9 / 4 - 1, HEALTH_SUSPECT, 1, HEALTH_R_SUSPECT},
    {"silent for two periods", T0, 0, 0, T0 + PERIOD * 9 / 4, HEALTH_DOWN, 2, HEALTH_R_DOWN},
    {"refused at the first poll after", T0, T0 + PERIOD, 1, T0 + PERIOD, HEALTH_SUSPECT, 1, HEALTH_R_SUSPECT},
    {"refused early by the timer's slack", T0, T0 + PERIOD - 20, 1, T0 + PERIOD, HEALTH_SUSPECT, 1,
     HEALTH_R_SUSPECT},
    {"connection lost at once", T0, T0 + 5, 1, T0 + 5, HEALTH_SUSPECT, 1, HEALTH_R_SUSPECT},
    {"refused twice", T0, T0 + 2 * PERIOD - 20, 2, T0 + 2 * PERIOD, HEALTH_DOWN, 2, HEALTH_R_DOWN},
    {"many old failures, but it answered", T0, T0 - 1, 900, T0 + 10, HEALTH_UP, 0, HEALTH_R_UP},
    {"clock equal to an answer in this turn", T0 + 5, 0, 0, T0, HEALTH_UP, 0, HEALTH_R_UP},
    {"down for long", T0, T0 + 3600 * PERIOD, 3600, T0 + 3600 * PERIOD, HEALTH_DOWN, 3600, HEALTH_R_DOWN},
};

static void test_judge(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof judge_cases / sizeof *judge_cases; i++) {
        const struct judge_case *c = &judge_cases[i];
        struct instance_facts facts = {.seen_ns = c->seen, .failed_ns = c->failed, .errors_total = c->errors};
        snprintf(facts.error, sizeof facts.error, "connection refused");
        struct health_verdict v;
        health_judge(&facts, c->now, PERIOD, &v);
        if (v.health != c->health || v.missed != c->missed || v.rule != c->rule)
            fail_msg("%s: %s, %u missed, %s: %s", c->name, instance_health_name(v.health), v.missed,
                     health_rule_name(v.rule), v.sentence);
        char number[8];
        snprintf(number, sizeof number, "(H%d)", v.rule);
        assert_non_null(strstr(v.sentence, number));
        bool refused = c->failed > c->seen;
        assert_int_equal(strstr(v.sentence, "connection refused") != NULL, refused);
    }
}

static const struct instance_facts base = {.seen_ns = T0,
                                           .role = ROLE_STANDBY,
                                           .timeline = 3,
                                           .system_identifier = 77,
                                           .started_us = 1700000000000000};

struct compare_case {
    const char *name;
    struct instance_facts before, after;
    unsigned count;
    int rules[HEALTH_CHANGES_MAX];
};

#define WITH(...)                                                                                            \
    {                                                                                                        \
        .seen_ns = T0, __VA_ARGS__                                                                           \
    }
static const struct compare_case compare_cases[] = {
    {"nothing known", WITH(.role = ROLE_PRIMARY), WITH(.role = ROLE_UNKNOWN), 0, {0}},
    {"first poll", {.role = ROLE_PRIMARY}, WITH(.role = ROLE_STANDBY), 0, {0}},
    {"restart", WITH(.started_us = 5), WITH(.started_us = 6), 1, {HEALTH_R_RESTARTED}},
    {"start not known", WITH(.started_us = 0), WITH(.started_us = 6), 0, {0}},
    {"role", WITH(.role = ROLE_STANDBY), WITH(.role = ROLE_PRIMARY), 1, {HEALTH_R_ROLE}},
    {"promotion",
     WITH(.role = ROLE_STANDBY, .timeline = 1),
     WITH(.role = ROLE_PRIMARY, .timeline = 2),
     2,
     {HEALTH_R_ROLE, HEALTH_R_TIMELINE}},
    {"restart as standby",
     WITH(.role = ROLE_PRIMARY, .started_us = 5, .timeline = 1),
     WITH(.role = ROLE_STANDBY, .started_us = 9, .timeline = 2),
     3,
     {HEALTH_R_RESTARTED, HEALTH_R_ROLE, HEALTH_R_TIMELINE}},
    {"another server, all else aside",
     WITH(.system_identifier = 1, .started_us = 5, .role = ROLE_PRIMARY),
     WITH(.system_identifier = 2, .started_us = 6, .role = ROLE_STANDBY),
     1,
     {HEALTH_R_IDENTITY}},
};

static void test_compare(void **state)
{
    (void)state;
    struct health_change changes[HEALTH_CHANGES_MAX];
    assert_int_equal(health_compare("a", &base, &base, changes), 0);
    for (size_t i = 0; i < sizeof compare_cases / sizeof *compare_cases; i++) {
        const struct compare_case *c = &compare_cases[i];
        unsigned count = health_compare("shop-s1-0", &c->before, &c->after, changes);
        if (count != c->count)
            fail_msg("%s: %u changes", c->name, count);
        for (unsigned n = 0; n < count; n++) {
            if (changes[n].rule != c->rules[n])
                fail_msg("%s: rule %s", c->name, health_rule_name(changes[n].rule));
            assert_non_null(strstr(changes[n].sentence, "shop-s1-0"));
        }
    }
}

static void test_names(void **state)
{
    (void)state;
    for (int i = 1; i < HEALTH_R_COUNT; i++)
        for (int j = 1; j < i; j++)
            assert_string_not_equal(health_rule_name(i), health_rule_name(j));
    assert_string_equal(health_rule_name(HEALTH_R_COUNT), "unknown-rule");
    assert_string_equal(health_rule_name(0), "unknown-rule");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_judge),
        cmocka_unit_test(test_compare),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
