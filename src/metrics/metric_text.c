#include "metrics/metric_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 200

/* ---- names ---- */

static bool name_char(char c, bool first)
{
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == ':')
        return true;
    return !first && c >= '0' && c <= '9';
}

bool metric_name_valid(const char *name)
{
    size_t n = 0;
    for (; name[n] != '\0'; n++)
        if (!name_char(name[n], n == 0))
            return false;
    return n > 0 && n <= NAME_MAX_BYTES;
}

static const char *type_name(enum metric_type type)
{
    static const char *const names[] = {[METRIC_GAUGE] = "gauge",
                                        [METRIC_COUNTER] = "counter",
                                        [METRIC_HISTOGRAM] = "histogram",
                                        [METRIC_UNTYPED] = "untyped"};
    return names[type];
}

void metric_add_head(struct buf *out, const struct metric_family *family)
{
    buf_add_text(out, "# HELP ");
    buf_add_text(out, family->name);
    buf_addc(out, ' ');
    metric_add_help(out, family->help);
    buf_add_text(out, "\n# TYPE ");
    buf_add_text(out, family->name);
    buf_addc(out, ' ');
    buf_add_text(out, type_name(family->type));
    buf_addc(out, '\n');
}

/* ---- escaping ---- */

static size_t continuation(const unsigned char *s, size_t from, size_t n)
{
    while (from < n && (s[from] & 0xC0) == 0x80)
        from++;
    return from;
}

/* Length of the UTF-8 character at s (n bytes are left, at least 1); 0 if it is none. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4)
        return 0;
    size_t want = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    if (n < want || continuation(s, 1, want) != want)
        return 0;
    bool overlong = (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xF0 && s[1] < 0x90);
    bool surrogate = s[0] == 0xED && s[1] > 0x9F;
    bool beyond = s[0] == 0xF4 && s[1] > 0x8F;
    return overlong || surrogate || beyond ? 0 : want;
}

static bool plain(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] >= 0x80 || s[i] == '\\' || s[i] == '"' || s[i] == '\n')
            return false;
    return true;
}

static void add_escaped(struct buf *out, const char *text, size_t n, bool quotes)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; i < n;) {
        size_t length = utf8_length(s + i, n - i);
        if (length == 0)
            buf_add_text(out, "\xEF\xBF\xBD");
        else if (s[i] == '\\')
            buf_add_text(out, "\\\\");
        else if (s[i] == '\n')
            buf_add_text(out, "\\n");
        else if (s[i] == '"' && quotes)
            buf_add_text(out, "\\\"");
        else
            buf_add(out, s + i, length);
        i += length > 0 ? length : 1;
    }
}

void metric_add_label(struct buf *out, const char *name, const char *value)
{
    size_t n = value != NULL ? strnlen(value, METRIC_LABEL_MAX + 1) : 0;
    if (n > METRIC_LABEL_MAX) {
        n = METRIC_LABEL_MAX;
        while (n > METRIC_LABEL_MAX - 4 && ((unsigned char)value[n] & 0xC0) == 0x80)
            n--; /* not in the middle of a character */
    }
    buf_add_text(out, name);
    buf_add(out, "=\"", 2);
    if (n > 0 && plain(value, n))
        buf_add(out, value, n);
    else if (n > 0)
        add_escaped(out, value, n, true);
    buf_addc(out, '"');
}

void metric_add_help(struct buf *out, const char *text)
{
    add_escaped(out, text, strlen(text), false);
}

/* ---- numbers ---- */

static size_t digits(const char *s)
{
    size_t n = 0;
    while (s[n] >= '0' && s[n] <= '9')
        n++;
    return n;
}

/* [-]digits[.digits][e[+-]digits], at least one digit before or after the point */
static bool number_valid(const char *s)
{
    if (*s == '-')
        s++;
    size_t whole = digits(s), fraction = 0;
    s += whole;
    if (*s == '.') {
        fraction = digits(s + 1);
        s += 1 + fraction;
    }
    if (whole + fraction == 0)
        return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        if (*s == '+' || *s == '-')
            s++;
        size_t exponent = digits(s);
        if (exponent == 0)
            return false;
        s += exponent;
    }
    return *s == '\0';
}

bool metric_add_value(struct buf *out, const char *text)
{
    static const char *const words[][2] = {
        {"t", "1"}, {"f", "0"}, {"NaN", "NaN"}, {"Infinity", "+Inf"}, {"-Infinity", "-Inf"},
    };
    if (strnlen(text, 64) < 64 && number_valid(text))
        return buf_add_text(out, text);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(text, words[i][0]) == 0)
            return buf_add_text(out, words[i][1]);
    return false;
}

