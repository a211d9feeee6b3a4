/*
 * Which items of a comparison differ for good, which are only being written, and which rows are to blame.
 *
 * Broken on purpose, each of these made the named tests fail: a difference counted after one more round
 * (stands_still, in_motion), though the owner changes or though the copy does (in_motion), wanted items not
 * cleared (equal_items), items looked at again that were equal (equal_items, equal_for_once, emptied), a
 * merge that goes on beyond a cut list (cut_lists), counts not compared (stands_still).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "operation/verify.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

static struct verify_sum sum(int64_t rows, const char *checksum)
{
    struct verify_sum s = {.rows = rows};
    snprintf(s.checksum, sizeof s.checksum, "%s", checksum);
    return s;
}

/* A round of one item: what both sides have; returns whether its difference stands still. */
static bool give(struct verify_item *item, struct verify_sum owner, struct verify_sum copy)
{
    int stable;
    verify_clear(item, 1);
    item->owner = owner;
    item->copy = copy;
    verify_judge(item, 1, &stable);
    assert_int_equal(stable == 0, verify_is_stable(item));
    return stable == 0;
}

static void test_equal_items_are_done(void **state)
{
    struct verify_item items[3];
    int stable;
    (void)state;
    verify_begin(items, 3);
    verify_clear(items, 3);
    items[0].owner = items[0].copy = sum(5, "77");
    items[1].owner = sum(5, "77");
    items[1].copy = sum(5, "78");
    assert_int_equal(verify_judge(items, 3, &stable), 1);
    assert_int_equal(stable, -1);
    assert_true(!items[0].wanted && items[1].wanted && !items[2].wanted);
    assert_int_equal(items[0].owner.rows, 5); /* stays, for who counts */
    verify_clear(items, 3);
    assert_int_equal(items[0].owner.rows, 5);
    assert_int_equal(items[1].owner.rows, 0);
}

static void test_a_difference_that_stands_still(void **state)
{
    struct verify_item item;
    (void)state;
    verify_begin(&item, 1);
    for (int round = 0; round < VERIFY_STABLE; round++)
        assert_false(give(&item, sum(5, "77"), sum(5, "78")));
    assert_true(give(&item, sum(5, "77"), sum(5, "78")));
    verify_begin(&item, 1);
    for (int round = 0; round < VERIFY_STABLE; round++) /* counts alone */
        assert_false(give(&item, sum(2, "5"), sum(1, "5")));
    assert_true(give(&item, sum(2, "5"), sum(1, "5")));
}

/* One side changes in every round: it is being written, however long it takes. */
static void test_in_motion(void **state)
{
    struct verify_item item;
    char changing[16];
    (void)state;
    for (int side = 0; side < 2; side++) {
        verify_begin(&item, 1);
        for (int round = 0; round < 50; round++) {
            snprintf(changing, sizeof changing, "%d", 1000 + round);
            struct verify_sum moves = sum(5, changing), rests = sum(5, "7");
            assert_false(give(&item, side == 0 ? moves : rests, side == 0 ? rests : moves));
        }
        for (int round = 0; round < VERIFY_STABLE; round++)
            assert_false(give(&item, sum(5, "1"), sum(5, "2")));
        assert_true(give(&item, sum(5, "1"), sum(5, "2")));
    }
}

static void test_equal_for_once(void **state)
{
    struct verify_item item;
    (void)state;
    verify_begin(&item, 1);
    give(&item, sum(5, "1"), sum(5, "2"));
    give(&item, sum(5, "2"), sum(5, "2"));
    assert_false(item.wanted);
    give(&item, sum(9, "1"), sum(5, "2")); /* nobody asks any more */
    assert_false(item.wanted);
}

/* A bucket whose last rows were deleted is not told at all. */
static void test_emptied(void **state)
{
    struct verify_item item;
    int stable;
    (void)state;
    verify_begin(&item, 1);
    give(&item, sum(5, "1"), sum(5, "2"));
    verify_clear(&item, 1);
    item.copy = sum(0, "");
    assert_int_equal(verify_judge(&item, 1, &stable), 0);
    assert_false(item.wanted);
}

/* ---- rows ---- */

#define ROW(identity, checksum)                                                                              \
    {                                                                                                        \
        (char *)(identity),                                                                                  \
        {                                                                                                    \
            1, checksum                                                                                      \
        }                                                                                                    \
    }

static int merge(struct verify_row *owner, int owners, struct verify_row *copy, int copies, int limit,
                 int most, char *out, size_t size)
{
    struct verify_row *lists[2] = {owner, copy};
    int counts[2] = {owners, copies};
    struct verify_item *items;
    char **identities;
    int n = verify_merge(lists, counts, limit, most, &items, &identities);
    out[0] = '\0';
    for (int i = 0; i < n; i++) {
        char what[100];
        assert_true(items[i].wanted);
        verify_describe(&items[i], "s2", "s3", what, sizeof what);
        snprintf(out + strlen(out), size - strlen(out), "%s %s;", identities[i], what);
        free(identities[i]);
    }
    free(identities);
    free(items);
    return n;
}

static void test_which_rows(void **state)
{
    struct verify_row owner[] = {ROW("a", "1"), ROW("b", "2"), ROW("d", "4"), ROW("e", "5")};
    struct verify_row copy[] = {
        ROW("b", "2"), ROW("c", "3"), ROW("d", "9"), {(char *)"e", {2, "10"}}, ROW("f", "6")};
    char text[400];
    (void)state;
    assert_int_equal(merge(owner, COUNT(owner), copy, COUNT(copy), 100, 100, text, sizeof text), 5);
    assert_string_equal(text, "a is missing on s3;c is on s3, but not on s2;d is not the same on s2 and s3;"
                              "e is there 1 times on s2, 2 times on s3;f is on s3, but not on s2;");
    assert_int_equal(merge(owner, COUNT(owner), copy, COUNT(copy), 100, 2, text, sizeof text), 2);
    assert_int_equal(merge(owner, 0, copy, 0, 100, 100, text, sizeof text), 0);
    assert_int_equal(merge(owner, COUNT(owner), owner, COUNT(owner), 100, 100, text, sizeof text), 0);
    assert_int_equal(merge(owner, COUNT(owner), copy, 0, 100, 100, text, sizeof text), COUNT(owner));
}

/* A list of as many rows as were asked for ends anywhere: what follows on the other side is not missing. */
static void test_cut_lists(void **state)
{
    struct verify_row owner[] = {ROW("a", "1"), ROW("b", "2")};
    struct verify_row copy[] = {ROW("a", "1"), ROW("c", "3")};
    char text[400];
    (void)state;
    assert_int_equal(merge(owner, 2, copy, 2, 2, 100, text, sizeof text), 1);
    assert_string_equal(text, "b is missing on s3;");
    assert_int_equal(merge(copy, 2, owner, 1, 2, 100, text, sizeof text), 1);
    assert_string_equal(text, "c is missing on s3;");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_items_are_done),
        cmocka_unit_test(test_a_difference_that_stands_still),
        cmocka_unit_test(test_in_motion),
        cmocka_unit_test(test_equal_for_once),
        cmocka_unit_test(test_emptied),
        cmocka_unit_test(test_which_rows),
        cmocka_unit_test(test_cut_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
