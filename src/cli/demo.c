#include "cli/demo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/demo_impl.h"

const struct args_flag demo_flags[] = {
    {"failover", 0, NULL, "lose a primary instead: kill -9, failover, rejoin, switchover, under load", NULL},
    {"keep", 0, NULL, "leave the manager and the servers running, and say how to look around", NULL},
    {"report", 0, "FILE", "write the figures as JSON", "file"},
    {"no-color", 0, NULL, "no colors (also NO_COLOR); they are used only on a terminal", NULL},
    {"directory", 0, "DIR", "work there: new or empty (default: a new one in $TMPDIR or /var/tmp)",
     "directory"},
    {"customers", 0, "N", "how many, with three orders each (default: 200000; 20000 with --failover)", NULL},
    {"rate", 0, "N",
     "operations/s of the load; the threshold is 5/8 of it (default: 2000; 500 with --failover)", NULL},
    {"clients", 0, "N", "clients of the load (default: 24)", NULL},
    {0}};

static int take_number(const struct args *args, const char *name, uint32_t least, uint32_t most,
                       uint32_t *ret)
{
    const char *text = args_value(args, name);
    uint64_t value;
    if (text == NULL)
        return CLI_OK;
    if (!text_to_uint64(text, &value) || value < least || value > most) {
        (void)fprintf(stderr, "shardherd demo: --%s: \"%s\" is not a number from %u to %u\n", name, text,
                      (unsigned)least, (unsigned)most);
        return CLI_USAGE;
    }
    *ret = (uint32_t)value;
    return CLI_OK;
}

/* A minute's work should not be lost for want of a place for its figures. */
static bool report_can_be_written(const struct demo_options *o)
{
    FILE *file = o->report_path != NULL ? fopen(o->report_path, "ae") : NULL;
    if (o->report_path != NULL && file == NULL) {
        (void)fprintf(stderr, "shardherd demo: --report: %s: %s\n", o->report_path, strerror(errno));
        return false;
    }
    if (file != NULL)
        fclose(file);
    return true;
}

int demo_command(const struct args *args)
{
    bool failover = args_has(args, "failover");
    struct demo_options options = {.failover = failover,
                                   .keep = args_has(args, "keep"),
                                   .no_color = args_has(args, "no-color"),
                                   .report_path = args_value(args, "report"),
                                   .directory = args_value(args, "directory"),
                                   .customers = failover ? 20000 : 200000,
                                   .rate = failover ? 500 : 2000,
                                   .clients = 24};
    if (take_number(args, "customers", 1000, 10000000, &options.customers) != CLI_OK ||
        take_number(args, "rate", 100, 100000, &options.rate) != CLI_OK ||
        take_number(args, "clients", 1, 500, &options.clients) != CLI_OK || !report_can_be_written(&options))
        return CLI_USAGE;
    struct demo *d = mem_zalloc(sizeof *d);
    d->o = options;
    demo_story_init(&d->story, env_system(), !options.no_color);
    int code = demo_run(d);
    free(d);
    return code;
}
