/* The journal document of a move: what is printed is read back whole; what is damaged is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operation/move.h"

static void fill_verified(struct move_record *r)
{
    r->verified.rounds = UINT_MAX;
    r->verified.tables = 4;
    snprintf(r->verified.action, sizeof r->verified.action, "verify");
    snprintf(r->verified.table, sizeof r->verified.table, "public.\"Odd \\ name\"");
    snprintf(r->verified.after, sizeof r->verified.after, "2026-01-01 00:00:00.5+00");
    snprintf(r->reverse_verified.action, sizeof r->reverse_verified.action, "reverse_verify");
    snprintf(r->reverse_verified.table, sizeof r->reverse_verified.table, "public.u");
    snprintf(r->reverse_verified.after, sizeof r->reverse_verified.after, "17");
    r->reverse_verified.tables = 5;
    r->reverse_verified.rounds = 6;
    r->verdict = MOVE_VERDICT_DIFFERS;
    r->go_on = r->accepted = true;
}

static void fill(struct move_record *r)
{
    move_record_init(r);
    snprintf(r->id, sizeof r->id, "splitk2p9xqa");
    r->kind = MOVE_KIND_ISOLATE;
    snprintf(r->database, sizeof r->database, "web-shop");
    snprintf(r->source, sizeof r->source, "s1");
    snprintf(r->target, sizeof r->target, "s12");
    r->range = (struct range){INT64_MIN, INT64_MAX};
    r->new_target = r->retire_source = r->canceled = r->dry_run = r->allow_ddl = true;
    r->state = MOVE_REHEARSE;
    r->rule = 7;
    snprintf(r->reason, sizeof r->reason, "shard s1 is \"hot\": 100 %% over\n the threshold \xc3\xa9");
    err_set(&r->error, ERRC_TIMEOUT, "marker 7 did not arrive");
    buf_add_text(&r->findings, "[{\"subject\":\"public.t\",\"finding\":\"f\",\"remedy\":\"r\"}]");
    r->bake_ns = UINT64_MAX;
    r->created_us = INT64_MIN;
    r->ended_us = INT64_MAX;
    r->decided_us = -1;
    r->phase_started_us = 5;
    uint64_t *const numbers[] = {&r->source_timeline,
                                 &r->target_timeline,
                                 &r->reverse_publication,
                                 &r->source_system,
                                 &r->target_system,
                                 &r->publication,
                                 &r->source_epoch,
                                 &r->target_epoch,
                                 &r->copy_us,
                                 &r->build_us,
                                 &r->copy_rows,
                                 &r->copy_bytes,
                                 &r->total_rows,
                                 &r->total_bytes,
                                 &r->verified.rows,
                                 &r->verified.buckets_in_motion,
                                 &r->lock_us,
                                 &r->inside_us,
                                 &r->commit_us,
                                 &r->open_us,
                                 &r->write_block_us,
                                 &r->marker_us,
                                 &r->cleaned_rows,
                                 &r->verified.buckets,
                                 &r->verified.bytes,
                                 &r->verified.all_bytes,
                                 &r->rechecked_rows,
                                 &r->verified.us,
                                 &r->reverse_verified.rows,
                                 &r->reverse_verified.buckets,
                                 &r->reverse_verified.bytes,
                                 &r->reverse_verified.all_bytes,
                                 &r->reverse_verified.buckets_in_motion,
                                 &r->reverse_verified.us};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        *numbers[i] = UINT64_MAX - i;
    fill_verified(r);
    r->fence_attempts = 3;
}

static void fill_back(struct move_record *r)
{
    fill(r);
    r->rollback = true;
    move_record_turn(r);
}

static char *printed(const struct move_record *r)
{
    struct buf json = {0};
    move_record_print(r, &json);
    return buf_take(&json);
}

static void test_round_trip(void **state)
{
    struct move_record one, two;
    (void)state;
    fill(&one);
    char *first = printed(&one);
    assert_int_equal(move_record_parse(first, strlen(first), &two, NULL), 0);
    assert_string_equal(buf_text(&one.findings), buf_text(&two.findings));
    assert_memory_equal(&one.range, &two.range, sizeof one.range);
    assert_string_equal(one.reason, two.reason);
    assert_string_equal(one.verified.action, two.verified.action);
    assert_string_equal(one.verified.table, two.verified.table);
    assert_string_equal(one.verified.after, two.verified.after);
    assert_memory_equal(&one.reverse_verified, &two.reverse_verified, sizeof one.reverse_verified);
    assert_true(two.verdict == MOVE_VERDICT_DIFFERS && two.go_on && two.accepted);
    assert_string_equal(one.error.message, two.error.message);
    assert_int_equal(two.error.code, ERRC_TIMEOUT);
    assert_int_equal(one.kind, two.kind);
    assert_int_equal(one.state, two.state);
    assert_true(two.new_target && two.retire_source && two.canceled && two.dry_run && two.allow_ddl);
    char *second = printed(&two);
    assert_true(one.created_us == two.created_us && one.bake_ns == two.bake_ns &&
                one.verified.rounds == two.verified.rounds && one.target_epoch == two.target_epoch &&
                one.cleaned_rows == two.cleaned_rows);
    free(first);
    first = printed(&one);
    assert_string_equal(first, second);
    free(first);
    free(second);
    move_record_free(&one);
    move_record_free(&two);
}

/* On its way back: the document names source and target as they were asked for, and so does who reads it
 * again. */
