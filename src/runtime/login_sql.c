#include "runtime/login_sql.h"

#include <libpq-fe.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "pg/pg_conn.h"

#define ROUNDS_MAX 10000000

void login_sql_quiet(struct buf *out)
{
    (void)buf_add_text(out, "SET log_statement = 'none'; SET log_min_error_statement = 'panic';"
                            "SET log_min_duration_statement = -1;");
}

void login_sql_role(struct buf *out, const char *role, bool exists, const char *verifier)
{
    (void)buf_add_text(out, exists ? "ALTER ROLE " : "CREATE ROLE ");
    pg_quote_ident(out, role);
    (void)buf_add_text(out, " LOGIN");
    if (verifier != NULL) {
        (void)buf_add_text(out, " PASSWORD ");
        pg_quote_literal(out, verifier);
    }
}

void login_sql_database(struct buf *out, const char *database, const char *owner)
{
    (void)buf_add_text(out, "CREATE DATABASE ");
    pg_quote_ident(out, database);
    if (owner[0] != '\0') {
        (void)buf_add_text(out, " OWNER ");
        pg_quote_ident(out, owner);
    }
}

char *scram_verifier(const char *user, const char *password, struct err *err)
{
    /* libpq wants a connection even where it does not use it: this one fails before it does anything */
    PGconn *conn = PQconnectStart("sslmode=nowhere");
    char *made = conn != NULL ? PQencryptPasswordConn(conn, password, user, "scram-sha-256") : NULL;
    char *verifier = mem_strdup(made);
    PQfreemem(made);
    PQfinish(conn);
    if (verifier == NULL)
        err_set(err, ERRC_INTERNAL, "libpq cannot make a SCRAM verifier");
    return verifier;
}

/* RFC 5803, 3: SCRAM-SHA-256$ROUNDS:SALT$StoredKey:ServerKey. StoredKey = H(HMAC(salted password, "Client
 * Key")). Passwords that are not ASCII may be said to differ: libpq prepares them (RFC 4013). */
bool scram_matches(const char *verifier, const char *password)
{
    static const char prefix[] = "SCRAM-SHA-256$";
    unsigned char salt[96], salted[32], key[32], stored[32], wanted[48];
    if (verifier == NULL || !text_starts_with(verifier, prefix))
        return false;
    char *rest;
    const char *at = verifier + sizeof prefix - 1;
    long rounds = strtol(at, &rest, 10);
    const char *dollar = strchr(rest, '$'), *colon = dollar != NULL ? strchr(dollar, ':') : NULL;
    size_t length = dollar != NULL ? (size_t)(dollar - rest) - 1 : 0;
    if (rounds < 1 || rounds > ROUNDS_MAX || *rest != ':' || colon == NULL || colon - dollar - 1 != 44 ||
        length == 0 || length > 124 || length % 4 != 0)
        return false;
    int n = EVP_DecodeBlock(salt, (const unsigned char *)rest + 1, (int)length);
    if (n < 0 || EVP_DecodeBlock(wanted, (const unsigned char *)dollar + 1, 44) < 32)
        return false;
    n -= (rest[length] == '=') + (rest[length - 1] == '=');
    unsigned size = sizeof key;
    bool same = PKCS5_PBKDF2_HMAC(password, (int)strlen(password), salt, n, (int)rounds, EVP_sha256(),
                                  sizeof salted, salted) == 1 &&
                HMAC(EVP_sha256(), salted, sizeof salted, (const unsigned char *)"Client Key", 10, key,
                     &size) != NULL &&
                SHA256(key, sizeof key, stored) != NULL && CRYPTO_memcmp(stored, wanted, 32) == 0;
    OPENSSL_cleanse(salted, sizeof salted);
    OPENSSL_cleanse(key, sizeof key);
    return same;
}
