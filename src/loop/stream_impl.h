/*
 * stream_impl: what stream.c, stream_write.c, stream_tls.c and listener.c share and nobody else needs.
 */
#ifndef LOOP_STREAM_IMPL_H
#define LOOP_STREAM_IMPL_H

#include <openssl/ssl.h>

#include "base/buf.h"
#include "base/sm.h"
#include "loop/proxy.h"
#include "loop/stream.h"
#include "loop/tls.h"
#include "loop/work.h"

#define STREAM_CONNECT_DEFAULT_NS (10 * ENV_NS_PER_S)
#define STREAM_WRITE_LIMIT        (16u * 1024 * 1024)

/* the loop's scratch: one socket read, then one TLS record's plaintext */
#define STREAM_RAW_SIZE   65536
#define STREAM_PLAIN_SIZE 16384

/*
 * (A proxy: CONNECTING --> PROXYING, and from there as from CONNECTING. One that is reached by https://:
 * CONNECTING --> TUNNELING --> PROXYING.)
 *
 * RESOLVING --> CONNECTING --(TLS)--> HANDSHAKING --> OPEN --peer's end--> ENDED
 *                 |    ^                   ^           | ^                   |
 *                 v    |                   |           | |                   |
 *               RETRYING        ACCEPTED --+-----------|-+                   |
 *                                                      +----FINISHING <------+
 * Every state but CLOSED goes to FAILED by an error (FINISHING to CLOSING instead) and to CLOSING by
 * stream_close().
 *
 * RESOLVING waits for the resolver (with a Unix socket for the end of the turn). CONNECTING waits for
 * connect(). RETRYING waits for the close callback of the failed attempt's handle, and with a Unix socket
 * then for the timer. TUNNELING waits for the TLS handshake with the proxy, PROXYING for its answers.
 * ACCEPTED waits for the end of the turn. HANDSHAKING waits for the peer's bytes. These are also woken by the
 * timer, which fails them. OPEN waits for bytes (or the timer, see stream_gather()), and for writes to end;
 * ENDED for writes to end. FINISHING waits for the writes, the shutdown and the peer's EOF, or its timer.
 * FAILED waits for the user. CLOSING waits until `holds` is 0, then for the end of the turn.
 */
enum stream_state {
    STATE_RESOLVING,
    STATE_CONNECTING,
    STATE_RETRYING,
    STATE_TUNNELING,
    STATE_PROXYING,
    STATE_ACCEPTED,
    STATE_HANDSHAKING,
    STATE_OPEN,
    STATE_ENDED,
    STATE_FINISHING,
    STATE_FAILED,
    STATE_CLOSING,
    STATE_CLOSED,
    STATE_COUNT
};

struct tls_context {
    SSL_CTX *ssl_ctx;
    BIO_METHOD *input; /* see stream_tls.c */
    int refs;
    bool server;
};

struct stream {
    struct loop *loop;
    struct sm sm;
    stream_cb cb;
    void *data;
    struct loop_task task; /* whatever may not happen inside the user's call */
    struct loop_timer timer;
    int holds; /* the TCP handle and the lookup, while libuv has them */

    /* connecting */
    char *host;
    int port;   /* of the proxy, if there is one */
    char *path; /* of a Unix socket, NULL = TCP */
    struct proxy *proxy;
    char *target; /* behind the proxy */
    struct proxy_talk talk;
    char *server_name;
    uint64_t deadline_ns;
    struct resolve *resolve;
    struct resolve_result addresses;
    int next_address;
    uv_connect_t connect;
    char peer[80];

    union { /* both begin as a uv_stream_t */
        uv_tcp_t tcp;
        uv_pipe_t pipe; /* when there is a path */
    };
    bool tcp_open;
    bool paused;
    uint64_t gathered_ns; /* when the last read of a burst was */
    unsigned burst;       /* reads in it */
    uint64_t gather_ns;   /* OPEN: the timer runs while nothing is read, see stream_gather() */
    bool peer_ended;      /* TCP EOF was read */
    struct err err;       /* of FAILED */
    bool error_reported;  /* STREAM_ERROR was delivered */

