#include "fleet/hash.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "hashes are computed for little-endian machines only: PostgreSQL's differ by byte order"
#endif

/* ---- lookup3, with the starting value PostgreSQL gives it ---- */

struct state {
    uint32_t a, b, c;
};

static uint32_t rotate(uint32_t x, unsigned bits)
{
    return x << bits | x >> (32 - bits);
}

static struct state state_start(size_t length)
{
    uint32_t start = 0x9e3779b9u + (uint32_t)length + 3923095u;
    return (struct state){start, start, start};
}

/* One line of lookup3's mix(): x, y, z are a, b, c in turn. */
static void mix_line(uint32_t *x, uint32_t *y, uint32_t *z, unsigned bits)
{
    *x -= *z;
    *x ^= rotate(*z, bits);
    *z += *y;
}

static void mix(struct state *s)
{
    mix_line(&s->a, &s->b, &s->c, 4);
    mix_line(&s->b, &s->c, &s->a, 6);
    mix_line(&s->c, &s->a, &s->b, 8);
    mix_line(&s->a, &s->b, &s->c, 16);
    mix_line(&s->b, &s->c, &s->a, 19);
    mix_line(&s->c, &s->a, &s->b, 4);
}

static void final_line(uint32_t *x, uint32_t y, unsigned bits)
{
    *x ^= y;
    *x -= rotate(y, bits);
}

static int64_t state_finish(struct state *s)
{
    final_line(&s->c, s->b, 14);
    final_line(&s->a, s->c, 11);
    final_line(&s->b, s->a, 25);
    final_line(&s->c, s->b, 16);
    final_line(&s->a, s->c, 4);
    final_line(&s->b, s->a, 14);
    final_line(&s->c, s->b, 24);
    return (int64_t)((uint64_t)s->b << 32 | s->c);
}

static void absorb(struct state *s, const uint8_t block[12])
{
    uint32_t words[3];
    memcpy(words, block, sizeof words);
    s->a += words[0];
    s->b += words[1];
    s->c += words[2];
}

static int64_t hash_bytes(const uint8_t *bytes, size_t length)
{
    struct state s = state_start(length);
    for (; length >= 12; bytes += 12, length -= 12) {
        absorb(&s, bytes);
        mix(&s);
    }
    /* Up to 11 bytes are left. The lowest byte of c stands for the length, so bytes 8 to 10 go one higher. */
    uint8_t rest[12] = {0};
    size_t low = length < 8 ? length : 8;
    if (length > 0) {
        memcpy(rest, bytes, low);
        memcpy(rest + 9, bytes + low, length - low);
    }
    absorb(&s, rest);
    return state_finish(&s);
}

static int64_t hash_uint32(uint32_t value)
{
    struct state s = state_start(sizeof value);
    s.a += value;
    return state_finish(&s);
}

int64_t hash_int2(int16_t value)
{
    return hash_uint32((uint32_t)(int32_t)value);
}

int64_t hash_int4(int32_t value)
{
    return hash_uint32((uint32_t)value);
}

int64_t hash_int8(int64_t value)
{
    uint32_t low = (uint32_t)value;
    uint32_t high = (uint32_t)((uint64_t)value >> 32);
    return hash_uint32(low ^ (value >= 0 ? high : ~high));
}

int64_t hash_text(const void *bytes, size_t length)
{
    return hash_bytes(bytes, length);
}

int64_t hash_uuid(const uint8_t uuid[16])
{
    return hash_bytes(uuid, 16);
}

/* ---- types ---- */

static const char *const type_names[KEY_TYPE_MAX] = {
    [KEY_SMALLINT] = "smallint", [KEY_INTEGER] = "integer", [KEY_BIGINT] = "bigint",
    [KEY_TEXT] = "text",         [KEY_VARCHAR] = "varchar", [KEY_UUID] = "uuid",
};

static const struct {
    const char *name;
    enum key_type type;
} type_aliases[] = {
    {"smallint", KEY_SMALLINT},
    {"int2", KEY_SMALLINT},
    {"integer", KEY_INTEGER},
    {"int", KEY_INTEGER},
    {"int4", KEY_INTEGER},
    {"bigint", KEY_BIGINT},
    {"int8", KEY_BIGINT},
    {"text", KEY_TEXT},
    {"varchar", KEY_VARCHAR},
    {"uuid", KEY_UUID},
    {"character varying", KEY_VARCHAR},
};

