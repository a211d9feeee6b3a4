#include "load/load_skew.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"

/* ---- text ---- */

static int parse_share(const char *text, double *ret, struct err *err)
{
    if (!text_to_double(text, ret) || *ret <= 0 || *ret > 1)
        return err_set(err, ERRC_INVALID, "share \"%s\" is not a number above 0 and at most 1", text);
    return 0;
}

/* value is the text between '=' and the last ':' */
static int parse_hot(struct load_skew_spec *spec, const char *value, struct err *err)
{
    uint64_t number;
    switch (spec->kind) {
    case SKEW_HOT_RANGE:
        return range_parse(value, &spec->range, err);
    case SKEW_HOT_KEY:
        if (!text_to_uint64(value, &number) || number > UINT32_MAX)
            return err_set(err, ERRC_INVALID, "\"%s\" is not the number of a customer (from 0)", value);
        spec->number = (uint32_t)number;
        return 0;
    default:
        if (!text_is_name(value))
            return err_set(err, ERRC_INVALID, "\"%s\" is not the name of a shard", value);
        memcpy(spec->shard, value, strlen(value) + 1);
        return 0;
    }
}

static const char *hot_prefix(enum load_skew_kind kind)
{
    return kind == SKEW_HOT_SHARD ? "hot-shard=" : kind == SKEW_HOT_RANGE ? "hot-range=" : "hot-key=";
}

static int parse_spec(const char *text, struct load_skew_spec *spec, struct err *err)
{
    if (strcmp(text, "uniform") == 0) {
        spec->kind = SKEW_UNIFORM;
        return 0;
    }
    if (text_starts_with(text, "zipf:")) {
        spec->kind = SKEW_ZIPF;
        if (!text_to_double(text + 5, &spec->theta) || spec->theta <= 0 || spec->theta > 5)
            return err_set(err, ERRC_INVALID, "theta is not a number above 0 and at most 5");
        return 0;
    }
    for (enum load_skew_kind kind = SKEW_HOT_SHARD; kind <= SKEW_HOT_KEY; kind++) {
        const char *prefix = hot_prefix(kind);
        if (!text_starts_with(text, prefix))
            continue;
        const char *value = text + strlen(prefix);
        const char *colon = strrchr(value, ':');
        if (colon == NULL)
            return err_set(err, ERRC_INVALID, "no \":SHARE\" at the end");
        spec->kind = kind;
        int code = parse_share(colon + 1, &spec->share, err);
        if (code != 0)
            return code;
        char *copy = mem_strndup(value, (size_t)(colon - value));
        code = parse_hot(spec, copy, err);
        free(copy);
        return code;
    }
    return err_set(err, ERRC_INVALID,
                   "use uniform, zipf:THETA, hot-shard=NAME:SHARE, hot-range=LO..HI:SHARE or "
                   "hot-key=NUMBER:SHARE");
}

int load_skew_parse(const char *text, struct load_skew_spec *ret, struct err *err)
{
    struct load_skew_spec spec = {.kind = SKEW_UNIFORM};
    int code = parse_spec(text, &spec, err);
    if (code != 0)
        return err_wrap(err, "skew \"%s\"", text);
    *ret = spec;
    return 0;
}

/* ---- zipf: rejection inversion (Hoermann, Derflinger 1996), any theta, no table ---- */

static double expm1_over_x(double x)
{
    return fabs(x) > 1e-8 ? expm1(x) / x : 1 + x * 0.5 * (1 + x / 3 * (1 + 0.25 * x));
}

static double log1p_over_x(double x)
{
    return fabs(x) > 1e-8 ? log1p(x) / x : 1 - x * (0.5 - x * (1.0 / 3 - 0.25 * x));
}

static double zipf_h(double theta, double x)
{
    return exp(-theta * log(x));
}

static double zipf_integral(double theta, double x)
{
    double log_x = log(x);
    return expm1_over_x((1 - theta) * log_x) * log_x;
}

