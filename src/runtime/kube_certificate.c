#include "runtime/kube_certificate.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/mem.h"

#define SKEW_S 300 /* clocks that are behind ours */

void kube_pair_clear(struct kube_pair *pair)
{
    free(pair->certificate);
    mem_wipe_free(pair->key);
    memset(pair, 0, sizeof *pair);
}

static char *bio_text(BIO *bio)
{
    char *data;
    long length = BIO_get_mem_data(bio, &data);
    return mem_strndup(data, length > 0 ? (size_t)length : 0);
}

static X509 *certificate_read(const char *pem)
{
    BIO *bio = pem != NULL ? BIO_new_mem_buf(pem, -1) : NULL;
    X509 *x = bio != NULL ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    return x;
}

static EVP_PKEY *key_read(const char *pem)
{
    BIO *bio = pem != NULL ? BIO_new_mem_buf(pem, -1) : NULL;
    EVP_PKEY *key = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    return key;
}

static bool pair_write(X509 *x, EVP_PKEY *key, struct kube_pair *ret)
{
    BIO *certificate = BIO_new(BIO_s_mem()), *secret = BIO_new(BIO_s_secmem());
    bool good = certificate != NULL && secret != NULL && PEM_write_bio_X509(certificate, x) == 1 &&
                PEM_write_bio_PrivateKey(secret, key, NULL, NULL, 0, NULL, NULL) == 1;
    if (good)
        *ret = (struct kube_pair){bio_text(certificate), bio_text(secret)};
    BIO_free(certificate);
    BIO_free(secret);
    return good;
}

/* ---- making ---- */

static bool seconds_of(const ASN1_TIME *time, int64_t *ret)
{
    int days, seconds;
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    bool good = epoch != NULL && ASN1_TIME_diff(&days, &seconds, epoch, time) == 1;
    ASN1_TIME_free(epoch);
    if (good)
        *ret = (int64_t)days * 86400 + seconds;
    return good;
}

static bool serial_set(struct env *env, X509 *x)
{
    unsigned char bytes[16];
    env->random(env, bytes, sizeof bytes);
    bytes[0] = (unsigned char)((bytes[0] & 0x7f) | 0x40); /* positive, of one length */
    BIGNUM *number = BN_bin2bn(bytes, sizeof bytes, NULL);
    bool good = number != NULL && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x)) != NULL;
    BN_free(number);
    return good;
}

/* issuer: what it is not to outlive, or NULL */
static bool times_set(struct env *env, X509 *x, uint64_t lifetime_s, X509 *issuer)
{
    time_t now = (time_t)(env->wall_us(env) / 1000000), from = now - SKEW_S;
    time_t until = now + (time_t)lifetime_s;
    int64_t end = 0;
    if (issuer != NULL && seconds_of(X509_get0_notAfter(issuer), &end) && end < (int64_t)until)
        until = (time_t)end;
    return ASN1_TIME_set(X509_getm_notBefore(x), from) != NULL &&
           ASN1_TIME_set(X509_getm_notAfter(x), until) != NULL;
}

static bool extension(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool good = e != NULL && X509_add_ext(x, e, -1) == 1;
    X509_EXTENSION_free(e);
    return good;
}

static X509 *certificate_begin(struct env *env, const char *name, uint64_t lifetime_s, EVP_PKEY *key,
                               X509 *issuer)
{
    X509 *x = X509_new();
    X509_NAME *subject = x != NULL ? X509_get_subject_name(x) : NULL;
    if (x == NULL || X509_set_version(x, X509_VERSION_3) != 1 || !serial_set(env, x) ||
        !times_set(env, x, lifetime_s, issuer) || X509_set_pubkey(x, key) != 1 ||
        X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8, (const unsigned char *)"shardherd", -1, -1,
                                   0) != 1 ||
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0) !=
            1) {
        X509_free(x);
        return NULL;
    }
    return x;
}

int kube_authority_make(struct env *env, const char *name, uint64_t lifetime_s, struct kube_pair *ret,
                        struct err *err)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = key != NULL ? certificate_begin(env, name, lifetime_s, key, NULL) : NULL;
    bool good = x != NULL && X509_set_issuer_name(x, X509_get_subject_name(x)) == 1 &&
                extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
                extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") &&
                extension(x, x, NID_subject_key_identifier, "hash") && X509_sign(x, key, EVP_sha256()) > 0 &&
                pair_write(x, key, ret);
    X509_free(x);
    EVP_PKEY_free(key);
    return good ? 0 : err_set(err, ERRC_TLS, "OpenSSL cannot make the authority %s", name);
}

static char *alternative_names(const char *const *names)
{
    struct buf b = {0};
    for (; *names != NULL; names++)
        (void)buf_printf(&b, "%sDNS:%s", b.length > 0 ? "," : "", *names);
    return buf_take(&b);
}

static bool leaf_extensions(X509 *x, X509 *issuer, const char *const *names)
{
    bool good =
        extension(x, issuer, NID_basic_constraints, "critical,CA:FALSE") &&
        extension(x, issuer, NID_key_usage, "critical,digitalSignature") &&
        extension(x, issuer, NID_ext_key_usage, names != NULL ? "serverAuth,clientAuth" : "clientAuth") &&
        extension(x, issuer, NID_authority_key_identifier, "keyid:always");
    if (good && names != NULL) {
        char *text = alternative_names(names);
        good = extension(x, issuer, NID_subject_alt_name, text);
        free(text);
    }
    return good;
}

