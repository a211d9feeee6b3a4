/* The families about shardherd itself. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "metrics/exposition_impl.h"

/* ---- the process ---- */

/* "VmRSS:      1234 kB": the number in bytes. Not rusage's ru_maxrss, which survives exec(). */
static bool status_bytes(const char *line, const char *key, uint64_t *ret)
{
    unsigned long long kib;
    size_t n = strlen(key);
    if (strncmp(line, key, n) != 0 || sscanf(line + n, "%llu", &kib) != 1)
        return false;
    *ret = kib * 1024;
    return true;
}

void process_facts_read(struct process_facts *facts)
{
    char line[256];
    *facts = (struct process_facts){0};
    FILE *f = fopen("/proc/self/status", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (!status_bytes(line, "VmRSS:", &facts->resident_bytes))
            (void)status_bytes(line, "VmHWM:", &facts->resident_max_bytes);
    if (f != NULL)
        fclose(f);
    DIR *fds = opendir("/proc/self/fd");
    while (fds != NULL && readdir(fds) != NULL)
        facts->open_fds++;
    if (fds != NULL)
        closedir(fds);
    facts->open_fds -= facts->open_fds > 3 ? 3 : facts->open_fds; /* ".", "..", the folder itself */
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        facts->max_fds = limit.rlim_cur;
}

static void one(struct buf *out, const char *name, enum metric_type type, double value, const char *help)
{
    const struct metric_family family = {name, type, help};
    metric_add_head(out, &family);
    metric_add_sample(out, name, "", value);
}

static double seconds(const struct timeval *t)
{
    return (double)t->tv_sec + (double)t->tv_usec / 1e6;
}

static void add_process(const struct exposition *e, struct buf *out)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        one(out, "process_cpu_seconds_total", METRIC_COUNTER,
            seconds(&usage.ru_utime) + seconds(&usage.ru_stime), "User and system CPU time in seconds.");
    one(out, "process_start_time_seconds", METRIC_GAUGE, (double)e->started_us / 1e6,
        "When the process began to serve metrics, seconds since the epoch.");
    if (e->process.read_ns == 0)
        return;
    one(out, "process_resident_memory_bytes", METRIC_GAUGE, (double)e->process.resident_bytes,
        "Resident memory, read every 5 s.");
    one(out, "process_resident_memory_max_bytes", METRIC_GAUGE, (double)e->process.resident_max_bytes,
        "Greatest resident memory so far, read every 5 s.");
    one(out, "process_open_fds", METRIC_GAUGE, (double)e->process.open_fds,
        "Open file descriptors, read every 5 s.");
    one(out, "process_max_fds", METRIC_GAUGE, (double)e->process.max_fds,
        "Greatest number of file descriptors allowed.");
}

/* ---- loop, pollers, scrapes ---- */

static void add_loop(const struct exposition *e, struct buf *out)
{
    static const struct metric_family turns = {"shardherd_loop_turn_seconds", METRIC_HISTOGRAM,
                                               "Lengths of the turns of the event loop."};
    metric_add_head(out, &turns);
    metric_add_histogram(out, turns.name, "", &e->loop->turns);
    one(out, "shardherd_loop_longest_turn_seconds", METRIC_GAUGE, (double)e->loop->longest_turn_us / 1e6,
        "Longest turn of the event loop since the start; above 0.1 something blocked it.");
    one(out, "shardherd_loop_long_turns_total", METRIC_COUNTER, (double)e->loop->long_turns,
        "Turns of the event loop longer than 0.1 s: something blocked it.");
}

static void add_state(struct buf *out, const char *name, const char *label, const char *value, double number)
{
    struct buf labels = {0};
    metric_add_label(&labels, label, value);
    metric_add_sample(out, name, buf_text(&labels), number);
    buf_free(&labels);
}

static void add_pollers(const struct exposition *e, struct buf *out)
{
    static const struct metric_family states = {"shardherd_instances", METRIC_GAUGE,
                                                "Instances polled, by what their connection does."};
    static const struct metric_family polls = {"shardherd_polls_total", METRIC_COUNTER,
                                               "Polls of a group, by result."};
    struct pollers_counts c;
    pollers_count(e->pollers, &c);
    unsigned other = c.up + c.connecting + c.waiting;
    metric_add_head(out, &states);
    add_state(out, states.name, "state", "up", c.up);
    add_state(out, states.name, "state", "connecting", c.connecting);
    add_state(out, states.name, "state", "waiting", c.waiting);
    add_state(out, states.name, "state", "down", c.instances > other ? c.instances - other : 0);
    metric_add_head(out, &polls);
    add_state(out, polls.name, "result", "success", (double)c.polls);
    add_state(out, polls.name, "result", "error", (double)c.polls_failed);
    one(out, "shardherd_series_dropped_total", METRIC_COUNTER, (double)c.series_dropped,
        "Samples left out because they were no numbers, duplicates, or too many.");
}

