/* links: k8s */
/* A member cut out of a text: JSON stays JSON with everything else in it, and what is no JSON does no harm.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "k8s/json_cut.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const path[] = {"metadata", "managedFields", NULL};
    char *text = mem_alloc(size + 1); /* exact: a byte too far is seen */
    memcpy(text, data, size);
    size_t length = json_cut(text, size, path);
    if (length > size || (length == size && memcmp(text, data, size) != 0))
        abort();
    yyjson_doc *before = yyjson_read((const char *)data, size, 0);
    if (before != NULL && length < size) {
        yyjson_doc *after = yyjson_read(text, length, 0);
        yyjson_mut_doc *want = yyjson_doc_mut_copy(before, NULL);
        yyjson_mut_doc *have = after != NULL ? yyjson_doc_mut_copy(after, NULL) : NULL;
        yyjson_mut_val *root = yyjson_mut_doc_get_root(want);
        yyjson_mut_val *fields = yyjson_mut_obj_get(yyjson_mut_obj_get(root, "metadata"), "managedFields");
        if (have == NULL || fields == NULL)
            abort();
        (void)yyjson_mut_set_null(fields);
        char *a = yyjson_mut_write(want, 0, NULL), *b = yyjson_mut_write(have, 0, NULL);
        if (a == NULL || b == NULL || strcmp(a, b) != 0)
            abort();
        free(a);
        free(b);
        yyjson_mut_doc_free(want);
        yyjson_mut_doc_free(have);
        yyjson_doc_free(after);
    }
    yyjson_doc_free(before);
    free(text);
    return 0;
}
