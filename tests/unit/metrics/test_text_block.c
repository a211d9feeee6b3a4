/* Texts turned round: every line once, in the order of families, whatever the instances have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "metrics/text_block.h"

#define FAMILIES 7u

#define FAMILY(n)                                                                                            \
    {                                                                                                        \
        "c" #n, {"f" #n, METRIC_GAUGE, "h"}, "row"                                                           \
    }
static const struct query_column columns[FAMILIES] = {FAMILY(0), FAMILY(1), FAMILY(2), FAMILY(3),
                                                      FAMILY(4), FAMILY(5), FAMILY(6)};
static const struct query queries[FAMILIES + 1] = {
    {"q0", .columns = columns, .column_count = 0}, {"q1", .columns = columns, .column_count = 1},
    {"q2", .columns = columns, .column_count = 2}, {"q3", .columns = columns, .column_count = 3},
    {"q4", .columns = columns, .column_count = 4}, {"q5", .columns = columns, .column_count = 5},
    {"q6", .columns = columns, .column_count = 6}, {"q7", .columns = columns, .column_count = 7},
};

static unsigned lines_of(unsigned number, unsigned family)
{
    return (number + family) % 3;
}

static void set(PGresult *result, unsigned row, unsigned column, unsigned value, bool null)
{
    char text[16];
    int n = snprintf(text, sizeof text, "%u", value);
    assert_true(PQsetvalue(result, (int)row, (int)column, text, null ? -1 : n));
}

/* Instance `number` with some families of some lines: f<family>{i="<number>",row="<row>"} <version>. */
static struct samples *make_samples(unsigned number, unsigned families, unsigned version)
{
    PGresult *result = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    PGresAttDesc attributes[FAMILIES + 1] = {{0}};
    char names[FAMILIES + 1][8], labels[16];
    uint64_t dropped = 0;
    for (unsigned c = 0; c <= FAMILIES; c++) {
        snprintf(names[c], sizeof names[c], c < FAMILIES ? "c%u" : "row", c);
        attributes[c].name = names[c];
    }
    assert_true(PQsetResultAttrs(result, FAMILIES + 1, attributes));
    for (unsigned row = 0; row < 2; row++) {
        set(result, row, FAMILIES, row, false);
        for (unsigned f = 0; f < FAMILIES; f++)
            set(result, row, f, version, row >= lines_of(number, f));
    }
    snprintf(labels, sizeof labels, "i=\"%u\"", number);
    struct samples *s = render_result(&queries[families], result, labels, NULL, &dropped);
    assert_true(dropped == 0);
    PQclear(result);
    return s;
}

struct sources {
    struct samples *samples[BLOCK_INSTANCES];
    uint64_t versions[BLOCK_INSTANCES];
};

/* Every third has nothing, the others 0 to FAMILIES families. */
static void sources_make(struct sources *s, unsigned version)
{
    memset(s, 0, sizeof *s);
    for (unsigned i = 0; i < BLOCK_INSTANCES; i++) {
        if (i % 3 == 2)
            continue;
        s->samples[i] = make_samples(i, i % (FAMILIES + 1), version);
        s->versions[i] = version * 1000 + i;
    }
}

static void sources_free(struct sources *s)
{
    for (unsigned i = 0; i < BLOCK_INSTANCES; i++)
        samples_free(s->samples[i]);
}

static void check_block(const struct text_block *block, unsigned version)
{
    assert_int_equal(block->families, FAMILIES);
    for (unsigned f = 0; f <= FAMILIES; f++) {
        struct buf expected = {0};
        for (unsigned i = 0; i < BLOCK_INSTANCES; i++)
            for (unsigned row = 0; i % 3 != 2 && f < i % (FAMILIES + 1) && row < lines_of(i, f); row++)
                buf_printf(&expected, "f%u{i=\"%u\",row=\"%u\"} %u\n", f, i, row, version);
        size_t length;
        const char *text = block_family(block, f, &length);
        assert_int_equal(length, expected.length);
        if (length > 0)
            assert_memory_equal(text, expected.data, length);
        buf_free(&expected);
    }
}

static struct text_block *build(struct text_block *old, const struct sources *s)
{
    struct block_builder b;
    builder_begin(&b, old, s->samples, s->versions);
    while (!builder_step(&b))
        ;
    return builder_take(&b);
}

static void test_all_lines_by_family(void **state)
{
    (void)state;
    struct sources s;
    sources_make(&s, 1);
    struct text_block *block = build(NULL, &s);
    check_block(block, 1);
    assert_memory_equal(block->versions, s.versions, sizeof s.versions);
    block_drop(block);
    sources_free(&s);
}

/* The builder keeps its sources: a poll between two steps may replace them. */
static void test_sources_may_go_while_it_builds(void **state)
{
    (void)state;
    struct sources s;
    struct block_builder b;
    sources_make(&s, 1);
    builder_begin(&b, NULL, s.samples, s.versions);
    assert_false(builder_step(&b));
    sources_free(&s);
    while (!builder_step(&b))
        ;
    struct text_block *block = builder_take(&b);
    check_block(block, 1);
    block_drop(block);
}

static void test_a_used_block_is_left_alone(void **state)
{
    (void)state;
    struct sources one, two, three;
    sources_make(&one, 1);
    sources_make(&two, 2);
    sources_make(&three, 3);
    struct text_block *written = block_keep(build(NULL, &one));
    struct text_block *next = build(written, &two); /* gives up one of two uses */
    assert_ptr_not_equal(next, written);
    check_block(written, 1);
    check_block(next, 2);
    const void *memory = next->text.data;
    next = build(next, &three); /* nobody else uses it: its memory is used again */
    assert_ptr_equal(next->text.data, memory);
    check_block(next, 3);
    check_block(written, 1);
    block_drop(written);
    block_drop(next);
    sources_free(&one);
    sources_free(&two);
    sources_free(&three);
}

static void test_cancel(void **state)
{
    (void)state;
    struct sources s;
    struct block_builder b = {0};
    builder_cancel(&b); /* nothing is being built */
    sources_make(&s, 1);
    builder_begin(&b, NULL, s.samples, s.versions);
    assert_false(builder_step(&b));
    builder_cancel(&b);
    assert_null(b.block);
    sources_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_lines_by_family),
        cmocka_unit_test(test_sources_may_go_while_it_builds),
        cmocka_unit_test(test_a_used_block_is_left_alone),
        cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