int kube_certificate_issue(struct env *env, const struct kube_pair *authority,
                           const struct kube_certificate_request *request, struct kube_pair *ret,
                           struct err *err)
{
    X509 *issuer = certificate_read(authority->certificate);
    EVP_PKEY *issuer_key = key_read(authority->key), *key = NULL;
    X509 *x = NULL;
    int rc = 0;
    if (issuer == NULL || issuer_key == NULL || X509_check_private_key(issuer, issuer_key) != 1)
        rc = err_set(err, ERRC_TLS,
                     "the authority's certificate and key cannot be read or do not belong "
                     "together");
    if (rc == 0) {
        key = EVP_EC_gen("P-256");
        x = key != NULL ? certificate_begin(env, request->name, request->lifetime_s, key, issuer) : NULL;
        if (x == NULL || X509_set_issuer_name(x, X509_get_subject_name(issuer)) != 1 ||
            !leaf_extensions(x, issuer, request->names) || X509_sign(x, issuer_key, EVP_sha256()) <= 0 ||
            !pair_write(x, key, ret))
            rc = err_set(err, ERRC_TLS, "OpenSSL cannot issue a certificate for %s", request->name);
    }
    X509_free(x);
    X509_free(issuer);
    EVP_PKEY_free(key);
    EVP_PKEY_free(issuer_key);
    return rc;
}

/* ---- judging ---- */

/* The times of a certificate, seconds since 1970; `life` without what it reaches back for clocks that are
 * behind. */
static bool life_of(X509 *x, int64_t *life, int64_t *until)
{
    int64_t from;
    if (x == NULL || !seconds_of(X509_get0_notBefore(x), &from) || !seconds_of(X509_get0_notAfter(x), until))
        return false;
    *life = *until - from > SKEW_S ? *until - from - SKEW_S : *until - from;
    return true;
}

bool kube_certificate_life(const char *certificate, int64_t *ret_life_us, int64_t *ret_end_us)
{
    X509 *x = certificate_read(certificate);
    int64_t life, until;
    bool good = life_of(x, &life, &until);
    X509_free(x);
    if (good) {
        *ret_life_us = life * 1000000;
        *ret_end_us = until * 1000000;
    }
    return good;
}

int64_t kube_certificate_due(const char *certificate)
{
    int64_t life, until;
    return kube_certificate_life(certificate, &life, &until) ? until - life / 3 : 0;
}

int64_t kube_certificate_end(const char *certificate)
{
    X509 *x = certificate_read(certificate);
    int64_t end = 0;
    if (x != NULL && !seconds_of(X509_get0_notAfter(x), &end))
        end = 0;
    X509_free(x);
    return end * 1000000;
}

static bool signed_by(X509 *x, const char *authority)
{
    X509 *issuer = certificate_read(authority);
    bool good = issuer != NULL && X509_verify(x, X509_get0_pubkey(issuer)) == 1;
    X509_free(issuer);
    return good;
}

/* X509_check_host() would let "*.x" stand for "a.x"; what we ask for is to be there as it is. */
static bool has_name(X509 *x, const char *name)
{
    GENERAL_NAMES *all = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
    bool found = false;
    for (int i = 0; i < sk_GENERAL_NAME_num(all) && !found; i++) {
        const GENERAL_NAME *one = sk_GENERAL_NAME_value(all, i);
        found = one->type == GEN_DNS && (size_t)ASN1_STRING_length(one->d.dNSName) == strlen(name) &&
                memcmp(ASN1_STRING_get0_data(one->d.dNSName), name, strlen(name)) == 0;
    }
    GENERAL_NAMES_free(all);
    return found;
}

bool kube_certificate_names(const char *certificate, const char *host)
{
    X509 *x = certificate_read(certificate);
    bool named = x != NULL && X509_check_host(x, host, strlen(host), 0, NULL) == 1;
    X509_free(x);
    return named;
}

static bool is_for(X509 *x, bool server)
{
    return X509_check_purpose(x, X509_PURPOSE_SSL_CLIENT, 0) == 1 &&
           (!server || X509_check_purpose(x, X509_PURPOSE_SSL_SERVER, 0) == 1);
}

enum kube_certificate_state kube_certificate_judge(struct env *env, const char *certificate,
                                                   const char *authority, const char *const *names)
{
    X509 *x = certificate_read(certificate);
    int64_t life, until, now = env->wall_us(env) / 1000000;
    bool good = life_of(x, &life, &until) && until > now && is_for(x, names != NULL) &&
                (authority == NULL || signed_by(x, authority));
    for (; good && names != NULL && *names != NULL; names++)
        good = has_name(x, *names);
    X509_free(x);
    if (!good)
        return KUBE_CERTIFICATE_UNUSABLE;
    return until - now <= life / 3 ? KUBE_CERTIFICATE_DUE : KUBE_CERTIFICATE_GOOD;
}
