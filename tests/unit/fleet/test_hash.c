/* The vectors were printed by PostgreSQL 15.18; tests/live/test_hash_equal.py compares many more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fleet/hash.h"

struct vector {
    enum key_type type;
    const char *text;
    int64_t hash;
};

static const struct vector vectors[] = {
    {KEY_SMALLINT, "0", 4154612158245552303},
    {KEY_SMALLINT, "1", -3670598878359251130},
    {KEY_SMALLINT, "-1", -1888257769727981238},
    {KEY_SMALLINT, "42", 8010225493015854792},
    {KEY_SMALLINT, "32767", 1790040721271588170},
    {KEY_SMALLINT, "-32768", 8455483389771436374},
    {KEY_INTEGER, "0", 4154612158245552303},
    {KEY_INTEGER, "-1", -1888257769727981238},
    {KEY_INTEGER, "2147483647", -9109110466470504941},
    {KEY_INTEGER, "-2147483648", 1977219185673256887},
    {KEY_BIGINT, "42", 8010225493015854792},
    {KEY_BIGINT, "2147483648", 1977219185673256887},
    {KEY_BIGINT, "-2147483649", -9109110466470504941},
    {KEY_BIGINT, "4294967296", -3670598878359251130},
    {KEY_BIGINT, "-4294967296", 4154612158245552303},
    {KEY_BIGINT, "1234567890123456789", -1348933112428498873},
    {KEY_BIGINT, "9223372036854775807", 1977219185673256887},
    {KEY_BIGINT, "-9223372036854775808", -9109110466470504941},
    {KEY_TEXT, "", -6939563903564495251},
    {KEY_TEXT, "a", 3591986179850072241},
    {KEY_TEXT, "ab", 2833316173711343549},
    {KEY_TEXT, "abc", -6747756470228489321},
    {KEY_TEXT, "abcd", -1038429303365892052},
    {KEY_TEXT, "abcdefgh", -8882191227074733005},
    {KEY_TEXT, "abcdefghi", -3278210106038014113},
    {KEY_TEXT, "abcdefghij", -3183301415634409076},
    {KEY_TEXT, "abcdefghijk", 3112909444737856467},
    {KEY_VARCHAR, "abcdefghijkl", -7556637188122330412},
    {KEY_VARCHAR, "abcdefghijklm", 8871624171452417744},
    {KEY_VARCHAR, "The quick brown fox jumps over the lazy dog", 2182139051089226439},
    {KEY_TEXT, "Z\xc3\xbcrich", 6325084439750968862},
    {KEY_TEXT, "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", 2870829529307104068},
    {KEY_TEXT, "\xf0\x9f\x90\x91\xf0\x9f\x90\x91\xf0\x9f\x90\x91", 179558029233583860},
    {KEY_UUID, "00000000-0000-0000-0000-000000000000", -6859010066814654381},
    {KEY_UUID, "ffffffff-ffff-ffff-ffff-ffffffffffff", 293445543803463785},
    {KEY_UUID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", 7543054272012930821},
    {KEY_UUID, "00112233-4455-6677-8899-aabbccddeeff", 4462459420613485749},
};

static void test_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        const struct vector *v = &vectors[i];
        int64_t hash = 0;
        struct err err = {0};
        if (hash_key(v->type, v->text, strlen(v->text), &hash, &err) != 0 || hash != v->hash)
            fail_msg("%s \"%s\": %lld, the server says %lld (%s)", key_type_name(v->type), v->text,
                     (long long)hash, (long long)v->hash, err.message);
    }
}

static void test_long_text(void **state)
{
    (void)state;
    static const struct {
        size_t length;
        int64_t hash;
    } cases[] = {{23, 815588739347500138},
                 {24, 8354420297927256613},
                 {25, 3789499828392616974},
                 {1048576, -3837905898477945658}};
    /* At an odd address, so that a build with sanitizers sees every access checked for alignment. */
    char *text = malloc(1048577);
    assert_non_null(text);
    memset(text, 'x', 1048577);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(hash_text(text + 1, cases[i].length), cases[i].hash);
    free(text);
}

static void test_integers_of_any_width_hash_alike(void **state)
{
    (void)state;
    for (int64_t v = INT16_MIN; v <= INT16_MAX; v++) {
        assert_int_equal(hash_int2((int16_t)v), hash_int8(v));
        assert_int_equal(hash_int4((int32_t)v), hash_int8(v));
    }
    assert_int_equal(hash_int4(INT32_MIN), hash_int8(INT32_MIN));
    assert_int_equal(hash_int4(INT32_MAX), hash_int8(INT32_MAX));
}