static void test_round_trip_of_a_way_back(void **state)
{
    struct move_record one, two;
    char name[MOVE_NAME_SIZE];
    (void)state;
    fill_back(&one);
    assert_string_equal(one.source, "s12");
    assert_string_equal(move_record_from(&one), "s1");
    assert_string_equal(move_record_to(&one), "s12");
    assert_true(move_record_retires(&one) && !move_record_made_target(&one));
    move_record_name(&one, name);
    assert_string_equal(name, "shardherd_web_shop_splitk2p9xqa_r");
    move_record_other_name(&one, name);
    assert_string_equal(name, "shardherd_web_shop_splitk2p9xqa_f");
    char *first = printed(&one);
    assert_non_null(strstr(first, "\"source\":\"s1\",\"target\":\"s12\""));
    assert_int_equal(move_record_parse(first, strlen(first), &two, NULL), 0);
    assert_true(two.back && two.rollback);
    assert_string_equal(two.source, "s12");
    assert_true(two.source_system == one.source_system && two.target_system == one.target_system);
    assert_true(two.source_timeline == one.source_timeline && two.target_epoch == one.target_epoch);
    assert_true(one.source_system != one.target_system && one.source_timeline != one.target_timeline);
    move_record_turn(&two);
    assert_false(two.back);
    assert_string_equal(two.source, "s1");
    free(first);
    move_record_free(&one);
    move_record_free(&two);
}

/* Every state and every kind survives. */
static void test_all_names(void **state)
{
    (void)state;
    for (int s = 0; s < MOVE_STATE_COUNT; s++)
        for (int k = 0; k < MOVE_KIND_COUNT; k++) {
            struct move_record one, two;
            fill(&one);
            one.state = (enum move_state)s;
            one.kind = (enum move_kind)k;
            char *json = printed(&one);
            assert_int_equal(move_record_parse(json, strlen(json), &two, NULL), 0);
            assert_int_equal(two.state, s);
            assert_int_equal(two.kind, k);
            free(json);
            move_record_free(&one);
            move_record_free(&two);
        }
    for (int a = 0; a < ACT_COUNT; a++)
        for (int b = 0; b < a; b++)
            assert_string_not_equal(move_action_name((enum move_action)a),
                                    move_action_name((enum move_action)b));
}

