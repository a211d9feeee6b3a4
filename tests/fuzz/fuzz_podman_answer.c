/* links: runtime */
/* What a container engine answers: documents, errors, frames of logs. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "runtime/podman_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const char *text)
{
    if (strlen(text) > 1u << 20)
        abort();
}

static void documents(yyjson_val *root)
{
    struct podman_engine engine;
    struct podman_container c;
    yyjson_val *one;
    size_t at, n;
    if (podman_engine_parse(root, &engine, NULL) == 0)
        use(engine.name);
    if (podman_container_parse(root, &c, NULL) == 0) {
        use(c.directory);
        use(c.instance);
        use(c.revision);
        use(c.error);
    }
    yyjson_arr_foreach(root, at, n, one)
    {
        if (podman_listed_parse(one, &c))
            use(c.status);
    }
    use(podman_volume_directory(root));
    use(podman_volume_path(root));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *bytes = (const char *)data;
    char reason[64];
    struct err err = {0};
    yyjson_doc *doc = size > 0 ? yyjson_read(bytes, size, 0) : NULL;
    documents(yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    if (podman_error(&err, "what", 500, bytes, size) != ERRC_IO)
        abort();
    podman_log_reason(bytes, size, reason, sizeof reason);
    for (const char *p = reason; *p != '\0'; p++)
        if ((unsigned char)*p < ' ')
            abort();
    return 0;
}
