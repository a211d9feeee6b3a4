/* `shardherd load`: options, the live line, exit codes. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/text.h"
#include "load/load.h"

/* Of the table of all commands, cli/cli.h. */
enum { EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_FOUND = 10, EXIT_SIGNAL = 130 };

#define COMMAND_SIGNALS 3
#define SHOW_PERIOD     (1 * ENV_NS_PER_S)

struct command {
    struct loop loop;
    struct load_options o;
    const char *password_env;
    bool json, quiet, terminal, print_schema, help;
    struct load *load; /* NULL once it is done */
    struct loop_signal signals[COMMAND_SIGNALS];
    unsigned signals_started;
    struct loop_timer show;
    struct hist shown;      /* latencies up to the last line */
    struct load_stats last; /* counters at the last line */
    bool line_open;
    int code;
};

static const char help_text[] =
    "usage: shardherd load [init|run|check] --database NAME (--routing URL | --routing-file FILE) [options]\n"
    "\n"
    "Drives load over the shards of a database, keeps every acknowledged write in a ledger, and compares "
    "every\n"
    "row with it at the end. init creates the rows, run (the default) loads and checks, check only checks.\n"
    "\n"
    "where\n"
    "  --database NAME            the sharded database\n"
    "  --routing URL              the manager's public API, e.g. http://127.0.0.1:8080\n"
    "  --routing-file FILE        a routing document instead, read again every 200 ms\n"
    "  --dbname NAME              database on the shards (default: --database)\n"
    "  --user NAME                (default: app)\n"
    "  --passfile FILE            passwords, in libpq's format; or in the environment:\n"
    "  --password-env NAME        (default: SHARDHERD_LOAD_PASSWORD, then PGPASSWORD)\n"
    "  --sslmode MODE --sslrootcert FILE\n"
    "  --sslcert FILE --sslkey FILE  a client certificate, where the servers ask for one\n"
    "\n"
    "rows\n"
    "  --customers N              (default: 200000)\n"
    "  --orders-per-customer N    (default: 3)\n"
    "  --key-type TYPE            bigint, integer, smallint, text, varchar or uuid (default: bigint)\n"
    "  --create-tables            init: create the tables where they are missing\n"
    "  --print-schema             print the SQL of the tables and end\n"
    "\n"
    "load\n"
    "  --clients N                (default: 16)\n"
    "  --rate N                   open loop: N operations/s in all, latency from the intended start\n"
    "                             (default: closed loop, as fast as the clients go)\n"
    "  --duration TIME            e.g. 30s, 5m; 0 = until SIGINT (default: 10s)\n"
    "  --mix LIST                 weights (default: read=40,insert=15,update=25,delete=10,tx=10)\n"
    "  --skew SKEW                uniform, zipf:THETA, hot-shard=NAME:SHARE, hot-range=LO..HI:SHARE,\n"
    "                             hot-key=NUMBER:SHARE (default: uniform)\n"
    "  --skew-after TIME:SKEW     changes the skew then; may be repeated; SIGUSR1 takes the next one at "
    "once\n"
    "  --control FILE             obeys lines \"skew SKEW\", \"rate N\", \"watch LO..HI\", \"stop\"\n"
    "                             whenever the file changes\n"
    "  --strict                   set shardherd.epoch on every connection\n"
    "  --watch-range LO..HI       also measure the longest write gap of these hashes; may be repeated\n"
    "  --op-timeout TIME          an answer later than this is no answer (default: 5s)\n"
    "  --give-up TIME             for rows that cannot be found, and at the end (default: 10s)\n"
    "  --stall TIME               end when nothing completes for so long (default: 60s)\n"
    "  --seed N                   of the random choices (default: random)\n"
    "\n"
    "check\n"
    "  --ledger FILE              (default: shardherd-load-NAME.ledger); run continues an existing one\n"
    "  --fresh                    run: the rows are as init made them, begin a new ledger\n"
    "  --no-check                 run: do not check\n"
    "  --check                    the same as the word check\n"
    "  --check-wait TIME          check again while only rows of a not yet cleaned up move are left over\n"
    "  --report-file FILE         every finding, one a line\n"
    "\n"
    "output\n"
    "  --json                     the result as one JSON object\n"
    "  --quiet                    no progress lines\n"
    "\n"
    "exit codes: 0 nothing wrong, 1 could not be done, 2 wrong usage or input, 10 the check found a\n"
    "difference, 130 interrupted before the check was complete\n"
    "\n"
    "examples\n"
    "  shardherd load init --database shop --routing http://127.0.0.1:8080 --customers 200000\n"
    "  shardherd load --database shop --routing http://127.0.0.1:8080 --clients 32 --duration 60s \\\n"
    "      --skew-after 10s:hot-shard=s2:0.8\n"
    "  shardherd load --database shop --routing-file routing.json --rate 5000 --skew zipf:0.99 --json\n"
    "  shardherd load check --database shop --routing http://127.0.0.1:8080 --report-file findings.txt\n";

