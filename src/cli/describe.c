/* shardherd describe: sectioned text about one thing. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/human.h"
#include "cli/resource.h"

#define LABEL 22

/* "Label:    value", by indent; "" is shown as "-". */
static void line(struct buf *out, int indent, const char *label, const char *value)
{
    buf_printf(out, "%*s%s:%*s ", indent, "", label, (int)(LABEL - indent - (int)strlen(label)), "");
    table_print_text(out, value[0] != '\0' ? value : "-", TABLE_PLAIN, false);
    buf_addc(out, '\n');
}

static void linef(struct buf *out, int indent, const char *label, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void linef(struct buf *out, int indent, const char *label, const char *fmt, ...)
{
    struct buf text = {0};
    va_list args;
    va_start(args, fmt);
    buf_vprintf(&text, fmt, args);
    va_end(args);
    line(out, indent, label, buf_text(&text));
    buf_free(&text);
}

static void line_text(struct buf *out, int indent, const char *label, yyjson_val *object, const char *name)
{
    line(out, indent, label, json_get_text(object, name));
}

typedef char *(*human_cb)(double value, char out[HUMAN_SIZE]);

/* Nothing at all if the number is missing. */
static void line_number(struct buf *out, int indent, const char *label, double value, human_cb print,
                        const char *unit)
{
    char text[HUMAN_SIZE];
    if (!isnan(value))
        linef(out, indent, label, "%s%s", print(value, text), unit);
}

static void line_time(struct session *s, struct buf *out, int indent, const char *label, yyjson_val *object,
                      const char *name)
{
    char age[HUMAN_SIZE];
    const char *text = json_get_text(object, name);
    if (text[0] != '\0')
        linef(out, indent, label, "%.19sZ (%s ago)", text, session_age(s, object, name, age));
}

static void section(struct buf *out, const char *title)
{
    buf_printf(out, "%s:\n", title);
}

static void table_section(struct buf *out, const struct table *t)
{
    struct buf text = {0};
    const struct table_look look = {0};
    table_print(t, &look, &text);
    for (const char *p = buf_text(&text); *p != '\0';) {
        size_t length = strcspn(p, "\n");
        buf_printf(out, "  %.*s\n", (int)length, p);
        p += length + (p[length] == '\n');
    }
    buf_free(&text);
}

/* Prints what another call gives as a table; a call that fails leaves the section out. */
static void related(struct session *s, struct buf *out, const char *title, const char *kind, const char *path)
{
    yyjson_doc *list = NULL;
    struct table t;
    size_t i, max;
    yyjson_val *item;
    bool silent = s->silent;
    const struct resource *r = resource_find(s, kind);
    s->silent = true;
    bool got = session_list(s, path, &list) == CLI_OK;
    s->silent = silent;
    if (!got)
        return;
    table_init(&t, r->columns);
    yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(list), "items"), i, max, item)
    {
        if (i < 5 || strcmp(kind, "shard") == 0) {
            table_row(&t);
            r->row(s, &t, item);
        }
    }
    section(out, title);
    if (table_rows(&t) > 0)
        table_section(out, &t);
    else
        buf_add_text(out, "  none\n");
    table_free(&t);
    yyjson_doc_free(list);
}

/* ---- database ---- */

static void balance_section(struct buf *out, yyjson_val *balance)
{
    section(out, "Balance");
    line_text(out, 2, "Split", balance, "split");
    line_text(out, 2, "Merge", balance, "merge");
    line_text(out, 2, "Rebalance", balance, "rebalance");
    line_text(out, 2, "Objective", balance, "objective");
    line_number(out, 2, "Threshold", json_get_number(balance, "threshold"), human_count, "");
    line_number(out, 2, "Above mean", json_get_number(balance, "relative"), human_count, " times");
    line_number(out, 2, "Samples in a row", json_get_number(balance, "window"), human_count, "");
    line_number(out, 2, "Cool-down", json_get_number(balance, "cooldown_seconds"), human_age, "");
    line_number(out, 2, "Merge after", json_get_number(balance, "merge_after_seconds"), human_age, "");
    line_number(out, 2, "Most shards", json_get_number(balance, "max_shards"), human_count, "");
    line_number(out, 2, "Bake", json_get_number(balance, "bake_seconds"), human_age, "");
}

