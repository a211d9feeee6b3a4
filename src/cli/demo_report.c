/* The result: the verdict for people, the report for programs. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/demo_impl.h"
#include "cli/human.h"
#include "version.h"

uint64_t demo_wrong_rows(const struct load_result *r)
{
    uint64_t wrong = 0;
    for (int kind = 0; kind < FINDING_MAX; kind++)
        wrong += r->counts[kind];
    return wrong;
}

void demo_phase(struct demo *d, const char *name)
{
    struct demo_facts *f = &d->facts;
    uint64_t now = loop_clock(&d->loop);
    if (f->phase_count > 0 && f->phase_ns != 0)
        f->phases[f->phase_count - 1].seconds = (double)(now - f->phase_ns) / 1e9;
    f->phase_ns = 0;
    if (name == NULL || f->phase_count == DEMO_PHASES_MAX)
        return;
    (void)snprintf(f->phases[f->phase_count++].name, sizeof f->phases[0].name, "%s", name);
    f->phase_ns = now;
}

static double seconds_to_decide(const struct demo_facts *f)
{
    return f->decided_ns > f->hot_ns && f->hot_ns > 0 ? (double)(f->decided_ns - f->hot_ns) / 1e9
                                                      : (double)NAN;
}

static double longest_gap_ms(const struct load_result *r)
{
    return r->watch_count > 0 ? (double)r->watch[0].longest_ns / 1e6 : (double)NAN;
}

/* ---- for people ---- */

static void verdict_line(struct buf *out, const char *name, const char *value, const char *note)
{
    buf_printf(out, "    %-30s %12s%s%s\n", name, value, note[0] != '\0' ? "   " : "", note);
}

static void verdict_count(struct buf *out, const char *name, uint64_t count, const char *note)
{
    char text[32];
    verdict_line(out, name, demo_view_number(count, text), note);
}

/* What must be 0. */
static void verdict_wrong(const struct demo *d, struct buf *out, enum finding_kind kind, const char *note)
{
    uint64_t count = d->result.counts[kind];
    if (d->story.look.color)
        buf_add_text(out, count == 0 ? "\033[32m" : "\033[1;31m");
    verdict_count(out, finding_kind_name(kind), count, note);
    if (d->story.look.color)
        buf_add_text(out, "\033[0m");
}

static void verdict_rows(const struct demo *d, struct buf *out)
{
    const struct load_result *r = &d->result;
    char note[128], rows[32];
    verdict_count(out, "writes acknowledged", r->stats.acked_writes,
                  "to the clients, each one kept in a ledger");
    (void)snprintf(note, sizeof note, "compared with the ledger in %.1f s", (double)r->check_ns / 1e9);
    verdict_line(out, "rows on the shards", demo_view_number(r->rows_checked, rows), note);
    verdict_wrong(d, out, FINDING_LOST, "acknowledged, but not there");
    verdict_wrong(d, out, FINDING_RESURRECTED, "deleted, but there again");
    verdict_wrong(d, out, FINDING_DUPLICATED, "on two shards");
    verdict_wrong(d, out, FINDING_MISPLACED, "on a shard that does not own them");
    if (r->counts[FINDING_UNEXPECTED] > 0)
        verdict_wrong(d, out, FINDING_UNEXPECTED, "wrong contents");
    verdict_count(out, "writes refused", r->stats.refused, "by the old owner, sent again to the new one");
}

static void verdict_times(const struct demo *d, struct buf *out)
{
    const struct demo_facts *f = &d->facts;
    const struct load_result *r = &d->result;
    char value[HUMAN_SIZE], note[128], size[HUMAN_SIZE];
    (void)snprintf(note, sizeof note, "%d seconds in a row must be hot (rule R%d)", DEMO_WINDOW, f->rule);
    verdict_line(out, "from hot to decided", human_duration(seconds_to_decide(f), value), note);
    (void)snprintf(note, sizeof note, "%s, copied in %.1f s", human_bytes(f->moved_bytes, size),
                   f->copy_seconds);
    verdict_line(out, "rows moved", demo_view_number((uint64_t)fmax(f->moved_rows, 0), value), note);
    verdict_line(out, "writes blocked for", human_duration(f->write_block_ms / 1e3, value),
                 "from the lock on the old owner to the new one open");
    verdict_line(out, "  to isolate one key", human_duration(d->tour.block_ms[TOUR_ISOLATE] / 1e3, value),
                 "");
    verdict_line(out, "  to take that back", human_duration(d->tour.block_ms[TOUR_ROLLBACK] / 1e3, value),
                 "");
    verdict_line(out, "  to merge two shards", human_duration(d->tour.block_ms[TOUR_MERGE] / 1e3, value), "");
    verdict_line(out, "longest time without a write", human_duration(longest_gap_ms(r) / 1e3, value),
                 "of the moved half, as the clients saw it");
    verdict_line(out, "write latency, median",
                 human_duration((double)hist_quantile(&r->stats.write_latency, 0.5) / 1e6, value), "");
    verdict_line(out, "write latency, 99 of 100",
                 human_duration((double)hist_quantile(&r->stats.write_latency, 0.99) / 1e6, value), "");
    (void)snprintf(note, sizeof note, "of CPU, at most %s of memory, no loop turn over %.1f ms",
                   human_bytes(f->rss_peak_bytes, size), f->loop_longest_ms);
    verdict_line(out, "the manager used", human_duration(f->cpu_seconds, value), note);
}

