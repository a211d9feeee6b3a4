/* The decoder against hand-made messages: complete, cut at every byte, and lying about lengths. */
#include "pg/pg_test.h"

#include "base/buf.h"
#include "pg/pg_stream.h"

static void put(struct buf *b, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--)
        buf_addc(b, (char)(value >> (8 * i) & 0xff));
}

static void put_text(struct buf *b, const char *text)
{
    buf_add(b, text, strlen(text) + 1);
}

static void put_value(struct buf *b, const char *text)
{
    if (text == NULL) {
        buf_addc(b, 'n');
        return;
    }
    buf_addc(b, 't');
    put(b, strlen(text), 4);
    buf_add_text(b, text);
}

static void relation(struct buf *b, uint32_t oid, const char *name, int columns)
{
    buf_reset(b);
    buf_addc(b, 'R');
    put(b, oid, 4);
    put_text(b, "public");
    put_text(b, name);
    buf_addc(b, 'd');
    put(b, (uint64_t)columns, 2);
    for (int i = 0; i < columns; i++) {
        put(b, i == 0, 1);
        put_text(b, i == 0 ? "id" : "other");
        put(b, 23, 4);
        put(b, 0xffffffff, 4);
    }
}

static void insert(struct buf *b, uint32_t oid)
{
    buf_reset(b);
    buf_addc(b, 'I');
    put(b, oid, 4);
    buf_addc(b, 'N');
    put(b, 2, 2);
    put_value(b, "42");
    put_value(b, NULL);
}

/* Decodes from an allocation of exactly that size, so that a sanitizer sees any step beyond it. */
static int decode(struct pgoutput *d, const struct buf *b, size_t length, struct pgoutput_message *m)
{
    char *exact = mem_alloc(length > 0 ? length : 1);
    memcpy(exact, b->data, length);
    int rc = pgoutput_decode(d, exact, length, m, NULL);
    free(exact);
    return rc;
}

static void test_relation_and_rows(void **state)
{
    (void)state;
    struct pgoutput *d = pgoutput_new();
    struct pgoutput_message m;
    struct buf b = {0};
    insert(&b, 7);
    assert_int_equal(decode(d, &b, b.length, &m), ERRC_PROTOCOL); /* relation not known */
    relation(&b, 7, "orders", 2);
    assert_int_equal(decode(d, &b, b.length, &m), 0);
    assert_int_equal(m.kind, PGOUTPUT_RELATION);
    assert_string_equal(m.relation->name, "orders");
    assert_true(m.relation->columns[0].key && !m.relation->columns[1].key);
    insert(&b, 7);
    assert_int_equal(pgoutput_decode(d, b.data, b.length, &m, NULL), 0);
    assert_int_equal(m.kind, PGOUTPUT_INSERT);
    assert_int_equal(m.new_tuple.count, 2);
    assert_memory_equal(m.new_tuple.values[0].data, "42", 2);
    assert_int_equal(m.new_tuple.values[1].kind, 'n');
    assert_int_equal(m.old_tuple.count, 0);
    relation(&b, 7, "renamed", 1); /* replaces it: two columns are wrong now */
    assert_int_equal(decode(d, &b, b.length, &m), 0);
    insert(&b, 7);
    assert_int_equal(decode(d, &b, b.length, &m), ERRC_PROTOCOL);
    buf_free(&b);
    pgoutput_free(d);
}

static void make_all(struct buf *all, int *count)
{
    int n = 0;
    relation(&all[n++], 7, "orders", 2);
    insert(&all[n++], 7);
    struct buf *b = &all[n++];
    buf_addc(b, 'U');
    put(b, 7, 4);
    buf_add_text(b, "K");
    put(b, 2, 2);
    put_value(b, "1");
    put_value(b, NULL);
    buf_add_text(b, "N");
    put(b, 2, 2);
    put_value(b, "2");
    buf_addc(b, 'u');
    b = &all[n++];
    buf_addc(b, 'D');
    put(b, 7, 4);
    buf_add_text(b, "O");
    put(b, 2, 2);
    put_value(b, "1");
    put_value(b, "some text");
    b = &all[n++];
    buf_addc(b, 'B');
    put(b, 0x100000002, 8);
    put(b, 3, 8);
    put(b, 744, 4);
    b = &all[n++];
    buf_addc(b, 'C');
    put(b, 0, 1);
    put(b, 0x100000002, 8);
    put(b, 0x100000032, 8);
    put(b, 3, 8);
    b = &all[n++];
    buf_addc(b, 'T');
    put(b, 2, 4);
    put(b, 1, 1);
    put(b, 7, 4);
    put(b, 8, 4);
    b = &all[n++];
    buf_addc(b, 'O');
    put(b, 5, 8);
    put_text(b, "origin");
    b = &all[n++];
    buf_addc(b, 'Y');
    put(b, 600, 4);
    put_text(b, "public");
    put_text(b, "mood");
    b = &all[n++];
    buf_addc(b, 'M');
    put(b, 1, 1);
    put(b, 9, 8);
    put_text(b, "prefix");
    put(b, 3, 4);
    buf_add_text(b, "abc");
    *count = n;
}