/* ---- options ---- */

enum option_id {
    OPT_DATABASE = 256,
    OPT_ROUTING,
    OPT_ROUTING_FILE,
    OPT_DBNAME,
    OPT_USER,
    OPT_PASSFILE,
    OPT_PASSWORD_ENV,
    OPT_SSLMODE,
    OPT_SSLROOTCERT,
    OPT_SSLCERT,
    OPT_SSLKEY,
    OPT_CUSTOMERS,
    OPT_ORDERS,
    OPT_KEY_TYPE,
    OPT_CREATE_TABLES,
    OPT_PRINT_SCHEMA,
    OPT_CLIENTS,
    OPT_RATE,
    OPT_DURATION,
    OPT_MIX,
    OPT_SKEW,
    OPT_SKEW_AFTER,
    OPT_CONTROL,
    OPT_STRICT,
    OPT_WATCH,
    OPT_OP_TIMEOUT,
    OPT_GIVE_UP,
    OPT_STALL,
    OPT_SEED,
    OPT_LEDGER,
    OPT_FRESH,
    OPT_NO_CHECK,
    OPT_CHECK,
    OPT_CHECK_WAIT,
    OPT_REPORT,
    OPT_JSON,
    OPT_QUIET,
    OPT_HELP
};

static const struct option long_options[] = {
    {"database", required_argument, NULL, OPT_DATABASE},
    {"routing", required_argument, NULL, OPT_ROUTING},
    {"routing-file", required_argument, NULL, OPT_ROUTING_FILE},
    {"dbname", required_argument, NULL, OPT_DBNAME},
    {"user", required_argument, NULL, OPT_USER},
    {"passfile", required_argument, NULL, OPT_PASSFILE},
    {"password-env", required_argument, NULL, OPT_PASSWORD_ENV},
    {"sslmode", required_argument, NULL, OPT_SSLMODE},
    {"sslrootcert", required_argument, NULL, OPT_SSLROOTCERT},
    {"sslcert", required_argument, NULL, OPT_SSLCERT},
    {"sslkey", required_argument, NULL, OPT_SSLKEY},
    {"customers", required_argument, NULL, OPT_CUSTOMERS},
    {"orders-per-customer", required_argument, NULL, OPT_ORDERS},
    {"key-type", required_argument, NULL, OPT_KEY_TYPE},
    {"create-tables", no_argument, NULL, OPT_CREATE_TABLES},
    {"print-schema", no_argument, NULL, OPT_PRINT_SCHEMA},
    {"clients", required_argument, NULL, OPT_CLIENTS},
    {"rate", required_argument, NULL, OPT_RATE},
    {"duration", required_argument, NULL, OPT_DURATION},
    {"mix", required_argument, NULL, OPT_MIX},
    {"skew", required_argument, NULL, OPT_SKEW},
    {"skew-after", required_argument, NULL, OPT_SKEW_AFTER},
    {"control", required_argument, NULL, OPT_CONTROL},
    {"strict", no_argument, NULL, OPT_STRICT},
    {"watch-range", required_argument, NULL, OPT_WATCH},
    {"op-timeout", required_argument, NULL, OPT_OP_TIMEOUT},
    {"give-up", required_argument, NULL, OPT_GIVE_UP},
    {"stall", required_argument, NULL, OPT_STALL},
    {"seed", required_argument, NULL, OPT_SEED},
    {"ledger", required_argument, NULL, OPT_LEDGER},
    {"fresh", no_argument, NULL, OPT_FRESH},
    {"no-check", no_argument, NULL, OPT_NO_CHECK},
    {"check", no_argument, NULL, OPT_CHECK},
    {"check-wait", required_argument, NULL, OPT_CHECK_WAIT},
    {"report-file", required_argument, NULL, OPT_REPORT},
    {"json", no_argument, NULL, OPT_JSON},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int parse_u32(const char *text, uint32_t *ret, struct err *err)
{
    uint64_t value;
    if (!text_to_uint64(text, &value) || value > UINT32_MAX)
        return err_set(err, ERRC_INVALID, "\"%s\" is not a number", text);
    *ret = (uint32_t)value;
    return 0;
}

static int parse_time(const char *text, uint64_t *ret, struct err *err)
{
    if (!text_to_duration(text, ret))
        return err_set(err, ERRC_INVALID, "\"%s\" is not a time such as 250ms, 10s or 5m", text);
    return 0;
}

static int parse_mix(const char *text, unsigned mix[LOAD_OP_MAX], struct err *err)
{
    static const char *const names[LOAD_OP_MAX] = {
#define X(name, word, weight) [LOAD_OP_##name] = word,
        LOAD_OP_MAP(X)
#undef X
    };
    char *copy = mem_strdup(text), *rest = copy, *part;
    int code = 0;
    memset(mix, 0, LOAD_OP_MAX * sizeof mix[0]);
    while (code == 0 && (part = strsep(&rest, ",")) != NULL) {
        char *value = strchr(part, '=');
        int op = 0;
        uint32_t weight = 0;
        if (value != NULL)
            *value++ = '\0';
        while (op < LOAD_OP_MAX && strcmp(names[op], part) != 0)
            op++;
        if (value == NULL || op == LOAD_OP_MAX || parse_u32(value, &weight, NULL) != 0 || weight > 100000)
            code = err_set(err, ERRC_INVALID,
                           "\"%s\" is not OPERATION=WEIGHT (read, insert, update, delete, tx)", part);
        else
            mix[op] = weight;
    }
    free(copy);
    return code;
}

static int parse_skew_after(char *text, struct load_options *o, struct err *err)
{
    char *colon = strchr(text, ':');
    if (colon == NULL)
        return err_set(err, ERRC_INVALID, "\"%s\" is not TIME:SKEW", text);
    if (o->later_count == LOAD_SKEWS_MAX)
        return err_set(err, ERRC_INVALID, "at most %d changes of skew", LOAD_SKEWS_MAX);
    struct load_skew_change *change = &o->later[o->later_count];
    *colon = '\0';
    int code = parse_time(text, &change->after_ns, err);
    *colon = ':';
    if (code != 0)
        return code;
    if (o->later_count > 0 && change->after_ns < change[-1].after_ns)
        return err_set(err, ERRC_INVALID, "the changes of skew must be in the order of their times");
    change->skew = colon + 1;
    o->later_count++;
    return 0;
}

static int parse_key_type(const char *text, enum key_type *ret, struct err *err)
{
    int type = key_type_parse(text);
    if (type < 0)
        return err_set(err, ERRC_INVALID, "\"%s\" cannot be the type of a shard key", text);
    *ret = (enum key_type)type;
    return 0;
}

static int parse_watch(const char *text, struct load_options *o, struct err *err)
{
    if (o->watch_count == LOAD_WATCHES_MAX)
        return err_set(err, ERRC_INVALID, "at most %d watched ranges", LOAD_WATCHES_MAX);
    return range_parse(text, &o->watch[o->watch_count++], err);
}

static int parse_rate(const char *text, double *ret, struct err *err)
{
    if (!text_to_double(text, ret) || *ret < 0 || *ret > 1e7)
        return err_set(err, ERRC_INVALID, "\"%s\" is not a rate", text);
    return 0;
}

static bool take_text(struct command *c, int id, const char *value)
{
    struct load_options *o = &c->o;
    const char **const places[] = {
        [OPT_DATABASE - OPT_DATABASE] = &o->database,
        [OPT_ROUTING - OPT_DATABASE] = &o->routing_url,
        [OPT_ROUTING_FILE - OPT_DATABASE] = &o->routing_file,
        [OPT_DBNAME - OPT_DATABASE] = &o->dbname,
        [OPT_USER - OPT_DATABASE] = &o->user,
        [OPT_PASSFILE - OPT_DATABASE] = &o->passfile,
        [OPT_PASSWORD_ENV - OPT_DATABASE] = &c->password_env,
        [OPT_SSLMODE - OPT_DATABASE] = &o->sslmode,
        [OPT_SSLROOTCERT - OPT_DATABASE] = &o->sslrootcert,
        [OPT_SSLCERT - OPT_DATABASE] = &o->sslcert,
        [OPT_SSLKEY - OPT_DATABASE] = &o->sslkey,
        [OPT_SKEW - OPT_DATABASE] = &o->skew,
        [OPT_CONTROL - OPT_DATABASE] = &o->control_path,
        [OPT_LEDGER - OPT_DATABASE] = &o->ledger_path,
        [OPT_REPORT - OPT_DATABASE] = &o->report_path,
    };
    size_t at = (size_t)(id - OPT_DATABASE);
    if (at >= sizeof places / sizeof places[0] || places[at] == NULL)
        return false;
    *places[at] = value;
    return true;
}

static bool take_flag(struct command *c, int id)
{
    struct load_options *o = &c->o;
    switch (id) {
    case OPT_CREATE_TABLES:
        o->create_tables = true;
        return true;
    case OPT_PRINT_SCHEMA:
        c->print_schema = true;
        return true;
    case OPT_STRICT:
        o->strict = true;
        return true;
    case OPT_FRESH:
        o->fresh_ledger = true;
        return true;
    case OPT_NO_CHECK:
        o->no_check = true;
        return true;
    case OPT_CHECK:
        o->mode = LOAD_CHECK;
        return true;
    case OPT_JSON:
        c->json = true;
        return true;
    case OPT_QUIET:
        c->quiet = true;
        return true;
    case OPT_HELP:
        c->help = true;
        return true;
    default:
        return false;
    }
}

static int take_value(struct command *c, int id, char *value, struct err *err)
{
    struct load_options *o = &c->o;
    switch (id) {
    case OPT_CUSTOMERS:
        return parse_u32(value, &o->customers, err);
    case OPT_ORDERS:
        return parse_u32(value, &o->orders_per_customer, err);
    case OPT_KEY_TYPE:
        return parse_key_type(value, &o->key_type, err);
    case OPT_CLIENTS:
        return parse_u32(value, &o->clients, err);
    case OPT_RATE:
        return parse_rate(value, &o->rate, err);
    case OPT_DURATION:
        return parse_time(value, &o->duration_ns, err);
    case OPT_MIX:
        return parse_mix(value, o->mix, err);
    case OPT_SKEW_AFTER:
        return parse_skew_after(value, o, err);
    case OPT_WATCH:
        return parse_watch(value, o, err);
    case OPT_OP_TIMEOUT:
        return parse_time(value, &o->op_timeout_ns, err);
    case OPT_GIVE_UP:
        return parse_time(value, &o->give_up_ns, err);
    case OPT_STALL:
        return parse_time(value, &o->stall_ns, err);
    case OPT_CHECK_WAIT:
        return parse_time(value, &o->check_wait_ns, err);
    case OPT_SEED:
        return text_to_uint64(value, &o->seed) ? 0
                                               : err_set(err, ERRC_INVALID, "\"%s\" is not a number", value);
    default:
        return err_set(err, ERRC_INVALID, "see shardherd load --help");
    }
}

static int take_word(struct command *c, const char *word, struct err *err)
{
    static const char *const words[] = {[LOAD_INIT] = "init", [LOAD_RUN] = "run", [LOAD_CHECK] = "check"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(words[i], word) == 0) {
            c->o.mode = (enum load_mode)i;
            return 0;
        }
    }
    return err_set(err, ERRC_INVALID, "\"%s\" is none of init, run and check", word);
}

