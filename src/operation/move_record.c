/* The journal document of a move: one flat JSON object; 64-bit numbers are strings. */
#include <inttypes.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/text.h"
#include "operation/document.h"
#include "operation/move.h"
#include "operation/move_internal.h"

/* Members that are plain numbers, printed as strings. */
static const struct number {
    const char *name;
    size_t offset;
    bool is_signed;
    bool is_unsigned_int; /* `unsigned` instead of 64 bits */
} numbers[] = {
#define SIGNED(member)                                                                                       \
    {                                                                                                        \
#member, offsetof(struct move_record, member), true, false                                           \
    }
#define UNSIGNED(member)                                                                                     \
    {                                                                                                        \
#member, offsetof(struct move_record, member), false, false                                          \
    }
#define UINT(member)                                                                                         \
    {                                                                                                        \
#member, offsetof(struct move_record, member), false, true                                           \
    }
/* of both verifications: the second's have "reverse_" before them */
#define BOTH(name, member)                                                                                   \
    {name, offsetof(struct move_record, verified.member), false, false},                                     \
    {                                                                                                        \
        "reverse_" name, offsetof(struct move_record, reverse_verified.member), false, false                 \
    }
#define BOTH_UINT(name, member)                                                                              \
    {name, offsetof(struct move_record, verified.member), false, true},                                      \
    {                                                                                                        \
        "reverse_" name, offsetof(struct move_record, reverse_verified.member), false, true                  \
    }
    SIGNED(created_us),
    SIGNED(ended_us),
    SIGNED(decided_us),
    SIGNED(phase_started_us),
    UNSIGNED(bake_ns),
    UNSIGNED(source_system),
    UNSIGNED(target_system),
    UNSIGNED(publication),
    UNSIGNED(source_epoch),
    UNSIGNED(source_timeline),
    UNSIGNED(target_timeline),
    UNSIGNED(reverse_publication),
    UNSIGNED(target_epoch),
    UNSIGNED(copy_us),
    UNSIGNED(build_us),
    UNSIGNED(copy_rows),
    UNSIGNED(copy_bytes),
    UNSIGNED(total_rows),
    UNSIGNED(total_bytes),
    UINT(fence_attempts),
    UNSIGNED(lock_us),
    UNSIGNED(inside_us),
    UNSIGNED(commit_us),
    UNSIGNED(open_us),
    UNSIGNED(write_block_us),
    UNSIGNED(marker_us),
    UNSIGNED(cleaned_rows),
    UNSIGNED(rechecked_rows),
    UNSIGNED(copy_rate),
    UINT(tables),
    UINT(tables_copied),
    UNSIGNED(source_commit_us),
    UNSIGNED(standby_lag_us),
    UNSIGNED(retained_wal),
    UNSIGNED(throttle_rate),
    UNSIGNED(throttled_us),
    BOTH("verified_rows", rows),
    BOTH("verified_buckets", buckets),
    BOTH("verified_bytes", bytes),
    BOTH("verify_bytes", all_bytes),
    BOTH("buckets_in_motion", buckets_in_motion),
    BOTH("verify_us", us),
    BOTH_UINT("verified_tables", tables),
    BOTH_UINT("verify_rounds", rounds),
#undef SIGNED
#undef UNSIGNED
#undef UINT
#undef BOTH
#undef BOTH_UINT
};
#define NUMBER_COUNT (sizeof numbers / sizeof numbers[0])

void move_record_init(struct move_record *r)
{
    memset(r, 0, sizeof *r);
    r->findings.limit = MOVE_FINDINGS_MAX;
}

void move_record_free(struct move_record *r)
{
    buf_free(&r->findings);
}

static void name_of(const struct move_record *r, char direction, char out[MOVE_NAME_SIZE])
{
    int n = snprintf(out, MOVE_NAME_SIZE, "shardherd_%.32s_%.12s_%c", r->database, r->id, direction);
    for (int i = 0; i < n && i < MOVE_NAME_SIZE - 1; i++)
        if (out[i] == '-')
            out[i] = '_';
}

void move_record_name(const struct move_record *r, char out[MOVE_NAME_SIZE])
{
    name_of(r, r->back ? 'r' : 'f', out);
}

void move_record_other_name(const struct move_record *r, char out[MOVE_NAME_SIZE])
{
    name_of(r, r->back ? 'f' : 'r', out);
}

const char *move_record_from(const struct move_record *r)
{
    return r->back ? r->target : r->source;
}