void describe_database(struct session *s, yyjson_val *item, struct buf *out)
{
    static const struct table_column columns[] = {{"NAME", 0, 0}, {"KEY", 0, 0}, {"TYPE", 0, 0}, {0}};
    const char *name = json_get_text(item, "name");
    struct buf path = {0};
    struct table t;
    size_t i, max;
    yyjson_val *row;
    line(out, 0, "Name", name);
    line_text(out, 0, "Status", item, "status");
    line_text(out, 0, "Epoch", item, "epoch");
    line_text(out, 0, "Revision", item, "revision");
    line_text(out, 0, "Owner", json_get_path(item, "spec.spec"), "owner");
    table_init(&t, columns);
    yyjson_arr_foreach(yyjson_obj_get(item, "tables"), i, max, row)
    {
        table_row(&t);
        table_cell(&t, json_get_text(row, "name"));
        table_cell(&t, json_get_text(row, "key"));
        table_cell(&t, json_get_text(row, "type"));
    }
    section(out, "Tables");
    table_section(out, &t);
    table_free(&t);
    balance_section(out, yyjson_obj_get(item, "balance"));
    buf_printf(&path, "/v1/databases/%s/shards", name);
    related(s, out, "Shards", "shard", buf_text(&path));
    buf_reset(&path);
    buf_printf(&path, "/v1/operations?database=%s", name);
    related(s, out, "Last operations", "operation", buf_text(&path));
    buf_reset(&path);
    buf_printf(&path, "/v1/decisions?database=%s", name);
    related(s, out, "Last decisions", "decision", buf_text(&path));
    buf_free(&path);
}

/* ---- shard ---- */

static void load_section(struct buf *out, yyjson_val *load)
{
    static const char *const spans[] = {"last", "mean_10s", "mean_60s"};
    static const struct table_column columns[] = {{"LOAD", 0, 0}, {"TX/S", 0, 0}, {"WAL/S", 0, 0},
                                                  {"CPU", 0, 0},  {"SIZE", 0, 0}, {0}};
    static const struct {
        const char *metric;
        human_cb print;
        const char *unit;
    } metrics[] = {{"query_rate", human_count, ""},
                   {"wal_rate", human_bytes, "/s"},
                   {"cpu", human_percent, ""},
                   {"size", human_bytes, ""}};
    struct table t;
    char text[HUMAN_SIZE];
    table_init(&t, columns);
    for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++) {
        table_row(&t);
        table_cell(&t, spans[i]);
        for (size_t m = 0; m < sizeof metrics / sizeof metrics[0]; m++) {
            double value = json_get_number(yyjson_obj_get(load, spans[i]), metrics[m].metric);
            if (isnan(value))
                table_cell(&t, "");
            else
                table_cellf(&t, "%s%s", metrics[m].print(value, text), metrics[m].unit);
        }
    }
    section(out, "Load");
    table_section(out, &t);
    table_free(&t);
}

static void quantiles_line(struct buf *out, const char *label, yyjson_val *quantiles)
{
    double p50 = json_get_number(quantiles, "p50"), p95 = json_get_number(quantiles, "p95");
    double p99 = json_get_number(quantiles, "p99");
    char a[HUMAN_SIZE], b[HUMAN_SIZE], c[HUMAN_SIZE];
    if (!isnan(p50) && !isnan(p95) && !isnan(p99))
        linef(out, 2, label, "p50 %s, p95 %s, p99 %s", human_duration(p50 / 1e3, a),
              human_duration(p95 / 1e3, b), human_duration(p99 / 1e3, c));
}