static int parse_arguments(struct command *c, int argc, char **argv, struct err *err)
{
    int id, index = 0;
    optind = 1;
    while ((id = getopt_long(argc, argv, "h", long_options, &index)) != -1) {
        if (id == 'h')
            id = OPT_HELP;
        if (id == '?')
            return err_set(err, ERRC_INVALID, "see shardherd load --help");
        if (take_flag(c, id) || take_text(c, id, optarg))
            continue;
        int code = take_value(c, id, optarg, err);
        if (code != 0)
            return err_wrap(err, "--%s", long_options[index].name);
    }
    for (; optind < argc; optind++) {
        int code = take_word(c, argv[optind], err);
        if (code != 0)
            return code;
    }
    return 0;
}

static int complete_options(struct command *c, struct err *err)
{
    struct env *env = env_system();
    if (c->o.database == NULL)
        return err_set(err, ERRC_INVALID, "--database is missing");
    if ((c->o.routing_url == NULL) == (c->o.routing_file == NULL))
        return err_set(err, ERRC_INVALID, "one of --routing and --routing-file is needed");
    c->o.password = env->get(env, c->password_env != NULL ? c->password_env : "SHARDHERD_LOAD_PASSWORD");
    if (c->o.password == NULL && c->password_env != NULL)
        return err_set(err, ERRC_INVALID, "the environment has no %s", c->password_env);
    if (c->o.password == NULL && c->o.passfile == NULL)
        c->o.password = env->get(env, "PGPASSWORD");
    return 0;
}

