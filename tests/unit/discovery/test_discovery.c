/* Discovery against a runtime of the test: what comes, goes, changes, fails, and what must not happen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "discovery/discovery.h"

#define PERIOD_NS (20 * ENV_NS_PER_MS)

/* ---- a runtime that lists what the test says ---- */

struct fake {
    struct runtime base;
    struct loop *loop;
    struct runtime_instance instances[4];
    int count;
    int fails; /* error code, 0 = none */
    int calls;
    struct loop_timer timer;
    runtime_list_cb cb;
    void *data;
};

static void fake_answer(struct loop_timer *timer, void *data)
{
    (void)timer;
    struct fake *fake = data;
    struct err err = {0};
    if (fake->fails != 0) {
        err_set(&err, (enum err_code)fake->fails, "cannot read the directory");
        fake->cb(&err, NULL, 0, fake->data);
        return;
    }
    fake->cb(NULL, fake->instances, fake->count, fake->data);
}

static int fake_list(struct runtime *rt, runtime_list_cb cb, void *data, struct err *err)
{
    (void)err;
    struct fake *fake = list_item(rt, struct fake, base);
    fake->calls++;
    fake->cb = cb;
    fake->data = data;
    loop_timer_start(&fake->timer, ENV_NS_PER_MS);
    return 0;
}

static const struct runtime_backend fake_backend = {.kind = "fake", .list = fake_list};

/* ---- the fixture ---- */

struct fixture {
    struct loop loop;
    struct fleet fleet;
    struct fake fake;
    struct discovery *discovery;
    char events[1024]; /* "+a ~a -a !what " */
    bool close_on_event;
    bool closed;
};

static void set_closed(void *data)
{
    ((struct fixture *)data)->closed = true;
}

static void note(struct fixture *f, char mark, const char *name)
{
    size_t used = strlen(f->events);
    snprintf(f->events + used, sizeof f->events - used, "%c%s ", mark, name);
}

static void on_event(enum discovery_event event, struct fleet_instance *instance, void *data)
{
    struct fixture *f = data;
    assert_false(f->closed);
    assert_ptr_equal(fleet_find_instance(&f->fleet, instance->name), instance); /* also a removed one */
    note(f, event == DISCOVERY_ADDED ? '+' : event == DISCOVERY_CHANGED ? '~' : '-', instance->name);
    if (f->close_on_event)
        discovery_close(f->discovery, set_closed, f);
}

static void on_failed(const char *what, const struct err *err, void *data)
{
    assert_int_not_equal(err->code, ERRC_NONE);
    note(data, '!', what);
}

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    assert_int_equal(loop_init(&f->loop, env_system(), NULL), 0);
    fleet_init(&f->fleet);
    f->fake.base.backend = &fake_backend;
    f->fake.loop = &f->loop;
    loop_timer_init(&f->loop, &f->fake.timer, fake_answer, &f->fake);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    fleet_fini(&f->fleet);
    free(f);
    return 0;
}

static void begin(struct fixture *f, const struct discovery_entry *entries, int count)
{
    const struct discovery_options options = {.fleet = &f->fleet,
                                              .entries = entries,
                                              .entry_count = count,
                                              .runtime = &f->fake.base,
                                              .period_ns = PERIOD_NS,
                                              .event = on_event,
                                              .failed = on_failed,
                                              .data = f};
    struct err err = {0};
    if (discovery_start(&f->loop, &options, &f->discovery, &err) != 0)
        fail_msg("%s", err.message);
    assert_string_equal(f->events, ""); /* nothing from inside the call */
}

/* Two rounds, as promised: the first may have begun before the change. Then compares and forgets the events.
 */
static void expect(struct fixture *f, const char *events)
{
    uint64_t until = discovery_rounds(f->discovery) + 2;
    while (discovery_rounds(f->discovery) < until)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    assert_string_equal(f->events, events);
    f->events[0] = '\0';
}

static void end(struct fixture *f)
{
    discovery_close(f->discovery, set_closed, f);
    assert_false(f->closed);
    while (!f->closed)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    assert_int_equal(loop_fini(&f->loop), 0);
}

static struct runtime_instance local_instance(const char *name, int port)
{
    static char host[] = "127.0.0.1", user[] = "shardherd", dbname[] = "shop", password[] = "secret";
    return (struct runtime_instance){
        .name = name,
        .database = "shop",
        .shard = "s1",
        .access = {.host = host, .port = port, .user = user, .password = password, .dbname = dbname}};
}

/* ---- tests ---- */

static void test_static(void **state)
{
    struct fixture *f = *state;
    struct discovery_entry entries[] = {
        {.name = "b", .database = "shop", .shard = "s2", .host = "h2", .user = "u"},
        {.name = "a", .database = "shop", .shard = "s1", .dsn = "postgresql://u@h1:1/shop"},
    };
    begin(f, entries, 2);
    expect(f, "+a +b ");
    struct fleet_instance *a = fleet_find_instance(&f->fleet, "a");
    assert_string_equal(a->source, "static");
    assert_string_equal(a->shard, "s1");
    assert_int_equal(a->access.port, 1);
    /* a poller's facts, also that it is down, are not discovery's business */
    a->facts.health = HEALTH_DOWN;
    a->facts.errors_total = 7;
    uint64_t version = f->fleet.version;
    expect(f, "");
    assert_int_equal(f->fleet.version, version);
    entries[1].dsn = "postgresql://u@h1:2/shop";
    assert_int_equal(discovery_set_entries(f->discovery, entries, 2, NULL), 0);
    expect(f, "~a ");
    assert_ptr_equal(fleet_find_instance(&f->fleet, "a"), a);
    assert_int_equal(a->access.port, 2);
    assert_int_equal(a->facts.errors_total, 7);
    assert_true(f->fleet.version > version);
    entries[1].shard = "s9";
    assert_int_equal(discovery_set_entries(f->discovery, entries, 2, NULL), 0);
    expect(f, "~a ");
    assert_string_equal(a->shard, "s9");
    assert_int_equal(discovery_set_entries(f->discovery, entries, 1, NULL), 0);
    expect(f, "-a ");
    assert_null(fleet_find_instance(&f->fleet, "a"));
    end(f);
    assert_non_null(fleet_find_instance(&f->fleet, "b"));
}