static void balancer_section(struct session *s, struct buf *out, yyjson_val *item)
{
    yyjson_val *balancer = yyjson_obj_get(item, "balancer"), *refusal = yyjson_obj_get(balancer, "refusal");
    yyjson_val *decision = yyjson_obj_get(item, "last_decision");
    section(out, "Balancer");
    line_text(out, 2, "Phase", balancer, "phase");
    line_number(out, 2, "Hot samples in a row", json_get_number(balancer, "row"), human_count, "");
    line_time(s, out, 2, "Hot since", balancer, "hot_since");
    if (yyjson_is_obj(refusal)) {
        linef(out, 2, yyjson_get_bool(yyjson_obj_get(refusal, "active")) ? "Not split" : "Was not split",
              "%s (R%d %s)", json_get_text(refusal, "sentence"),
              yyjson_get_int(yyjson_obj_get(refusal, "rule")), json_get_text(refusal, "rule_name"));
        line_time(s, out, 2, "Since", refusal, "since");
    }
    if (yyjson_is_obj(decision)) {
        linef(out, 2, "Last decision", "%s: %s (R%d %s)", json_get_text(decision, "kind"),
              json_get_text(decision, "sentence"), yyjson_get_int(yyjson_obj_get(decision, "rule")),
              json_get_text(decision, "rule_name"));
        line_time(s, out, 2, "Decided", decision, "time");
    }
}

void describe_shard(struct session *s, yyjson_val *item, struct buf *out)
{
    struct buf text = {0};
    size_t i, max;
    yyjson_val *replica, *load = yyjson_obj_get(item, "load");
    linef(out, 0, "Name", "%s/%s", json_get_text(item, "database"), json_get_text(item, "name"));
    line_text(out, 0, "State", item, "state");
    line_text(out, 0, "Epoch", item, "epoch");
    line_number(out, 0, "Share of hashes", json_get_number(item, "share"), human_percent, "");
    resource_ranges(yyjson_obj_get(item, "ranges"), &text);
    line(out, 0, "Ranges", buf_text(&text));
    buf_reset(&text);
    resource_address(yyjson_obj_get(item, "primary"), &text);
    line(out, 0, "Primary", buf_text(&text));
    yyjson_arr_foreach(yyjson_obj_get(item, "replicas"), i, max, replica)
    {
        char lag[HUMAN_SIZE];
        buf_reset(&text);
        resource_address(replica, &text);
        linef(out, 0, "Replica", "%s, %s behind", buf_text(&text),
              human_bytes(json_get_number(replica, "lag_bytes"), lag));
    }
    buf_free(&text);
    line_text(out, 0, "Operation", item, "operation");
    line_text(out, 0, "Instance", yyjson_obj_get(item, "instance"), "name");
    line_text(out, 0, "Health", yyjson_obj_get(item, "instance"), "health");
    line_text(out, 0, "Keeper", yyjson_obj_get(item, "keeper"), "state");
    if (yyjson_get_bool(json_get_path(item, "keeper.maintenance")))
        line(out, 0, "Maintenance", "on: nothing is decided");
    if (json_get_text(yyjson_obj_get(item, "keeper"), "waits")[0] != '\0')
        line_text(out, 0, "Waits", yyjson_obj_get(item, "keeper"), "waits");
    line_number(out, 0, "Size", json_get_number(yyjson_obj_get(item, "instance"), "database_bytes"),
                human_bytes, "");
    load_section(out, load);
    quantiles_line(out, "Probe", yyjson_obj_get(load, "probe_ms"));
    quantiles_line(out, "Age of queries", yyjson_obj_get(load, "query_age_ms"));
    balancer_section(s, out, item);
    command_findings(yyjson_obj_get(item, "guards"), out);
}

/* ---- instance ---- */

