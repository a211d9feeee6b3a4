/* The results of a job as text and as JSON. */
#include <inttypes.h>
#include <stdlib.h>

#include <yyjson.h>

#include "load/load.h"

static double ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

static double seconds(uint64_t ns)
{
    return (double)ns / 1e9;
}

/* ---- JSON ---- */

static void json_hist(yyjson_mut_doc *doc, yyjson_mut_val *parent, const char *name, const struct hist *h)
{
    yyjson_mut_val *o = yyjson_mut_obj_add_obj(doc, parent, name);
    yyjson_mut_obj_add_uint(doc, o, "count", h->count);
    yyjson_mut_obj_add_real(doc, o, "p50", (double)hist_quantile(h, 0.5) / 1000);
    yyjson_mut_obj_add_real(doc, o, "p95", (double)hist_quantile(h, 0.95) / 1000);
    yyjson_mut_obj_add_real(doc, o, "p99", (double)hist_quantile(h, 0.99) / 1000);
    yyjson_mut_obj_add_real(doc, o, "max", (double)h->max_us / 1000);
}

static void json_counters(yyjson_mut_doc *doc, yyjson_mut_val *root, const struct load_stats *s)
{
    yyjson_mut_obj_add_uint(doc, root, "operations", s->operations);
    yyjson_mut_obj_add_uint(doc, root, "reads", s->reads);
    yyjson_mut_obj_add_uint(doc, root, "acked_writes", s->acked_writes);
    yyjson_mut_obj_add_uint(doc, root, "refused_writes", s->refused);
    yyjson_mut_obj_add_uint(doc, root, "zero_row_answers", s->zero_rows);
    yyjson_mut_obj_add_uint(doc, root, "in_doubt", s->in_doubt);
    yyjson_mut_obj_add_uint(doc, root, "in_doubt_applied", s->in_doubt_applied);
    yyjson_mut_obj_add_uint(doc, root, "in_doubt_not_applied", s->in_doubt_not_applied);
    yyjson_mut_obj_add_uint(doc, root, "stale_reads", s->stale_reads);
    yyjson_mut_obj_add_uint(doc, root, "abandoned_writes", s->abandoned);
    yyjson_mut_obj_add_uint(doc, root, "routing_changes", s->reroutes);
    yyjson_mut_obj_add_uint(doc, root, "previous_owner_tries", s->previous_owner_tries);
    yyjson_mut_obj_add_uint(doc, root, "errors_total", load_stats_errors(s));
    yyjson_mut_val *errors = yyjson_mut_obj_add_obj(doc, root, "errors");
    for (unsigned i = 0; i < s->error_classes; i++)
        yyjson_mut_obj_add_uint(doc, errors, s->errors[i].name, s->errors[i].count);
    json_hist(doc, root, "latency_ms", &s->latency);
    json_hist(doc, root, "write_latency_ms", &s->write_latency);
    json_hist(doc, root, "refused_wait_ms", &s->refused_wait);
    yyjson_mut_obj_add_real(doc, root, "longest_write_gap_ms", ms(s->writes.longest_ns));
}

static void json_watches(yyjson_mut_doc *doc, yyjson_mut_val *root, const struct load_result *r)
{
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, root, "watched_ranges");
    for (unsigned i = 0; i < r->watch_count; i++) {
        char text[RANGE_TEXT_SIZE];
        range_format(&r->watched[i], text);
        yyjson_mut_val *one = yyjson_mut_arr_add_obj(doc, list);
        yyjson_mut_obj_add_strcpy(doc, one, "range", text);
        yyjson_mut_obj_add_real(doc, one, "longest_write_gap_ms", ms(r->watch[i].longest_ns));
    }
}

static void json_check(yyjson_mut_doc *doc, yyjson_mut_val *root, const struct load_result *r)
{
    yyjson_mut_obj_add_bool(doc, root, "checked", r->checked);
    for (int kind = 0; kind < FINDING_MAX; kind++)
        yyjson_mut_obj_add_uint(doc, root, finding_kind_name((enum finding_kind)kind), r->counts[kind]);
    yyjson_mut_obj_add_uint(doc, root, "rows_checked", r->rows_checked);
    yyjson_mut_obj_add_real(doc, root, "check_seconds", seconds(r->check_ns));
    yyjson_mut_obj_add_uint(doc, root, "doubts_applied", r->doubts_applied);
    yyjson_mut_obj_add_uint(doc, root, "doubts_open", r->doubts_open);
}

