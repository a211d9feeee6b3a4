/* Rules T1 to T6 of TLS over memory BIOs; the certificates are made here. */
#include "loop/stream_test.h"

#include <dlfcn.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "loop/stream_impl.h"

#define MS ENV_NS_PER_MS

/* ---- SSL_shutdown() is counted: T6 forbids it after a fatal error ---- */

static int shutdowns;

int SSL_shutdown(SSL *ssl)
{
    int (*real)(SSL *);
    *(void **)(void *)&real = dlsym(RTLD_NEXT, "SSL_shutdown");
    shutdowns++;
    return real(ssl);
}

/* ---- certificates ---- */

struct identity {
    EVP_PKEY *key;
    X509 *cert;
    char *cert_pem;
    char *key_pem;
};

struct pki {
    struct identity ca, other_ca;
    struct identity name_only; /* DNS:db.example */
    struct identity both;      /* DNS:db.example, IP:127.0.0.1 */
    struct identity expired;   /* as both */
    struct identity client;    /* for client authentication */
};

static char *bio_text(BIO *bio)
{
    char *data;
    long length = BIO_get_mem_data(bio, &data);
    char *text = mem_strndup(data, (size_t)length);
    BIO_free(bio);
    return text;
}

static void extension_add(X509 *cert, int nid, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    assert_non_null(extension);
    X509_add_ext(cert, extension, -1);
    X509_EXTENSION_free(extension);
}