const char *move_record_to(const struct move_record *r)
{
    return r->back ? r->source : r->target;
}

bool move_record_made_target(const struct move_record *r)
{
    return r->new_target && !r->back;
}

bool move_record_retires(const struct move_record *r)
{
    return r->back ? r->new_target : r->retire_source;
}

static void exchange(uint64_t *a, uint64_t *b)
{
    uint64_t kept = *a;
    *a = *b;
    *b = kept;
}

void move_record_turn(struct move_record *r)
{
    char name[MOVE_NAME_SIZE];
    memcpy(name, r->source, sizeof name);
    memcpy(r->source, r->target, sizeof name);
    memcpy(r->target, name, sizeof name);
    exchange(&r->source_system, &r->target_system);
    exchange(&r->source_timeline, &r->target_timeline);
    exchange(&r->source_epoch, &r->target_epoch);
    r->back = !r->back;
}

static void add_number(yyjson_mut_doc *doc, yyjson_mut_val *root, const char *name, const char *format_text)
{
    yyjson_mut_obj_add_strcpy(doc, root, name, format_text);
}

static void print_numbers(const struct move_record *r, yyjson_mut_doc *doc, yyjson_mut_val *root)
{
    for (size_t i = 0; i < NUMBER_COUNT; i++) {
        const char *at = (const char *)r + numbers[i].offset;
        char text[32];
        if (numbers[i].is_unsigned_int) {
            unsigned value;
            memcpy(&value, at, sizeof value);
            snprintf(text, sizeof text, "%u", value);
        } else {
            uint64_t value;
            memcpy(&value, at, sizeof value);
            if (numbers[i].is_signed)
                snprintf(text, sizeof text, "%" PRId64, (int64_t)value);
            else
                snprintf(text, sizeof text, "%" PRIu64, value);
        }
        add_number(doc, root, numbers[i].name, text);
    }
}

void move_record_print(const struct move_record *r, struct buf *json)
{
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = yyjson_mut_obj(doc);
    char text[RANGE_TEXT_SIZE];
    struct move_record asked = *r; /* the document tells of source and target as they were asked for */
    if (asked.back)
        move_record_turn(&asked);
    yyjson_mut_doc_set_root(doc, root);
    yyjson_mut_obj_add_str(doc, root, "id", r->id);
    yyjson_mut_obj_add_str(doc, root, "kind", move_kind_name(r->kind));
    yyjson_mut_obj_add_str(doc, root, "database", r->database);
    yyjson_mut_obj_add_str(doc, root, "source", asked.source);
    yyjson_mut_obj_add_str(doc, root, "target", asked.target);
    snprintf(text, sizeof text, "%" PRId64, r->range.lo);
    yyjson_mut_obj_add_strcpy(doc, root, "lo", text);
    snprintf(text, sizeof text, "%" PRId64, r->range.hi);
    yyjson_mut_obj_add_strcpy(doc, root, "hi", text);
    yyjson_mut_obj_add_str(doc, root, "state", move_state_name(r->state));
    yyjson_mut_obj_add_bool(doc, root, "new_target", r->new_target);
    yyjson_mut_obj_add_bool(doc, root, "retire_source", r->retire_source);
    yyjson_mut_obj_add_bool(doc, root, "dry_run", r->dry_run);
    yyjson_mut_obj_add_bool(doc, root, "allow_ddl", r->allow_ddl);
    yyjson_mut_obj_add_bool(doc, root, "canceled", r->canceled);
    yyjson_mut_obj_add_bool(doc, root, "rollback", r->rollback);
    yyjson_mut_obj_add_bool(doc, root, "go_on", r->go_on);
    yyjson_mut_obj_add_bool(doc, root, "accepted", r->accepted);
    yyjson_mut_obj_add_bool(doc, root, "back", r->back);
    yyjson_mut_obj_add_int(doc, root, "rule", r->rule);
    yyjson_mut_obj_add_str(doc, root, "reason", r->reason);
    yyjson_mut_obj_add_str(doc, root, "error_code", err_code_name(r->error.code));
    yyjson_mut_obj_add_str(doc, root, "error", r->error.message);
    yyjson_mut_obj_add_str(doc, root, "verify_action", r->verified.action);
    yyjson_mut_obj_add_str(doc, root, "verify_table", r->verified.table);
    yyjson_mut_obj_add_str(doc, root, "verify_after", r->verified.after);
    yyjson_mut_obj_add_str(doc, root, "reverse_verify_action", r->reverse_verified.action);
    yyjson_mut_obj_add_str(doc, root, "reverse_verify_table", r->reverse_verified.table);
    yyjson_mut_obj_add_str(doc, root, "reverse_verify_after", r->reverse_verified.after);
    yyjson_mut_obj_add_str(doc, root, "reverse_verdict", move_verdict_name(r->verdict));
    if (r->findings.length > 0)
        yyjson_mut_obj_add_val(doc, root, "findings", yyjson_mut_raw(doc, buf_text(&r->findings)));
    yyjson_mut_obj_add_str(doc, root, "throttle", r->throttle);
    print_numbers(&asked, doc, root);
    document_end(doc, json);
}

