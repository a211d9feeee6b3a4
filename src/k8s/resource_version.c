#include <string.h>

#include "k8s/resource_version.h"

bool rv_comparable(const char *rv)
{
    if (rv[0] < '1' || rv[0] > '9')
        return false;
    return rv[strspn(rv, "0123456789")] == '\0';
}

enum rv_order rv_compare(const char *a, const char *b)
{
    if (strcmp(a, b) == 0)
        return RV_EQUAL;
    if (!rv_comparable(a) || !rv_comparable(b))
        return RV_UNRELATED;
    size_t la = strlen(a), lb = strlen(b);
    if (la != lb)
        return la < lb ? RV_OLDER : RV_NEWER;
    return strcmp(a, b) < 0 ? RV_OLDER : RV_NEWER;
}