/* issuer NULL = self-signed; days < 0 = expired that long ago. */
static void identity_make(struct identity *id, const char *name, const char *san,
                          const struct identity *issuer, int days)
{
    static long serial = 1;
    id->key = EVP_EC_gen("P-256");
    id->cert = X509_new();
    X509_set_version(id->cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(id->cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(id->cert), -100L * 86400);
    X509_gmtime_adj(X509_getm_notAfter(id->cert), (long)days * 86400);
    X509_set_pubkey(id->cert, id->key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(id->cert), "CN", MBSTRING_ASC,
                               (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(id->cert, X509_get_subject_name(issuer != NULL ? issuer->cert : id->cert));
    extension_add(id->cert, NID_basic_constraints, issuer == NULL ? "critical,CA:TRUE" : "CA:FALSE");
    if (san != NULL)
        extension_add(id->cert, NID_subject_alt_name, san);
    assert_true(X509_sign(id->cert, issuer != NULL ? issuer->key : id->key, EVP_sha256()) > 0);
    BIO *bio = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(bio, id->cert);
    id->cert_pem = bio_text(bio);
    bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(bio, id->key, NULL, NULL, 0, NULL, NULL);
    id->key_pem = bio_text(bio);
}

static void identity_free(struct identity *id)
{
    EVP_PKEY_free(id->key);
    X509_free(id->cert);
    free(id->cert_pem);
    free(id->key_pem);
}

static struct pki *pki_make(void)
{
    struct pki *p = mem_zalloc(sizeof *p);
    identity_make(&p->ca, "test CA", NULL, NULL, 10);
    identity_make(&p->other_ca, "other CA", NULL, NULL, 10);
    identity_make(&p->name_only, "server", "DNS:db.example", &p->ca, 10);
    identity_make(&p->both, "server", "DNS:db.example,IP:127.0.0.1", &p->ca, 10);
    identity_make(&p->expired, "server", "DNS:db.example,IP:127.0.0.1", &p->ca, -1);
    identity_make(&p->client, "client", NULL, &p->ca, 10);
    return p;
}

static void pki_free(struct pki *p)
{
    identity_free(&p->ca);
    identity_free(&p->other_ca);
    identity_free(&p->name_only);
    identity_free(&p->both);
    identity_free(&p->expired);
    identity_free(&p->client);
    free(p);
}

/* ---- a pair of ends ---- */

struct tls_pair {
    struct end client, server;
    struct listener *listener;
    struct tls_context *client_ctx, *server_ctx;
};

static struct tls_context *context(struct fixture *f, const struct tls_options *o)
{
    struct tls_context *ctx = NULL;
    if (tls_context_new(o, &ctx, &f->err) != 0)
        fail_msg("%s", f->err.message);
    return ctx;
}

static void tls_start(struct tls_pair *p, struct fixture *f, const struct identity *server,
                      const struct identity *ca, const char *server_name)
{
    end_init(&p->client, f);
    end_init(&p->server, f);
    p->server_ctx = context(
        f, &(struct tls_options){.server = true, .cert_pem = server->cert_pem, .key_pem = server->key_pem});
    p->client_ctx = context(f, &(struct tls_options){.verify_peer = true, .ca_pem = ca->cert_pem});
    p->listener = end_listen(&p->server, p->server_ctx);
    end_connect(&p->client, &(struct stream_options){.host = "127.0.0.1",
                                                     .port = listener_port(p->listener),
                                                     .tls = p->client_ctx,
                                                     .tls_server_name = server_name,
                                                     .write_limit = 1000000});
}

static struct pki *tls_connected(struct tls_pair *p, struct fixture *f)
{
    struct pki *pki = pki_make();
    tls_start(p, f, &pki->both, &pki->ca, NULL);
    RUN_UNTIL(f, p->client.connected + p->client.errors == 1 && p->server.connected + p->server.errors == 1);
    assert_string_equal(p->client.err.message, "");
    assert_int_equal(p->server.connected, 1);
    return pki;
}

static void tls_end(struct tls_pair *p, struct pki *pki)
{
    end_close(&p->client);
    end_close(&p->server);
    listener_close(p->listener, NULL, NULL);
    tls_context_unref(p->client_ctx);
    tls_context_unref(p->server_ctx);
    if (pki != NULL)
        pki_free(pki);
}

static void test_tls_echo(void **state)
{
    struct fixture *f = *state;
    struct tls_pair p;
    struct pki *pki = tls_connected(&p, f);
    p.server.echo = true;
    assert_int_equal(stream_write(p.client.stream, "secret", 6, &f->err), 0);
    RUN_UNTIL(f, p.client.received == 6 && p.client.drained == 1);
    assert_string_equal(buf_text(&p.client.got), "secret");
    stream_finish(p.client.stream);
    RUN_UNTIL(f, p.server.eof == 1);
    assert_int_equal(p.server.errors, 0);
    stream_finish(p.server.stream);
    RUN_UNTIL(f, p.client.closed == 1 && p.server.closed == 1);
    tls_end(&p, pki);
}

static void test_tls_write_before_connected(void **state)
{
    struct fixture *f = *state;
    struct tls_pair p;
    struct pki *pki = pki_make();
    tls_start(&p, f, &pki->both, &pki->ca, NULL);
    assert_int_equal(stream_write(p.client.stream, "early", 5, &f->err), 0);
    RUN_UNTIL(f, p.server.received == 5);
    assert_string_equal(buf_text(&p.server.got), "early");
    tls_end(&p, pki);
}

/* ---- T1 ---- */

struct trust_case {
    const char *what;
    const struct identity *server;
    const struct identity *ca;
    const char *name;   /* NULL = the address */
    const char *reason; /* NULL = accepted */
};

static void trust_case_run(struct fixture *f, const struct trust_case *c)
{
    struct tls_pair p;
    tls_start(&p, f, c->server, c->ca, c->name);
    RUN_UNTIL(f, p.client.connected + p.client.errors == 1);
    if (c->reason == NULL && p.client.errors != 0)
        fail_msg("%s: %s", c->what, p.client.err.message);
    if (c->reason != NULL) {
        if (p.client.connected != 0)
            fail_msg("%s: accepted", c->what);
        assert_int_equal(p.client.err.code, ERRC_TLS);
        if (strstr(p.client.err.message, c->reason) == NULL)
            fail_msg("%s: %s", c->what, p.client.err.message);
        RUN_UNTIL(f, p.server.errors == 1); /* the alert, or the end */
        assert_int_equal(p.server.connected, 0);
    }
    tls_end(&p, NULL);
}

static void test_T1_peers_are_verified(void **state)
{
    struct fixture *f = *state;
    struct pki *pki = pki_make();
    const struct trust_case cases[] = {
        {"right name", &pki->name_only, &pki->ca, "db.example", NULL},
        {"right address", &pki->both, &pki->ca, NULL, NULL},
        {"wrong name", &pki->both, &pki->ca, "other.example", "ostname mismatch"},
        {"part of the name", &pki->both, &pki->ca, "example", "ostname mismatch"},
        {"address missing in the SAN", &pki->name_only, &pki->ca, NULL, "IP address mismatch"},
        {"wrong address", &pki->both, &pki->ca, "127.0.0.2", "IP address mismatch"},
        {"expired", &pki->expired, &pki->ca, NULL, "expired"},
        {"wrong CA", &pki->both, &pki->other_ca, NULL, "issuer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        trust_case_run(f, &cases[i]);
    pki_free(pki);
}

static void client_auth_run(struct fixture *f, struct pki *pki, const struct identity *client, bool accepted)
{
    struct tls_pair p;
    end_init(&p.client, f);
    end_init(&p.server, f);
    p.server_ctx = context(f, &(struct tls_options){.server = true,
                                                    .verify_peer = true,
                                                    .ca_pem = pki->ca.cert_pem,
                                                    .cert_pem = pki->both.cert_pem,
                                                    .key_pem = pki->both.key_pem});
    p.client_ctx = context(f, &(struct tls_options){.verify_peer = true,
                                                    .ca_pem = pki->ca.cert_pem,
                                                    .cert_pem = client != NULL ? client->cert_pem : NULL,
                                                    .key_pem = client != NULL ? client->key_pem : NULL});
    p.listener = end_listen(&p.server, p.server_ctx);
    end_connect(&p.client, &(struct stream_options){
                               .host = "127.0.0.1", .port = listener_port(p.listener), .tls = p.client_ctx});
    RUN_UNTIL(f, p.server.connected + p.server.errors == 1);
    assert_int_equal(p.server.connected, accepted ? 1 : 0);
    /* TLS 1.3: the client learns of the refusal only after its own handshake */
    RUN_UNTIL(f, accepted ? p.client.connected == 1 : p.client.errors == 1);
    tls_end(&p, NULL);
}

static void test_T1_server_demands_a_client_certificate(void **state)
{
    struct fixture *f = *state;
    struct pki *pki = pki_make();
    struct identity foreign = {0};
    identity_make(&foreign, "client", NULL, &pki->other_ca, 10);
    client_auth_run(f, pki, &pki->client, true);
    client_auth_run(f, pki, NULL, false);
    client_auth_run(f, pki, &foreign, false);
    identity_free(&foreign);
    pki_free(pki);
}

static void test_T1_old_protocol_is_refused(void **state)
{
    struct fixture *f = *state;
    struct pki *pki = pki_make();
    struct tls_pair p;
    end_init(&p.client, f);
    end_init(&p.server, f);
    p.server_ctx = context(
        f,
        &(struct tls_options){.server = true, .cert_pem = pki->both.cert_pem, .key_pem = pki->both.key_pem});
    p.client_ctx = context(f, &(struct tls_options){.verify_peer = true, .ca_pem = pki->ca.cert_pem});
    /* level 0, or the client's own security level would refuse TLS 1.1 before the server can */
    SSL_CTX_set_min_proto_version(p.client_ctx->ssl_ctx, TLS1_VERSION);
    SSL_CTX_set_max_proto_version(p.client_ctx->ssl_ctx, TLS1_1_VERSION);
    SSL_CTX_set_security_level(p.client_ctx->ssl_ctx, 0);
    SSL_CTX_set_security_level(p.server_ctx->ssl_ctx, 0);
    p.listener = end_listen(&p.server, p.server_ctx);
    end_connect(&p.client, &(struct stream_options){
                               .host = "127.0.0.1", .port = listener_port(p.listener), .tls = p.client_ctx});
    RUN_UNTIL(f, p.server.errors == 1 && p.client.errors == 1);
    assert_non_null(strstr(p.server.err.message, "protocol"));
    tls_end(&p, pki);
}

/* ---- T2 ---- */

static void burst(struct tls_pair *p, size_t length)
{
    struct fixture *f = p->client.f;
    uint64_t sum;
    char *data = pattern_make(length, &sum);
    p->client.keep_count_only = true;
    size_t at = 0;
    while (at < length) {
        size_t piece = 1 + (at * 13) % 70000;
        piece = piece < length - at ? piece : length - at;
        int rc = stream_write(p->server.stream, data + at, piece, &f->err);
        if (rc == 0)
            at += piece;
        else
            uv_run(&f->loop.uv, UV_RUN_ONCE);
    }
    RUN_UNTIL(f, p->client.received == length);
    assert_true(p->client.sum == sum);
    free(data);
}

static void test_T2_bursts_leave_no_plaintext_behind(void **state)
{
    struct fixture *f = *state;
    struct tls_pair p;
    struct pki *pki = tls_connected(&p, f);
    burst(&p, 20000000);
    tls_end(&p, pki);
}

/* Paused after each record: the rest lies inside OpenSSL, where no socket event would fetch it. */
static void test_T2_pause_and_resume_lose_nothing(void **state)
{
    struct fixture *f = *state;
    struct tls_pair p;
    struct pki *pki = tls_connected(&p, f);
    p.client.pause_each = true;
    burst(&p, 5000000);
    tls_end(&p, pki);
}

/* ---- T3 ---- */

static void test_T3_eof_without_close_notify_is_an_error(void **state)
{
    struct fixture *f = *state;
    struct tls_pair p;
    struct pki *pki = tls_connected(&p, f);
    assert_int_equal(stream_write(p.server.stream, "half a body", 11, &f->err), 0);
    RUN_UNTIL(f, p.client.received == 11);
    end_close(&p.server); /* FIN without close_notify */
    RUN_UNTIL(f, p.client.errors + p.client.eof == 1);
    assert_int_equal(p.client.errors, 1);
    assert_int_equal(p.client.err.code, ERRC_TLS);
    assert_non_null(strstr(p.client.err.message, "close_notify"));
    tls_end(&p, pki);
}

static void test_T3_close_notify_is_an_orderly_end(void **state)
{
    struct fixture *f = *state;
    struct tls_pair p;
    struct pki *pki = tls_connected(&p, f);
    assert_int_equal(stream_write(p.server.stream, "whole body", 10, &f->err), 0);
    stream_finish(p.server.stream);
    RUN_UNTIL(f, p.client.errors + p.client.eof == 1);
    assert_int_equal(p.client.eof, 1);
    assert_string_equal(buf_text(&p.client.got), "whole body");
    tls_end(&p, pki);
}

/* ---- T4 ---- */

static void test_T4_one_context_for_all_connections(void **state)
{
    struct fixture *f = *state;
    struct tls_pair p;
    struct pki *pki = tls_connected(&p, f);
    assert_ptr_equal(SSL_get_SSL_CTX(p.client.stream->ssl), p.client_ctx->ssl_ctx);
    assert_ptr_equal(SSL_get_SSL_CTX(p.server.stream->ssl), p.server_ctx->ssl_ctx);
    assert_int_equal(p.server_ctx->refs, 3); /* ours, the listener's, the stream's */
    assert_int_equal(p.client_ctx->refs, 2);
    tls_context_unref(p.client_ctx); /* the stream keeps it alive */
    p.client_ctx = NULL;
    p.server.echo = true;
    assert_int_equal(stream_write(p.client.stream, "x", 1, &f->err), 0);
    RUN_UNTIL(f, p.client.received == 1);
    tls_end(&p, pki);
}

static void test_T4_unusable_parts_are_named(void **state)
{
    struct fixture *f = *state;
    struct pki *pki = pki_make();
    struct tls_context *ctx = NULL;
    const struct {
        struct tls_options options;
        const char *reason;
    } cases[] = {
        {{.server = true}, "needs a certificate"},
        {{.cert_pem = pki->both.cert_pem}, "come together"},
        {{.ca_pem = "nonsense"}, "CA certificates"},
        {{.ca_pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "CA certificates"},
        {{.cert_pem = "nonsense", .key_pem = pki->both.key_pem}, "certificate"},
        {{.cert_pem = pki->both.cert_pem, .key_pem = "nonsense"}, "private key"},
        {{.cert_pem = pki->both.cert_pem, .key_pem = pki->client.key_pem}, "key"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(tls_context_new(&cases[i].options, &ctx, &f->err), ERRC_TLS);
        assert_null(ctx);
        if (strstr(f->err.message, cases[i].reason) == NULL)
            fail_msg("case %zu: %s", i, f->err.message);
        assert_int_equal(ERR_peek_error(), 0);
    }
    tls_context_unref(NULL);
    pki_free(pki);
}

/* ---- T5 ---- */

static void test_T5_output_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct tls_pair p;
    char piece[50000] = {0};
    struct pki *pki = tls_connected(&p, f);
    stream_pause(p.server.stream);
    p.server.keep_count_only = true;
    size_t accepted = 0;
    int rc = 0;
    for (int i = 0; i < 2000 && rc == 0; i++) {
        rc = stream_write(p.client.stream, piece, sizeof piece, &f->err);
        accepted += rc == 0 ? sizeof piece : 0;
        assert_true(stream_pending(p.client.stream) <= 1000000 + 1000); /* and the record headers */
        uv_run(&f->loop.uv, UV_RUN_NOWAIT);
    }
    assert_int_equal(rc, ERRC_LIMIT);
    stream_resume(p.server.stream);
    RUN_UNTIL(f, p.server.received == accepted && p.client.drained >= 1);
    assert_int_equal(stream_pending(p.client.stream), 0);
    tls_end(&p, pki);
}

/* ---- T6 ---- */

static void test_T6_no_shutdown_after_a_fatal_error(void **state)
{
    struct fixture *f = *state;
    struct tls_pair p;
    struct pki *pki = tls_connected(&p, f);
    shutdowns = 0;
    char garbage[64] = "\x17\x03\x03\x00\x3b garbage that is no record of this connection";
    stream_send(p.server.stream, garbage, sizeof garbage); /* past the server's TLS */
    RUN_UNTIL(f, p.client.errors == 1);
    assert_int_equal(p.client.err.code, ERRC_TLS);
    stream_finish(p.client.stream);
    RUN_UNTIL(f, p.client.closed == 1);
    assert_int_equal(shutdowns, 0);
    RUN_UNTIL(f, p.server.errors == 1); /* the alert arrived */
    tls_end(&p, pki);
    assert_int_equal(shutdowns, 0);
}

static void test_T6_shutdown_without_an_error(void **state)
{
    struct fixture *f = *state;
    struct tls_pair p;
    struct pki *pki = tls_connected(&p, f);
    shutdowns = 0;
    stream_finish(p.client.stream);
    assert_int_equal(shutdowns, 1);
    RUN_UNTIL(f, p.server.eof == 1);
    tls_end(&p, pki);
}

/* ---- peers that do not speak TLS, or nothing ---- */

static void test_plain_client_of_a_tls_server(void **state)
{
    struct fixture *f = *state;
    struct pki *pki = pki_make();
    struct tls_pair p;
    end_init(&p.client, f);
    end_init(&p.server, f);
    p.client_ctx = NULL;
    p.server_ctx = context(
        f,
        &(struct tls_options){.server = true, .cert_pem = pki->both.cert_pem, .key_pem = pki->both.key_pem});
    p.listener = end_listen(&p.server, p.server_ctx);
    end_connect(&p.client, &(struct stream_options){.host = "127.0.0.1", .port = listener_port(p.listener)});
    assert_int_equal(stream_write(p.client.stream, "GET / HTTP/1.1\r\n\r\n", 18, &f->err), 0);
    RUN_UNTIL(f, p.server.errors == 1);
    assert_int_equal(p.server.err.code, ERRC_TLS);
    assert_int_equal(p.server.connected, 0);
    tls_end(&p, pki);
}

static void test_handshake_has_a_deadline(void **state)
{
    struct fixture *f = *state;
    struct tls_pair p;
    end_init(&p.client, f);
    end_init(&p.server, f);
    p.server_ctx = NULL;
    p.client_ctx = context(f, &(struct tls_options){0});
    p.listener = end_listen(&p.server, NULL); /* accepts, and never answers */
    end_connect(&p.client, &(struct stream_options){.host = "127.0.0.1",
                                                    .port = listener_port(p.listener),
                                                    .tls = p.client_ctx,
                                                    .connect_timeout_ns = 200 * MS});
    RUN_UNTIL(f, p.client.errors == 1);
    assert_int_equal(p.client.err.code, ERRC_TIMEOUT);
    assert_non_null(strstr(p.client.err.message, "handshake"));
    tls_end(&p, NULL);
}

static void test_close_during_the_handshake(void **state)
{
    struct fixture *f = *state;
    struct pki *pki = pki_make();
    struct tls_pair p;
    tls_start(&p, f, &pki->both, &pki->ca, NULL);
    RUN_UNTIL(f, stream_state(p.client.stream) == STATE_HANDSHAKING);
    end_close(&p.client);
    assert_int_equal(p.client.connected + p.client.errors, 0);
    tls_end(&p, pki);
}

static void test_close_inside_each_tls_callback(void **state)
{
    struct fixture *f = *state;
    static const enum stream_event events[] = {STREAM_CONNECTED, STREAM_DATA};
    for (size_t i = 0; i < 2; i++) {
        struct pki *pki = pki_make();
        struct tls_pair p;
        tls_start(&p, f, &pki->both, &pki->ca, NULL);
        p.client.close_at = events[i];
        p.client.close_set = true;
        RUN_UNTIL(f, p.server.connected == 1);
        /* several records in one burst: none may follow the close */
        for (int k = 0; k < 5; k++)
            (void)stream_write(p.server.stream, "yy", 2, NULL);
        RUN_UNTIL(f, p.client.closed == 1);
        assert_true(p.client.received <= 2);
        tls_end(&p, pki);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(test_tls_echo),
        LOOP_TEST(test_tls_write_before_connected),
        LOOP_TEST(test_T1_peers_are_verified),
        LOOP_TEST(test_T1_server_demands_a_client_certificate),
        LOOP_TEST(test_T1_old_protocol_is_refused),
        LOOP_TEST(test_T2_bursts_leave_no_plaintext_behind),
        LOOP_TEST(test_T2_pause_and_resume_lose_nothing),
        LOOP_TEST(test_T3_eof_without_close_notify_is_an_error),
        LOOP_TEST(test_T3_close_notify_is_an_orderly_end),
        LOOP_TEST(test_T4_one_context_for_all_connections),
        LOOP_TEST(test_T4_unusable_parts_are_named),
        LOOP_TEST(test_T5_output_is_bounded),
        LOOP_TEST(test_T6_no_shutdown_after_a_fatal_error),
        LOOP_TEST(test_T6_shutdown_without_an_error),
        LOOP_TEST(test_plain_client_of_a_tls_server),
        LOOP_TEST(test_handshake_has_a_deadline),
        LOOP_TEST(test_close_during_the_handshake),
        LOOP_TEST(test_close_inside_each_tls_callback),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