static void add_scrapes(const struct exposition *e, struct buf *out)
{
    one(out, "shardherd_scrapes_total", METRIC_COUNTER, (double)e->scrapes_total, "Scrapes answered.");
    one(out, "shardherd_scrapes_refused_total", METRIC_COUNTER, (double)e->refused_total,
        "Scrapes answered with 503.");
    one(out, "shardherd_scrape_bytes", METRIC_GAUGE, (double)e->bytes_last, "Size of the last scrape.");
    one(out, "shardherd_scrape_assembly_seconds", METRIC_GAUGE, (double)e->assembly_ns / 1e9,
        "How long the last scrape took to put together, over several turns of the loop.");
    one(out, "shardherd_scrape_longest_slice_seconds", METRIC_GAUGE, (double)e->slice_longest_ns / 1e9,
        "Longest time in one turn spent on putting a scrape together.");
}

/* ---- what the manager knows ---- */

static void add_pair(struct buf *out, const char *name, const char *label1, const char *value1,
                     const char *label2, const char *value2, uint64_t number)
{
    struct buf labels = {0};
    metric_add_label(&labels, label1, value1);
    buf_addc(&labels, ',');
    metric_add_label(&labels, label2, value2);
    metric_add_sample(out, name, buf_text(&labels), (double)number);
    buf_free(&labels);
}

static void add_operations(const struct exposition_numbers *n, struct buf *out)
{
    static const struct metric_family operations = {"shardherd_operations", METRIC_GAUGE,
                                                    "Operations in the journal, by kind and status."};
    static const struct metric_family decisions = {
        "shardherd_decisions_total", METRIC_COUNTER,
        "Decisions and refusals of the balancer, by database and rule."};
    if (n->operation_count > 0)
        metric_add_head(out, &operations);
    for (size_t i = 0; i < n->operation_count; i++)
        add_pair(out, operations.name, "kind", n->operations[i].kind, "status", n->operations[i].status,
                 n->operations[i].count);
    if (n->decision_count > 0)
        metric_add_head(out, &decisions);
    for (size_t i = 0; i < n->decision_count; i++)
        add_pair(out, decisions.name, "db", n->decisions[i].database, "rule", n->decisions[i].rule,
                 n->decisions[i].count);
}

static void add_databases(const struct exposition_numbers *n, struct buf *out)
{
    static const struct metric_family epochs = {"shardherd_routing_epoch", METRIC_GAUGE,
                                                "Epoch of the database's routing table."};
    static const struct metric_family shards = {"shardherd_shards", METRIC_GAUGE,
                                                "Shards in the database's routing table."};
    static const struct metric_family guards = {
        "shardherd_guard_findings", METRIC_GAUGE,
        "Guards switched off and partitions attached or detached, as found on the database's shards."};
    if (n->database_count > 0)
        metric_add_head(out, &epochs);
    for (size_t i = 0; i < n->database_count; i++)
        add_state(out, epochs.name, "db", n->databases[i].name, (double)n->databases[i].epoch);
    if (n->database_count > 0)
        metric_add_head(out, &shards);
    for (size_t i = 0; i < n->database_count; i++)
        add_state(out, shards.name, "db", n->databases[i].name, n->databases[i].shards);
    if (n->database_count > 0)
        metric_add_head(out, &guards);
    for (size_t i = 0; i < n->database_count; i++)
        add_state(out, guards.name, "db", n->databases[i].name, n->databases[i].guard_findings);
}

/* What one family shows of a move; NAN = no sample. */
static double move_rows(const struct exposition_move *m)
{
    return (double)m->rows;
}
static double move_bytes(const struct exposition_move *m)
{
    return (double)m->bytes;
}
static double move_total_rows(const struct exposition_move *m)
{
    return (double)m->total_rows;
}
static double move_total_bytes(const struct exposition_move *m)
{
    return (double)m->total_bytes;
}
static double move_tables(const struct exposition_move *m)
{
    return (double)m->tables;
}
static double move_tables_copied(const struct exposition_move *m)
{
    return (double)m->tables_copied;
}
static double move_held(const struct exposition_move *m)
{
    return m->held;
}
static double move_compared(const struct exposition_move *m)
{
    return (double)m->compared_rows;
}
static double move_rate(const struct exposition_move *m)
{
    return (double)m->rate;
}
static double move_limit(const struct exposition_move *m)
{
    return (double)m->throttle_rate;
}
static double move_throttled(const struct exposition_move *m)
{
    return m->throttled_seconds;
}
static double move_retained(const struct exposition_move *m)
{
    return (double)m->retained_wal;
}
static double move_progress(const struct exposition_move *m)
{
    return m->progress;
}
static double move_eta(const struct exposition_move *m)
{
    return m->eta_seconds;
}
static double move_lag(const struct exposition_move *m)
{
    return m->lag_seconds;
}
static double move_commit(const struct exposition_move *m)
{
    return m->commit_seconds;
}
static double move_standby(const struct exposition_move *m)
{
    return m->standby_lag;
}