/* ---- the live line ---- */

static void show_text(struct command *c, const char *text)
{
    if (c->terminal)
        (void)fprintf(stderr, "\r\033[K%s", text);
    else
        (void)fprintf(stderr, "%s\n", text);
    c->line_open = c->terminal;
}

static void close_line(struct command *c)
{
    if (c->line_open)
        (void)fputc('\n', stderr);
    c->line_open = false;
}

static void show_loading(struct command *c)
{
    const struct load_stats *now = load_stats(c->load);
    char text[256];
    struct hist since = now->latency; /* of this second */
    for (size_t i = 0; i < HIST_BUCKETS; i++)
        since.buckets[i] -= c->shown.buckets[i];
    since.count -= c->shown.count;
    c->shown = now->latency;
    (void)snprintf(text, sizeof text,
                   "%4.0fs %6" PRIu64 " ops/s %6" PRIu64 " writes/s  p50 %.1f p99 %.1f ms  refused %" PRIu64
                   "  errors %" PRIu64 "  gap %.1f ms  epoch %" PRIu64 "  %s",
                   (double)load_elapsed(c->load) / 1e9, now->operations - c->last.operations,
                   now->acked_writes - c->last.acked_writes, (double)hist_quantile(&since, 0.5) / 1000,
                   (double)hist_quantile(&since, 0.99) / 1000, now->refused - c->last.refused,
                   load_stats_errors(now) - load_stats_errors(&c->last),
                   (double)load_gap_recent(load_write_gap(c->load), loop_clock(&c->loop)) / 1e6,
                   load_epoch(c->load), load_skew_text(c->load));
    c->last = *now;
    show_text(c, text);
}