static void test_every_message_complete_and_cut(void **state)
{
    (void)state;
    struct buf all[16] = {{0}};
    int count;
    struct pgoutput *d = pgoutput_new();
    struct pgoutput_message m;
    make_all(all, &count);
    for (int i = 0; i < count; i++) {
        assert_int_equal(decode(d, &all[i], all[i].length, &m), 0);
        for (size_t cut = 0; cut < all[i].length; cut++)
            assert_int_equal(decode(d, &all[i], cut, &m), ERRC_PROTOCOL);
        buf_addc(&all[i], 'x'); /* one byte too many */
        assert_int_equal(decode(d, &all[i], all[i].length, &m), ERRC_PROTOCOL);
        all[i].length--;
    }
    assert_int_equal(decode(d, &all[4], all[4].length, &m), 0);
    assert_true(m.lsn == 0x100000002 && m.xid == 744);
    assert_int_equal(decode(d, &all[5], all[5].length, &m), 0);
    assert_true(m.end_lsn == 0x100000032);
    for (int i = 0; i < count; i++)
        buf_free(&all[i]);
    pgoutput_free(d);
}

static void test_lies(void **state)
{
    (void)state;
    struct pgoutput *d = pgoutput_new();
    struct pgoutput_message m;
    struct buf b = {0};
    relation(&b, 7, "orders", 2);
    b.data[4 + 1 + 7 + 7 + 1] = 0x7f; /* 32,514 columns */
    assert_int_equal(decode(d, &b, b.length, &m), ERRC_PROTOCOL);
    relation(&b, 7, "a-name-that-is-longer-than-any-name-of-postgresql-can-be-namely-64", 2);
    assert_int_equal(decode(d, &b, b.length, &m), ERRC_PROTOCOL);
    relation(&b, 7, "orders", 2);
    assert_int_equal(decode(d, &b, b.length, &m), 0);
    insert(&b, 7);
    b.data[1 + 4 + 1 + 2 + 1] = 0x7f; /* a value of 2 GB */
    assert_int_equal(decode(d, &b, b.length, &m), ERRC_PROTOCOL);
    insert(&b, 7);
    b.data[5] = 'K'; /* an insert has no key tuple */
    assert_int_equal(decode(d, &b, b.length, &m), ERRC_PROTOCOL);
    buf_reset(&b);
    buf_addc(&b, 'T');
    put(&b, 0xffffffff, 4);
    put(&b, 0, 1);
    assert_int_equal(decode(d, &b, b.length, &m), ERRC_PROTOCOL);
    buf_reset(&b);
    buf_addc(&b, 'Z');
    assert_int_equal(decode(d, &b, b.length, &m), ERRC_PROTOCOL);
    buf_free(&b);
    pgoutput_free(d);
}

static void test_relations_are_limited(void **state)
{
    (void)state;
    struct pgoutput *d = pgoutput_new();
    struct pgoutput_message m;
    struct buf b = {0};
    int rc = 0;
    uint32_t oid = 0;
    for (; rc == 0 && oid < 200000; oid++) {
        relation(&b, oid * 2654435761u, "t", 1);
        rc = pgoutput_decode(d, b.data, b.length, &m, NULL);
    }
    assert_int_equal(rc, ERRC_LIMIT);
    assert_int_equal(oid, 65537);
    buf_free(&b);
    pgoutput_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_relation_and_rows),
        cmocka_unit_test(test_every_message_complete_and_cut),
        cmocka_unit_test(test_lies),
        cmocka_unit_test(test_relations_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