static const struct {
    struct metric_family family;
    double (*value)(const struct exposition_move *m);
} move_families[] = {
    {{"shardherd_move_progress_ratio", METRIC_GAUGE, "How far a running move is, 0 to 1."}, move_progress},
    {{"shardherd_move_eta_seconds", METRIC_GAUGE, "Until the end of the move's copy, while it is known."},
     move_eta},
    {{"shardherd_move_copied_rows", METRIC_GAUGE, "Rows that the move has copied."}, move_rows},
    {{"shardherd_move_copied_bytes", METRIC_GAUGE, "Bytes of COPY data that the move has copied."},
     move_bytes},
    {{"shardherd_move_expected_rows", METRIC_GAUGE, "Rows that the move will have copied, estimated."},
     move_total_rows},
    {{"shardherd_move_expected_bytes", METRIC_GAUGE,
      "Bytes of COPY data that the move will have copied, estimated."},
     move_total_bytes},
    {{"shardherd_move_tables", METRIC_GAUGE, "Tables that the move copies."}, move_tables},
    {{"shardherd_move_copied_tables", METRIC_GAUGE, "Tables that the move has copied."}, move_tables_copied},
    {{"shardherd_move_copy_bytes_per_second", METRIC_GAUGE,
      "Speed of the move's copy over the last ten seconds."},
     move_rate},
    {{"shardherd_move_throttle_bytes_per_second", METRIC_GAUGE,
      "What the move's copy is held to for the sake of its source; 0 = it is not throttled."},
     move_limit},
    {{"shardherd_move_throttled_seconds", METRIC_GAUGE, "For how long the move's copy was throttled."},
     move_throttled},
    {{"shardherd_move_source_commit_seconds", METRIC_GAUGE,
      "What a commit on the move's source took in the last second."},
     move_commit},
    {{"shardherd_move_standby_lag_seconds", METRIC_GAUGE,
      "How far the move's source's slowest standby is behind."},
     move_standby},
    {{"shardherd_move_lag_seconds", METRIC_GAUGE,
      "The last round trip of a marker from the move's source to its target."},
     move_lag},
    {{"shardherd_move_retained_wal_bytes", METRIC_GAUGE, "WAL that the move's slot keeps on its source."},
     move_retained},
    {{"shardherd_move_held", METRIC_GAUGE,
      "1 while the move waits for a person: its source's old rows are not what its target has."},
     move_held},
    {{"shardherd_move_compared_rows", METRIC_GAUGE,
      "Rows of the move's target that its source's old rows were compared with, after the cutover."},
     move_compared},
};

static void add_move_labels(const struct exposition_move *m, struct buf *labels)
{
    metric_add_label(labels, "op", m->op);
    buf_addc(labels, ',');
    metric_add_label(labels, "db", m->database);
    buf_addc(labels, ',');
    metric_add_label(labels, "shard", m->shard);
    buf_addc(labels, ',');
    metric_add_label(labels, "target", m->target);
}

static void add_phases(const struct exposition_numbers *n, struct buf *out)
{
    static const struct metric_family phases = {"shardherd_move_phase", METRIC_GAUGE,
                                                "1, with the phase that a running move is in."};
    metric_add_head(out, &phases);
    for (size_t i = 0; i < n->move_count; i++) {
        struct buf labels = {0};
        add_move_labels(&n->moves[i], &labels);
        buf_addc(&labels, ',');
        metric_add_label(&labels, "phase", n->moves[i].state);
        metric_add_sample(out, phases.name, buf_text(&labels), 1);
        buf_free(&labels);
    }
}

static void add_moves(const struct exposition_numbers *n, struct buf *out)
{
    if (n->move_count == 0)
        return;
    add_phases(n, out);
    for (size_t f = 0; f < sizeof move_families / sizeof move_families[0]; f++) {
        metric_add_head(out, &move_families[f].family);
        for (size_t i = 0; i < n->move_count; i++) {
            struct buf labels = {0};
            double value = move_families[f].value(&n->moves[i]);
            add_move_labels(&n->moves[i], &labels);
            if (!isnan(value))
                metric_add_sample(out, move_families[f].family.name, buf_text(&labels), value);
            buf_free(&labels);
        }
    }
}