static void show_fired(struct loop_timer *timer, void *data)
{
    struct command *c = data;
    char text[96];
    if (c->load == NULL)
        return;
    loop_timer_start(timer, SHOW_PERIOD);
    enum load_phase phase = load_phase(c->load);
    if (phase == LOAD_LOADING || phase == LOAD_DRAINING) {
        show_loading(c);
        return;
    }
    (void)snprintf(text, sizeof text, "%s: %" PRIu64 " rows", load_phase_name(phase),
                   load_progress_rows(c->load));
    show_text(c, text);
}

/* ---- run ---- */

static void stop_all(struct command *c)
{
    loop_timer_stop(&c->show);
    for (unsigned i = 0; i < c->signals_started; i++)
        loop_signal_stop(&c->signals[i]);
    c->signals_started = 0;
}

static void on_done(const struct err *err, const struct load_result *r, void *data)
{
    struct command *c = data;
    struct buf out = {0};
    struct load_findings *found = load_findings(c->load);
    close_line(c);
    for (unsigned i = 0; i < found->shown_count; i++)
        (void)fprintf(stderr, "%s\n", found->shown[i]);
    if (load_findings_total(found) > found->shown_count)
        (void)fprintf(stderr, "... and %" PRIu64 " more%s\n", load_findings_total(found) - found->shown_count,
                      c->o.report_path == NULL ? " (--report-file lists all)" : "");
    if (c->json)
        load_print_json(r, &c->o, &out);
    else
        load_print_summary(r, &c->o, &out);
    (void)fputs(buf_text(&out), stdout);
    buf_free(&out);
    if (err != NULL)
        (void)fprintf(stderr, "shardherd load: %s\n", err->message);
    if (load_findings_total(found) > 0)
        c->code = EXIT_FOUND;
    else if (err != NULL)
        c->code = err->code == ERRC_CANCELED ? EXIT_SIGNAL : EXIT_FAILED;
    c->load = NULL;
    stop_all(c);
}