static void verdict_change(struct buf *out, const char *name, const struct demo_change *change,
                           const char *who)
{
    char value[HUMAN_SIZE], blocked[HUMAN_SIZE], note[160];
    (void)snprintf(note, sizeof note, "as the clients of s1 saw it; the manager: %s",
                   human_duration(change->blocked, blocked));
    verdict_line(out, name, human_duration(change->clients, value), note);
    verdict_line(out, who, human_duration(change->following, value), "");
}

static void verdict_failover(const struct demo *d, struct buf *out)
{
    const struct demo_failover *f = &d->failover;
    const struct load_result *r = &d->result;
    char value[HUMAN_SIZE], note[128], size[HUMAN_SIZE];
    verdict_change(out, "kill -9: without a write", &f->lost, "  old primary follows after");
    verdict_change(out, "switchover: without a write", &f->handed, "  old primary follows after");
    verdict_line(out, "write latency, median",
                 human_duration((double)hist_quantile(&r->stats.write_latency, 0.5) / 1e6, value),
                 "each on two disks");
    (void)snprintf(note, sizeof note, "of CPU, at most %s of memory, no loop turn over %.1f ms",
                   human_bytes(d->facts.rss_peak_bytes, size), d->facts.loop_longest_ms);
    verdict_line(out, "the manager used", human_duration(d->facts.cpu_seconds, value), note);
}

void demo_print_verdict(struct demo *d)
{
    struct buf out = {0};
    buf_add_text(&out, "\n");
    verdict_rows(d, &out);
    (d->o.failover ? verdict_failover : verdict_times)(d, &out);
    buf_add_text(&out, "\n");
    demo_story_print(&d->story, buf_text(&out));
    buf_free(&out);
}

/* ---- for programs ---- */

static void add_real(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, double value)
{
    if (isfinite(value))
        yyjson_mut_obj_add_real(doc, object, name, round(value * 1e6) / 1e6);
    else
        yyjson_mut_obj_add_null(doc, object, name);
}

/* A number of which nothing is known is null, not 0. */
static void add_count(yyjson_mut_doc *doc, yyjson_mut_val *object, const char *name, bool known, double value)
{
    if (known && isfinite(value) && value >= 0)
        yyjson_mut_obj_add_uint(doc, object, name, (uint64_t)value);
    else
        yyjson_mut_obj_add_null(doc, object, name);
}

static void report_move(const struct demo *d, yyjson_mut_doc *doc, yyjson_mut_val *root)
{
    const struct demo_facts *f = &d->facts;
    bool decided = f->decided_ns != 0;
    add_real(doc, root, "decision_seconds", seconds_to_decide(f));
    add_count(doc, root, "rule", decided, f->rule);
    yyjson_mut_obj_add_str(doc, root, "decision", f->sentence);
    yyjson_mut_obj_add_str(doc, root, "operation", f->operation);
    yyjson_mut_obj_add_str(doc, root, "state", f->state);
    add_count(doc, root, "moved_rows", decided, f->moved_rows);
    add_count(doc, root, "moved_bytes", decided, f->moved_bytes);
    add_real(doc, root, "copy_seconds", decided ? f->copy_seconds : (double)NAN);
    add_real(doc, root, "write_block_ms", decided ? f->write_block_ms : (double)NAN);
    add_real(doc, root, "isolate_write_block_ms", d->tour.block_ms[TOUR_ISOLATE]);
    add_real(doc, root, "rollback_write_block_ms", d->tour.block_ms[TOUR_ROLLBACK]);
    add_real(doc, root, "merge_write_block_ms", d->tour.block_ms[TOUR_MERGE]);
    add_count(doc, root, "fence_attempts", decided, f->fence_attempts);
    add_count(doc, root, "cleaned_rows", decided, f->cleaned_rows);
    yyjson_mut_val *phases = yyjson_mut_obj_add_obj(doc, root, "phases");
    for (int i = 0; i < f->phase_count; i++)
        add_real(doc, phases, f->phases[i].name, f->phases[i].seconds);
}

