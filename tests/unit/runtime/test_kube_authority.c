/* An authority that gives way to a new one, step by step, with clocks and Secrets as JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <yyjson.h>

#include "base/env.h"
#include "base/mem.h"
#include "runtime/kube_authority.h"
#include "runtime/kube_meta.h"

#define DAY_US   (86400ll * 1000000)
#define MONTH_US (DAY_US * 3650 / 120) /* of ten years */

static int64_t wall_now;

static int64_t wall(struct env *env)
{
    (void)env;
    return wall_now;
}

struct step {
    struct env env;
    struct kube_authority a;
    int64_t due;
};

static void begin(struct step *s)
{
    memset(s, 0, sizeof *s);
    s->env = *env_system();
    s->env.wall_us = wall;
    wall_now = 1800000000ll * 1000000;
    assert_int_equal(kube_authority_make(&s->env, "shop.ns", 3650ull * 86400, &s->a.now, NULL), 0);
}

static enum kube_authority_step due(struct step *s)
{
    return kube_authority_due(&s->env, &s->a, &s->due);
}

/* A Secret with a certificate by this authority that knows these. */
static yyjson_doc *secret_of(struct step *s, const struct kube_pair *issuer, const char *known)
{
    struct kube_pair leaf = {0};
    const struct kube_certificate_request request = {"shop-client", NULL, 86400};
    assert_int_equal(kube_certificate_issue(&s->env, issuer, &request, &leaf, NULL), 0);
    const struct kube_secret_item items[] = {{"tls.crt", leaf.certificate}, {"ca.crt", known}};
    const struct kube_secret secret = {.name = "shop-client",
                                       .name_space = "ns",
                                       .type = "kubernetes.io/tls",
                                       .owner = {"shop", NULL, "u1"},
                                       .items = items,
                                       .count = 2};
    char *json = kube_secret_json(&secret);
    yyjson_doc *doc = yyjson_read(json, strlen(json), 0);
    assert_non_null(doc);
    kube_pair_clear(&leaf);
    free(json);
    return doc;
}

static bool ready(struct step *s, enum kube_authority_step step, const struct kube_pair *issuer,
                  const char *known)
{
    yyjson_doc *doc = secret_of(s, issuer, known);
    bool result = kube_authority_ready(&s->a, step, yyjson_doc_get_root(doc), &s->env);
    yyjson_doc_free(doc);
    return result;
}

static void test_the_whole_way(void **state)
{
    struct step s;
    (void)state;
    begin(&s);
    int64_t made = wall_now;
    assert_int_equal(due(&s), KUBE_AUTHORITY_STAY);
    assert_true(s.due > made + 79 * MONTH_US && s.due < made + 81 * MONTH_US);
    wall_now = s.due - 1;
    assert_int_equal(due(&s), KUBE_AUTHORITY_STAY);
    wall_now = s.due;
    assert_int_equal(due(&s), KUBE_AUTHORITY_PREPARE);

    struct kube_pair old = {mem_strdup(s.a.now.certificate), mem_strdup(s.a.now.key)};
    assert_int_equal(kube_authority_make(&s.env, "shop.ns", 3650ull * 86400, &s.a.next, NULL), 0);
    s.a.since_us = wall_now;
    char *bundle = kube_authority_bundle(&s.a);
    assert_true(strstr(bundle, old.certificate) == bundle);
    assert_non_null(strstr(bundle, s.a.next.certificate));
    assert_int_equal(due(&s), KUBE_AUTHORITY_STAY);
    assert_true(s.due > wall_now + 9 * MONTH_US && s.due < wall_now + 11 * MONTH_US);
    wall_now = s.due;
    assert_int_equal(due(&s), KUBE_AUTHORITY_SWITCH);
    assert_false(ready(&s, KUBE_AUTHORITY_SWITCH, &old, old.certificate));
    assert_true(ready(&s, KUBE_AUTHORITY_SWITCH, &old, bundle));
    free(bundle);

    kube_pair_clear(&s.a.now);
    s.a.now = s.a.next;
    s.a.next = (struct kube_pair){0};
    s.a.previous = mem_strdup(old.certificate);
    s.a.since_us = wall_now;
    bundle = kube_authority_bundle(&s.a);
    assert_non_null(strstr(bundle, old.certificate));
    assert_int_equal(due(&s), KUBE_AUTHORITY_STAY);
    wall_now = s.due;
    assert_int_equal(due(&s), KUBE_AUTHORITY_DROP);
    assert_false(ready(&s, KUBE_AUTHORITY_DROP, &old, bundle)); /* not issued anew */
    assert_false(ready(&s, KUBE_AUTHORITY_DROP, &s.a.now, old.certificate));
    assert_true(ready(&s, KUBE_AUTHORITY_DROP, &s.a.now, bundle));
    free(bundle);
    free(s.a.previous);
    s.a.previous = NULL;
    assert_int_equal(due(&s), KUBE_AUTHORITY_STAY);
    kube_pair_clear(&old);
    kube_authority_clear(&s.a);
}

