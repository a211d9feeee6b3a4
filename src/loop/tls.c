#include "loop/tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "loop/stream_impl.h"

/* OpenSSL's own callback would ask on the terminal. */
static int no_passphrase(char *buf, int size, int writing, void *data)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)data;
    return -1;
}

static int refuse(struct err *err, const char *part)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
    err_set(err, ERRC_TLS, "%s: %s", part, reason != NULL ? reason : "not usable");
    ERR_clear_error();
    return ERRC_TLS;
}

static int load_cas(SSL_CTX *ctx, const char *pem, struct err *err)
{
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    BIO *bio = BIO_new_mem_buf(pem, -1);
    int count = 0;
    for (X509 *ca; (ca = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL; X509_free(ca))
        count += X509_STORE_add_cert(store, ca) == 1;
    BIO_free(bio);
    /* the loop ends by "no start line" at the end of the text; anything else is a damaged certificate */
    unsigned long last = ERR_peek_last_error();
    bool ended = last == 0 || ERR_GET_REASON(last) == PEM_R_NO_START_LINE;
    if (count == 0 || !ended)
        return refuse(err, "CA certificates");
    ERR_clear_error();
    return 0;
}

static int load_chain(SSL_CTX *ctx, const char *pem, struct err *err)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *leaf = PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL);
    bool good = leaf != NULL && SSL_CTX_use_certificate(ctx, leaf) == 1;
    X509_free(leaf);
    while (good) {
        X509 *next = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
        if (next == NULL)
            break;
        good = SSL_CTX_add0_chain_cert(ctx, next) == 1;
        if (!good)
            X509_free(next);
    }
    BIO_free(bio);
    if (!good)
        return refuse(err, "certificate");
    ERR_clear_error();
    return 0;
}

static int load_key(SSL_CTX *ctx, const char *pem, struct err *err)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
    BIO_free(bio);
    bool good = key != NULL && SSL_CTX_use_PrivateKey(ctx, key) == 1;
    EVP_PKEY_free(key);
    if (!good)
        return refuse(err, "private key");
    if (SSL_CTX_check_private_key(ctx) != 1)
        return refuse(err, "private key does not fit the certificate");
    return 0;
}

static void set_rules(SSL_CTX *ctx, const struct tls_options *o)
{
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ctx, 0);
    int verify = SSL_VERIFY_NONE;
    if (o->verify_peer)
        verify = o->server ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT : SSL_VERIFY_PEER;
    SSL_CTX_set_verify(ctx, verify, NULL);
}

static int load_all(SSL_CTX *ctx, const struct tls_options *o, struct err *err)
{
    int rc = 0;
    if (o->server && (o->cert_pem == NULL || o->key_pem == NULL))
        return err_set(err, ERRC_TLS, "a TLS server needs a certificate and its key");
    if ((o->cert_pem == NULL) != (o->key_pem == NULL))
        return err_set(err, ERRC_TLS, "a certificate and its key come together or not at all");
    if (o->ca_pem != NULL)
        rc = load_cas(ctx, o->ca_pem, err);
    else if (o->verify_peer && SSL_CTX_set_default_verify_paths(ctx) != 1)
        rc = refuse(err, "the system's CA certificates");
    if (rc == 0 && o->cert_pem != NULL)
        rc = load_chain(ctx, o->cert_pem, err);
    if (rc == 0 && o->key_pem != NULL)
        rc = load_key(ctx, o->key_pem, err);
    return rc;
}

int tls_context_new(const struct tls_options *o, struct tls_context **ret, struct err *err)
{
    ERR_clear_error();
    SSL_CTX *ssl_ctx = SSL_CTX_new(o->server ? TLS_server_method() : TLS_client_method());
    if (ssl_ctx == NULL)
        return refuse(err, "TLS");
    set_rules(ssl_ctx, o);
    int rc = load_all(ssl_ctx, o, err);
    if (rc != 0) {
        SSL_CTX_free(ssl_ctx);
        return rc;
    }
    struct tls_context *ctx = mem_zalloc(sizeof *ctx);
    ctx->ssl_ctx = ssl_ctx;
    ctx->input = stream_tls_input();
    ctx->refs = 1;
    ctx->server = o->server;
    *ret = ctx;
    return 0;
}

struct tls_context *tls_context_ref(struct tls_context *ctx)
{
    ctx->refs++;
    return ctx;
}

void tls_context_unref(struct tls_context *ctx)
{
    if (ctx == NULL || --ctx->refs > 0)
        return;
    SSL_CTX_free(ctx->ssl_ctx);
    BIO_meth_free(ctx->input);
    free(ctx);
}
