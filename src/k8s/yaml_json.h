/*
 * yaml_json: YAML documents as JSON values, the way Kubernetes reads manifests and kubeconfigs.
 *
 * Plain scalars become null, booleans, integers or floats where YAML's core schema says so ("yes", "on" and
 * octal numbers stay texts); quoted ones are texts. Anchors and aliases, merge keys, tags other than the
 * standard ones, keys that are no scalars and keys given twice are refused, each with line and column.
 */
#ifndef K8S_YAML_JSON_H
#define K8S_YAML_JSON_H

#include <stddef.h>

#include "base/err.h"

struct yyjson_mut_doc;
struct yyjson_mut_val;

/* For each document that is not empty. Non-zero stops and is returned. */
typedef int (*yaml_json_cb)(struct yyjson_mut_doc *doc, struct yyjson_mut_val *root, void *data,
                            struct err *err);

/* name is used in errors ("FILE:LINE:COLUMN: ..."). The doc passed to cb is freed after it returns. */
int yaml_json_read(const char *text, size_t length, const char *name, yaml_json_cb cb, void *data,
                   struct err *err);

#endif