void metric_add_uint(struct buf *out, uint64_t value)
{
    char text[24];
    size_t at = sizeof text;
    do {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    buf_add(out, text + at, sizeof text - at);
}

void metric_add_decimal(struct buf *out, uint64_t value, unsigned digits)
{
    char text[44];
    size_t at = sizeof text;
    unsigned left = digits;
    for (; left > 0 && value % 10 == 0; left--)
        value /= 10;
    for (unsigned n = 0; n < left; n++, value /= 10)
        text[--at] = (char)('0' + value % 10);
    if (left > 0)
        text[--at] = '.';
    do {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    buf_add(out, text + at, sizeof text - at);
}

void metric_add_double(struct buf *out, double value)
{
    if (isnan(value)) {
        buf_add_text(out, "NaN");
    } else if (isinf(value)) {
        buf_add_text(out, value > 0 ? "+Inf" : "-Inf");
    } else if (value >= 0 && value < 1e15 && value == (double)(uint64_t)value) {
        metric_add_uint(out, (uint64_t)value);
    } else {
        char text[40];
        for (int precision = 9; precision <= 17; precision += 2) {
            snprintf(text, sizeof text, "%.*g", precision, value);
            if (strtod(text, NULL) == value)
                break;
        }
        buf_add_text(out, text);
    }
}

void metric_add_float(struct buf *out, float value)
{
    bool whole = value >= 0 && value < 1e9F && value == (float)(uint32_t)value;
    if (whole || !isfinite(value)) {
        metric_add_double(out, (double)value);
        return;
    }
    char text[40];
    snprintf(text, sizeof text, "%.7g", (double)value);
    buf_add_text(out, text);
}

/* ---- samples ---- */

struct metric_span metric_span(const char *text)
{
    return (struct metric_span){text, strlen(text)};
}

static char *put(char *at, struct metric_span span)
{
    memcpy(at, span.text, span.length);
    return at + span.length;
}

void metric_add_start(struct buf *out, struct metric_span name, struct metric_span labels,
                      struct metric_span more)
{
    char *start = buf_reserve(out, name.length + labels.length + more.length + 4), *at = put(start, name);
    if (labels.length + more.length > 0) {
        *at++ = '{';
        at = put(at, labels);
        if (labels.length > 0 && more.length > 0)
            *at++ = ',';
        at = put(at, more);
        *at++ = '}';
    }
    *at++ = ' ';
    *at = '\0';
    out->length += (size_t)(at - start);
}

void metric_add_sample(struct buf *out, const char *name, const char *labels, double value)
{
    metric_add_start(out, metric_span(name), metric_span(labels), metric_span(""));
    metric_add_double(out, value);
    buf_addc(out, '\n');
}

static struct metric_span with_suffix(struct buf *scratch, const char *name, const char *suffix)
{
    buf_reset(scratch);
    buf_add_text(scratch, name);
    buf_add_text(scratch, suffix);
    return (struct metric_span){scratch->data, scratch->length};
}

#define BOUNDS 10

void metric_add_histogram(struct buf *out, const char *name, const char *labels, const struct hist *h)
{
    static const uint64_t bounds_us[BOUNDS] = {1000,   5000,    10000,   50000,    100000,
                                               500000, 1000000, 5000000, 30000000, 100000000};
    static const char bounds[BOUNDS + 1][12] = {"le=\"0.001\"", "le=\"0.005\"", "le=\"0.01\"", "le=\"0.05\"",
                                                "le=\"0.1\"",   "le=\"0.5\"",   "le=\"1\"",    "le=\"5\"",
                                                "le=\"30\"",    "le=\"100\"",   "le=\"+Inf\""};
    const struct metric_span shared = metric_span(labels), none = metric_span("");
    uint64_t counts[BOUNDS + 1];
    struct buf full = {0};
    hist_cumulate(h, bounds_us, BOUNDS, counts);
    counts[BOUNDS] = h->count;
    struct metric_span bucket = with_suffix(&full, name, "_bucket");
    for (size_t i = 0; i <= BOUNDS; i++) {
        metric_add_start(out, bucket, shared, metric_span(bounds[i]));
        metric_add_uint(out, counts[i]);
        buf_addc(out, '\n');
    }
    metric_add_start(out, with_suffix(&full, name, "_sum"), shared, none);
    metric_add_decimal(out, h->sum_us, 6);
    buf_addc(out, '\n');
    metric_add_start(out, with_suffix(&full, name, "_count"), shared, none);
    metric_add_uint(out, h->count);
    buf_addc(out, '\n');
    buf_free(&full);
}
