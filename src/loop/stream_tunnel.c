/*
 * TLS to a proxy that is reached by https://, around the TLS to the peer behind it.
 *
 * As Go's client does it: the proxy is verified by its own name against the same authorities as the peer, and
 * is offered the same client certificate. Everything that is sent goes through here once `outer` stands; what
 * it decrypts is delivered as if the socket had said it.
 */
#include <openssl/err.h>

#include "loop/stream_impl.h"

static void flush(struct stream *s)
{
    char *data = NULL;
    long length = BIO_get_mem_data(s->outer_out, &data);
    if (length <= 0)
        return;
    stream_send_raw(s, data, (size_t)length);
    (void)BIO_reset(s->outer_out);
}

static bool waits(int ssl_error)
{
    return ssl_error == SSL_ERROR_WANT_READ || ssl_error == SSL_ERROR_WANT_WRITE;
}

/* The alert goes out, but never SSL_shutdown() (T6). */
static void failed(struct stream *s, int ssl_error, const char *what)
{
    struct err err = {0};
    stream_tls_describe(s, s->outer, ssl_error, what, &err);
    flush(s);
    stream_fail(s, &err);
}

int stream_tunnel_begin(struct stream *s, struct err *err)
{
    s->outer_in = BIO_new(BIO_s_mem());
    s->outer = stream_tls_new(s, s->proxy->host, s->outer_in, &s->outer_out, err);
    if (s->outer == NULL)
        return -1;
    BIO_set_mem_eof_return(s->outer_in, -1);
    return 0;
}

static void handshake(struct stream *s)
{
    ERR_clear_error();
    int rc = SSL_do_handshake(s->outer);
    int error = rc == 1 ? SSL_ERROR_NONE : SSL_get_error(s->outer, rc);
    if (rc != 1 && !waits(error)) {
        failed(s, error, "TLS handshake with the proxy");
        return;
    }
    flush(s);
    if (rc == 1 && stream_state(s) == STATE_TUNNELING)
        stream_tunneled(s);
}

static bool takes_bytes(const struct stream *s)
{
    enum stream_state state = stream_state(s);
    return state == STATE_PROXYING || state == STATE_HANDSHAKING || state == STATE_OPEN ||
           state == STATE_FINISHING;
}

/* One SSL_read(); false when there is nothing more to read now. The ciphertext lies in `outer_in` by now: the
 * scratch's first part is free. */
static bool read_record(struct stream *s)
{
    char *plain = stream_scratch(s->loop);
    ERR_clear_error();
    int n = SSL_read(s->outer, plain, STREAM_PLAIN_SIZE);
    int error = n > 0 ? SSL_ERROR_NONE : SSL_get_error(s->outer, n);
    if (n <= 0 && !waits(error) && error != SSL_ERROR_ZERO_RETURN) {
        if (stream_state(s) != STATE_FINISHING)
            failed(s, error, "TLS with the proxy");
        return false;
    }
    flush(s);
    if (n > 0)
        stream_deliver(s, plain, (size_t)n);
    else if (error == SSL_ERROR_ZERO_RETURN && !s->peer_ended)
        stream_read_ended(s);
    return n > 0;
}

void stream_tunnel_step(struct stream *s)
{
    if (stream_state(s) == STATE_TUNNELING)
        handshake(s);
    while (takes_bytes(s) && read_record(s))
        ;
}

void stream_tunnel_received(struct stream *s, const char *data, size_t length)
{
    if (BIO_write(s->outer_in, data, (int)length) != (int)length)
        failed(s, SSL_ERROR_SYSCALL, "TLS with the proxy");
    else
        stream_tunnel_step(s);
}

void stream_tunnel_write(struct stream *s, const void *data, size_t length)
{
    const char *from = data;
    while (length > 0) {
        ERR_clear_error();
        int n = SSL_write(s->outer, from, (int)(length < INT_MAX ? length : INT_MAX));
        if (n <= 0) {
            struct err err = {0};
            stream_tls_describe(s, s->outer, SSL_get_error(s->outer, n), "TLS with the proxy", &err);
            stream_fail_later(s, &err);
            return;
        }
        flush(s);
        from += n;
        length -= (size_t)n;
    }
}

void stream_tunnel_shutdown(struct stream *s)
{
    if (s->outer == NULL)
        return;
    ERR_clear_error();
    (void)SSL_shutdown(s->outer);
    ERR_clear_error();
    flush(s);
}

void stream_tunnel_free(struct stream *s)
{
    SSL_free(s->outer); /* with both BIOs */
}
