/* links: fleet */
/* Reads lines "type<TAB>key's text as hexadecimal digits", prints the hash of each, or "invalid". */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fleet/hash.h"

static int digit(char c)
{
    const char *digits = "0123456789abcdef";
    const char *at = c != '\0' ? strchr(digits, c) : NULL;
    return at != NULL ? (int)(at - digits) : -1;
}

/* In place; returns the number of bytes, or -1. */
static long decode(char *hex)
{
    size_t n = strlen(hex);
    if (n % 2 != 0)
        return -1;
    for (size_t i = 0; i < n; i += 2) {
        int high = digit(hex[i]), low = digit(hex[i + 1]);
        if (high < 0 || low < 0)
            return -1;
        hex[i / 2] = (char)(high << 4 | low);
    }
    return (long)(n / 2);
}

static int answer(char *line)
{
    char *tab = strchr(line, '\t');
    if (tab == NULL)
        return 1;
    *tab = '\0';
    int type = key_type_parse(line);
    long length = decode(tab + 1);
    if (type < 0 || length < 0)
        return 1;
    int64_t hash;
    if (hash_key((enum key_type)type, tab + 1, (size_t)length, &hash, NULL) == 0)
        printf("%" PRId64 "\n", hash);
    else
        puts("invalid");
    return 0;
}

int main(void)
{
    char *line = NULL;
    size_t size = 0;
    ssize_t n;
    int rc = 0;
    while (rc == 0 && (n = getline(&line, &size, stdin)) > 0) {
        if (line[n - 1] == '\n')
            line[n - 1] = '\0';
        rc = answer(line);
    }
    if (rc != 0)
        fputs("hash_tool: not a line of type, tab and hexadecimal digits\n", stderr);
    free(line);
    return rc;
}