/* "" or "(20)" */
static bool is_length_modifier(const char *text)
{
    if (text[0] == '\0')
        return true;
    size_t digits = text[0] == '(' ? strspn(text + 1, "0123456789") : 0;
    return digits > 0 && strcmp(text + 1 + digits, ")") == 0;
}

int key_type_parse(const char *name)
{
    for (size_t i = 0; i < sizeof type_aliases / sizeof type_aliases[0]; i++) {
        size_t n = strlen(type_aliases[i].name);
        if (strncasecmp(name, type_aliases[i].name, n) != 0)
            continue;
        if (name[n] == '\0' || (type_aliases[i].type == KEY_VARCHAR && is_length_modifier(name + n)))
            return (int)type_aliases[i].type;
    }
    return -1;
}

const char *key_type_name(enum key_type type)
{
    return type_names[type];
}

const char *key_type_sql(enum key_type type)
{
    static const char *const sql[KEY_TYPE_MAX] = {
        [KEY_SMALLINT] = "hashint2extended(%s, 0)", [KEY_INTEGER] = "hashint4extended(%s, 0)",
        [KEY_BIGINT] = "hashint8extended(%s, 0)",   [KEY_TEXT] = "hashtextextended(%s, 0)",
        [KEY_VARCHAR] = "hashtextextended(%s, 0)",  [KEY_UUID] = "uuid_hash_extended(%s, 0)",
    };
    return sql[type];
}

/* ---- keys as text ---- */

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* [blanks][+-]digits[blanks] within [min, max] */
static bool parse_integer(const char *p, size_t length, int64_t min, int64_t max, int64_t *ret)
{
    const char *end = p + length;
    while (p < end && is_blank(*p))
        p++;
    bool negative = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+'))
        p++;
    if (p == end || *p < '0' || *p > '9')
        return false;
    /* Counted downwards, because only negative numbers reach the minimum. */
    int64_t value = 0;
    for (; p < end && *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_sub_overflow(value, *p - '0', &value))
            return false;
    while (p < end && is_blank(*p))
        p++;
    if (p != end || (!negative && value == INT64_MIN))
        return false;
    *ret = negative ? value : -value;
    return *ret >= min && *ret <= max;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* 32 hexadecimal digits, a hyphen allowed after every fourth, all of it in braces or not. */
static bool parse_uuid(const char *p, size_t length, uint8_t uuid[16])
{
    const char *end = p + length;
    if (length >= 2 && p[0] == '{') {
        if (end[-1] != '}')
            return false;
        p++;
        end--;
    }
    for (unsigned i = 0; i < 16; i++) {
        if (end - p < 2 || hex_digit(p[0]) < 0 || hex_digit(p[1]) < 0)
            return false;
        uuid[i] = (uint8_t)(hex_digit(p[0]) << 4 | hex_digit(p[1]));
        p += 2;
        if (i % 2 == 1 && i < 15 && p < end && *p == '-')
            p++;
    }
    return p == end;
}

static int key_invalid(enum key_type type, const char *text, size_t length, struct err *err)
{
    int shown = length < 64 ? (int)length : 64;
    return err_set(err, ERRC_INVALID, "\"%.*s\"%s is not a valid %s", shown, text, length > 64 ? "..." : "",
                   type_names[type]);
}

int hash_key(enum key_type type, const char *text, size_t length, int64_t *ret, struct err *err)
{
    int64_t max = type == KEY_SMALLINT ? INT16_MAX : type == KEY_INTEGER ? INT32_MAX : INT64_MAX;
    int64_t value;
    uint8_t uuid[16];
    switch (type) {
    case KEY_SMALLINT:
    case KEY_INTEGER:
    case KEY_BIGINT:
        if (!parse_integer(text, length, -max - 1, max, &value))
            return key_invalid(type, text, length, err);
        *ret = hash_int8(value);
        return 0;
    case KEY_TEXT:
    case KEY_VARCHAR:
        if (length > 0 && memchr(text, '\0', length) != NULL)
            return err_set(err, ERRC_INVALID, "a %s holds a zero byte, which PostgreSQL cannot store",
                           type_names[type]);
        *ret = hash_text(text, length);
        return 0;
    case KEY_UUID:
        if (!parse_uuid(text, length, uuid))
            return key_invalid(type, text, length, err);
        *ret = hash_uuid(uuid);
        return 0;
    case KEY_TYPE_MAX:
        break;
    }
    return err_set(err, ERRC_INTERNAL, "no such key type: %d", (int)type);
}