/* A manager that was away for years: the overlap is what is left, and none when nothing is. */
static void test_late(void **state)
{
    struct step s;
    (void)state;
    begin(&s);
    int64_t until = wall_now + 3650 * DAY_US;
    wall_now = until - 10 * DAY_US;
    assert_int_equal(due(&s), KUBE_AUTHORITY_PREPARE);
    assert_int_equal(kube_authority_make(&s.env, "shop.ns", 3650ull * 86400, &s.a.next, NULL), 0);
    s.a.since_us = wall_now;
    assert_int_equal(due(&s), KUBE_AUTHORITY_STAY);
    assert_int_equal(s.due, wall_now + 5 * DAY_US);
    s.a.since_us = wall_now = until + DAY_US;
    assert_int_equal(due(&s), KUBE_AUTHORITY_SWITCH);
    kube_authority_clear(&s.a);
}

/* Each step is a patch of the Secret, and what is read after it. */
static void test_the_secret(void **state)
{
    struct kube_authority a;
    static const char both[] =
        "{\"metadata\":{\"annotations\":{\"shardherd.io/written-at\":\"2026-11-28T10:00:00Z\"}},"
        "\"data\":{\"ca.crt\":\"b25l\",\"ca.key\":\"a2V5\",\"next.crt\":\"dHdv\","
        "\"next.key\":\"a2V5\",\"previous.crt\":\"dGhyZWU=\"}}";
    static const char half[] = "{\"data\":{\"ca.crt\":\"b25l\",\"ca.key\":\"a2V5\",\"next.crt\":\"dHdv\"}}";
    static const char none[] = "{\"data\":{\"ca.crt\":\"b25l\"}}";
    (void)state;
    yyjson_doc *doc = yyjson_read(both, strlen(both), 0);
    assert_true(kube_authority_read(yyjson_doc_get_root(doc), &a));
    assert_string_equal(a.next.certificate, "two");
    assert_string_equal(a.previous, "three");
    assert_int_equal(a.since_us, 1795860000ll * 1000000);
    char *bundle = kube_authority_bundle(&a);
    assert_string_equal(bundle, "one\ntwo\nthree");
    free(bundle);
    kube_authority_clear(&a);
    yyjson_doc_free(doc);
    doc = yyjson_read(half, strlen(half), 0);
    assert_true(kube_authority_read(yyjson_doc_get_root(doc), &a));
    assert_null(a.next.certificate);
    assert_int_equal(a.since_us, 0);
    kube_authority_clear(&a);
    yyjson_doc_free(doc);
    doc = yyjson_read(none, strlen(none), 0);
    assert_false(kube_authority_read(yyjson_doc_get_root(doc), &a));
    yyjson_doc_free(doc);

    const struct kube_secret_item items[] = {{"ca.crt", "two"}, {"next.crt", NULL}};
    char *patch = kube_secret_patch("7", "now", items, 2);
    assert_non_null(strstr(patch, "\"next.crt\":null"));
    assert_non_null(strstr(patch, "\"ca.crt\":\"dHdv\""));
    free(patch);
}

/* A certificate does not outlive who issued it, and short lives are judged by what is left of them. */
static void test_short_lives(void **state)
{
    struct step s;
    struct kube_pair ca = {0}, leaf = {0};
    (void)state;
    begin(&s);
    assert_int_equal(kube_authority_make(&s.env, "shop.ns", 120, &ca, NULL), 0);
    const struct kube_certificate_request request = {"shop-client", NULL, 90};
    assert_int_equal(kube_certificate_issue(&s.env, &ca, &request, &leaf, NULL), 0);
    assert_int_equal(kube_certificate_judge(&s.env, leaf.certificate, ca.certificate, NULL),
                     KUBE_CERTIFICATE_GOOD);
    assert_int_equal(kube_certificate_due(leaf.certificate), wall_now + 60 * 1000000);
    wall_now += 60 * 1000000;
    assert_int_equal(kube_certificate_judge(&s.env, leaf.certificate, ca.certificate, NULL),
                     KUBE_CERTIFICATE_DUE);
    kube_pair_clear(&leaf);
    assert_int_equal(kube_certificate_issue(&s.env, &ca, &request, &leaf, NULL), 0);
    assert_int_equal(kube_certificate_end(leaf.certificate), wall_now + 60 * 1000000);
    kube_pair_clear(&leaf);
    kube_pair_clear(&ca);
    kube_authority_clear(&s.a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_whole_way),
        cmocka_unit_test(test_late),
        cmocka_unit_test(test_the_secret),
        cmocka_unit_test(test_short_lives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
