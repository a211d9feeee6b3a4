/* The record of a shard in the store: what is printed is read back whole; what cannot be is refused by name,
 * and whatever is done to the text never does more than that. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/mem.h"
#include "ha/shard_record.h"

static const char *const names[] = {"s1-0", "s1-1", "s1-2"};

static void fill(struct shard_record *r)
{
    struct ha_policy policy;
    ha_policy_defaults(&policy, 3);
    shard_record_init(r, names, 3, &policy);
    (void)shard_record_began(r, &(struct shard_primaryship){.term = 1, .timeline = 1});
    (void)shard_record_began(
        r, &(struct shard_primaryship){.term = UINT64_MAX - 1, .parent = 1, .start = UINT64_MAX});
    (void)snprintf(r->op.id, sizeof r->op.id, "k3x9");
    r->op.kind = FAILOVER_KIND_SWITCHOVER;
    r->op.state = FAILOVER_PROMOTE;
    r->op.target = 2;
    r->op.rule = HA_F_GONE;
    (void)snprintf(r->op.reason, sizeof r->op.reason, "a \"reason\" with \\ and \xc3\xa9");
    r->op.ha.term = UINT64_MAX;
    r->op.ha.epoch = 7;
    r->op.ha.durability = HA_PREFERRED;
    r->op.ha.configs[1] = (struct ha_config){
        .epoch = 7, .term = UINT64_MAX - 1, .primary = 2, .members = HA_BIT(0) | HA_BIT(1), .k = 2};
    r->op.ha.count = 2;
    r->maintenance = true;
}

static void test_round_trip(void **state)
{
    struct shard_record r, back;
    struct err err = {0};
    (void)state;
    fill(&r);
    char *text = shard_record_text(&r);
    if (shard_record_parse(text, strlen(text), &back, &err) != 0)
        fail_msg("%s: %s", err.message, text);
    char *again = shard_record_text(&back);
    assert_string_equal(text, again);
    assert_memory_equal(&r.op.ha, &back.op.ha, sizeof r.op.ha);
    assert_int_equal(back.op.target, 2);
    assert_true(back.maintenance);
    assert_int_equal(back.op.allow_loss, -1);
    assert_int_equal(back.op.state, FAILOVER_PROMOTE);
    assert_string_equal(back.op.reason, r.op.reason);
    assert_int_equal(back.history_count, 2);
    assert_true(back.history[1].start == UINT64_MAX && back.history[1].parent == 1);
    free(again);
    free(text);
}

/* A part of a good record, what it is replaced by, and what the error has to name. */
static const struct {
    const char *from, *to, *names;
} damages[] = {
    {"{\"instances\"", "[\"instances\"", "no JSON"},
    {"\"s1-1\",\"s1-2\"]", "\"s1-0\",\"s1-2\"]", "instances"},
    {"[\"s1-0\",\"s1-1\",\"s1-2\"]", "[]", "instances"},
    {"\"s1-1\",\"s1-2\"]", "\"S 1\",\"s1-2\"]", "instances"},
    {"\"state\":\"promote\"", "\"state\":\"pro\"", "state"},
    {"\"kind\":\"switchover\"", "\"kind\":7", "kind"},
    {"\"target\":\"s1-2\"", "\"target\":\"s9\"", "target"},
    {"\"id\":\"k3x9\"", "\"id\":\"0123456789abcdef\"", "id"},
    {"\"rule\":12", "\"rule\":-1", "rule"},
    {"\"epoch\":\"7\",\"durability\"", "\"epoch\":\"6\",\"durability\"", "configs"},
    {"\"epoch\":\"7\",\"durability\"", "\"epoch\":7,\"durability\"", "epoch"},
    {"\"durability\":\"preferred\"", "\"durability\":\"some\"", "durability"},
    {"\"maintenance\":true", "\"maintenance\":\"true\"", "maintenance"},
    {"\"primary\":\"s1-2\"", "\"primary\":null", "primary"},
    {"\"members\":[\"s1-0\",\"s1-1\"]", "\"members\":[\"s1-0\",\"s1-2\"]", "members"},
    {"\"members\":[\"s1-0\",\"s1-1\"]", "\"members\":\"s1-0\"", "members"},
    {"\"k\":2", "\"k\":3", "k"},
    {"\"timeline\":1", "\"timeline\":4294967296", "timeline"},
    {"\"parent\":\"1\"", "\"parent\":\"18446744073709551614\"", "history"},
    {"\"start\":\"0/0\"", "\"start\":\"0\"", "history"},
};

