#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "fleet/fleet.h"

static struct fleet_instance *add(struct fleet *fleet, const char *name, const char *host, int port)
{
    char secret[] = "secret", user[] = "shardherd", dbname[] = "shop";
    char *copy = mem_strdup(host);
    struct instance_access access = {
        .host = copy, .port = port, .user = user, .password = secret, .dbname = dbname};
    struct fleet_instance *instance = NULL;
    struct err err = {0};
    assert_int_equal(fleet_add_instance(fleet, name, "static", &access, &instance, &err), 0);
    memset(copy, 'x', strlen(copy)); /* whoever did not copy it sees this */
    memset(secret, 'x', strlen(secret));
    free(copy);
    return instance;
}

/* Every text of an access is copied, and none shared: a member that is forgotten here is forgotten by each
 * connection. */
static void test_access_is_copied_whole(void **state)
{
    char texts[][24] = {"host",        "user",       "password",   "dbname",           "sslmode",
                        "sslrootcert", "sslcert",    "sslkey",     "peer_sslrootcert", "peer_sslcert",
                        "peer_sslkey", "agent_host", "agent_token"};
    (void)state;
    const struct instance_access from = {.host = texts[0],
                                         .port = 7,
                                         .user = texts[1],
                                         .password = texts[2],
                                         .dbname = texts[3],
                                         .sslmode = texts[4],
                                         .sslrootcert = texts[5],
                                         .sslcert = texts[6],
                                         .sslkey = texts[7],
                                         .peer_sslrootcert = texts[8],
                                         .peer_sslcert = texts[9],
                                         .peer_sslkey = texts[10],
                                         .agent_host = texts[11],
                                         .agent_token = texts[12],
                                         .agent_port = 8,
                                         .lent = true};
    struct instance_access to;
    instance_access_copy(&to, &from);
    char *const copied[] = {
        to.host,        to.user,       to.password,   to.dbname,           to.sslmode,
        to.sslrootcert, to.sslcert,    to.sslkey,     to.peer_sslrootcert, to.peer_sslcert,
        to.peer_sslkey, to.agent_host, to.agent_token};
    assert_int_equal(sizeof from, sizeof copied + 3 * sizeof(char *)); /* a new member belongs in here */
    for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++) {
        assert_string_equal(copied[i], texts[i]);
        assert_ptr_not_equal(copied[i], texts[i]);
    }
    assert_int_equal(to.port, 7);
    assert_int_equal(to.agent_port, 8);
    assert_true(to.lent);
    instance_access_clear(&to);
    assert_null(to.sslkey);
}

static void test_instances(void **state)
{
    (void)state;
    struct fleet fleet;
    fleet_init(&fleet);
    uint64_t version = fleet.version;
    struct fleet_instance *a = add(&fleet, "a", "10.0.0.1", 5432), *other = NULL;
    assert_true(fleet.version > version);
    version = fleet.version;
    struct err err = {0};
    assert_int_equal(fleet_add_instance(&fleet, "a", "local", &a->access, &other, &err), ERRC_EXISTS);
    assert_non_null(strstr(err.message, "a"));
    assert_null(other);
    assert_true(fleet.version == version);
    assert_ptr_equal(fleet_find_instance(&fleet, "a"), a);
    assert_null(fleet_find_instance(&fleet, "b"));
    assert_string_equal(a->access.password, "secret");
    assert_string_equal(a->access.host, "10.0.0.1");
    assert_string_equal(a->database, "");
    assert_true(isnan(a->facts.lag_seconds) && a->facts.health == HEALTH_UNKNOWN);
    struct load_sample none;
    assert_false(load_ring_second(&a->load, 0, &none));
    fleet_remove_instance(&fleet, a);
    assert_true(fleet.version > version && list_empty(&fleet.instances));
    add(&fleet, "b", "10.0.0.2", 5432);
    fleet_add_database(&fleet, "shop");
    fleet_fini(&fleet);
    assert_true(list_empty(&fleet.instances) && list_empty(&fleet.databases));
}

