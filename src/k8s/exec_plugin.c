#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "k8s/access.h"
#include "k8s/exec_plugin.h"

/* Days since 1970-01-01 of a date of the Gregorian calendar:
 * http://howardhinnant.github.io/date_algorithms.html */
static int64_t days_from_civil(int64_t y, unsigned m, unsigned d)
{
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    unsigned yoe = (unsigned)(y - era * 400);
    unsigned doy = (153 * (m + (m > 2 ? -3u : 9u)) + 2) / 5 + d - 1;
    unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + (int64_t)doe - 719468;
}

static bool offset_read(const char *text, int *ret_minutes)
{
    int hours, minutes, used = 0;
    if (strcmp(text, "Z") == 0 || strcmp(text, "z") == 0) {
        *ret_minutes = 0;
        return true;
    }
    if ((text[0] != '+' && text[0] != '-') || sscanf(text + 1, "%2d:%2d%n", &hours, &minutes, &used) != 2 ||
        text[1 + used] != '\0' || hours > 23 || minutes > 59)
        return false;
    *ret_minutes = (text[0] == '-' ? -1 : 1) * (hours * 60 + minutes);
    return true;
}

bool rfc3339_read(const char *text, int64_t *ret_us)
{
    int y, mo, d, h, mi, s, used = 0, offset;
    int64_t fraction = 0, scale = 100000;
    if (sscanf(text, "%4d-%2d-%2d%*1[Tt]%2d:%2d:%2d%n", &y, &mo, &d, &h, &mi, &s, &used) != 6 || used != 19)
        return false;
    if (mo < 1 || mo > 12 || d < 1 || d > 31 || h < 0 || h > 23 || mi < 0 || mi > 59 || s < 0 || s > 60)
        return false;
    text += used;
    if (*text == '.') {
        for (text++; *text >= '0' && *text <= '9'; text++, scale /= 10)
            fraction += (*text - '0') * scale;
    }
    if (!offset_read(text, &offset))
        return false;
    int64_t seconds =
        days_from_civil(y, (unsigned)mo, (unsigned)d) * 86400 + h * 3600 + mi * 60 + s - offset * 60;
    *ret_us = seconds * 1000000 + fraction;
    return true;
}

static void add_base64(yyjson_mut_doc *doc, yyjson_mut_val *to, const char *name, const char *text)
{
    size_t length = strlen(text);
    char *out = mem_alloc(length / 3 * 4 + 5);
    (void)EVP_EncodeBlock((unsigned char *)out, (const unsigned char *)text, (int)length);
    (void)yyjson_mut_obj_add_strcpy(doc, to, name, out);
    free(out);
}

char *exec_plugin_info(const struct k8s_access *access, const char *ca_pem)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc), *spec = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    (void)yyjson_mut_obj_add_str(doc, root, "apiVersion", access->exec->api_version);
    (void)yyjson_mut_obj_add_str(doc, root, "kind", "ExecCredential");
    (void)yyjson_mut_obj_add_val(doc, root, "spec", spec);
    (void)yyjson_mut_obj_add_bool(doc, spec, "interactive", false);
    if (access->exec->cluster_info) {
        yyjson_mut_val *cluster = yyjson_mut_obj(doc);
        (void)yyjson_mut_obj_add_val(doc, spec, "cluster", cluster);
        (void)yyjson_mut_obj_add_str(doc, cluster, "server", access->server);
        if (access->tls_server_name != NULL)
            (void)yyjson_mut_obj_add_str(doc, cluster, "tls-server-name", access->tls_server_name);
        if (access->insecure)
            (void)yyjson_mut_obj_add_bool(doc, cluster, "insecure-skip-tls-verify", true);
        if (access->proxy_url != NULL)
            (void)yyjson_mut_obj_add_str(doc, cluster, "proxy-url", access->proxy_url);
        if (ca_pem != NULL)
            add_base64(doc, cluster, "certificate-authority-data", ca_pem);
    }
    char *text = yyjson_mut_write(doc, 0, NULL);
    yyjson_mut_doc_free(doc);
    return text;
}

static char *copy_text(yyjson_val *object, const char *name)
{
    const char *text = yyjson_get_str(yyjson_obj_get(object, name));
    return text != NULL && text[0] != '\0' ? mem_strdup(text) : NULL;
}

static int reply_check(const struct k8s_access *access, yyjson_val *root, struct exec_credential *c,
                       struct err *err)
{
    const char *command = access->exec->command;
    yyjson_val *status = yyjson_obj_get(root, "status");
    const char *expires = yyjson_get_str(yyjson_obj_get(status, "expirationTimestamp"));
    if (!yyjson_equals_str(yyjson_obj_get(root, "kind"), "ExecCredential"))
        return err_set(err, ERRC_INVALID, "%s printed no ExecCredential", command);
    if (!yyjson_equals_str(yyjson_obj_get(root, "apiVersion"), access->exec->api_version))
        return err_set(err, ERRC_INVALID, "%s answered in another version than %s", command,
                       access->exec->api_version);
    c->token = copy_text(status, "token");
    c->cert_pem = copy_text(status, "clientCertificateData");
    c->key_pem = copy_text(status, "clientKeyData");
    if ((c->cert_pem != NULL) != (c->key_pem != NULL))
        return err_set(err, ERRC_INVALID,
                       "%s gave a certificate without its key, or a key without certificate", command);
    if (c->token == NULL && c->cert_pem == NULL)
        return err_set(err, ERRC_INVALID, "%s gave neither a token nor a certificate", command);
    c->expires_us = INT64_MAX;
    if (expires != NULL && !rfc3339_read(expires, &c->expires_us))
        return err_set(err, ERRC_INVALID, "%s: expirationTimestamp is no RFC 3339 time", command);
    return 0;
}

int exec_plugin_read(const struct k8s_access *access, const char *out, size_t length,
                     struct exec_credential *ret, struct err *err)
{
    struct exec_credential c = {0};
    yyjson_doc *doc = yyjson_read(out, length, 0);
    int rc = doc != NULL ? reply_check(access, yyjson_doc_get_root(doc), &c, err)
                         : err_set(err, ERRC_INVALID, "%s printed no JSON", access->exec->command);
    yyjson_doc_free(doc);
    if (rc == 0)
        *ret = c;
    else
        exec_credential_free(&c);
    return rc;
}

void exec_credential_free(struct exec_credential *c)
{
    mem_wipe_free(c->token);
    free(c->cert_pem);
    mem_wipe_free(c->key_pem);
    memset(c, 0, sizeof *c);
}