static int parse_numbers(yyjson_val *root, struct move_record *r, struct err *err)
{
    for (size_t i = 0; i < NUMBER_COUNT; i++) {
        const char *text = yyjson_get_str(yyjson_obj_get(root, numbers[i].name));
        char *at = (char *)r + numbers[i].offset;
        int64_t s = 0;
        uint64_t u = 0;
        if (text == NULL)
            continue; /* written by an older version */
        bool ok = numbers[i].is_signed ? text_to_int64(text, &s) : text_to_uint64(text, &u);
        if (!ok || (numbers[i].is_unsigned_int && u > UINT_MAX))
            return err_set(err, ERRC_CORRUPT, "member %s is not a number", numbers[i].name);
        if (numbers[i].is_unsigned_int) {
            unsigned value = (unsigned)u;
            memcpy(at, &value, sizeof value);
        } else
            memcpy(at, numbers[i].is_signed ? (void *)&s : (void *)&u, sizeof u);
    }
    return 0;
}

static int get_text(yyjson_val *root, const char *name, char *out, size_t size, struct err *err)
{
    const char *text = yyjson_get_str(yyjson_obj_get(root, name));
    if (text == NULL || strlen(text) >= size)
        return err_set(err, ERRC_CORRUPT, "member %s is missing or too long", name);
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

/* "" if an older version wrote the journal. */
static int get_newer_text(yyjson_val *root, const char *name, char *out, size_t size, struct err *err)
{
    return yyjson_obj_get(root, name) != NULL ? get_text(root, name, out, size, err) : 0;
}

static int parse_verified(yyjson_val *root, const char *prefix, struct move_verified *v, struct err *err)
{
    static const char *const members[] = {"action", "table", "after"};
    char *const values[] = {v->action, v->table, v->after};
    const size_t sizes[] = {sizeof v->action, sizeof v->table, sizeof v->after};
    for (int i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "%sverify_%s", prefix, members[i]);
        if (get_newer_text(root, name, values[i], sizes[i], err) != 0)
            return (int)err->code;
    }
    return 0;
}

static int parse_verdict(yyjson_val *root, struct move_record *r, struct err *err)
{
    char text[32] = "none";
    if (get_newer_text(root, "reverse_verdict", text, sizeof text, err) != 0)
        return (int)err->code;
    for (int v = 0; v < MOVE_VERDICT_COUNT; v++)
        if (strcmp(text, move_verdict_name((enum move_verdict)v)) == 0) {
            r->verdict = (enum move_verdict)v;
            return 0;
        }
    return err_set(err, ERRC_CORRUPT, "reverse_verdict %s is unknown", text);
}

static int parse_verification(yyjson_val *root, struct move_record *r, struct err *err)
{
    if (parse_verified(root, "", &r->verified, err) != 0 ||
        parse_verified(root, "reverse_", &r->reverse_verified, err) != 0 || parse_verdict(root, r, err) != 0)
        return (int)err->code;
    return 0;
}

/* Names become parts of SQL, of keys and of the names of instances: nothing but names may pass. */
static int check_names(const struct move_record *r, struct err *err)
{
    static const char *const members[] = {"id", "database", "source", "target"};
    const char *const values[] = {r->id, r->database, r->source, r->target};
    for (int i = 0; i < 4; i++)
        if (!text_is_name(values[i]))
            return err_set(err, ERRC_CORRUPT, "member %s is not a name", members[i]);
    return 0;
}

static int parse_error(yyjson_val *root, struct move_record *r, struct err *err)
{
    char name[32];
    if (get_text(root, "error", r->error.message, sizeof r->error.message, err) != 0 ||
        get_text(root, "error_code", name, sizeof name, err) != 0)
        return (int)err->code;
    for (int code = 0; code < ERRC_MAX; code++)
        if (strcmp(name, err_code_name((enum err_code)code)) == 0) {
            r->error.code = (enum err_code)code;
            return 0;
        }
    return err_set(err, ERRC_CORRUPT, "error_code %s is unknown", name);
}

