/* Follow, rewind or clone, by ancestry; and the rules' table and what docs/high-availability.md says of it.
 */
#include "base/buf.h"
#include "health/ha_world.h"

#define TL(timeline, end)                                                                                    \
    {                                                                                                        \
        timeline, 0, end                                                                                     \
    }
#define TL_OF(timeline, term, end)                                                                           \
    {                                                                                                        \
        timeline, term, end                                                                                  \
    }

static const struct {
    const char *name;
    struct ha_data own, primary;
    enum ha_rejoin how;
    int rule;
    uint64_t fork;
} cases[] = {
    {"behind on the same timeline",
     {.there = true, .history = {1, {TL(1, 100)}}},
     {.there = true, .history = {1, {TL(1, 300)}}},
     HA_REJOIN_FOLLOW,
     HA_F_FOLLOW,
     100},
    {"behind where the primary's timeline began",
     {.there = true, .history = {1, {TL(1, 100)}}},
     {.there = true, .history = {2, {TL(1, 150), TL(2, 300)}}},
     HA_REJOIN_FOLLOW,
     HA_F_FOLLOW,
     100},
    {"exactly there",
     {.there = true, .history = {1, {TL(1, 150)}}},
     {.there = true, .history = {2, {TL(1, 150), TL(2, 300)}}},
     HA_REJOIN_FOLLOW,
     HA_F_FOLLOW,
     150},
    {"beyond",
     {.there = true, .rewindable = true, .history = {1, {TL(1, 151)}}},
     {.there = true, .history = {2, {TL(1, 150), TL(2, 300)}}},
     HA_REJOIN_REWIND,
     HA_F_REWIND,
     150},
    {"beyond, without checksums",
     {.there = true, .history = {1, {TL(1, 151)}}},
     {.there = true, .history = {2, {TL(1, 150), TL(2, 300)}}},
     HA_REJOIN_CLONE,
     HA_F_CLONE,
     150},
    {"beyond, its own WAL is gone",
     {.there = true, .rewindable = true, .wal_from = 151, .history = {1, {TL(1, 200)}}},
     {.there = true, .history = {2, {TL(1, 150), TL(2, 300)}}},
     HA_REJOIN_CLONE,
     HA_F_CLONE,
     150},
    {"beyond, the primary's WAL is gone",
     {.there = true, .rewindable = true, .history = {1, {TL(1, 200)}}},
     {.there = true, .wal_from = 151, .history = {2, {TL(1, 150), TL(2, 300)}}},
     HA_REJOIN_CLONE,
     HA_F_CLONE,
     150},
    {"too far behind",
     {.there = true, .rewindable = true, .history = {1, {TL(1, 100)}}},
     {.there = true, .wal_from = 101, .history = {1, {TL(1, 300)}}},
     HA_REJOIN_CLONE,
     HA_F_CLONE,
     100},
    {"on another timeline from the same place: it was promoted too",
     {.there = true, .rewindable = true, .history = {2, {TL(1, 150), TL(2, 160)}}},
     {.there = true, .history = {2, {TL(1, 150), TL(3, 300)}}},
     HA_REJOIN_REWIND,
     HA_F_REWIND,
     150},
    {"a timeline that has nothing yet is another one all the same",
     {.there = true, .rewindable = true, .history = {2, {TL(1, 150), TL(2, 150)}}},
     {.there = true, .history = {2, {TL(1, 150), TL(3, 300)}}},
     HA_REJOIN_REWIND,
     HA_F_REWIND,
     150},
    {"the same number, from another place",
     {.there = true, .rewindable = true, .history = {2, {TL(1, 100), TL(2, 160)}}},
     {.there = true, .history = {3, {TL(1, 150), TL(2, 200), TL(3, 300)}}},
     HA_REJOIN_REWIND,
     HA_F_REWIND,
     100},
    {"the same number under another term",
     {.there = true, .rewindable = true, .history = {2, {TL_OF(1, 1, 150), TL_OF(2, 5, 160)}}},
     {.there = true, .history = {3, {TL_OF(1, 1, 150), TL_OF(2, 6, 200), TL_OF(3, 7, 300)}}},
     HA_REJOIN_REWIND,
     HA_F_REWIND,
     150},
    {"ahead on the same timeline",
     {.there = true, .rewindable = true, .history = {1, {TL(1, 301)}}},
     {.there = true, .history = {1, {TL(1, 300)}}},
     HA_REJOIN_CLONE,
     HA_F_CLONE,
     300},
    {"a later timeline than the primary's",
     {.there = true, .rewindable = true, .history = {2, {TL(1, 150), TL(2, 160)}}},
     {.there = true, .history = {1, {TL(1, 300)}}},
     HA_REJOIN_REWIND,
     HA_F_REWIND,
     150},
    {"nothing in common",
     {.there = true, .rewindable = true, .history = {1, {TL(4, 100)}}},
     {.there = true, .history = {1, {TL(1, 300)}}},
     HA_REJOIN_CLONE,
     HA_F_CLONE,
     0},
    {"no data",
     {.there = false},
     {.there = true, .history = {1, {TL(1, 300)}}},
     HA_REJOIN_CLONE,
     HA_F_CLONE,
     0},
    {"another system",
     {.there = true, .system = 8, .history = {1, {TL(1, 100)}}},
     {.there = true, .system = 9, .history = {1, {TL(1, 300)}}},
     HA_REJOIN_REFUSE,
     HA_F_FOREIGN,
     0},
};