static double zipf_inverse(double theta, double x)
{
    double t = x * (1 - theta);
    if (t < -1)
        t = -1;
    return exp(log1p_over_x(t) * x);
}

static void zipf_init(struct load_skew *skew)
{
    double theta = skew->spec.theta;
    skew->zipf_x1 = zipf_integral(theta, 1.5) - 1;
    skew->zipf_n = zipf_integral(theta, (double)skew->count + 0.5);
    skew->zipf_s = 2 - zipf_inverse(theta, zipf_integral(theta, 2.5) - zipf_h(theta, 2));
}

/* 0 is the most frequent */
static uint32_t zipf_rank(const struct load_skew *skew, struct load_random *random)
{
    double theta = skew->spec.theta;
    for (;;) {
        double u = skew->zipf_n + load_random_unit(random) * (skew->zipf_x1 - skew->zipf_n);
        double x = zipf_inverse(theta, u);
        double k = floor(x + 0.5);
        if (k < 1)
            k = 1;
        else if (k > skew->count)
            k = skew->count;
        if (k - x <= skew->zipf_s || u >= zipf_integral(theta, k + 0.5) - zipf_h(theta, k))
            return (uint32_t)k - 1;
    }
}

static uint32_t common_divisor(uint32_t a, uint32_t b)
{
    while (b != 0) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* ---- drawing ---- */

static int collect_hot(struct load_skew *skew, enum key_type type, const struct range_set *hot,
                       struct err *err)
{
    uint32_t *list = mem_array(skew->count, sizeof *list);
    uint32_t n = 0;
    for (uint32_t i = 0; i < skew->count; i++) {
        if (range_set_contains(hot, load_key_hash(type, i)))
            list[n++] = i;
    }
    if (n == 0) {
        free(list);
        return err_set(err, ERRC_INVALID, "no key of the %u customers lies in the hot ranges", skew->count);
    }
    skew->hot = mem_resize(list, n, sizeof *list);
    skew->hot_count = n;
    return 0;
}

int load_skew_init(struct load_skew *skew, const struct load_skew_spec *spec, enum key_type type,
                   uint32_t count, const struct range_set *hot, struct err *err)
{
    struct load_skew fresh = {.spec = *spec, .count = count};
    fresh.stride = (uint32_t)((double)count * 0.6180339887) | 1u;
    while (common_divisor(fresh.stride, count) != 1)
        fresh.stride++;
    if (spec->kind == SKEW_ZIPF)
        zipf_init(&fresh);
    if (spec->kind == SKEW_HOT_KEY && spec->number >= count)
        return err_set(err, ERRC_INVALID, "hot key %u: there are only %u customers", spec->number, count);
    struct range one = spec->range;
    struct range_set single = {.items = &one, .count = 1};
    if (spec->kind == SKEW_HOT_SHARD || spec->kind == SKEW_HOT_RANGE) {
        int code = collect_hot(&fresh, type, spec->kind == SKEW_HOT_SHARD ? hot : &single, err);
        if (code != 0)
            return code;
    }
    *skew = fresh;
    return 0;
}

void load_skew_fini(struct load_skew *skew)
{
    free(skew->hot);
    skew->hot = NULL;
    skew->hot_count = 0;
}

uint32_t load_skew_draw(const struct load_skew *skew, struct load_random *random)
{
    switch (skew->spec.kind) {
    case SKEW_ZIPF:
        return (uint32_t)((uint64_t)zipf_rank(skew, random) * skew->stride % skew->count);
    case SKEW_HOT_SHARD:
    case SKEW_HOT_RANGE:
        if (load_random_unit(random) < skew->spec.share)
            return skew->hot[load_random_below(random, skew->hot_count)];
        break;
    case SKEW_HOT_KEY:
        if (load_random_unit(random) < skew->spec.share)
            return skew->spec.number;
        break;
    case SKEW_UNIFORM:
        break;
    }
    return load_random_below(random, skew->count);
}
