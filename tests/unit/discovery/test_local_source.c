/* Discovery over the real local runtime: a server that is made comes, one that is stopped stays, one removed
 * goes. */
#include "discovery/discovery.h"
#include "runtime/local_fixture.h"

static void on_event(enum discovery_event event, struct fleet_instance *instance, void *data)
{
    char *events = data;
    size_t used = strlen(events);
    snprintf(events + used, 128 - used, "%s %s;", discovery_event_name(event), instance->name);
}

static void expect(struct fixture *f, struct discovery *d, char *events, const char *wanted)
{
    uint64_t until = discovery_rounds(d) + 2;
    while (discovery_rounds(d) < until)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    assert_string_equal(events, wanted);
    events[0] = '\0';
}

static void test_in_step(void **state)
{
    struct fixture *f = *state;
    struct fleet fleet;
    struct discovery *d = NULL;
    char events[128] = "";
    bool closed = false;
    fixture_open(f);
    fleet_init(&fleet);
    const struct discovery_options options = {.fleet = &fleet,
                                              .runtime = f->rt,
                                              .period_ns = 50 * ENV_NS_PER_MS,
                                              .event = on_event,
                                              .data = events};
    assert_int_equal(discovery_start(&f->loop, &options, &d, NULL), 0);
    struct answer a = fixture_make(f, "one"); /* rounds run meanwhile: a half-made one must not be seen */
    expect(f, d, events, "added one;");
    const struct fleet_instance *found = fleet_find_instance(&fleet, "one");
    assert_string_equal(found->access.password, a.password);
    assert_string_equal(found->access.dbname, "shop");
    assert_string_equal(found->shard, "s1");
    assert_int_equal(found->access.port, a.port);
    assert_int_equal(fixture_stop(f, "one").err.code, ERRC_NONE);
    expect(f, d, events, "");
    assert_int_equal(fixture_remove(f, "one").err.code, ERRC_NONE);
    expect(f, d, events, "removed one;");
    discovery_close(d, on_closed_flag, &closed);
    fixture_run(f, &closed);
    fleet_fini(&fleet);
    fixture_fini(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_in_step)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
