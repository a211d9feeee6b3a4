/*
 * proxy_choice: which proxy, if any, leads to an API server.
 *
 * The kubeconfig's proxy-url; else HTTPS_PROXY (for an http:// server HTTP_PROXY) unless NO_PROXY names the
 * server. As Go's httpproxy reads them: upper case before lower case, loopback and localhost never through a
 * proxy of the environment.
 */
#ifndef K8S_PROXY_CHOICE_H
#define K8S_PROXY_CHOICE_H

#include <stdbool.h>

#include "base/env.h"
#include "base/err.h"

struct k8s_access;
struct proxy;

/* *ret NULL: none. The error names where the proxy's URL came from. */
int proxy_choose(struct env *env, const struct k8s_access *access, struct proxy **ret, struct err *err);

/*
 * Whether a NO_PROXY list names the host: "*", "example.com" (and what ends in ".example.com"),
 * ".example.com" (the latter only), "10.0.0.1", "10.0.0.0/8", each with an optional ":port".
 */
bool no_proxy_names(const char *list, const char *host, int port);

#endif