static int parse_findings(yyjson_val *root, struct move_record *r, struct err *err)
{
    yyjson_val *value = yyjson_obj_get(root, "findings");
    if (value == NULL)
        return 0;
    if (!yyjson_is_arr(value))
        return err_set(err, ERRC_CORRUPT, "findings is not an array");
    char *text = yyjson_val_write(value, 0, NULL);
    bool fits = text != NULL && buf_add_text(&r->findings, text);
    free(text);
    return fits ? 0 : err_set(err, ERRC_CORRUPT, "findings is too long");
}

static int parse_choice(yyjson_val *root, struct move_record *r, struct err *err)
{
    char text[64];
    if (get_text(root, "state", text, sizeof text, err) != 0)
        return (int)err->code;
    int state = move_state_find(text);
    if (state < 0)
        return err_set(err, ERRC_CORRUPT, "state %s is unknown", text);
    r->state = (enum move_state)state;
    if (get_text(root, "kind", text, sizeof text, err) != 0)
        return (int)err->code;
    for (int k = 0; k < MOVE_KIND_COUNT; k++)
        if (strcmp(text, move_kind_name((enum move_kind)k)) == 0) {
            r->kind = (enum move_kind)k;
            return 0;
        }
    return err_set(err, ERRC_CORRUPT, "kind %s is unknown", text);
}

static int parse_range(yyjson_val *root, struct move_record *r, struct err *err)
{
    const char *lo = yyjson_get_str(yyjson_obj_get(root, "lo"));
    const char *hi = yyjson_get_str(yyjson_obj_get(root, "hi"));
    if (lo == NULL || hi == NULL || !text_to_int64(lo, &r->range.lo) || !text_to_int64(hi, &r->range.hi) ||
        r->range.lo > r->range.hi)
        return err_set(err, ERRC_CORRUPT, "lo and hi are not a range");
    return 0;
}

static int parse_root(yyjson_val *root, struct move_record *r, struct err *err)
{
    if (get_text(root, "id", r->id, sizeof r->id, err) != 0 ||
        get_text(root, "database", r->database, sizeof r->database, err) != 0 ||
        get_text(root, "source", r->source, sizeof r->source, err) != 0 ||
        get_text(root, "target", r->target, sizeof r->target, err) != 0 ||
        get_text(root, "reason", r->reason, sizeof r->reason, err) != 0 || check_names(r, err) != 0 ||
        parse_error(root, r, err) != 0 || parse_choice(root, r, err) != 0 || parse_range(root, r, err) != 0 ||
        parse_numbers(root, r, err) != 0 || parse_verification(root, r, err) != 0 ||
        parse_findings(root, r, err) != 0)
        return (int)err->code;
    r->new_target = yyjson_get_bool(yyjson_obj_get(root, "new_target"));
    r->retire_source = yyjson_get_bool(yyjson_obj_get(root, "retire_source"));
    r->dry_run = yyjson_get_bool(yyjson_obj_get(root, "dry_run"));
    r->allow_ddl = yyjson_get_bool(yyjson_obj_get(root, "allow_ddl"));
    r->canceled = yyjson_get_bool(yyjson_obj_get(root, "canceled"));
    r->rollback = yyjson_get_bool(yyjson_obj_get(root, "rollback"));
    r->go_on = yyjson_get_bool(yyjson_obj_get(root, "go_on"));
    r->accepted = yyjson_get_bool(yyjson_obj_get(root, "accepted"));
    if (yyjson_get_bool(yyjson_obj_get(root, "back")))
        move_record_turn(r);
    r->rule = yyjson_get_int(yyjson_obj_get(root, "rule"));
    return 0;
}

int move_record_parse(const char *json, size_t length, struct move_record *ret, struct err *err)
{
    struct err local = {0};
    struct move_record r;
    yyjson_doc *doc = yyjson_read(json, length, 0);
    if (doc == NULL)
        return err_set(err, ERRC_CORRUPT, "the journal is not JSON");
    move_record_init(&r);
    int rc = parse_root(yyjson_doc_get_root(doc), &r, &local);
    yyjson_doc_free(doc);
    if (rc != 0) {
        move_record_free(&r);
        return err_copy(err, &local);
    }
    *ret = r;
    return 0;
}