static char *replaced(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    assert_non_null(at);
    return mem_printf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

static void test_damage_is_named(void **state)
{
    struct shard_record r, back;
    (void)state;
    fill(&r);
    char *text = shard_record_text(&r);
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        struct err err = {0};
        char *bad = replaced(text, damages[i].from, damages[i].to);
        if (shard_record_parse(bad, strlen(bad), &back, &err) != ERRC_CORRUPT ||
            strstr(err.message, damages[i].names) == NULL)
            fail_msg("%s: %s", damages[i].to, err.message);
        free(bad);
    }
    free(text);
}

/* Bytes changed, cut out and doubled by chance: refused, or a record that can be printed and read again. */
static void test_any_text(void **state)
{
    struct shard_record r, back, second;
    unsigned refused = 0;
    (void)state;
    fill(&r);
    char *text = shard_record_text(&r);
    size_t length = strlen(text);
    for (int round = 0; round < 20000; round++) {
        char *bad = mem_strdup(text);
        size_t n = length;
        for (uint64_t i = 0, times = 1 + env_random_below(env_system(), 4); i < times; i++) {
            size_t at = env_random_below(env_system(), n), more = env_random_below(env_system(), 12);
            uint64_t kind = env_random_below(env_system(), 3);
            if (kind == 0)
                bad[at] = (char)env_random_below(env_system(), 256);
            else if (kind == 1 && at + more < n && n > 40) {
                memmove(&bad[at], &bad[at + more], n - at - more);
                n -= more;
            } else if (at + more < n)
                memmove(&bad[at], &bad[env_random_below(env_system(), n - more)], more);
        }
        if (shard_record_parse(bad, n, &back, NULL) != 0) {
            refused++;
        } else {
            char *again = shard_record_text(&back);
            assert_non_null(again);
            assert_int_equal(shard_record_parse(again, strlen(again), &second, NULL), 0);
            free(again);
        }
        free(bad);
    }
    assert_true(refused > 10000);
    free(text);
}

static void test_history(void **state)
{
    struct shard_record r;
    struct ha_policy policy;
    struct ha_history h;
    (void)state;
    ha_policy_defaults(&policy, 3);
    shard_record_init(&r, names, 3, &policy);
    assert_true(shard_record_began(&r, &(struct shard_primaryship){.term = 1, .timeline = 1}));
    /* term 2 was given up: term 3 begins where term 1 was left, under the same number of a timeline */
    assert_true(shard_record_began(&r, &(struct shard_primaryship){2, 1, 2, 200}));
    assert_true(shard_record_began(&r, &(struct shard_primaryship){3, 1, 2, 180}));
    assert_false(shard_record_began(&r, &(struct shard_primaryship){3, 1, 4, 190}));
    assert_true(shard_record_began(&r, &(struct shard_primaryship){5, 3, 3, 300}));
    shard_record_history(&r, 5, 400, &h);
    assert_int_equal(h.count, 3);
    assert_true(h.items[0].term == 1 && h.items[0].end == 180 && h.items[0].timeline == 1);
    assert_true(h.items[1].term == 3 && h.items[1].end == 300 && h.items[1].timeline == 2);
    assert_true(h.items[2].term == 5 && h.items[2].end == 400 && h.items[2].timeline == 3);
    shard_record_history(&r, 4, 400, &h);
    assert_int_equal(h.count, 0);
    for (uint64_t term = 6; term < 200; term++)
        assert_true(shard_record_began(&r, &(struct shard_primaryship){term, term - 1, 9, 1000 + term}));
    shard_record_history(&r, 199, 5000, &h);
    assert_int_equal(h.count, HA_TIMELINES_MAX - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_damage_is_named),
        cmocka_unit_test(test_any_text),
        cmocka_unit_test(test_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