void describe_instance(struct session *s, yyjson_val *item, struct buf *out)
{
    struct buf address = {0};
    const char *error = json_get_text(item, "error");
    resource_address(item, &address);
    line_text(out, 0, "Name", item, "name");
    line_text(out, 0, "Database", item, "database");
    line_text(out, 0, "Shard", item, "shard");
    line(out, 0, "Address", buf_text(&address));
    line_text(out, 0, "Found by", item, "source");
    line_text(out, 0, "Role", item, "role");
    line_text(out, 0, "Health", item, "health");
    line_time(s, out, 0, "Seen", item, "seen");
    if (error[0] != '\0')
        line(out, 0, "Error", error);
    section(out, "Server");
    line_text(out, 2, "Version", item, "version");
    line_time(s, out, 2, "Started", item, "started");
    line_text(out, 2, "System identifier", item, "system_identifier");
    line_number(out, 2, "Timeline", json_get_number(item, "timeline"), human_count, "");
    line_text(out, 2, "WAL position", item, "wal_lsn");
    line_number(out, 2, "Lag", json_get_number(item, "lag_seconds"), human_duration, "");
    if (json_get_text(yyjson_obj_get(item, "member"), "upstream")[0] != '\0')
        line_text(out, 2, "Follows", yyjson_obj_get(item, "member"), "upstream");
    linef(out, 2, "Connections", "%d of %d", yyjson_get_int(yyjson_obj_get(item, "connections")),
          yyjson_get_int(yyjson_obj_get(item, "max_connections")));
    line_number(out, 2, "Size", json_get_number(item, "database_bytes"), human_bytes, "");
    line_number(out, 2, "Failed polls", json_get_number(item, "errors_total"), human_count, "");
    buf_free(&address);
}

/* ---- operation ---- */

/* Microseconds as a duration; nothing while they are 0. */
static void line_us(struct buf *out, const char *label, yyjson_val *record, const char *name)
{
    double us = json_get_number(record, name);
    if (us > 0)
        line_number(out, 2, label, us / 1e6, human_duration, "");
}

static void line_positive(struct buf *out, const char *label, yyjson_val *record, const char *name,
                          human_cb print)
{
    double value = json_get_number(record, name);
    if (value > 0)
        line_number(out, 2, label, value, print, "");
}

static void measured_section(struct buf *out, yyjson_val *record)
{
    size_t before = out->length;
    section(out, "Measured");
    size_t empty = out->length;
    line_us(out, "Decided after", record, "decided_us");
    line_positive(out, "Rows copied", record, "copy_rows", human_count);
    line_positive(out, "Bytes copied", record, "copy_bytes", human_bytes);
    if (json_get_number(record, "tables") > 0)
        linef(out, 2, "Tables copied", "%s of %s", json_get_text(record, "tables_copied"),
              json_get_text(record, "tables"));
    if (json_get_number(record, "copy_rate") > 0)
        line_number(out, 2, "Rate", json_get_number(record, "copy_rate"), human_bytes, "/s");
    line_us(out, "Throttled for", record, "throttled_us");
    line_us(out, "Commit on the source", record, "source_commit_us");
    line_us(out, "Its standbys' lag", record, "standby_lag_us");
    line_positive(out, "WAL kept by the slot", record, "retained_wal", human_bytes);
    line_us(out, "Copy", record, "copy_us");
    line_us(out, "Indexes and constraints", record, "build_us");
    line_positive(out, "Rows verified", record, "verified_rows", human_count);
    line_positive(out, "Tables verified", record, "verified_tables", human_count);
    line_positive(out, "Buckets in motion", record, "buckets_in_motion", human_count);
    line_us(out, "Verification", record, "verify_us");
    line_positive(out, "Rows verified after", record, "reverse_verified_rows", human_count);
    line_us(out, "Verification after", record, "reverse_verify_us");
    line_us(out, "Marker round trip", record, "marker_us");
    line_positive(out, "Tries of the fence", record, "fence_attempts", human_count);
    line_us(out, "Writes blocked", record, "write_block_us");
    line_us(out, "  lock", record, "lock_us");
    line_us(out, "  inside", record, "inside_us");
    line_us(out, "  commit", record, "commit_us");
    line_us(out, "  open", record, "open_us");
    line_positive(out, "Rows cleaned up", record, "cleaned_rows", human_count);
    if (out->length == empty)
        out->length = before;
}