static void add_unwritable(const struct exposition_numbers *n, struct buf *out)
{
    static const struct metric_family unwritable = {"shardherd_shard_unwritable_seconds", METRIC_GAUGE,
                                                    "For how long the shard has accepted no write: it is "
                                                    "given another primary, or commits wait for standbys "
                                                    "that are away."};
    if (n->unwritable_count > 0)
        metric_add_head(out, &unwritable);
    for (size_t i = 0; i < n->unwritable_count; i++) {
        struct buf labels = {0};
        metric_add_label(&labels, "db", n->unwritable[i].database);
        buf_addc(&labels, ',');
        metric_add_label(&labels, "shard", n->unwritable[i].shard);
        metric_add_sample(out, unwritable.name, buf_text(&labels), n->unwritable[i].seconds);
        buf_free(&labels);
    }
}

static void add_failover_labels(const struct exposition_failovers *f, const char *outcome, struct buf *labels)
{
    metric_add_label(labels, "db", f->database);
    buf_addc(labels, ',');
    metric_add_label(labels, "kind", f->kind);
    if (outcome == NULL)
        return;
    buf_addc(labels, ',');
    metric_add_label(labels, "outcome", outcome);
}

static void add_failovers(const struct exposition_numbers *n, struct buf *out)
{
    static const struct metric_family total = {"shardherd_failovers_total", METRIC_COUNTER,
                                               "Failovers and switchovers that ended, by outcome."};
    static const struct metric_family blocked = {
        "shardherd_failover_blocked_seconds", METRIC_HISTOGRAM,
        "How long a shard had no primary that accepted writes, by failover or switchover."};
    if (n->failover_count > 0)
        metric_add_head(out, &total);
    for (size_t i = 0; i < 2 * n->failover_count; i++) {
        const struct exposition_failovers *f = &n->failovers[i / 2];
        struct buf labels = {0};
        add_failover_labels(f, i % 2 == 0 ? "done" : "undone", &labels);
        metric_add_sample(out, total.name, buf_text(&labels), (double)(i % 2 == 0 ? f->done : f->undone));
        buf_free(&labels);
    }
    if (n->failover_count > 0)
        metric_add_head(out, &blocked);
    for (size_t i = 0; i < n->failover_count; i++) {
        struct buf labels = {0};
        add_failover_labels(&n->failovers[i], NULL, &labels);
        metric_add_histogram(out, blocked.name, buf_text(&labels), n->failovers[i].blocked);
        buf_free(&labels);
    }
    add_unwritable(n, out);
}

static void add_store(const struct exposition_numbers *n, struct buf *out)
{
    static const struct metric_family up = {"shardherd_store_up", METRIC_GAUGE,
                                            "Whether the last access to the store succeeded."};
    if (n->store_kind == NULL)
        return;
    metric_add_head(out, &up);
    add_state(out, up.name, "kind", n->store_kind, n->store_up);
    one(out, "shardherd_store_writes_total", METRIC_COUNTER, (double)n->store_writes,
        "Writes that the store acknowledged.");
    one(out, "shardherd_store_errors_total", METRIC_COUNTER, (double)n->store_errors,
        "Accesses to the store that failed.");
}

static void add_numbers(const struct exposition *e, struct buf *out)
{
    struct exposition_numbers n = {0};
    e->options.numbers(&n, e->options.data);
    add_operations(&n, out);
    add_databases(&n, out);
    add_moves(&n, out);
    add_failovers(&n, out);
    add_store(&n, out);
    one(out, "shardherd_leader", METRIC_GAUGE, n.leader, "Whether this manager leads.");
    one(out, "shardherd_term", METRIC_GAUGE, (double)n.term, "Term of the present leadership.");
    one(out, "shardherd_config_reload_errors_total", METRIC_COUNTER, (double)n.config_errors,
        "Configurations refused at a reload.");
}

void own_families(struct exposition *e, struct buf *out)
{
    static const struct metric_family build = {"shardherd_build_info", METRIC_GAUGE,
                                               "Version and commit of the program."};
    metric_add_head(out, &build);
    add_pair(out, build.name, "version", e->version, "commit", e->commit, 1);
    add_process(e, out);
    add_loop(e, out);
    if (e->pollers != NULL)
        add_pollers(e, out);
    add_scrapes(e, out);
    if (e->options.numbers != NULL)
        add_numbers(e, out);
}