static void report_change(yyjson_mut_doc *doc, yyjson_mut_val *root, const char *name,
                          const struct demo_change *change)
{
    yyjson_mut_val *object = yyjson_mut_obj_add_obj(doc, root, name);
    add_real(doc, object, "seconds_without_writes", change->clients);
    add_real(doc, object, "blocked_seconds", change->blocked);
    add_real(doc, object, "rejoin_seconds", change->following);
}

static void report_failover(const struct demo *d, yyjson_mut_doc *doc, yyjson_mut_val *root)
{
    const struct demo_failover *f = &d->failover;
    report_change(doc, root, "failover", &f->lost);
    report_change(doc, root, "switchover", &f->handed);
    add_count(doc, root, "rule", f->rule > 0, f->rule);
    yyjson_mut_obj_add_str(doc, root, "lost_primary", f->first);
    yyjson_mut_obj_add_str(doc, root, "new_primary", f->second);
}

static void report_load(const struct demo *d, yyjson_mut_doc *doc, yyjson_mut_val *root)
{
    const struct load_result *r = &d->result;
    const struct load_stats *s = &r->stats;
    bool known = d->have_result, checked = known && r->checked;
    add_real(doc, root, "longest_write_gap_ms", known ? longest_gap_ms(r) : (double)NAN);
    add_count(doc, root, "acked_writes", known, (double)s->acked_writes);
    add_count(doc, root, "refused_writes", known, (double)s->refused);
    add_count(doc, root, "zero_row_answers", known, (double)s->zero_rows);
    add_count(doc, root, "in_doubt", known, (double)s->in_doubt);
    add_count(doc, root, "errors", known, (double)load_stats_errors(s));
    add_count(doc, root, "rows_checked", checked, (double)r->rows_checked);
    for (int kind = 0; kind < FINDING_MAX; kind++)
        add_count(doc, root, finding_kind_name((enum finding_kind)kind), checked, (double)r->counts[kind]);
    add_real(doc, root, "write_latency_p50_ms",
             known ? (double)hist_quantile(&s->write_latency, 0.5) / 1e3 : (double)NAN);
    add_real(doc, root, "write_latency_p99_ms",
             known ? (double)hist_quantile(&s->write_latency, 0.99) / 1e3 : (double)NAN);
    add_real(doc, root, "write_latency_max_ms", known ? (double)s->write_latency.max_us / 1e3 : (double)NAN);
}

static void report_rest(const struct demo *d, yyjson_mut_doc *doc, yyjson_mut_val *root)
{
    const struct demo_facts *f = &d->facts;
    bool known = f->rss_peak_bytes > 0;
    add_real(doc, root, "loop_longest_turn_ms", known ? f->loop_longest_ms : (double)NAN);
    add_real(doc, root, "manager_cpu_seconds", known ? f->cpu_seconds : (double)NAN);
    add_count(doc, root, "manager_rss_peak_bytes", known, f->rss_peak_bytes);
    add_count(doc, root, "customers", true, d->o.customers);
    add_count(doc, root, "rows_made", f->rows_made > 0, (double)f->rows_made);
    add_real(doc, root, "fill_seconds", f->fill_seconds);
    add_count(doc, root, "rate", true, d->o.rate);
    add_count(doc, root, "clients", true, d->o.clients);
    yyjson_mut_obj_add_str(doc, root, "version", SHARDHERD_VERSION);
    yyjson_mut_obj_add_str(doc, root, "commit", SHARDHERD_COMMIT);
    yyjson_mut_obj_add_str(doc, root, "postgresql", f->postgresql);
    add_real(doc, root, "total_seconds", d->total_seconds);
}

int demo_write_report(const struct demo *d, struct err *err)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_bool(doc, root, "passed", !d->failed);
    if (d->failed)
        yyjson_mut_obj_add_str(doc, root, "error", d->err.message);
    else
        yyjson_mut_obj_add_null(doc, root, "error");
    (d->o.failover ? report_failover : report_move)(d, doc, root);
    report_load(d, doc, root);
    report_rest(d, doc, root);
    size_t length = 0;
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_PRETTY_TWO_SPACES | YYJSON_WRITE_NEWLINE_AT_END, &length);
    yyjson_mut_doc_free(doc);
    FILE *file = text != NULL ? fopen(d->o.report_path, "we") : NULL;
    bool ok = file != NULL && fwrite(text, 1, length, file) == length;
    int error = errno;
    if (file != NULL && fclose(file) != 0)
        ok = false;
    free(text);
    return ok ? 0 : err_set_errno(err, error, "%s", d->o.report_path);
}
