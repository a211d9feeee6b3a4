#include "cli/demo.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/demo_impl.h"

static const char help_text[] =
    "Usage: shardherd demo [--keep] [--report FILE] [--no-color] [--directory DIR] [--customers N]\n"
    "\n"
    "Shows the main job on this machine in about a minute: starts a manager and real PostgreSQL servers, "
    "fills two\n"
    "shards, lets one of them turn hot, and watches shardherd split it by itself under full write load. At "
    "the\n"
    "end every acknowledged write is compared with the rows, and everything is taken away again.\n"
    "\n"
    "  --keep           leave the manager and the servers running, and say how to look around\n"
    "  --report FILE    write the figures as JSON\n"
    "  --no-color       no colors (also NO_COLOR); they are only used on a terminal\n"
    "  --directory DIR  work there: a new directory or an empty one (default: one in $TMPDIR or /var/tmp)\n"
    "  --customers N    with three orders each (default: 200000)\n"
    "  --rate N         operations/s of the load; the threshold is 5/8 of it (default: 2000)\n"
    "  --clients N      (default: 24)\n"
    "\n"
    "Exit codes: 0 the split happened by itself and nothing was lost, 1 not so, 2 wrong usage, 130 "
    "interrupted.\n"
    "\n"
    "Example:\n"
    "  shardherd demo --report report.json\n";

enum { OPT_KEEP = 256, OPT_REPORT, OPT_NO_COLOR, OPT_DIRECTORY, OPT_CUSTOMERS, OPT_RATE, OPT_CLIENTS };

static const struct option long_options[] = {
    {"keep", no_argument, NULL, OPT_KEEP},
    {"report", required_argument, NULL, OPT_REPORT},
    {"no-color", no_argument, NULL, OPT_NO_COLOR},
    {"directory", required_argument, NULL, OPT_DIRECTORY},
    {"customers", required_argument, NULL, OPT_CUSTOMERS},
    {"rate", required_argument, NULL, OPT_RATE},
    {"clients", required_argument, NULL, OPT_CLIENTS},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static int take_number(const char *name, const char *text, uint32_t least, uint32_t most, uint32_t *ret)
{
    uint64_t value;
    if (!text_to_uint64(text, &value) || value < least || value > most) {
        (void)fprintf(stderr, "shardherd demo: --%s: \"%s\" is not a number from %u to %u\n", name, text,
                      (unsigned)least, (unsigned)most);
        return CLI_USAGE;
    }
    *ret = (uint32_t)value;
    return CLI_OK;
}

static int take_option(struct demo_options *o, int id)
{
    switch (id) {
    case OPT_KEEP:
        o->keep = true;
        return CLI_OK;
    case OPT_REPORT:
        o->report_path = optarg;
        return CLI_OK;
    case OPT_NO_COLOR:
        o->no_color = true;
        return CLI_OK;
    case OPT_DIRECTORY:
        o->directory = optarg;
        return CLI_OK;
    case OPT_CUSTOMERS:
        return take_number("customers", optarg, 1000, 10000000, &o->customers);
    case OPT_RATE:
        return take_number("rate", optarg, 100, 100000, &o->rate);
    case OPT_CLIENTS:
        return take_number("clients", optarg, 1, 500, &o->clients);
    case 'h':
        o->help = true;
        return CLI_OK;
    default:
        (void)fputs("shardherd demo: see shardherd demo --help\n", stderr);
        return CLI_USAGE;
    }
}

static int parse(struct demo_options *o, int argc, char **argv)
{
    int id, code = CLI_OK;
    optind = 1;
    while (code == CLI_OK && (id = getopt_long(argc, argv, "h", long_options, NULL)) != -1)
        code = take_option(o, id);
    if (code == CLI_OK && optind < argc) {
        (void)fprintf(stderr, "shardherd demo: \"%s\" is not understood; see shardherd demo --help\n",
                      argv[optind]);
        code = CLI_USAGE;
    }
    return code;
}

/* A minute's work should not be lost for want of a place for its figures. */
static bool report_can_be_written(const struct demo_options *o)
{
    FILE *file = o->report_path != NULL ? fopen(o->report_path, "ae") : NULL;
    if (o->report_path != NULL && file == NULL) {
        perror(o->report_path);
        return false;
    }
    if (file != NULL)
        fclose(file);
    return true;
}

int demo_command(int argc, char **argv)
{
    struct demo_options options = {.customers = 200000, .rate = 2000, .clients = 24};
    int code = parse(&options, argc, argv);
    if (code != CLI_OK)
        return code;
    if (options.help) {
        (void)fputs(help_text, stdout);
        return CLI_OK;
    }
    if (!report_can_be_written(&options))
        return CLI_USAGE;
    struct demo *d = mem_zalloc(sizeof *d);
    d->o = options;
    demo_story_init(&d->story, env_system(), !options.no_color);
    code = demo_run(d);
    free(d);
    return code;
}
