/* Our client and our server with TLS between them. */
#include "http/http_test.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "loop/tls.h"

#define LARGE (3u * 1024u * 1024u)

struct secrets {
    char *cert_pem;
    char *key_pem;
};

static char *bio_text(BIO *bio)
{
    char *data;
    long length = BIO_get_mem_data(bio, &data);
    char *text = mem_strndup(data, (size_t)length);
    BIO_free(bio);
    return text;
}

/* Self-signed, for 127.0.0.1. */
static struct secrets secrets_make(void)
{
    struct secrets s;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const unsigned char *)"test",
                               -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(cert));
    X509_EXTENSION *san = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "IP:127.0.0.1");
    X509_add_ext(cert, san, -1);
    X509_EXTENSION_free(san);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    BIO *bio = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(bio, cert);
    s.cert_pem = bio_text(bio);
    bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
    s.key_pem = bio_text(bio);
    EVP_PKEY_free(key);
    X509_free(cert);
    return s;
}

static void count_release(void *owner)
{
    (*(int *)owner)++;
}

struct service {
    char *large;
    int released;
    int requests;
};

static void serve(struct http_exchange *ex, const struct http_request *r, void *data)
{
    struct service *s = data;
    s->requests++;
    if (strcmp(r->path, "/large") == 0) {
        const struct http_piece pieces[] = {{"start", 5}, {s->large, LARGE}, {"end", 3}};
        http_respond_pieces(ex, 200, "text/plain", pieces, 3, count_release, &s->released);
    } else {
        http_respond(ex, 200, "text/plain", r->body, r->body_length);
    }
}

struct result {
    int calls;
    int code;
    struct buf body;
};

static void on_answer(const struct http_answer *answer, void *data)
{
    struct result *r = data;
    r->calls++;
    r->code = answer->err != NULL ? (int)answer->err->code : 0;
    buf_reset(&r->body);
    buf_add(&r->body, answer->body, answer->body_length);
}

static void call(struct fixture *f, struct result *r, const char *path, const char *body)
{
    char url[128];
    int before = r->calls;
    snprintf(url, sizeof url, "https://127.0.0.1:%d%s", http_server_port(f->server), path);
    const struct http_call_options o = {
        .method = "PUT", .url = url, .body = body, .body_length = body != NULL ? strlen(body) : 0};
    assert_int_equal(http_call_start(f->client, &o, on_answer, r, NULL, &f->err), 0);
    RUN_UNTIL(f, r->calls == before + 1);
}

static void server_start(struct fixture *f, struct service *s, const struct secrets *secrets)
{
    struct tls_context *ctx;
    const struct tls_options tls = {
        .server = true, .cert_pem = secrets->cert_pem, .key_pem = secrets->key_pem};
    assert_int_equal(tls_context_new(&tls, &ctx, &f->err), 0);
    const struct http_server_options o = {.address = "127.0.0.1", .tls = ctx};
    assert_int_equal(http_server_open(&f->loop, &o, serve, s, &f->server, &f->err), 0);
    tls_context_unref(ctx);
}

static void client_start(struct fixture *f, const char *ca_pem)
{
    struct tls_context *ctx;
    const struct tls_options tls = {.verify_peer = true, .ca_pem = ca_pem};
    assert_int_equal(tls_context_new(&tls, &ctx, &f->err), 0);
    f->client = http_client_new(&f->loop, ctx);
    tls_context_unref(ctx);
}

static void test_https_both_ways(void **state)
{
    struct fixture *f = *state;
    struct secrets secrets = secrets_make();
    struct service s = {.large = mem_alloc(LARGE)};
    struct result r = {0};
    memset(s.large, 'x', LARGE);
    server_start(f, &s, &secrets);
    client_start(f, secrets.cert_pem);
    call(f, &r, "/", "hello");
    assert_int_equal(r.code, 0);
    assert_string_equal(buf_text(&r.body), "hello");
    call(f, &r, "/large", NULL);
    assert_int_equal(r.code, 0);
    assert_int_equal(r.body.length, LARGE + 8);
    assert_memory_equal(r.body.data, "startxxx", 8);
    assert_string_equal(r.body.data + r.body.length - 4, "xend");
    assert_int_equal(s.released, 1);
    assert_int_equal(http_server_connections(f->server), 1); /* one handshake for both */
    buf_free(&r.body);
    free(s.large);
    free(secrets.cert_pem);
    free(secrets.key_pem);
}

static void test_https_distrusts_strangers(void **state)
{
    struct fixture *f = *state;
    struct secrets server = secrets_make();
    struct secrets other = secrets_make();
    struct service s = {0};
    struct result r = {0};
    server_start(f, &s, &server);
    client_start(f, other.cert_pem);
    call(f, &r, "/", "secret");
    assert_int_equal(r.code, ERRC_TLS);
    assert_int_equal(s.requests, 0);
    /* plain HTTP to the TLS port, and silence: neither holds the server up */
    struct peer p;
    peer_connect(&p, http_server_port(f->server));
    peer_send(&p, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    RUN_UNTIL(f, peer_ended(&p));
    peer_close(&p);
    peer_connect(&p, http_server_port(f->server));
    RUN_UNTIL(f, http_server_connections(f->server) == 1);
    put_forward(f, 11 * ENV_NS_PER_S);
    RUN_UNTIL(f, peer_ended(&p) && http_server_connections(f->server) == 0);
    peer_close(&p);
    assert_int_equal(s.requests, 0);
    buf_free(&r.body);
    free(server.cert_pem);
    free(server.key_pem);
    free(other.cert_pem);
    free(other.key_pem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        HTTP_TEST(test_https_both_ways),
        HTTP_TEST(test_https_distrusts_strangers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
