/*
 * resource_version: order of Kubernetes resource versions (rule K17).
 *
 * Since Kubernetes 1.35 (KEP-5504) the versions of one resource are decimal integers of up to 128 bits
 * without leading zeros, and may be compared; anything else is an opaque text that only equals itself.
 */
#ifndef K8S_RESOURCE_VERSION_H
#define K8S_RESOURCE_VERSION_H

#include <stdbool.h>

enum rv_order { RV_OLDER, RV_EQUAL, RV_NEWER, RV_UNRELATED };

/* How a stands to b. Empty, "0", "01" and "x" are no comparable versions: RV_EQUAL if the texts are the same,
 * else RV_UNRELATED. */
enum rv_order rv_compare(const char *a, const char *b);

bool rv_comparable(const char *rv);

#endif
