#include "operation/document.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "base/text.h"

void document_add_number(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    yyjson_mut_obj_add_strcpy(doc, object, name, text);
}

bool document_number(yyjson_val *object, const char *name, int64_t *ret)
{
    const char *text = yyjson_get_str(yyjson_obj_get(object, name));
    return text != NULL && text_to_int64(text, ret);
}

void document_end(yyjson_mut_doc *doc, struct buf *json)
{
    size_t length;
    char *text = yyjson_mut_write(doc, 0, &length);
    if (text != NULL)
        buf_add(json, text, length);
    free(text);
    yyjson_mut_doc_free(doc);
}
