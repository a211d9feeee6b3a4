/*
 * hash: PostgreSQL's own hash*extended(key, 0), computed here, as a signed 64-bit integer.
 *
 * Source of the algorithm: hash_bytes_extended() and hash_bytes_uint32_extended() (Bob Jenkins' lookup3 as
 * PostgreSQL uses it, src/common/hashfn.c), hashint8extended()'s folding of the high half, and
 * hash_numeric-free types only. The seed is 0 throughout. Proven equal by tests against a real server.
 * Little-endian machines only (checked at compile time).
 */
#ifndef FLEET_HASH_H
#define FLEET_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum key_type { KEY_SMALLINT, KEY_INTEGER, KEY_BIGINT, KEY_TEXT, KEY_VARCHAR, KEY_UUID, KEY_TYPE_MAX };

int64_t hash_int2(int16_t value); /* equals hash_int8 of the same value */
int64_t hash_int4(int32_t value);
int64_t hash_int8(int64_t value);
int64_t hash_text(const void *bytes, size_t length); /* deterministic collations only */
int64_t hash_uuid(const uint8_t uuid[16]);

/* "bigint" (and int8, int4, int2, int, character varying, ...) to the type; -1 if it cannot be a shard key.
 */
int key_type_parse(const char *name);
const char *key_type_name(enum key_type type); /* as in the routing table: "bigint" */
/* SQL expression with %s where the column goes: "hashint8extended(%s, 0)". text and varchar:
 * hashtextextended. */
const char *key_type_sql(enum key_type type);

/* Hash of a key given as text in the type's input format. ERRC_INVALID naming type and text if malformed. */
int hash_key(enum key_type type, const char *text, size_t length, int64_t *ret, struct err *err);

#endif
