/*
 * words: sentences with figures in them. A sentence is a template in a const table ("shard <shard> is hot");
 * the words are what its <places> are replaced by. What speaks in numbered rules (balance, health) uses it.
 */
#ifndef BASE_WORDS_H
#define BASE_WORDS_H

#include <stddef.h>

/* The words of one sentence. Zero-initialised = none. */
#define WORDS_MAX 20
struct words {
    size_t count;
    struct {
        const char *key; /* a literal */
        char text[128];
    } items[WORDS_MAX];
};

/* Sets a word, in place of an earlier text of the same key. */
void words_set(struct words *words, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The sentence, cut off at `size`; a word that was not set stays as it is in the template (tests look for
 * that).
 */
void words_render(const char *sentence, const struct words *words, char *out, size_t size);

#endif