    /* writing */
    struct list waiting; /* chunks written before the connection stood */
    size_t pending;
    size_t write_limit;
    bool drain_wanted;
    struct err write_error; /* kept back until the peer's last bytes are read */
    uv_shutdown_t shutdown;

    /* TLS */
    struct tls_context *tls; /* NULL = plain */
    SSL *ssl;
    BIO *out; /* ciphertext to the peer; owned by ssl */
    struct {  /* ciphertext from the peer that OpenSSL has not taken */
        const char *at;
        size_t length;
    } in;
    struct buf kept; /* where `in` lies after a pause; else in the scratch */

    /* TLS to the proxy, around the above; NULL = none */
    SSL *outer;
    BIO *outer_in, *outer_out; /* owned by outer */
};

/* ---- stream.c ---- */

/* A stream without a connection, in `first`; ctx gets one more reference. */
struct stream *stream_new(struct loop *loop, struct tls_context *ctx, enum stream_state first);
int stream_tcp_init(struct stream *s);
/* ACCEPTED to HANDSHAKING, or to OPEN at the end of the turn. */
void stream_accepted(struct stream *s);
enum stream_state stream_state(const struct stream *s);
void stream_emit(struct stream *s, enum stream_event event, const char *data, size_t length);
void stream_opened(struct stream *s);
void stream_ended(struct stream *s);
/* Bytes that are no ciphertext of a proxy's TLS (any more). */
void stream_deliver(struct stream *s, const char *data, size_t length);
/* The TLS to the proxy stands. */
void stream_tunneled(struct stream *s);
void stream_read_ended(struct stream *s);
/* To FAILED with STREAM_ERROR; the _later form is for inside the user's calls. */
void stream_fail(struct stream *s, const struct err *err);
void stream_fail_later(struct stream *s, const struct err *err);
/* Starts or stops libuv's reading as state and pause demand. */
void stream_reading_update(struct stream *s);
char *stream_scratch(struct loop *loop);
/* Code and text for a failed socket call. */
void stream_socket_error(struct stream *s, int uv_code, const char *what, struct err *err);

/* ---- stream_write.c ---- */

/* Sends bytes, copied: to libuv, or into the TLS to the proxy. */
void stream_send(struct stream *s, const void *data, size_t length);
void stream_send_raw(struct stream *s, const void *data, size_t length); /* to libuv */
void stream_waiting_send(struct stream *s);
void stream_waiting_drop(struct stream *s);

/* ---- stream_tls.c ---- */

/* A client's or server's session over `in`, which it takes (NULL: no memory), and a memory BIO, which it
 * owns. `name`: whom a client expects. */
SSL *stream_tls_new(struct stream *s, char *name, BIO *in, BIO **out, struct err *err);
/* What OpenSSL says about `rc` of its last call on `ssl`; what: "TLS with". */
void stream_tls_describe(struct stream *s, SSL *ssl, int ssl_error, const char *what, struct err *err);
/* How OpenSSL reads what came; NULL = no memory. */
BIO_METHOD *stream_tls_input(void);
int stream_tls_begin(struct stream *s, struct err *err);
/* After bytes came in, and after a pause: handshake, then read until nothing is left. */
void stream_tls_step(struct stream *s);
void stream_tls_received(struct stream *s, const char *data, size_t length);
int stream_tls_write(struct stream *s, const void *data, size_t length, struct err *err);
void stream_tls_shutdown(struct stream *s);
void stream_tls_free(struct stream *s);

/* ---- stream_tunnel.c: TLS to a proxy ---- */

int stream_tunnel_begin(struct stream *s, struct err *err);
void stream_tunnel_step(struct stream *s);
void stream_tunnel_received(struct stream *s, const char *data, size_t length);
void stream_tunnel_write(struct stream *s, const void *data, size_t length);
void stream_tunnel_shutdown(struct stream *s);
void stream_tunnel_free(struct stream *s);

#endif
