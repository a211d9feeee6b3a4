/* links: k8s */
/* kubeconfigs and manifests (YAML), Status bodies, answers of credential programs, gzip: the first byte
 * chooses. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "k8s/access.h"
#include "k8s/exec_plugin.h"
#include "k8s/inflate.h"
#include "k8s/status.h"
#include "k8s/yaml_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int document(struct yyjson_mut_doc *doc, struct yyjson_mut_val *root, void *data, struct err *err)
{
    (void)doc;
    (void)data;
    (void)err;
    char *text = yyjson_mut_val_write(root, YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL);
    if (text == NULL)
        abort(); /* what was read can be written */
    free(text);
    return 0;
}

static void program(const char *text, size_t size)
{
    struct k8s_exec exec = {.api_version = "client.authentication.k8s.io/v1", .command = "plugin"};
    const struct k8s_access access = {.exec = &exec, .server = "https://a"};
    struct exec_credential c;
    if (exec_plugin_read(&access, text, size, &c, NULL) == 0) {
        if (c.token == NULL && c.cert_pem == NULL)
            abort();
        exec_credential_free(&c);
    }
}

static void count(const char *bytes, size_t length, void *data)
{
    (void)bytes;
    *(size_t *)data += length;
}

static void gzip(const char *text, size_t size)
{
    size_t whole = 0, pieces = 0;
    struct inflate *a = inflate_new(), *b = inflate_new();
    int rc = inflate_feed(a, text, size, count, &whole, NULL), rc_b = 0;
    for (size_t i = 0; i < size && rc_b == 0; i++)
        rc_b = inflate_feed(b, text + i, 1, count, &pieces, NULL);
    if (rc == 0 && rc_b == 0 && whole != pieces)
        abort();
    inflate_free(a);
    inflate_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct k8s_status status;
    if (size == 0)
        return 0;
    char *text = mem_alloc(size);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    switch (data[0] % 4) {
    case 0:
        (void)yaml_json_read(text, size - 1, "f", document, NULL, NULL);
        break;
    case 1:
        k8s_status_from_answer(500, text, size - 1, "5", &status);
        break;
    case 2:
        program(text, size - 1);
        break;
    default:
        gzip((const char *)data + 1, size - 1);
    }
    free(text);
    return 0;
}
