#include <math.h>
#include <stdio.h>

#include "cli/human.h"

static const char *precision(double value, char out[HUMAN_SIZE], const char *unit)
{
    snprintf(out, HUMAN_SIZE, value < 99.95 ? "%.1f%s" : "%.0f%s", value, unit);
    return out;
}

char *human_bytes(double bytes, char out[HUMAN_SIZE])
{
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
    size_t unit = 0;
    while (bytes >= 1023.5 && unit + 1 < sizeof units / sizeof units[0]) {
        bytes /= 1024;
        unit++;
    }
    if (unit == 0)
        snprintf(out, HUMAN_SIZE, "%.0f B", bytes);
    else
        precision(bytes, out, units[unit]);
    return out;
}

char *human_count(double count, char out[HUMAN_SIZE])
{
    static const char *const units[] = {"", "k", "M", "G", "T"};
    size_t unit = 0;
    if (count < 9.95 && fabs(count - round(count)) > 0.05) {
        snprintf(out, HUMAN_SIZE, "%.1f", count);
        return out;
    }
    if (count < 9999.5) {
        snprintf(out, HUMAN_SIZE, "%.0f", count);
        return out;
    }
    while (count >= 999.5 && unit + 1 < sizeof units / sizeof units[0]) {
        count /= 1000;
        unit++;
    }
    precision(count, out, units[unit]);
    return out;
}

/* Two units, the smaller one left out when it is 0 or far below. */
static void two(char out[HUMAN_SIZE], int64_t big, char big_unit, int64_t small, char small_unit)
{
    if (small > 0)
        snprintf(out, HUMAN_SIZE, "%lld%c%lld%c", (long long)big, big_unit, (long long)small, small_unit);
    else
        snprintf(out, HUMAN_SIZE, "%lld%c", (long long)big, big_unit);
}

char *human_age(double seconds, char out[HUMAN_SIZE])
{
    int64_t s = seconds > 0 && seconds < 1e15 ? (int64_t)seconds : 0;
    int64_t m = s / 60, h = m / 60, d = h / 24, y = d / 365;
    if (s < 120)
        snprintf(out, HUMAN_SIZE, "%llds", (long long)s);
    else if (m < 10)
        two(out, m, 'm', s % 60, 's');
    else if (h < 3)
        snprintf(out, HUMAN_SIZE, "%lldm", (long long)m);
    else if (h < 8)
        two(out, h, 'h', m % 60, 'm');
    else if (h < 48)
        snprintf(out, HUMAN_SIZE, "%lldh", (long long)h);
    else if (d < 8)
        two(out, d, 'd', h % 24, 'h');
    else if (y < 2)
        snprintf(out, HUMAN_SIZE, "%lldd", (long long)d);
    else
        two(out, y, 'y', d % 365, 'd');
    return out;
}

char *human_duration(double seconds, char out[HUMAN_SIZE])
{
    if (seconds < 1e-3)
        snprintf(out, HUMAN_SIZE, "%.0f us", seconds * 1e6);
    else if (seconds < 1)
        snprintf(out, HUMAN_SIZE, seconds < 0.1 ? "%.1f ms" : "%.0f ms", seconds * 1e3);
    else if (seconds < 120)
        snprintf(out, HUMAN_SIZE, seconds < 10 ? "%.2f s" : "%.1f s", seconds);
    else
        human_age(seconds, out);
    return out;
}

char *human_percent(double share, char out[HUMAN_SIZE])
{
    double percent = share * 100;
    if (percent > 0 && percent < 0.1)
        snprintf(out, HUMAN_SIZE, "<0.1%%");
    else if (percent < 9.95 && fabs(percent - round(percent)) > 0.05)
        snprintf(out, HUMAN_SIZE, "%.1f%%", percent);
    else
        snprintf(out, HUMAN_SIZE, "%.0f%%", percent);
    return out;
}

/* Days since 1970-01-01 of a date of the Gregorian calendar. */
static int64_t days_of(int64_t year, int64_t month, int64_t day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400, of_era = year - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

bool human_time_parse(const char *text, int64_t *ret_us)
{
    int year, month, day, hour, minute, used = 0;
    double second;
    if (text == NULL ||
        sscanf(text, "%4d-%2d-%2dT%2d:%2d:%lfZ%n", &year, &month, &day, &hour, &minute, &second, &used) != 6)
        return false;
    if (used == 0 || text[used] != '\0' || month < 1 || month > 12 || day < 1 || day > 31 || hour < 0 ||
        hour > 23 || minute < 0 || minute > 59 || !(second >= 0 && second < 61))
        return false;
    *ret_us =
        ((days_of(year, month, day) * 24 + hour) * 60 + minute) * 60000000 + (int64_t)llround(second * 1e6);
    return true;
}