struct spelling {
    enum key_type type;
    const char *text;
    const char *same_as; /* NULL = refused */
};

static const struct spelling spellings[] = {
    {KEY_INTEGER, "  +42\t\n", "42"},
    {KEY_INTEGER, "\v\f\r-7 ", "-7"},
    {KEY_INTEGER, "-0", "0"},
    {KEY_INTEGER, "0000000000000000000000042", "42"},
    {KEY_INTEGER, "", NULL},
    {KEY_INTEGER, "  ", NULL},
    {KEY_INTEGER, "+", NULL},
    {KEY_INTEGER, "- 1", NULL},
    {KEY_INTEGER, "+-1", NULL},
    {KEY_INTEGER, "1 2", NULL},
    {KEY_INTEGER, "1.0", NULL},
    {KEY_INTEGER, "1e3", NULL},
    {KEY_INTEGER, "12a", NULL},
    {KEY_INTEGER, "2147483648", NULL},
    {KEY_INTEGER, "-2147483649", NULL},
    {KEY_SMALLINT, "32768", NULL},
    {KEY_SMALLINT, "-32769", NULL},
    {KEY_BIGINT, "9223372036854775808", NULL},
    {KEY_BIGINT, "-9223372036854775809", NULL},
    {KEY_BIGINT, "99999999999999999999999", NULL},
    {KEY_UUID, "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
    {KEY_UUID, "a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
    {KEY_UUID, "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
    {KEY_UUID, "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
    {KEY_UUID, "", NULL},
    {KEY_UUID, "{", NULL},
    {KEY_UUID, "{}", NULL},
    {KEY_UUID, "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", NULL},
    {KEY_UUID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", NULL},
    {KEY_UUID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", NULL},
    {KEY_UUID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111", NULL},
    {KEY_UUID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-", NULL},
    {KEY_UUID, "a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11", NULL},
    {KEY_UUID, "a0-eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", NULL},
    {KEY_UUID, " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", NULL},
    {KEY_UUID, "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", NULL},
};

static void test_spellings(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++) {
        const struct spelling *s = &spellings[i];
        struct err err = {0};
        int64_t hash = 1, same = 2;
        int rc = hash_key(s->type, s->text, strlen(s->text), &hash, &err);
        if (s->same_as == NULL) {
            if (rc != ERRC_INVALID)
                fail_msg("%s \"%s\" was not refused", key_type_name(s->type), s->text);
            assert_non_null(strstr(err.message, key_type_name(s->type)));
            continue;
        }
        assert_int_equal(hash_key(s->type, s->same_as, strlen(s->same_as), &same, NULL), 0);
        if (rc != 0 || hash != same)
            fail_msg("%s \"%s\" is not taken as %s", key_type_name(s->type), s->text, s->same_as);
    }
}

static void test_zero_byte_is_refused(void **state)
{
    (void)state;
    int64_t hash;
    assert_int_equal(hash_key(KEY_TEXT, "a\0b", 3, &hash, NULL), ERRC_INVALID);
    assert_int_equal(hash_key(KEY_INTEGER, "1\0", 2, &hash, NULL), ERRC_INVALID);
    assert_int_equal(hash_key(KEY_TEXT, NULL, 0, &hash, NULL), 0);
    assert_int_equal(hash, -6939563903564495251);
}

static void test_type_names(void **state)
{
    (void)state;
    for (int t = 0; t < KEY_TYPE_MAX; t++) {
        assert_int_equal(key_type_parse(key_type_name((enum key_type)t)), t);
        assert_non_null(strstr(key_type_sql((enum key_type)t), "extended(%s, 0)"));
    }
    assert_int_equal(key_type_parse("int8"), KEY_BIGINT);
    assert_int_equal(key_type_parse("INT"), KEY_INTEGER);
    assert_int_equal(key_type_parse("int2"), KEY_SMALLINT);
    assert_int_equal(key_type_parse("character varying"), KEY_VARCHAR);
    assert_int_equal(key_type_parse("character varying(20)"), KEY_VARCHAR);
    assert_int_equal(key_type_parse("varchar(7)"), KEY_VARCHAR);
    static const char *const bad[] = {"",     "numeric",   "character(3)", "text(3)", "varchar()",
                                      "intx", "varchar(7", "varchar(7))",  "date",    "bigint "};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(key_type_parse(bad[i]), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_integers_of_any_width_hash_alike),
        cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_zero_byte_is_refused),
        cmocka_unit_test(test_type_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
