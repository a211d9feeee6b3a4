#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/args.h"

/* ---- suggestions ---- */

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* Letters to insert, delete, change or swap. */
static unsigned distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b), width = m + 1;
    unsigned *d = mem_array((n + 1) * width, sizeof *d);
    for (size_t i = 0; i <= n; i++) {
        for (size_t j = 0; j <= m; j++) {
            unsigned *at = &d[i * width + j];
            if (i == 0 || j == 0) {
                *at = (unsigned)(i + j);
                continue;
            }
            *at = least(d[(i - 1) * width + j] + 1, d[i * width + j - 1] + 1);
            *at = least(*at, d[(i - 1) * width + j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                *at = least(*at, d[(i - 2) * width + j - 2] + 1);
        }
    }
    unsigned result = d[n * width + m];
    free(d);
    return result;
}

void nearest_init(struct nearest *n, const char *word)
{
    size_t length = strlen(word);
    n->word = word;
    n->best = NULL;
    n->distance = length < 3 ? 1 : length < 6 ? 2 : 3;
    n->distance++;
}

void nearest_offer(struct nearest *n, const char *candidate)
{
    size_t length = strlen(n->word);
    if (length == 0 || length > 64)
        return;
    /* A beginning is as good as one wrong letter. */
    unsigned d = length > 1 && strncmp(candidate, n->word, length) == 0 ? 1 : distance(n->word, candidate);
    if (d < n->distance && d < strlen(candidate)) {
        n->distance = d;
        n->best = candidate;
    }
}

/* ---- parsing ---- */

const struct args_flag *args_find(const struct args_flag *const *tables, const char *name, size_t length)
{
    for (; *tables != NULL; tables++)
        for (const struct args_flag *f = *tables; f->name != NULL; f++)
            if (strlen(f->name) == length && strncmp(f->name, name, length) == 0)
                return f;
    return NULL;
}

const struct args_flag *args_find_letter(const struct args_flag *const *tables, char letter)
{
    for (; *tables != NULL; tables++)
        for (const struct args_flag *f = *tables; f->name != NULL; f++)
            if (f->letter == letter)
                return f;
    return NULL;
}

static int unknown(const struct args_flag *const *tables, const char *word, struct err *err)
{
    char name[64];
    size_t length = strcspn(word, "=");
    struct nearest n;
    if (length >= sizeof name)
        length = sizeof name - 1;
    memcpy(name, word, length);
    name[length] = '\0';
    nearest_init(&n, name);
    for (; *tables != NULL; tables++)
        for (const struct args_flag *f = *tables; f->name != NULL; f++)
            nearest_offer(&n, f->name);
    if (n.best == NULL)
        return err_set(err, ERRC_INVALID, "unknown flag --%s", name);
    return err_set(err, ERRC_INVALID, "unknown flag --%s; did you mean --%s?", name, n.best);
}

struct parser {
    int argc, at;
    char *const *argv;
    const struct args_flag *const *tables;
    struct args *args;
};

static int give(struct parser *p, const struct args_flag *flag, const char *value, struct err *err)
{
    if (p->args->given_count == ARGS_MAX)
        return err_set(err, ERRC_INVALID, "more than %d flags", ARGS_MAX);
    p->args->given[p->args->given_count].flag = flag;
    p->args->given[p->args->given_count++].value = value;
    return 0;
}

/* value: what follows in the same word, NULL = nothing. */
static int take_flag(struct parser *p, const struct args_flag *flag, const char *value, struct err *err)
{
    if (flag->value == NULL && value != NULL)
        return err_set(err, ERRC_INVALID, "flag --%s takes no value", flag->name);
    if (flag->value == NULL)
        return give(p, flag, "", err);
    if (value == NULL && p->at + 1 < p->argc)
        value = p->argv[++p->at];
    if (value == NULL)
        return err_set(err, ERRC_INVALID, "flag --%s needs a value (%s)", flag->name, flag->value);
    return give(p, flag, value, err);
}

static int take_long(struct parser *p, const char *word, struct err *err)
{
    size_t length = strcspn(word, "=");
    const struct args_flag *flag = args_find(p->tables, word, length);
    if (flag == NULL)
        return unknown(p->tables, word, err);
    return take_flag(p, flag, word[length] == '=' ? word + length + 1 : NULL, err);
}

/* "-w", "-ojson", "-wq": letters until one takes the rest as its value. */
static int take_letters(struct parser *p, const char *word, struct err *err)
{
    for (; *word != '\0'; word++) {
        const struct args_flag *flag = args_find_letter(p->tables, *word);
        if (flag == NULL)
            return err_set(err, ERRC_INVALID, "unknown flag -%c", *word);
        if (flag->value != NULL)
            return take_flag(p, flag, word[1] != '\0' ? word + (word[1] == '=' ? 2 : 1) : NULL, err);
        if (give(p, flag, "", err) != 0)
            return (int)err->code;
    }
    return 0;
}

static int take_word(struct parser *p, const char *word, struct err *err)
{
    if (p->args->word_count == ARGS_MAX)
        return err_set(err, ERRC_INVALID, "more than %d words", ARGS_MAX);
    p->args->words[p->args->word_count++] = word;
    return 0;
}

/* "-5" is a word: hashes are negative half of the time. */
static bool is_number(const char *word)
{
    return word[0] == '-' && word[1] >= '0' && word[1] <= '9';
}

int args_parse(int argc, char *const *argv, const struct args_flag *const *tables, struct args *ret,
               struct err *err)
{
    struct err local = {0};
    struct parser p = {argc, 1, argv, tables, ret};
    bool flags = true;
    int rc = 0;
    memset(ret, 0, sizeof *ret);
    for (; p.at < argc && rc == 0; p.at++) {
        const char *word = argv[p.at];
        if (flags && strcmp(word, "--") == 0)
            flags = false;
        else if (flags && word[0] == '-' && word[1] == '-')
            rc = take_long(&p, word + 2, &local);
        else if (flags && word[0] == '-' && word[1] != '\0' && !is_number(word))
            rc = take_letters(&p, word + 1, &local);
        else
            rc = take_word(&p, word, &local);
    }
    err_copy(err, &local);
    return rc;
}

const char *args_value(const struct args *args, const char *name)
{
    for (int i = args->given_count - 1; i >= 0; i--)
        if (strcmp(args->given[i].flag->name, name) == 0)
            return args->given[i].value;
    return NULL;
}

bool args_has(const struct args *args, const char *name)
{
    return args_value(args, name) != NULL;
}
