/*
 * stream: a TCP connection, with or without TLS, or one to a Unix socket, and the listener that accepts
 * them (TCP only).
 *
 * One callback with an event. TLS goes over memory BIOs (rules T1 to T6), so the code above never knows.
 * The object is made and owned by the stream layer: the user keeps the pointer until STREAM_CLOSED, which is
 * always the last event and comes exactly once, after stream_close() (by the user) and only then. Errors and
 * EOF do not close by themselves: the user answers them with stream_close(), from inside the callback or
 * later.
 */
#ifndef LOOP_STREAM_H
#define LOOP_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"

struct stream;
struct proxy;
struct tls_context;

enum stream_event {
    STREAM_CONNECTED, /* connect (and TLS handshake) done; also the first event of an accepted stream */
    STREAM_DATA,      /* data/length hold plaintext, valid during the callback */
    STREAM_DRAINED,   /* everything written has reached the kernel */
    STREAM_EOF,       /* the peer ended in an orderly way (TLS: close_notify); reading is over */
    STREAM_ERROR,     /* err says why (T3: TCP EOF without close_notify is one); nothing more is read */
    STREAM_CLOSED     /* last event; the pointer dies when the callback returns */
};

struct stream_input {
    enum stream_event event;
    const char *data;
    size_t length;
    const struct err *err;
};

typedef void (*stream_cb)(struct stream *s, const struct stream_input *in, void *data);

struct stream_options {
    const char *host; /* name or address; resolved on a worker thread */
    int port;
    const char *path;            /* a Unix socket in place of host, port and proxy; NULL = none */
    uint64_t connect_timeout_ns; /* for resolve + connect + handshake over all addresses; 0 = 10 s */
    struct tls_context *tls;     /* NULL = plain */
    const char *tls_server_name; /* NULL = host */
    struct proxy *proxy;         /* gets one more reference; NULL = straight. It resolves the host */
    size_t write_limit;          /* bytes queued before writes are refused (T5); 0 = 16 MiB */
};

/*
 * Starts a connection; the strings are copied. On success *ret lives until STREAM_CLOSED. A Unix socket whose
 * queue is full is tried again until the time for connecting is over. ERRC_INVALID: no port, or a path that
 * is too long.
 */
int stream_connect(struct loop *loop, const struct stream_options *options, stream_cb cb, void *data,
                   struct stream **ret, struct err *err);

/*
 * Copies and queues; before STREAM_CONNECTED as well. A write that fails shows as STREAM_ERROR, after what
 * the peer had sent before was delivered. ERRC_LIMIT when write_limit would be passed, ERRC_CLOSED after an
 * error, stream_finish() or stream_close().
 */
int stream_write(struct stream *s, const void *data, size_t length, struct err *err);

/*
 * Queues without copying: `release(owner)` runs once when the bytes were written or dropped. Under TLS the
 * bytes are, once connected, encrypted at once and released before the call returns. On failure nothing is
 * released.
 */
int stream_write_owned(struct stream *s, const void *data, size_t length, void (*release)(void *owner),
                       void *owner, struct err *err);

/* Like stream_write_owned() for up to 1024 runs of bytes, which go out with one writev. The array is copied.
 */
struct stream_piece {
    const void *data;
    size_t length;
};
int stream_write_pieces(struct stream *s, const struct stream_piece *pieces, size_t count,
                        void (*release)(void *owner), void *owner, struct err *err);

/* Bytes queued and not yet taken by the kernel. */
size_t stream_pending(const struct stream *s);

/* Back-pressure: no STREAM_DATA until resumed. Idempotent. */
void stream_pause(struct stream *s);
void stream_resume(struct stream *s);

/*
 * For streams that bring many small pieces: in a burst, which begins with the third read within two pauses of
 * the one before, nothing is read for `pause_ns` after each read, so that one wake-up takes what comes
 * meanwhile. 0 = off.
 */
void stream_gather(struct stream *s, uint64_t pause_ns);

/*
 * Sends what is queued, then close_notify and FIN, waits up to 1 s for the peer's EOF (an earlier close could
 * destroy what was sent), then closes; after 5 s, or an error, closes anyway. Before STREAM_CONNECTED it is
 * stream_close(). No event but STREAM_CLOSED follows.
 */
void stream_finish(struct stream *s);

/* Closes now, dropping what is queued. Idempotent, legal in every state and from inside the callback. */
void stream_close(struct stream *s);

/* Replaces the callback, e.g. when an accepted stream changes hands. */
void stream_set_callback(struct stream *s, stream_cb cb, void *data);

/* "127.0.0.1:5432" of the peer, "" before the connection stands. */
const char *stream_peer(const struct stream *s);

/* ---- listener ---- */

struct listener;
typedef void (*listener_cb)(struct listener *l, struct stream *accepted, void *data);
typedef void (*listener_closed_cb)(struct listener *l, void *data);

/*
 * Binds and listens at once (address: a literal IPv4 or IPv6; port 0 takes a free one). Each accepted stream
 * is handed to `cb`, which must call stream_set_callback() before it returns (or the stream is dropped);
 * STREAM_CONNECTED follows, or STREAM_ERROR when the TLS handshake fails or takes longer than 10 s. When file
 * descriptors run out, accepting pauses for 100 ms at a time.
 * Errors: ERRC_IO naming address and port ("address already in use").
 */
int listener_open(struct loop *loop, const char *address, int port, struct tls_context *tls, listener_cb cb,
                  void *data, struct listener **ret, struct err *err);
int listener_port(const struct listener *l);
/* For connections that are accepted from now on; gets a reference. One that listens in plain goes on so. */
void listener_set_tls(struct listener *l, struct tls_context *tls);
/* Stops accepting; `closed` (may be NULL) runs once when the memory is about to go. */
void listener_close(struct listener *l, listener_closed_cb closed, void *data);

#endif
