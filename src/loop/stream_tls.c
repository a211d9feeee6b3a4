/*
 * TLS between memory. Two rules keep it right: after every SSL_* call what lies in `out` goes to the socket,
 * and after every socket read SSL_read() runs until OpenSSL has taken all of it (or the user pauses).
 */
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "loop/stream_impl.h"

/* What handshakes, alerts and key updates may add above the write limit before the peer is cut off. */
#define OUTPUT_SLACK (256u * 1024)

/* ---- input: OpenSSL takes the bytes from where the socket's read has put them ---- */

static int input_read(BIO *bio, char *to, int length)
{
    struct stream *s = BIO_get_data(bio);
    size_t n = s->in.length < (size_t)length ? s->in.length : (size_t)length;
    BIO_clear_retry_flags(bio);
    if (n == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(to, s->in.at, n);
    s->in.at += n;
    s->in.length -= n;
    return (int)n;
}

static long input_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)command;
    (void)number;
    (void)pointer;
    return 0;
}

BIO_METHOD *stream_tls_input(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "stream");
    if (method != NULL) {
        BIO_meth_set_read(method, input_read);
        BIO_meth_set_ctrl(method, input_ctrl);
    }
    return method;
}

static BIO *input_new(struct stream *s)
{
    BIO *bio = s->tls->input != NULL ? BIO_new(s->tls->input) : NULL;
    if (bio != NULL) {
        BIO_set_data(bio, s);
        BIO_set_init(bio, 1);
    }
    return bio;
}

/* What came is put behind what is left from before a pause. */
static void input_add(struct stream *s, const char *data, size_t length)
{
    struct buf kept = {0};
    if (s->in.length > 0) {
        (void)buf_add(&kept, s->in.at, s->in.length);
        (void)buf_add(&kept, data, length);
        data = kept.data;
        length = kept.length;
    }
    buf_free(&s->kept);
    s->kept = kept;
    s->in.at = data;
    s->in.length = length;
}

/* The scratch, where it lies, is somebody else's after this turn. */
static void input_keep(struct stream *s)
{
    if (s->in.length == 0) {
        buf_free(&s->kept);
    } else if (s->kept.length == 0) {
        (void)buf_add(&s->kept, s->in.at, s->in.length);
        s->in.at = s->kept.data;
    }
}

static void flush(struct stream *s)
{
    char *data = NULL;
    long length = BIO_get_mem_data(s->out, &data);
    if (length <= 0)
        return;
    stream_send(s, data, (size_t)length);
    (void)BIO_reset(s->out);
    if (s->pending > s->write_limit + OUTPUT_SLACK) {
        struct err err = {0};
        err_set(&err, ERRC_LIMIT, "%s does not take what it asks for", s->peer);
        stream_fail_later(s, &err);
    }
}

void stream_tls_describe(struct stream *s, SSL *ssl, int ssl_error, const char *what, struct err *err)
{
    unsigned long code = ERR_peek_error();
    long verify = SSL_get_verify_result(ssl);
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
    if (verify != X509_V_OK && SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE)
        err_set(err, ERRC_TLS, "%s %s: the certificate is not accepted: %s", what, s->peer,
                X509_verify_cert_error_string(verify));
    else if (reason != NULL)
        err_set(err, ERRC_TLS, "%s %s: %s", what, s->peer, reason);
    else
        err_set(err, ERRC_TLS, "%s %s: TLS error %d", what, s->peer, ssl_error);
    ERR_clear_error();
}

/* A fatal error: the alert goes out, but never SSL_shutdown() (T6): the state FAILED forbids it. */
static void tls_failed(struct stream *s, int ssl_error, const char *what)
{
    struct err err = {0};
    stream_tls_describe(s, s->ssl, ssl_error, what, &err);
    flush(s);
    stream_fail(s, &err);
}

static bool is_address(const char *name)
{
    unsigned char bytes[16];
    return uv_inet_pton(AF_INET, name, bytes) == 0 || uv_inet_pton(AF_INET6, name, bytes) == 0;
}

/* Which name the peer's certificate must carry; SNI never holds an address (RFC 6066). */
static int expect_name(SSL *ssl, char *name)
{
    if (is_address(name))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name);
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

