/*
 * load_keys: the key values of the workload and the random numbers behind it. Pure.
 *
 * A customer is a number from 0; its key value is derived from the number and the key type, and the number
 * can be got back from the value, so that the ledger holds numbers only:
 *   smallint, integer, bigint   number + 1
 *   text, varchar               "customer-00000017"
 *   uuid                        48 mixed bits, version 8, the number in the last 48 bits
 */
#ifndef LOAD_LOAD_KEYS_H
#define LOAD_LOAD_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fleet/hash.h"

#define LOAD_KEY_SIZE 48

/* Writes the key as text with a NUL; returns its length. */
size_t load_key_format(enum key_type type, uint32_t number, char out[LOAD_KEY_SIZE]);

/* The number of a key as PostgreSQL prints it; false if load_key_format() never makes such a value. */
bool load_key_parse(enum key_type type, const char *text, size_t length, uint32_t *ret);

/* The shard hash of the key. */
int64_t load_key_hash(enum key_type type, uint32_t number);

/* How many different keys the type can hold here. */
uint32_t load_key_limit(enum key_type type);

/* Contents that follow from the key and a version or an order number, so that the checker knows them. */
int64_t load_balance_of(uint32_t number, uint32_t version);
int64_t load_amount_of(uint32_t number, uint32_t order);

/* A small fast generator (splitmix64); not for secrets. */
struct load_random {
    uint64_t state;
};
uint64_t load_random_next(struct load_random *r);
uint32_t load_random_below(struct load_random *r, uint32_t bound); /* [0, bound), bound >= 1 */
double load_random_unit(struct load_random *r);                    /* [0, 1) */

#endif
