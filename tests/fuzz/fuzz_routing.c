/* links: fleet */
/* Whatever routing_parse() accepts is sound, and printing and parsing it again gives the same text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fleet/routing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct routing *first = NULL, *second = NULL;
    struct err err = {0};
    if (routing_parse((const char *)data, size, &first, &err) != 0) {
        if (first != NULL || err.message[0] == '\0')
            abort();
        return 0;
    }
    struct buf one = {0}, two = {0};
    routing_print(first, &one);
    if (routing_check(first, NULL) != 0 || routing_parse(buf_text(&one), one.length, &second, NULL) != 0)
        abort();
    routing_print(second, &two);
    if (strcmp(buf_text(&one), buf_text(&two)) != 0 || routing_owner(second, 0) == NULL)
        abort();
    buf_free(&one);
    buf_free(&two);
    routing_free(first);
    routing_free(second);
    return 0;
}
