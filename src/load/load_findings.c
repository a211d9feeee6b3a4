#include "load/load_findings.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

static const char *const names[FINDING_MAX] = {
#define X(name, text) [FINDING_##name] = text,
    FINDING_MAP(X)
#undef X
};

const char *finding_kind_name(enum finding_kind kind)
{
    return kind < FINDING_MAX ? names[kind] : "unknown";
}

int finding_kind_parse(const char *name)
{
    for (int i = 0; i < FINDING_MAX; i++) {
        if (strcmp(names[i], name) == 0)
            return i;
    }
    return -1;
}

int load_findings_init(struct load_findings *f, const char *path, struct err *err)
{
    memset(f, 0, sizeof *f);
    if (path == NULL)
        return 0;
    f->report = fopen(path, "we");
    if (f->report == NULL)
        return err_set_errno(err, errno, "report file \"%s\"", path);
    return 0;
}

static void forget_shown(struct load_findings *f, unsigned keep)
{
    while (f->shown_count > keep)
        free(f->shown[--f->shown_count]);
}

void load_findings_fini(struct load_findings *f)
{
    forget_shown(f, 0);
    if (f->report != NULL)
        (void)fclose(f->report);
    f->report = NULL;
}

void load_findings_mark(struct load_findings *f)
{
    memcpy(f->marked_counts, f->counts, sizeof f->counts);
    f->marked_shown = f->shown_count;
    if (f->report != NULL)
        f->marked_place = ftell(f->report);
}

void load_findings_reset(struct load_findings *f)
{
    forget_shown(f, f->marked_shown);
    memcpy(f->counts, f->marked_counts, sizeof f->counts);
    if (f->report == NULL)
        return;
    (void)fflush(f->report);
    if (fseek(f->report, f->marked_place, SEEK_SET) != 0 ||
        ftruncate(fileno(f->report), f->marked_place) != 0)
        (void)fputs("-- checked again --\n", f->report);
}

void load_findings_add(struct load_findings *f, enum finding_kind kind, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    f->counts[kind]++;
    if (f->shown_count < LOAD_FINDINGS_SHOWN)
        f->shown[f->shown_count++] = mem_printf("%s: %s", finding_kind_name(kind), text);
    if (f->report != NULL)
        (void)fprintf(f->report, "%s: %s\n", finding_kind_name(kind), text);
}

uint64_t load_findings_total(const struct load_findings *f)
{
    uint64_t total = 0;
    for (int i = 0; i < FINDING_MAX; i++)
        total += f->counts[i];
    return total;
}