static void test_a_bad_list_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct discovery_entry entries[] = {{.name = "a", .host = "h", .user = "u"}, {.name = "b", .user = "u"}};
    struct err err = {0};
    const struct discovery_options options = {.fleet = &f->fleet, .entries = entries, .entry_count = 2};
    assert_int_equal(discovery_start(&f->loop, &options, &f->discovery, &err), ERRC_INVALID);
    begin(f, entries, 1);
    expect(f, "+a ");
    assert_int_equal(discovery_set_entries(f->discovery, entries, 2, &err), ERRC_INVALID);
    assert_non_null(strstr(err.message, "static server b"));
    expect(f, "");
    end(f);
}

static void test_local(void **state)
{
    struct fixture *f = *state;
    begin(f, NULL, 0);
    expect(f, "");
    f->fake.instances[0] = local_instance("one", 1);
    f->fake.instances[1] = local_instance("two", 2);
    f->fake.count = 2;
    expect(f, "+one +two ");
    assert_string_equal(fleet_find_instance(&f->fleet, "one")->source, "fake");
    assert_string_equal(fleet_find_instance(&f->fleet, "two")->access.password, "secret");
    f->fake.instances[1].access.port = 3;
    expect(f, "~two ");
    static char file[] = "/client.pem", other[] = "/data/shardherd.key";
    struct instance_access *access = &f->fake.instances[1].access;
    char **const files[] = {&access->sslcert, &access->sslkey, &access->peer_sslcert, &access->peer_sslkey};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) { /* of a certificate: as the address */
        *files[i] = file;
        expect(f, "~two ");
        expect(f, "");
        *files[i] = other;
        expect(f, "~two ");
    }
    assert_string_equal(fleet_find_instance(&f->fleet, "two")->access.peer_sslkey, other);
    f->fake.fails = ERRC_IO; /* told once, and what was known stays */
    expect(f, "!local ");
    expect(f, "");
    assert_non_null(fleet_find_instance(&f->fleet, "one"));
    f->fake.fails = 0;
    expect(f, "");
    f->fake.fails = ERRC_IO;
    expect(f, "!local ");
    f->fake.fails = 0;
    f->fake.count = 1;
    expect(f, "-two ");
    f->fake.count = 0;
    expect(f, "-one ");
    end(f);
}

static void test_sources_do_not_take_from_each_other(void **state)
{
    struct fixture *f = *state;
    const struct discovery_entry entries[] = {{.name = "one", .host = "h", .user = "u"}};
    f->fake.instances[0] = local_instance("one", 1);
    f->fake.count = 1;
    begin(f, entries, 1);
    expect(f, "+one !one ");
    assert_string_equal(fleet_find_instance(&f->fleet, "one")->access.host, "h");
    f->fake.count = 0;
    expect(f, "");
    assert_non_null(fleet_find_instance(&f->fleet, "one"));
    end(f);
}

static void secret_write(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

/* A new password is noticed; one that cannot be read leaves the old one. */
static void test_secrets_are_read_again(void **state)
{
    struct fixture *f = *state;
    char path[] = "/tmp/shardherd-test-secret-XXXXXX";
    close(mkstemp(path));
    secret_write(path, "first\n");
    const struct discovery_entry entries[] = {{.name = "a", .host = "h", .user = "u", .password_file = path}};
    begin(f, entries, 1);
    expect(f, "+a ");
    const struct fleet_instance *a = fleet_find_instance(&f->fleet, "a");
    assert_string_equal(a->access.password, "first");
    chmod(path, 0644);
    expect(f, "!a ");
    assert_string_equal(a->access.password, "first");
    chmod(path, 0600);
    expect(f, "");
    secret_write(path, "second\n");
    expect(f, "~a ");
    assert_string_equal(a->access.password, "second");
    unlink(path);
    end(f);
}

static void test_closed_at_every_moment(void **state)
{
    struct fixture *f = *state;
    const struct discovery_entry entries[] = {{.name = "a", .host = "h", .user = "u"},
                                              {.name = "b", .host = "h", .user = "u"}};
    for (int turns = 0; turns < 12; turns++) {
        f->closed = false;
        begin(f, entries, 2);
        for (int i = 0; i < turns; i++)
            uv_run(&f->loop.uv, UV_RUN_NOWAIT);
        discovery_close(f->discovery, set_closed, f);
        while (!f->closed)
            uv_run(&f->loop.uv, UV_RUN_ONCE);
        f->events[0] = '\0';
        struct list *node;
        while ((node = list_first(&f->fleet.instances)) != NULL)
            fleet_remove_instance(&f->fleet, list_item(node, struct fleet_instance, node));
    }
    f->closed = false;
    f->close_on_event = true;
    begin(f, entries, 2);
    while (!f->closed)
        uv_run(&f->loop.uv, UV_RUN_ONCE);
    assert_string_equal(f->events, "+a "); /* none after the close */
    assert_int_equal(loop_fini(&f->loop), 0);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_static),
        TEST(test_a_bad_list_changes_nothing),
        TEST(test_local),
        TEST(test_sources_do_not_take_from_each_other),
        TEST(test_secrets_are_read_again),
        TEST(test_closed_at_every_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