/* Of checks; guards have no severity. */
static bool have_severity(yyjson_val *findings)
{
    return yyjson_get_str(yyjson_obj_get(yyjson_arr_get_first(findings), "severity")) != NULL;
}

void command_findings(yyjson_val *op, struct buf *out)
{
    static const struct table_column columns[] = {
        {"SEVERITY", 0, 0}, {"SUBJECT", 0, 0}, {"FINDING", 0, 0}, {"REMEDY", 0, 0}, {0}};
    yyjson_val *findings = yyjson_obj_get(op, "findings");
    bool severity = have_severity(findings);
    struct table t;
    size_t i, max;
    yyjson_val *finding;
    table_init(&t, severity ? columns : columns + 1);
    yyjson_arr_foreach(findings, i, max, finding)
    {
        table_row(&t);
        if (severity)
            table_cell(&t, json_get_text(finding, "severity"));
        table_cell(&t, json_get_text(finding, "subject"));
        table_cell(&t, json_get_text(finding, "finding"));
        table_cell(&t, json_get_text(finding, "remedy"));
    }
    if (table_rows(&t) > 0) {
        section(out, "Findings");
        table_section(out, &t);
    }
    table_free(&t);
}

void command_migrated(yyjson_val *op, struct buf *out)
{
    static const struct table_column columns[] = {{"SHARD", 0, 0}, {"MIGRATION", 0, 0}, {"WHY", 0, 0}, {0}};
    struct table t;
    size_t i, max;
    yyjson_val *shard;
    if (strcmp(json_get_text(op, "kind"), "migrate") != 0)
        return;
    table_init(&t, columns);
    yyjson_arr_foreach(json_get_path(op, "record.shards"), i, max, shard)
    {
        table_row(&t);
        table_cell(&t, json_get_text(shard, "name"));
        table_cell(&t, json_get_text(shard, "state"));
        table_cell(&t, json_get_text(shard, "error"));
    }
    section(out, "Shards");
    table_section(out, &t);
    table_free(&t);
}

void command_plan(yyjson_val *op, struct buf *out)
{
    static const struct table_column columns[] = {{"LO", 0, 0},         {"HI", 0, 0},     {"TO", 0, 0},
                                                  {"CHECKED BY", 0, 0}, {"ERRORS", 0, 0}, {0}};
    struct table t;
    size_t i, max;
    yyjson_val *step;
    table_init(&t, columns);
    yyjson_arr_foreach(json_get_path(op, "record.plan"), i, max, step)
    {
        table_row(&t);
        table_cell(&t, json_get_text(step, "lo"));
        table_cell(&t, json_get_text(step, "hi"));
        table_cell(&t, json_get_text(step, "target"));
        table_cell(&t, json_get_text(step, "operation"));
        table_cellf(&t, "%llu", (unsigned long long)yyjson_get_uint(yyjson_obj_get(step, "errors")));
    }
    if (table_rows(&t) > 0) {
        section(out, "Moves");
        table_section(out, &t);
    }
    table_free(&t);
}

static bool is_failover(yyjson_val *item)
{
    const char *kind = json_get_text(item, "kind");
    return strcmp(kind, "failover") == 0 || strcmp(kind, "switchover") == 0;
}

static void failover_section(yyjson_val *item, yyjson_val *record, struct buf *out)
{
    double blocked = json_get_number(record, "write_block_us");
    if (!is_failover(item))
        return;
    line_text(out, 0, "Primary before", record, "from");
    line_text(out, 0, "Term", record, "term");
    if (blocked > 0)
        line_number(out, 0, "Without writes", blocked / 1e6, human_duration, "");
}

