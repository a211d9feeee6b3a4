/* What a server connects by when it copies from another: paths on the servers, not ours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "operation/move_op_internal.h"

static struct instance_access by; /* whom it is for */

static void conninfo_is(const struct instance_access *access, const char *expected)
{
    char *conninfo = move_conninfo(access, &by);
    assert_string_equal(conninfo, expected);
    free(conninfo);
}

static struct instance_access verified(char *theirs)
{
    return (struct instance_access){.host = "h",
                                    .port = 1,
                                    .dbname = "d",
                                    .user = "u",
                                    .sslmode = "verify-full",
                                    .sslrootcert = "/ours/ca",
                                    .peer_sslrootcert = theirs};
}

static void test_without_tls(void **state)
{
    struct instance_access a = {
        .host = "h", .port = 5432, .dbname = "it's", .user = "u", .password = "p\\w", .sslmode = "disable"};
    (void)state;
    conninfo_is(&a, "port=5432 host='h' dbname='it\\'s' user='u' password='p\\\\w' sslmode='disable'");
}

static void test_files_of_the_server(void **state)
{
    struct instance_access a = verified("/theirs/ca");
    a.sslcert = a.sslkey = "/ours/client.pem";
    a.peer_sslcert = "/theirs/crt";
    a.peer_sslkey = "/theirs/key";
    (void)state;
    conninfo_is(&a, "port=1 host='h' dbname='d' user='u' sslmode='verify-full' sslrootcert='/theirs/ca' "
                    "sslcert='/theirs/crt' sslkey='/theirs/key'");
}

/* A server of the static list: the same paths are to be good there. */
static void test_files_as_for_us(void **state)
{
    struct instance_access a = {.host = "h",
                                .port = 1,
                                .dbname = "d",
                                .user = "u",
                                .sslmode = "verify-ca",
                                .sslrootcert = "/ca",
                                .sslcert = "/crt",
                                .sslkey = "/key"};
    (void)state;
    conninfo_is(&a,
                "port=1 host='h' dbname='d' user='u' sslmode='verify-ca' sslrootcert='/ca' sslcert='/crt' "
                "sslkey='/key'");
}

/* CloudNativePG: there is nothing to verify with, and no certificate of ours. */
static void test_no_authority_on_the_server(void **state)
{
    struct instance_access a = verified("");
    (void)state;
    conninfo_is(&a, "port=1 host='h' dbname='d' user='u' sslmode='require'");
}

/* Whose pod waits to be made anew with TLS has no authority yet. A static list says what is good where. */
static void test_by_one_without_tls(void **state)
{
    struct instance_access a = verified("/theirs/ca");
    (void)state;
    by.sslmode = "disable";
    conninfo_is(&a, "port=1 host='h' dbname='d' user='u' sslmode='require'");
    a.peer_sslrootcert = NULL;
    conninfo_is(&a, "port=1 host='h' dbname='d' user='u' sslmode='verify-full' sslrootcert='/ours/ca'");
    by.sslmode = "verify-full";
    a.peer_sslrootcert = "/theirs/ca";
    conninfo_is(&a, "port=1 host='h' dbname='d' user='u' sslmode='verify-full' sslrootcert='/theirs/ca'");
    by.sslmode = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_tls),        cmocka_unit_test(test_files_of_the_server),
        cmocka_unit_test(test_files_as_for_us),    cmocka_unit_test(test_no_authority_on_the_server),
        cmocka_unit_test(test_by_one_without_tls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