static void test_rejoin(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ha_data own = cases[i].own, primary = cases[i].primary;
        struct ha_rejoin_verdict v;
        own.name = "b";
        primary.name = "a";
        ha_rejoin(&own, &primary, &v);
        assert_sentence(cases[i].name, v.rule, cases[i].rule, v.sentence);
        assert_int_equal(v.how, cases[i].how);
        if (v.fork != cases[i].fork)
            fail_msg("%s: parts at %d", cases[i].name, (int)v.fork);
    }
}

static void test_table(void **state)
{
    (void)state;
    for (int i = 1; i < HA_F_COUNT; i++) {
        const struct ha_rule_info *info = ha_rule_info(i);
        char number[8];
        snprintf(number, sizeof number, "(F%d)", i);
        assert_int_equal(info->number, i);
        assert_non_null(strstr(info->sentence, number));
        for (int j = 1; j < i; j++)
            assert_string_not_equal(info->name, ha_rule_name(j));
    }
    assert_null(ha_rule_info(0));
    assert_null(ha_rule_info(HA_F_COUNT));
    assert_string_equal(ha_rule_name(0), "unknown");
}

static void test_docs(void **state)
{
    (void)state;
    struct buf docs = {0};
    char chunk[4096];
    FILE *f = fopen(SHARDHERD_SOURCE_DIR "/docs/high-availability.md", "r");
    assert_non_null(f);
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;)
        buf_add(&docs, chunk, n);
    fclose(f);
    int headings = 0;
    for (const char *at = buf_text(&docs); (at = strstr(at, "\n### F")) != NULL; at++)
        headings++;
    assert_int_equal(headings, HA_F_COUNT - 1);
    for (int i = 1; i < HA_F_COUNT; i++) {
        const struct ha_rule_info *info = ha_rule_info(i);
        struct buf wanted = {0};
        buf_printf(&wanted, "\n### F%d %s\n\n> %s\n\n", i, info->name, info->sentence);
        const char *at = strstr(buf_text(&docs), buf_text(&wanted));
        if (at == NULL)
            fail_msg("docs/high-availability.md lacks%s", buf_text(&wanted));
        else if (strlen(at + wanted.length) < 40 || at[wanted.length] == '#')
            fail_msg("docs/high-availability.md does not say what to do about F%d", i);
        buf_free(&wanted);
    }
    buf_free(&docs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rejoin),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_docs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