static void on_signal(struct loop_signal *signal, int number, void *data)
{
    struct command *c = data;
    struct err err = {0};
    (void)signal;
    if (c->load == NULL)
        return;
    if (number != SIGUSR1) {
        load_stop(c->load);
        return;
    }
    if (load_next_skew(c->load, &err) != 0) {
        close_line(c);
        (void)fprintf(stderr, "shardherd load: %s\n", err.message);
    }
}

static int start_all(struct command *c, struct err *err)
{
    static const int numbers[COMMAND_SIGNALS] = {SIGINT, SIGTERM, SIGUSR1};
    int code = 0;
    loop_timer_init(&c->loop, &c->show, show_fired, c);
    while (code == 0 && c->signals_started < COMMAND_SIGNALS) {
        unsigned i = c->signals_started;
        code = loop_signal_start(&c->loop, &c->signals[i], numbers[i], on_signal, c, err);
        c->signals_started += code == 0 ? 1 : 0;
    }
    if (code == 0)
        code = load_run(&c->loop, &c->o, on_done, c, &c->load, err);
    if (code != 0)
        stop_all(c);
    else if (!c->quiet)
        loop_timer_start(&c->show, SHOW_PERIOD);
    return code;
}

static int command_run(struct command *c)
{
    struct err err = {0};
    int code = loop_init(&c->loop, env_system(), &err);
    if (code == 0) {
        code = start_all(c, &err);
        loop_run(&c->loop); /* also after a failure: what was started must be closed */
        if (loop_fini(&c->loop) != 0 && c->code == 0)
            c->code = EXIT_FAILED;
    }
    if (code == 0)
        return c->code;
    (void)fprintf(stderr, "shardherd load: %s\n", err.message);
    return code == ERRC_INVALID || code == ERRC_CONFLICT ? EXIT_USAGE : EXIT_FAILED;
}

int load_main(int argc, char **argv)
{
    struct command *c = mem_zalloc(sizeof *c);
    struct err err = {0};
    struct buf schema = {0};
    char *default_ledger = NULL;
    int code = 0;
    load_options_init(&c->o);
    c->terminal = isatty(STDERR_FILENO) == 1;
    if (parse_arguments(c, argc, argv, &err) != 0) {
        (void)fprintf(stderr, "shardherd load: %s\n", err.message);
        code = EXIT_USAGE;
    } else if (c->help) {
        (void)fputs(help_text, stdout);
    } else if (c->print_schema) {
        load_print_schema(c->o.key_type, &schema);
        (void)fputs(buf_text(&schema), stdout);
        buf_free(&schema);
    } else if (complete_options(c, &err) != 0) {
        (void)fprintf(stderr, "shardherd load: %s\n", err.message);
        code = EXIT_USAGE;
    } else {
        if (c->o.ledger_path == NULL)
            c->o.ledger_path = default_ledger = mem_printf("shardherd-load-%s.ledger", c->o.database);
        code = command_run(c);
    }
    free(default_ledger);
    free(c);
    return code;
}
