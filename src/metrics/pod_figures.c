#include "metrics/pod_figures.h"

#include <math.h>
#include <string.h>
#include <yyjson.h>

#include "base/text.h"

/* 64-bit numbers are texts. 0 and "0" are no limit. */
static double number_of(yyjson_val *root, const char *name)
{
    yyjson_val *value = yyjson_obj_get(root, name);
    double number;
    if (yyjson_is_num(value))
        return yyjson_get_num(value);
    if (yyjson_is_str(value) && text_to_double(yyjson_get_str(value), &number))
        return number;
    return (double)NAN;
}

static double limit_of(yyjson_val *root, const char *name)
{
    double limit = number_of(root, name);
    return limit > 0 && limit < 9e18 ? limit : (double)NAN;
}

bool agent_figures_parse(const char *json, size_t length, struct agent_figures *ret)
{
    yyjson_doc *doc = yyjson_read(json, length, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    *ret = (struct agent_figures){.cpu_us = number_of(root, "cpu_us"),
                                  .cpu_limit = limit_of(root, "cpu_limit"),
                                  .memory_bytes = number_of(root, "memory_bytes"),
                                  .memory_limit_bytes = limit_of(root, "memory_limit_bytes")};
    bool ok = yyjson_is_obj(root) && (ret->cpu_us >= 0 || ret->memory_bytes >= 0);
    yyjson_doc_free(doc);
    return ok;
}

bool claim_is_of_pod(const char *claim, const char *pod)
{
    size_t n = strlen(claim), m = strlen(pod);
    if (n == m)
        return strcmp(claim, pod) == 0; /* CloudNativePG */
    return n > m + 1 && claim[n - m - 1] == '-' && strcmp(claim + n - m, pod) == 0;
}