/* Wherever the last search ended, and when what it found is gone. */
static void test_instances_are_found_from_anywhere(void **state)
{
    (void)state;
    static const char *const names[] = {"a", "b", "c", "d"};
    struct fleet_instance *made[4];
    struct fleet fleet;
    fleet_init(&fleet);
    assert_null(fleet_find_instance(&fleet, "a"));
    for (int i = 0; i < 4; i++)
        made[i] = add(&fleet, names[i], "10.0.0.1", 5432);
    for (int last = 0; last < 4; last++)
        for (int i = 0; i < 4; i++) {
            assert_ptr_equal(fleet_find_instance(&fleet, names[last]), made[last]);
            assert_ptr_equal(fleet_find_instance(&fleet, names[i]), made[i]);
            assert_null(fleet_find_instance(&fleet, "e"));
        }
    for (int i = 3; i >= 0; i--) {
        assert_ptr_equal(fleet_find_instance(&fleet, names[i]), made[i]);
        fleet_remove_instance(&fleet, made[i]);
        assert_null(fleet_find_instance(&fleet, names[i]));
        if (i > 0)
            assert_ptr_equal(fleet_find_instance(&fleet, "a"), made[0]);
    }
    fleet_fini(&fleet);
}

static void test_primary_is_found_by_address(void **state)
{
    (void)state;
    struct fleet fleet;
    fleet_init(&fleet);
    struct fleet_instance *a = add(&fleet, "a", "10.0.0.1", 5432), *b = add(&fleet, "b", "10.0.0.1", 5433);
    struct fleet_database *db = fleet_add_database(&fleet, "shop");
    assert_ptr_equal(fleet_add_database(&fleet, "shop"), db);
    assert_ptr_equal(fleet_find_database(&fleet, "shop"), db);
    assert_null(fleet_find_database(&fleet, "other"));
    assert_null(fleet_primary(&fleet, "shop", "s1")); /* no routing table yet */
    db->routing = routing_new("shop");
    routing_add_shard(db->routing, "s1", "10.0.0.1", 5433);
    routing_add_shard(db->routing, "s2", "10.0.0.9", 5432);
    assert_ptr_equal(fleet_primary(&fleet, "shop", "s1"), b);
    assert_null(fleet_primary(&fleet, "shop", "s2"));
    assert_null(fleet_primary(&fleet, "shop", "s3"));
    assert_null(fleet_primary(&fleet, "other", "s1"));
    routing_set_primary(routing_find_shard(db->routing, "s1"), "10.0.0.1", 5432);
    assert_ptr_equal(fleet_primary(&fleet, "shop", "s1"), a);
    assert_false(fleet_is_lent(&fleet, "shop", "s1") || fleet_is_lent(&fleet, "shop", "s2"));
    a->access.lent = true;
    assert_true(fleet_is_lent(&fleet, "shop", "s1"));

    /* of two at one address the one that was there first, whatever the order of the names */
    struct fleet_instance *twin = add(&fleet, "A", "10.0.0.1", 5432);
    assert_ptr_equal(fleet_at(&fleet, "10.0.0.1", 5432), a);
    fleet_remove_instance(&fleet, a);
    assert_ptr_equal(fleet_at(&fleet, "10.0.0.1", 5432), twin);
    b->access.port = 5434;
    fleet.version++;
    assert_null(fleet_at(&fleet, "10.0.0.1", 5433));
    assert_ptr_equal(fleet_at(&fleet, "10.0.0.1", 5434), b);
    fleet_remove_database(&fleet, db);
    fleet_fini(&fleet);
}

static void test_names_and_defaults(void **state)
{
    (void)state;
    for (int mode = AUTO_OFF; mode <= AUTO_ON; mode++)
        assert_int_equal(auto_mode_parse(auto_mode_name((enum auto_mode)mode)), mode);
    assert_int_equal(auto_mode_parse("on"), -1);
    assert_string_equal(instance_role_name(ROLE_STANDBY), "standby");
    assert_string_equal(instance_health_name(HEALTH_SUSPECT), "suspect");
    struct balance_policy policy;
    balance_policy_defaults(&policy);
    assert_true(policy.threshold == 1000 && policy.relative == 1.2 && policy.window == 10 &&
                policy.max_shards == 64);
    assert_true(policy.cooldown_ns == 600000000000 && policy.merge_after_ns == 3600000000000);
    assert_true(policy.sample_ns == 3000000000 && policy.bake_ns == 900000000000);
    assert_true(policy.split == AUTO_ON && policy.merge == AUTO_RECOMMEND &&
                policy.objective == LOAD_QUERY_RATE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_access_is_copied_whole),
        cmocka_unit_test(test_instances),
        cmocka_unit_test(test_instances_are_found_from_anywhere),
        cmocka_unit_test(test_primary_is_found_by_address),
        cmocka_unit_test(test_names_and_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
