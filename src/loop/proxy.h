/*
 * proxy: what to say to a proxy before it passes bytes on. No I/O.
 *
 * HTTP proxies are asked by CONNECT (RFC 9110, 9.3.6), whatever the connection is for; SOCKS 5 by name, so
 * that the proxy resolves it (RFC 1928, 1929).
 */
#ifndef LOOP_PROXY_H
#define LOOP_PROXY_H

#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

enum proxy_kind { PROXY_HTTP, PROXY_SOCKS5 };

struct proxy {
    enum proxy_kind kind;
    bool tls; /* https://: TLS to the proxy, around everything */
    char *host;
    int port;
    char *user, *password; /* decoded; NULL = none. Secrets */
    int refs;
};

/*
 * "http://[user:password@]host[:port]", "https://..." or "socks5://..." (also socks5h). ERRC_UNSUPPORTED for
 * other schemes; ERRC_INVALID for what is no URL. Error texts do not hold the URL, which may hold a password.
 */
int proxy_parse(const char *url, struct proxy **ret, struct err *err);
struct proxy *proxy_ref(struct proxy *p); /* NULL gives NULL */
void proxy_unref(struct proxy *p);        /* NULL is fine; wipes */

enum proxy_state { PROXY_MORE, PROXY_OPEN, PROXY_REFUSED };

/* One conversation. Zero-initialise, set `proxy`, `host` and `port` (borrowed), call proxy_begin(). */
struct proxy_talk {
    const struct proxy *proxy;
    const char *host; /* where to, a name or an address */
    int port;
    int step;
    struct buf in;
    struct buf out; /* to be sent now and emptied; may hold a password */
};

void proxy_begin(struct proxy_talk *talk);
/* PROXY_OPEN: what follows is the peer's. A proxy that says more than it should is refused. */
enum proxy_state proxy_feed(struct proxy_talk *talk, const char *bytes, size_t length, struct err *err);
void proxy_end(struct proxy_talk *talk); /* frees and wipes the buffers; harmless twice */

#endif
