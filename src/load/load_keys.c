#include "load/load_keys.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static size_t format_decimal(uint64_t value, char *out)
{
    char digits[24];
    size_t n = 0;
    do {
        digits[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    for (size_t i = 0; i < n; i++)
        out[i] = digits[n - 1 - i];
    out[n] = '\0';
    return n;
}

static void uuid_bytes(uint32_t number, uint8_t out[16])
{
    uint64_t mixed = mix(number + 0x9e3779b97f4a7c15ull);
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(mixed >> (56 - 8 * i));
    out[6] = (uint8_t)(0x80 | (out[6] & 0x0f));
    out[8] = 0x80;
    memset(out + 9, 0, 3);
    for (int i = 0; i < 4; i++)
        out[12 + i] = (uint8_t)(number >> (24 - 8 * i));
}

static size_t format_uuid(uint32_t number, char *out)
{
    static const char hex[] = "0123456789abcdef";
    uint8_t bytes[16];
    size_t n = 0;
    uuid_bytes(number, bytes);
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            out[n++] = '-';
        out[n++] = hex[bytes[i] >> 4];
        out[n++] = hex[bytes[i] & 15];
    }
    out[n] = '\0';
    return n;
}

size_t load_key_format(enum key_type type, uint32_t number, char out[LOAD_KEY_SIZE])
{
    switch (type) {
    case KEY_TEXT:
    case KEY_VARCHAR:
        return (size_t)snprintf(out, LOAD_KEY_SIZE, "customer-%08u", number);
    case KEY_UUID:
        return format_uuid(number, out);
    default:
        return format_decimal((uint64_t)number + 1, out);
    }
}

static bool parse_digits(const char *text, size_t length, unsigned base, uint64_t *ret)
{
    uint64_t value = 0;
    if (length == 0 || length > 12)
        return false;
    for (size_t i = 0; i < length; i++) {
        unsigned digit = text[i] >= '0' && text[i] <= '9'   ? (unsigned)(text[i] - '0')
                         : text[i] >= 'a' && text[i] <= 'f' ? (unsigned)(text[i] - 'a') + 10
                                                            : 99;
        if (digit >= base)
            return false;
        value = value * base + digit;
    }
    *ret = value;
    return true;
}

bool load_key_parse(enum key_type type, const char *text, size_t length, uint32_t *ret)
{
    char again[LOAD_KEY_SIZE];
    uint64_t value;
    bool number_only = false;
    if (type == KEY_UUID) {
        if (length != 36 || !parse_digits(text + 24, 12, 16, &value))
            return false;
    } else if (type == KEY_TEXT || type == KEY_VARCHAR) {
        if (length <= 9 || !parse_digits(text + 9, length - 9, 10, &value))
            return false;
    } else {
        if (!parse_digits(text, length, 10, &value) || value == 0 || text[0] == '0')
            return false;
        value--;
        number_only = true;
    }
    if (value > UINT32_MAX)
        return false;
    if (!number_only &&
        (load_key_format(type, (uint32_t)value, again) != length || memcmp(again, text, length) != 0))
        return false;
    *ret = (uint32_t)value;
    return true;
}

int64_t load_key_hash(enum key_type type, uint32_t number)
{
    char text[LOAD_KEY_SIZE];
    uint8_t bytes[16];
    switch (type) {
    case KEY_SMALLINT:
        return hash_int2((int16_t)(number + 1));
    case KEY_INTEGER:
        return hash_int4((int32_t)(number + 1));
    case KEY_UUID:
        uuid_bytes(number, bytes);
        return hash_uuid(bytes);
    case KEY_TEXT:
    case KEY_VARCHAR:
        return hash_text(text, load_key_format(type, number, text));
    default:
        return hash_int8((int64_t)number + 1);
    }
}

uint32_t load_key_limit(enum key_type type)
{
    if (type == KEY_SMALLINT)
        return INT16_MAX;
    return 100u * 1000 * 1000;
}

int64_t load_balance_of(uint32_t number, uint32_t version)
{
    return (int64_t)(mix(((uint64_t)number << 32 | version) + 1) % 1000000);
}

int64_t load_amount_of(uint32_t number, uint32_t order)
{
    return (int64_t)(mix(((uint64_t)number << 32 | order) + 0x5851f42d4c957f2dull) % 100000);
}

uint64_t load_random_next(struct load_random *r)
{
    r->state += 0x9e3779b97f4a7c15ull;
    return mix(r->state);
}

uint32_t load_random_below(struct load_random *r, uint32_t bound)
{
    assert(bound >= 1);
    return (uint32_t)(((load_random_next(r) >> 32) * bound) >> 32);
}

double load_random_unit(struct load_random *r)
{
    return (double)(load_random_next(r) >> 11) / 9007199254740992.0;
}
