/*
 * yaml: a JSON value as YAML in block style. Pure.
 *
 * Reading it back gives the same value: strings that would read as a number, a boolean, null or syntax are
 * quoted.
 */
#ifndef CLI_YAML_H
#define CLI_YAML_H

#include <yyjson.h>

#include "base/buf.h"

void yaml_print(yyjson_val *value, struct buf *out);

#endif
