/* What can be built side by side of a dump's second part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "operation/post_data.h"

#define OBJECT(name, type, sql)                                                                              \
    "--\n-- Name: " name "; Type: " type "; Schema: public; Owner: -\n--\n\n" sql "\n\n\n"

struct cut {
    struct buf all;  /* the texts, put together */
    struct buf told; /* "relation alone|" of the parts that are not of the rest */
};

static void take(const struct post_part *part, void *data)
{
    struct cut *c = data;
    buf_add(&c->all, part->text, part->length);
    if (part->relation[0] != '\0')
        assert_null(memmem(part->text, part->length, "restrict", 8)); /* what psql alone understands */
    if (part->relation[0] != '\0')
        buf_printf(&c->told, "%s%s|", part->relation, part->alone ? " alone" : "");
}

static void assert_cut(const char *dump, const char *expected)
{
    struct cut c = {0};
    post_data_cut(dump, take, &c);
    assert_string_equal(buf_text(&c.all), dump); /* nothing is lost, and all in its order */
    assert_string_equal(buf_text(&c.told), expected);
    buf_free(&c.all);
    buf_free(&c.told);
}

static void test_parts(void **state)
{
    (void)state;
    assert_cut("", "");
    assert_cut("SET search_path = '';\n", "");
    assert_cut(
        "--\n-- PostgreSQL database dump\n--\n\n\\restrict x\n\nSET a = 1;\n\n" OBJECT(
            "a a_pkey", "CONSTRAINT", "ALTER TABLE ONLY public.a\n    ADD CONSTRAINT a_pkey PRIMARY KEY (k);")
            OBJECT("a_x", "INDEX", "CREATE INDEX a_x ON public.a USING btree (x);")
                OBJECT("a_y", "INDEX", "CREATE UNIQUE INDEX a_y ON public.a USING btree (k, y);")
                    OBJECT("INDEX a_y", "COMMENT",
                           "COMMENT ON INDEX public.a_y IS 'y';") "--\n-- PostgreSQL database dump "
                                                                  "complete\n--\n\n\\unrestrict x\n\n",
        "public.a alone|public.a|public.a|");
}

/* The last object does not swallow what follows. */
static void test_end(void **state)
{
    (void)state;
    assert_cut(OBJECT("a_x", "INDEX",
                      "CREATE INDEX a_x ON public.a USING btree (x);") "--\n-- PostgreSQL database dump "
                                                                       "complete\n--\n\n\\unrestrict x\n",
               "public.a|");
}

static void test_rest(void **state)
{
    (void)state;
    static const char *const rest[] = {
        OBJECT("p_x", "INDEX", "CREATE INDEX p_x ON ONLY public.p USING btree (x);"),
        OBJECT("p1_x", "INDEX ATTACH", "ALTER INDEX public.p_x ATTACH PARTITION public.p1_x;"),
        OBJECT("a a_fk", "FK CONSTRAINT",
               "ALTER TABLE ONLY public.a\n    ADD CONSTRAINT a_fk FOREIGN KEY (k) REFERENCES public.b(k);"),
        OBJECT("a t", "TRIGGER",
               "CREATE TRIGGER t AFTER INSERT ON public.a FOR EACH ROW EXECUTE FUNCTION public.f();"),
        OBJECT("a", "ROW SECURITY", "ALTER TABLE public.a ENABLE ROW LEVEL SECURITY;"),
        /* names that look like something else */
        OBJECT("x; Type: INDEX; y", "TRIGGER", "CREATE TRIGGER \"x; Type: INDEX; y\" ..."),
        OBJECT("i", "INDEX", "CREATE INDEX i ON noschema USING btree (x);"),
        OBJECT("i", "INDEX", "CREATE INDEX \"i ON public.a USING btree (x);"),
    };
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        assert_cut(rest[i], "");
}

static void test_names(void **state)
{
    (void)state;
    assert_cut(
        OBJECT("i", "INDEX", "CREATE INDEX \"i ON public.b\" ON \"My \"\"S\"\"\".\"a.b c\" USING gin (x);"),
        "\"My \"\"S\"\"\".\"a.b c\"|");
    assert_cut(OBJECT("i", "INDEX",
                      "CREATE UNIQUE INDEX i ON public.a USING btree (k);\n\nALTER TABLE ONLY public.a "
                      "REPLICA IDENTITY "
                      "USING INDEX i;"),
               "public.a alone|");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parts), cmocka_unit_test(test_end),
                                       cmocka_unit_test(test_rest), cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
