/*
 * Blocks of 64 bytes as bit masks, after Langdale and Lemire, "Parsing gigabytes of JSON per second" (2019).
 */
#include "k8s/json_cut.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define BLOCK 64

/* One bit for each byte. */
struct masks {
    uint64_t quotes, backslashes, opens, closes;
};

#ifdef __SSE2__
static void block_read(const char *text, struct masks *ret)
{
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), lower = _mm_set1_epi8(0x20);
    const __m128i open = _mm_set1_epi8('{'), close = _mm_set1_epi8('}'); /* '[' and ']' with bit 5 set */
    memset(ret, 0, sizeof *ret);
    for (int i = 0; i < BLOCK; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(text + i)), w = _mm_or_si128(v, lower);
        ret->quotes |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, quote)) << i;
        ret->backslashes |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(v, backslash)) << i;
        ret->opens |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(w, open)) << i;
        ret->closes |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(w, close)) << i;
    }
}
#else
static void block_read(const char *text, struct masks *ret)
{
    memset(ret, 0, sizeof *ret);
    for (int i = 0; i < BLOCK; i++) {
        char c = text[i];
        ret->quotes |= (uint64_t)(c == '"') << i;
        ret->backslashes |= (uint64_t)(c == '\\') << i;
        ret->opens |= (uint64_t)(c == '{' || c == '[') << i;
        ret->closes |= (uint64_t)(c == '}' || c == ']') << i;
    }
}
#endif

/* Bytes behind an odd number of backslashes; *carry: the first byte of the next block is one. */
static uint64_t escaped_bytes(uint64_t backslashes, uint64_t *carry)
{
    const uint64_t odd = 0xAAAAAAAAAAAAAAAAull;
    uint64_t starts = backslashes & ~*carry;
    uint64_t codes = (((starts << 1) | odd) - starts) ^ odd;
    uint64_t escaped = codes ^ (backslashes | *carry);
    *carry = (codes & backslashes) >> 63;
    return escaped;
}

/* Bit n of the result: the parity of bits 0 to n. */
static uint64_t prefix_xor(uint64_t bits)
{
    for (int shift = 1; shift < BLOCK; shift *= 2)
        bits ^= bits << shift;
    return bits;
}

/* Without an instruction for it the compiler's own is a call and a table. */
static size_t bits_count(uint64_t bits)
{
    bits -= (bits >> 1) & 0x5555555555555555ull;
    bits = (bits & 0x3333333333333333ull) + ((bits >> 2) & 0x3333333333333333ull);
    return (size_t)((((bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0Full) * 0x0101010101010101ull) >> 56);
}

/* Length of the object or array that begins at text, 0 if its end is not there. */
static size_t nested_length(const char *text, size_t length)
{
    uint64_t carry = 0, in_string = 0;
    size_t depth = 0;
    for (size_t at = 0; at < length; at += BLOCK) {
        char rest[BLOCK] = {0};
        struct masks m;
        if (length - at < BLOCK)
            memcpy(rest, text + at, length - at);
        block_read(length - at < BLOCK ? rest : text + at, &m);
        uint64_t quotes = m.quotes & ~escaped_bytes(m.backslashes, &carry);
        uint64_t strings = prefix_xor(quotes) ^ in_string;
        in_string = 0 - (strings >> 63);
        uint64_t opens = m.opens & ~strings, closes = m.closes & ~strings;
        size_t closing = bits_count(closes);
        if (depth > closing) {
            depth += bits_count(opens) - closing;
            continue;
        }
        for (uint64_t both = opens | closes; both != 0; both &= both - 1) {
            uint64_t bit = both & (0 - both);
            if (bit & opens)
                depth++;
            else if (--depth == 0)
                return at + (size_t)__builtin_ctzll(bit) + 1;
        }
    }
    return 0;
}

/* Length of the string that begins at text, quotes included; 0 if its end is not there. */
static size_t string_length(const char *text, size_t length)
{
    for (size_t at = 1; at < length;) {
        const char *quote = memchr(text + at, '"', length - at);
        size_t backslashes = 0;
        if (quote == NULL)
            return 0;
        while (quote[-1 - (ptrdiff_t)backslashes] == '\\')
            backslashes++;
        at = (size_t)(quote - text) + 1;
        if (backslashes % 2 == 0)
            return at;
    }
    return 0;
}

static size_t value_length(const char *text, size_t length)
{
    if (length == 0)
        return 0;
    if (*text == '{' || *text == '[')
        return nested_length(text, length);
    if (*text == '"')
        return string_length(text, length);
    size_t n = 0;
    while (n < length && text[n] != ',' && text[n] != '}' && text[n] != ']')
        n++;
    return n;
}

/* The value of a member of the object that begins at text. */
static char *member_find(char *text, size_t length, const char *name, size_t *ret_left)
{
    size_t name_length = strlen(name);
    char *end = text + length;
    if (length == 0 || *text != '{')
        return NULL;
    for (char *at = text + 1; at < end && *at == '"'; at++) {
        size_t key = string_length(at, (size_t)(end - at));
        if (key == 0 || (size_t)(end - at) < key + 2 || at[key] != ':')
            return NULL;
        char *value = at + key + 1;
        if (key == name_length + 2 && memcmp(at + 1, name, name_length) == 0) {
            *ret_left = (size_t)(end - value);
            return value;
        }
        size_t skip = value_length(value, (size_t)(end - value));
        at = value + skip;
        if (skip == 0 || at >= end || *at != ',')
            return NULL;
    }
    return NULL;
}

size_t json_cut(char *text, size_t length, const char *const *path)
{
    char *at = text;
    size_t left = length;
    for (; *path != NULL; path++) {
        at = member_find(at, left, *path, &left);
        if (at == NULL)
            return length;
    }
    size_t cut = *at == '{' || *at == '[' ? nested_length(at, left) : 0;
    if (cut < 5)
        return length; /* "null" would not be shorter */
    memcpy(at, "null", 4);
    memmove(at + 4, at + cut, left - cut);
    return length - cut + 4;
}