static const char *old_rows(const char *verdict)
{
    return strcmp(verdict, "doubted") == 0 ? "differed, compared again" : verdict;
}

void describe_operation(struct session *s, yyjson_val *item, struct buf *out)
{
    yyjson_val *record = yyjson_obj_get(item, "record"), *error = yyjson_obj_get(item, "error");
    int64_t created = json_get_time(item, "created"), ended = json_get_time(item, "ended");
    line_text(out, 0, "ID", item, "id");
    line_text(out, 0, "Kind", item, "kind");
    line_text(out, 0, "Database", item, "database");
    line_text(out, 0, "Shard", item, "shard");
    line_text(out, 0, "Target", item, "target");
    line_text(out, 0, "Status", item, "status");
    line_text(out, 0, "State", item, "state");
    line_number(out, 0, "Progress", json_get_number(item, "progress"), human_percent, "");
    line_number(out, 0, "ETA of the copy", json_get_number(item, "eta_seconds"), human_age, "");
    if (json_get_text(record, "throttle")[0] != '\0')
        line_text(out, 0, "Throttle", record, "throttle");
    if (json_get_text(record, "reverse_verdict")[0] != '\0' &&
        strcmp(json_get_text(record, "reverse_verdict"), "none") != 0)
        linef(out, 0, "Old rows", "%s%s", old_rows(json_get_text(record, "reverse_verdict")),
              yyjson_get_bool(yyjson_obj_get(record, "accepted")) ? ", accepted" : "");
    line_time(s, out, 0, "Began", item, "created");
    line_time(s, out, 0, "Ended", item, "ended");
    if (ended > 0)
        line_number(out, 0, "Took", (double)(ended - created) / 1e6, human_duration, "");
    if (json_get_text(record, "lo")[0] != '\0')
        linef(out, 0, "Range", "%s..%s", json_get_text(record, "lo"), json_get_text(record, "hi"));
    if (yyjson_get_bool(yyjson_obj_get(record, "dry_run")))
        line(out, 0, "Dry run", "yes");
    failover_section(item, record, out);
    if (yyjson_get_int(yyjson_obj_get(record, "rule")) > 0)
        linef(out, 0, "Rule", "%s%d", is_failover(item) ? "F" : "R",
              yyjson_get_int(yyjson_obj_get(record, "rule")));
    if (json_get_text(record, "reason")[0] != '\0')
        line_text(out, 0, "Why", record, "reason");
    if (yyjson_is_obj(error))
        linef(out, 0, "Error", "%s (%s)", json_get_text(error, "message"), json_get_text(error, "code"));
    if (yyjson_obj_get(record, "copy_rows") != NULL)
        measured_section(out, record);
    command_plan(item, out);
    command_findings(item, out);
    command_migrated(item, out);
}

/* ---- the command ---- */

static int describe_one(struct session *s, const struct resource *r, const char *name)
{
    struct session_reply reply;
    struct buf text = {0};
    int rc = r->one(s, session_bare(name, r->kind), &reply);
    if (rc == CLI_OK && session_is_document(s))
        session_print(s, reply.root);
    else if (rc == CLI_OK) {
        r->describe(s, reply.root, &text);
        session_out(s, &text);
    }
    session_reply_free(&reply);
    buf_free(&text);
    return rc;
}

int command_describe(struct session *s)
{
    const char *name = NULL;
    const struct resource *r = resource_split(s, s->args->words[0], &name);
    if (r == NULL)
        return CLI_USAGE;
    if (r->describe == NULL)
        return session_fail(s, CLI_USAGE, "a %s cannot be described; see: shardherd get %s", r->kind,
                            r->kind);
    if (name == NULL && s->args->word_count == 2)
        name = s->args->words[1];
    else if (name == NULL || s->args->word_count == 2)
        return session_fail(s, CLI_USAGE, "name one %s; see: shardherd get %ss", r->kind, r->kind);
    return describe_one(s, r, name);
}