void load_print_json(const struct load_result *r, const struct load_options *o, struct buf *out)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    char epoch[24];
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_strcpy(doc, root, "database", o->database);
    (void)snprintf(epoch, sizeof epoch, "%" PRIu64, r->epoch);
    yyjson_mut_obj_add_strcpy(doc, root, "epoch", epoch);
    yyjson_mut_obj_add_real(doc, root, "duration_seconds", seconds(r->duration_ns));
    if (r->mode == LOAD_INIT)
        yyjson_mut_obj_add_uint(doc, root, "rows_made", r->rows_made);
    if (r->mode == LOAD_RUN) {
        json_counters(doc, root, &r->stats);
        json_watches(doc, root, r);
    }
    if (r->mode != LOAD_INIT)
        json_check(doc, root, r);
    size_t length;
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_NOFLAG, &length);
    if (text != NULL)
        buf_add(out, text, length);
    buf_addc(out, '\n');
    free(text);
    yyjson_mut_doc_free(doc);
}

/* ---- text ---- */

static void text_hist(struct buf *out, const char *name, const struct hist *h)
{
    buf_printf(out, "%-22s p50 %.1f ms, p95 %.1f ms, p99 %.1f ms, max %.1f ms\n", name,
               (double)hist_quantile(h, 0.5) / 1000, (double)hist_quantile(h, 0.95) / 1000,
               (double)hist_quantile(h, 0.99) / 1000, (double)h->max_us / 1000);
}

static void text_load(const struct load_result *r, struct buf *out)
{
    const struct load_stats *s = &r->stats;
    double time = seconds(r->duration_ns) > 0 ? seconds(r->duration_ns) : 1;
    buf_printf(out,
               "%-22s %" PRIu64 " in %.1f s (%.0f/s): %" PRIu64 " reads, %" PRIu64 " acknowledged writes\n",
               "operations", s->operations, seconds(r->duration_ns), (double)s->operations / time, s->reads,
               s->acked_writes);
    text_hist(out, "latency", &s->latency);
    text_hist(out, "write latency", &s->write_latency);
    buf_printf(out, "%-22s %" PRIu64 " answers SHR01\n", "refused", s->refused);
    if (s->refused_wait.count > 0)
        text_hist(out, "wait of refused writes", &s->refused_wait);
    buf_printf(out, "%-22s %" PRIu64 "\n", "zero-row answers", s->zero_rows);
    buf_printf(out,
               "%-22s %" PRIu64 " (%" PRIu64 " had happened, %" PRIu64 " had not, %" PRIu64 " given up)\n",
               "in doubt", s->in_doubt, s->in_doubt_applied, s->in_doubt_not_applied, s->abandoned);
    buf_printf(out, "%-22s %" PRIu64, "errors", load_stats_errors(s));
    for (unsigned i = 0; i < s->error_classes; i++)
        buf_printf(out, "%s%s %" PRIu64, i == 0 ? ": " : ", ", s->errors[i].name, s->errors[i].count);
    buf_printf(out, "\n%-22s %.1f ms\n", "longest write gap", ms(s->writes.longest_ns));
    for (unsigned i = 0; i < r->watch_count; i++) {
        char text[RANGE_TEXT_SIZE];
        range_format(&r->watched[i], text);
        buf_printf(out, "%-22s %.1f ms in %s\n", "", ms(r->watch[i].longest_ns), text);
    }
}

static void text_check(const struct load_result *r, struct buf *out)
{
    if (!r->checked) {
        buf_add_text(out, "not checked\n");
        return;
    }
    buf_printf(out, "%-22s %" PRIu64 " rows in %.1f s:", "checked", r->rows_checked, seconds(r->check_ns));
    for (int kind = 0; kind < FINDING_MAX; kind++)
        buf_printf(out, "%s %" PRIu64 " %s", kind == 0 ? "" : ",", r->counts[kind],
                   finding_kind_name((enum finding_kind)kind));
    buf_addc(out, '\n');
}

void load_print_summary(const struct load_result *r, const struct load_options *o, struct buf *out)
{
    if (r->mode == LOAD_INIT) {
        double time = seconds(r->duration_ns) > 0 ? seconds(r->duration_ns) : 1;
        buf_printf(out, "%" PRIu64 " rows in %.1f s (%.0f rows/s)\n", r->rows_made, seconds(r->duration_ns),
                   (double)r->rows_made / time);
        return;
    }
    if (r->mode == LOAD_RUN)
        text_load(r, out);
    if (r->mode == LOAD_CHECK || !o->no_check)
        text_check(r, out);
}
