/* TLS: certificates of clients, and no buffers of a connection that waits. */
#include <openssl/ssl.h>

#include "pg/pg_impl.h"
#include "pg_test.h"

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    fixture_open(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture_close(*state);
    free(*state);
    return 0;
}

#define CERTIFICATE(authority, name)                                                                         \
    "openssl req -new -nodes -newkey rsa:2048 -subj /CN=" name " -keyout " name ".key -out " name            \
    ".csr 2>/dev/null && openssl x509 -req -days 2 -in " name ".csr -CA " authority ".crt -CAkey " authority \
    ".key -CAcreateserial -out " name ".crt 2>/dev/null && cat " name ".crt " name ".key > " name ".pem && " \
    "chmod 600 " name ".pem " name ".key && "
#define AUTHORITY(name)                                                                                      \
    "openssl req -new -x509 -days 2 -nodes -subj /CN=" name " -newkey rsa:2048 -keyout " name                \
    ".key -out " name ".crt 2>/dev/null && "

static int tls_code(struct fixture *f, const struct pg_target *target)
{
    struct client c;
    client_start(&c, f, target);
    assert_true(wait_count(f, &c.connected, 1, 10000));
    int code = (int)c.err.code;
    assert_null(strstr(c.err.message, "PRIVATE"));
    client_close(&c);
    return code;
}

/* Certificate and key in one file, as the Kubernetes runtime keeps them: read anew for each connection. */
static void test_client_certificate(void **state)
{
    struct pg_server s;
    struct client c;
    struct answer a;
    char command[2400], file[80], root[80];
    if (PQsslAttributeNames(NULL)[0] == NULL)
        skip(); /* a libpq without TLS */
    assert_true(pg_server_start(&s, NULL, NULL));
    pg_server_halt(&s, SIGINT);
    snprintf(command, sizeof command,
             "cd %s/data && " AUTHORITY("ca") AUTHORITY("other") CERTIFICATE("ca", "server")
                 CERTIFICATE("ca", "client")
                     CERTIFICATE("other", "stranger") "cp stranger.pem ../used.pem && "
                                                      "echo hostssl all all 127.0.0.1/32 scram-sha-256 "
                                                      "clientcert=verify-ca > pg_hba.conf",
             s.dir);
    const char *const argv[] = {"/bin/sh", "-c", command, NULL};
    assert_int_equal(pg_server_run(&s, argv), 0);
    assert_true(pg_server_append(&s, "data/postgresql.conf", "ssl = on\nssl_ca_file = 'ca.crt'\n"));
    assert_true(pg_server_boot(&s));
    struct pg_target target = server_target(&s);
    snprintf(file, sizeof file, "%s/used.pem", s.dir);
    snprintf(root, sizeof root, "%s/data/ca.crt", s.dir);
    target.sslmode = "verify-ca";
    target.sslrootcert = root;
    assert_int_equal(tls_code(*state, &target), ERRC_AUTH); /* 28000: it wants one */
    target.sslcert = target.sslkey = file;
    assert_int_equal(tls_code(*state, &target), ERRC_TLS); /* of another authority */
    snprintf(command, sizeof command, "cp %s/data/client.pem %s", s.dir, file);
    assert_int_equal(pg_server_run(&s, argv), 0);
    client_open(&c, *state, &target);
    assert_true((SSL_get_mode(PQsslStruct(c.conn->pg, "OpenSSL")) & SSL_MODE_RELEASE_BUFFERS) != 0);
    (void)query(&c, "SELECT repeat('x', 1000000)", &a); /* many records */
    send_simple(&c, "SELECT pg_sleep(20)", &a);
    run_for(*state, 100);
    pg_conn_cancel(c.conn); /* by a connection of its own, which needs it as well */
    assert_true(wait_count(*state, &a.done, 1, 5000));
    assert_string_equal(a.err.sqlstate, "57014");
    client_close(&c);
    target.sslkey = root; /* no key */
    assert_int_equal(tls_code(*state, &target), ERRC_TLS);
    pg_server_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_client_certificate, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
