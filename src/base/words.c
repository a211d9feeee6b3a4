#include "base/words.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void words_set(struct words *words, const char *key, const char *fmt, ...)
{
    size_t i = 0;
    while (i < words->count && strcmp(words->items[i].key, key) != 0)
        i++;
    if (i == WORDS_MAX)
        return;
    if (i == words->count)
        words->items[words->count++].key = key;
    va_list args;
    va_start(args, fmt);
    vsnprintf(words->items[i].text, sizeof words->items[i].text, fmt, args);
    va_end(args);
}

/* The text for the word that `at` ("<word>...") starts with, and how long "<word>" is; NULL if it has none.
 */
static const char *word_at(const struct words *words, const char *at, size_t *length)
{
    for (size_t i = 0; i < words->count; i++) {
        size_t n = strlen(words->items[i].key);
        if (strncmp(at + 1, words->items[i].key, n) == 0 && at[n + 1] == '>') {
            *length = n + 2;
            return words->items[i].text;
        }
    }
    return NULL;
}

void words_render(const char *sentence, const struct words *words, char *out, size_t size)
{
    size_t used = 0;
    while (*sentence != '\0' && used + 1 < size) {
        size_t skip = 0;
        const char *text = *sentence == '<' ? word_at(words, sentence, &skip) : NULL;
        if (text == NULL) {
            out[used++] = *sentence++;
            continue;
        }
        while (*text != '\0' && used + 1 < size)
            out[used++] = *text++;
        sentence += skip;
    }
    out[used] = '\0';
}
