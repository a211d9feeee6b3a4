#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool text_to_int64(const char *text, int64_t *ret)
{
    if (!isdigit((unsigned char)text[0]) && !(text[0] == '-' && isdigit((unsigned char)text[1])))
        return false;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return false;
    *ret = value;
    return true;
}

bool text_to_uint64(const char *text, uint64_t *ret)
{
    if (!isdigit((unsigned char)text[0]))
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return false;
    *ret = value;
    return true;
}

bool text_to_double(const char *text, double *ret)
{
    /* strtod() alone would take blanks, '+', hexadecimal and the names of infinity */
    const char *digits = text[0] == '-' ? text + 1 : text;
    if (!isdigit((unsigned char)digits[0]) || digits[strspn(digits, "0123456789.eE+-")] != '\0')
        return false;
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (errno != 0 || *end != '\0' || !isfinite(value))
        return false;
    *ret = value;
    return true;
}

struct unit {
    const char *name;
    uint64_t factor;
};

static bool number_with_unit(const char *text, const struct unit *units, size_t count, uint64_t *ret)
{
    char number[32];
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits >= sizeof number)
        return false;
    memcpy(number, text, digits);
    number[digits] = '\0';
    uint64_t value;
    if (!text_to_uint64(number, &value))
        return false;
    for (size_t i = 0; i < count; i++)
        if (strcmp(text + digits, units[i].name) == 0)
            return !__builtin_mul_overflow(value, units[i].factor, ret);
    return false;
}

bool text_to_duration(const char *text, uint64_t *ret_ns)
{
    static const struct unit units[] = {{"", 1000000000},     {"us", 1000},         {"ms", 1000000},
                                        {"s", 1000000000},    {"m", 60000000000},   {"min", 60000000000},
                                        {"h", 3600000000000}, {"d", 86400000000000}};
    return number_with_unit(text, units, sizeof units / sizeof units[0], ret_ns);
}

bool text_to_bytes(const char *text, uint64_t *ret_bytes)
{
    static const struct unit units[] = {{"", 1},
                                        {"B", 1},
                                        {"kB", 1ull << 10},
                                        {"KiB", 1ull << 10},
                                        {"Ki", 1ull << 10},
                                        {"MB", 1ull << 20},
                                        {"MiB", 1ull << 20},
                                        {"Mi", 1ull << 20},
                                        {"GB", 1ull << 30},
                                        {"GiB", 1ull << 30},
                                        {"Gi", 1ull << 30},
                                        {"TB", 1ull << 40},
                                        {"TiB", 1ull << 40},
                                        {"Ti", 1ull << 40}};
    return number_with_unit(text, units, sizeof units / sizeof units[0], ret_bytes);
}

bool text_starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool text_is_name(const char *text)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-");
    return n > 0 && n <= 63 && text[n] == '\0' && text[0] != '-' && text[n - 1] != '-';
}

/* 1 to 8 hexadecimal digits; what follows them, or NULL. */
static const char *hex_half(const char *text, uint64_t *ret)
{
    size_t digits = strspn(text, "0123456789abcdefABCDEF");
    if (digits == 0 || digits > 8)
        return NULL;
    *ret = strtoull(text, NULL, 16);
    return text + digits;
}

bool text_to_lsn(const char *text, uint64_t *ret)
{
    uint64_t high, low;
    const char *rest = hex_half(text, &high);
    if (rest == NULL || *rest != '/')
        return false;
    rest = hex_half(rest + 1, &low);
    if (rest == NULL || *rest != '\0')
        return false;
    *ret = high << 32 | low;
    return true;
}

void text_from_lsn(uint64_t lsn, char out[TEXT_LSN_SIZE])
{
    snprintf(out, TEXT_LSN_SIZE, "%" PRIX32 "/%" PRIX32, (uint32_t)(lsn >> 32), (uint32_t)lsn);
}
