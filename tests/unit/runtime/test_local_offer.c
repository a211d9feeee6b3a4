/* What the local runtime says of an instance that it has not made. */
#include "local_fixture.h"

#include <sys/statvfs.h>
#include <yyjson.h>

struct offered {
    bool done;
    struct err err;
    struct runtime_offer offer; /* its texts are copied */
    char where[512], directory[256];
    char plpgsql[16];
};

static void on_offer(const struct err *err, const struct runtime_offer *offer, void *data)
{
    struct offered *o = data;
    assert_false(o->done);
    o->done = true;
    if (err != NULL) {
        o->err = *err;
        return;
    }
    o->offer = *offer;
    snprintf(o->where, sizeof o->where, "%s", offer->where);
    snprintf(o->directory, sizeof o->directory, "%s", offer->directory);
    yyjson_doc *doc = yyjson_read(offer->extensions, strlen(offer->extensions), 0);
    const char *version = yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(doc), "plpgsql"));
    snprintf(o->plpgsql, sizeof o->plpgsql, "%s", version != NULL ? version : "none");
    yyjson_doc_free(doc);
}

static void ask_offer(struct fixture *f, struct offered *o)
{
    struct err err = {0};
    assert_int_equal(runtime_offer(f->rt, on_offer, o, &err), 0);
    assert_false(o->done); /* later, not from inside */
    fixture_run(f, &o->done);
}

static void test_told_and_nothing_made(void **state)
{
    struct fixture *f = *state;
    struct offered o = {0};
    struct statvfs fs;
    fixture_open(f);
    ask_offer(f, &o);
    assert_int_equal(o.err.code, ERRC_NONE);
    assert_true(o.offer.version >= 150000);
    assert_int_equal(strncmp(o.where, "/", 1), 0);
    assert_int_equal(statvfs(o.directory, &fs), 0);
    assert_true(o.offer.free_bytes > 0);
    assert_string_equal(o.plpgsql, "1.0");
    assert_int_equal(fixture_entries(f), 0);
    fixture_fini(f);
}

static void put_program(const char *directory, const char *name, const char *text)
{
    char path[700];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, 0755), 0);
}

static void test_programs_that_do_not_tell(void **state)
{
    static const char *const told[] = {"exit 1", "echo hello", "echo 'PostgreSQL 14.2'; echo /usr", NULL};
    struct fixture *f = *state;
    char directory[128], text[64], command[160];
    snprintf(directory, sizeof directory, "/tmp/shardherd-test-offer-XXXXXX");
    assert_non_null(mkdtemp(directory));
    put_program(directory, "postgres", "#!/bin/sh\n");
    put_program(directory, "initdb", "#!/bin/sh\n");
    snprintf(f->bin, sizeof f->bin, "%s", directory);
    fixture_open(f);
    for (int i = 0;; i++) { /* at last without a pg_config, as it was at first */
        struct offered o = {0};
        ask_offer(f, &o);
        assert_int_equal(o.err.code, ERRC_UNSUPPORTED);
        if (told[i] == NULL)
            break;
        snprintf(text, sizeof text, "#!/bin/sh\n%s\n", told[i]);
        put_program(directory, "pg_config", text);
    }
    snprintf(command, sizeof command, "rm -r %s", directory);
    assert_int_equal(system(command), 0); // NOLINT: a directory of our own
    fixture_fini(f);
}

static void test_closed_meanwhile(void **state)
{
    struct fixture *f = *state;
    struct offered o = {0};
    struct err err = {0};
    fixture_open(f);
    assert_int_equal(runtime_offer(f->rt, on_offer, &o, &err), 0);
    fixture_close(f);
    assert_true(o.done);
    assert_int_equal(o.err.code, ERRC_CANCELED);
    fixture_fini(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_told_and_nothing_made),
        TEST(test_programs_that_do_not_tell),
        TEST(test_closed_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