/* Replaces `from` by `to` in a good document; the error must name the member. */
static void expect_refusal(const char *from, const char *to, const char *named)
{
    struct move_record r, out;
    struct err err = {0};
    fill(&r);
    char *json = printed(&r);
    char *at = strstr(json, from);
    if (at == NULL)
        fail_msg("%s is not in %s", from, json);
    size_t size = strlen(json) + strlen(to) + 1;
    char *bad = malloc(size);
    snprintf(bad, size, "%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
    memset(&out, 0x5a, sizeof out);
    if (move_record_parse(bad, strlen(bad), &out, &err) != ERRC_CORRUPT)
        fail_msg("accepted: %s", bad);
    if (strstr(err.message, named) == NULL)
        fail_msg("%s does not name %s", err.message, named);
    for (size_t i = 0; i < sizeof out; i++) /* untouched on failure */
        assert_int_equal(((unsigned char *)&out)[i], 0x5a);
    free(bad);
    free(json);
    move_record_free(&r);
}

static void test_damaged(void **state)
{
    char long_name[80];
    (void)state;
    snprintf(long_name, sizeof long_name, "\"source\":\"%064d\"", 1);
    expect_refusal("{", "[", "not JSON");
    expect_refusal("\"id\":\"splitk2p9xqa\",", "", "id");
    expect_refusal("splitk2p9xqa", "split'; DROP", "id");
    expect_refusal("splitk2p9xqa", "splitk2p9xqa0123", "id");
    expect_refusal("web-shop", "Web Shop", "database");
    expect_refusal("\"source\":\"s1\"", "\"source\":\"\"", "source");
    expect_refusal("\"source\":\"s1\"", long_name, "source");
    expect_refusal("\"target\":\"s12\"", "\"target\":7", "target");
    expect_refusal("\"kind\":\"isolate\"", "\"kind\":\"explode\"", "explode");
    expect_refusal("\"state\":\"rehearse\"", "\"state\":\"rehearsal\"", "rehearsal");
    expect_refusal("\"lo\":\"-9223372036854775808\"", "\"lo\":\"-9223372036854775809\"", "lo");
    expect_refusal("\"lo\":\"-9223372036854775808\",\"hi\":\"9223372036854775807\"",
                   "\"lo\":\"1\",\"hi\":\"0\"", "range");
    expect_refusal("\"hi\":\"9223372036854775807\"", "\"hi\":9223372036854775807", "hi");
    expect_refusal("\"bake_ns\":\"18446744073709551615\"", "\"bake_ns\":\"18446744073709551616\"", "bake_ns");
    expect_refusal("\"verify_rounds\":\"4294967295\"", "\"verify_rounds\":\"4294967296\"", "verify_rounds");
    expect_refusal("\"fence_attempts\":\"3\"", "\"fence_attempts\":\"-3\"", "fence_attempts");
    expect_refusal("\"error_code\":\"timeout\"", "\"error_code\":\"tired\"", "tired");
    expect_refusal("\"findings\":[", "\"findings\":{\"a\":[", "not JSON");
    expect_refusal("[{\"subject\":\"public.t\",\"finding\":\"f\",\"remedy\":\"r\"}]", "{}", "findings");
    expect_refusal("\"verify_action\":\"verify\"", "\"verify_action\":7", "verify_action");
    expect_refusal(
        "2026-01-01 00:00:00.5+00",
        "2026-01-01 00:00:00.5+00 and much more than a value of a column that a table is cut along has",
        "verify_after");
    expect_refusal("\"reverse_verdict\":\"differs\"", "\"reverse_verdict\":\"well\"", "well");
    expect_refusal("\"verified_tables\":\"4\"", "\"verified_tables\":\"-4\"", "verified_tables");
    assert_int_equal(move_record_parse("", 0, NULL, NULL), ERRC_CORRUPT);
    assert_int_equal(move_record_parse("7", 1, NULL, NULL), ERRC_CORRUPT);
}

/* Members that an older version did not write are zero. */
static void test_older_document(void **state)
{
    struct move_record r;
    static const char old[] =
        "{\"id\":\"mova\",\"kind\":\"move\",\"database\":\"d\",\"source\":\"a\",\"target\":\"b\","
        "\"lo\":\"0\",\"hi\":\"0\",\"state\":\"fence\",\"reason\":\"\",\"error_code\":\"none\",\"error\":"
        "\"\"}";
    (void)state;
    assert_int_equal(move_record_parse(old, sizeof old - 1, &r, NULL), 0);
    assert_int_equal(r.state, MOVE_FENCE);
    assert_int_equal(r.target_epoch, 0);
    assert_false(r.new_target);
    assert_string_equal(r.verified.action, "");
    assert_int_equal(r.verified.tables, 0);
    assert_int_equal(r.findings.length, 0);
    move_record_free(&r);
}

/* Slots, publications and subscriptions: letters, digits and underscores, at most 63 bytes, different per
 * move (A11). */
static void test_name(void **state)
{
    struct move_record r;
    char name[MOVE_NAME_SIZE], other[MOVE_NAME_SIZE];
    (void)state;
    fill(&r);
    move_record_name(&r, name);
    assert_string_equal(name, "shardherd_web_shop_splitk2p9xqa_f");
    memset(r.database, 'd', sizeof r.database - 1);
    r.database[sizeof r.database - 1] = '\0';
    move_record_name(&r, name);
    assert_true(strlen(name) < 63);
    assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_"), strlen(name));
    r.id[11] = 'z';
    move_record_name(&r, other);
    assert_string_not_equal(name, other);
    move_record_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_round_trip_of_a_way_back),
        cmocka_unit_test(test_all_names),  cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_name),       cmocka_unit_test(test_older_document),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
