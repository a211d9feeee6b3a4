/*
 * document: what the journal documents of all operations are written and read with.
 *
 * Numbers are texts in them, since those of JSON lose digits beyond 2^53.
 */
#ifndef OPERATION_DOCUMENT_H
#define OPERATION_DOCUMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

struct yyjson_mut_doc;
struct yyjson_mut_val;
struct yyjson_val;

/* name must outlive the document. */
void document_add_number(struct yyjson_mut_doc *doc, struct yyjson_mut_val *object, const char *name,
                         int64_t value);
/* False, and *ret unchanged, if there is none of that name or it is no number. */
bool document_number(struct yyjson_val *object, const char *name, int64_t *ret);
/* Appends the document to json and frees it. */
void document_end(struct yyjson_mut_doc *doc, struct buf *json);

#endif