SSL *stream_tls_new(struct stream *s, char *name, BIO *in, BIO **out, struct err *err)
{
    ERR_clear_error();
    SSL *ssl = SSL_new(s->tls->ssl_ctx);
    *out = BIO_new(BIO_s_mem());
    if (ssl == NULL || in == NULL || *out == NULL) {
        BIO_free(in);
        BIO_free(*out);
        SSL_free(ssl);
        (void)err_set(err, ERRC_TLS, "cannot begin TLS with %s", s->peer);
        return NULL;
    }
    BIO_set_mem_eof_return(*out, -1);
    SSL_set0_rbio(ssl, in);
    SSL_set0_wbio(ssl, *out);
    if (s->tls->server) {
        SSL_set_accept_state(ssl);
        return ssl;
    }
    SSL_set_connect_state(ssl);
    if (expect_name(ssl, name) != 1) {
        (void)err_set(err, ERRC_TLS, "\"%s\" is not a name that a certificate could carry", name);
        SSL_free(ssl);
        return NULL;
    }
    return ssl;
}

int stream_tls_begin(struct stream *s, struct err *err)
{
    s->ssl = stream_tls_new(s, s->server_name, input_new(s), &s->out, err);
    return s->ssl != NULL ? 0 : -1;
}

static void handshake(struct stream *s)
{
    ERR_clear_error();
    int rc = SSL_do_handshake(s->ssl);
    int error = rc == 1 ? SSL_ERROR_NONE : SSL_get_error(s->ssl, rc);
    if (rc != 1 && error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) {
        tls_failed(s, error, "TLS handshake with");
        return;
    }
    flush(s);
    if (rc == 1 && stream_state(s) == STATE_HANDSHAKING)
        stream_opened(s);
}

/* One SSL_read(); false when there is nothing more to read now. */
static bool read_record(struct stream *s)
{
    char *plain = stream_scratch(s->loop) + STREAM_RAW_SIZE;
    ERR_clear_error();
    int n = SSL_read(s->ssl, plain, STREAM_PLAIN_SIZE);
    int error = n > 0 ? SSL_ERROR_NONE : SSL_get_error(s->ssl, n);
    if (n <= 0 && error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE &&
        error != SSL_ERROR_ZERO_RETURN) {
        tls_failed(s, error, "TLS with");
        return false;
    }
    flush(s); /* answers to key updates and the like */
    if (stream_state(s) == STATE_FAILED)
        return false;
    if (n > 0)
        stream_emit(s, STREAM_DATA, plain, (size_t)n);
    else if (error == SSL_ERROR_ZERO_RETURN)
        stream_ended(s);
    return n > 0;
}

/* OpenSSL takes all that came before it says that it wants more: with nothing left, it need not be asked. */
static bool readable(const struct stream *s)
{
    return s->in.length > 0 || SSL_pending(s->ssl) > 0;
}

void stream_tls_step(struct stream *s)
{
    if (stream_state(s) == STATE_HANDSHAKING)
        handshake(s);
    while (stream_state(s) == STATE_OPEN && !s->paused && readable(s) && read_record(s))
        ;
    input_keep(s);
}

void stream_tls_received(struct stream *s, const char *data, size_t length)
{
    if (stream_state(s) != STATE_HANDSHAKING && stream_state(s) != STATE_OPEN)
        return;
    input_add(s, data, length);
    stream_tls_step(s);
}

int stream_tls_write(struct stream *s, const void *data, size_t length, struct err *err)
{
    const char *from = data;
    while (length > 0) {
        ERR_clear_error();
        int n = SSL_write(s->ssl, from, (int)(length < INT_MAX ? length : INT_MAX));
        int error = n > 0 ? SSL_ERROR_NONE : SSL_get_error(s->ssl, n);
        struct err fault = {0};
        if (n <= 0)
            stream_tls_describe(s, s->ssl, error, "TLS with", &fault);
        flush(s);
        if (n <= 0) {
            stream_fail_later(s, &fault);
            return err_copy(err, &fault);
        }
        from += n;
        length -= (size_t)n;
    }
    return 0;
}

void stream_tls_shutdown(struct stream *s)
{
    if (s->ssl == NULL)
        return;
    ERR_clear_error();
    (void)SSL_shutdown(s->ssl); /* 0 = ours is out, which is all we wait for */
    ERR_clear_error();
    flush(s);
}

void stream_tls_free(struct stream *s)
{
    SSL_free(s->ssl); /* with both BIOs */
    buf_free(&s->kept);
}
