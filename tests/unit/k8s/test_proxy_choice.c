#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "k8s/access.h"
#include "k8s/proxy_choice.h"
#include "loop/proxy.h"

static void test_no_proxy(void **state)
{
    (void)state;
    static const struct {
        const char *list, *host;
        int port;
        bool named;
    } cases[] = {
        {"", "a.example.com", 443, false},
        {"*", "a.example.com", 443, true},
        {"example.com", "example.com", 443, true},
        {"example.com", "a.Example.com", 443, true},
        {"example.com", "anexample.com", 443, false},
        {".example.com", "example.com", 443, false},
        {".example.com", "a.example.com", 443, true},
        {"*.example.com", "a.example.com", 443, true},
        {"x, example.com:6443 ,y", "example.com", 6443, true},
        {"example.com:6443", "example.com", 443, false},
        {"10.0.0.1", "10.0.0.1", 443, true},
        {"10.0.0.1", "10.0.0.10", 443, false},
        {"10.0.0.1:6443", "10.0.0.1", 443, false},
        {"10.0.0.0/8", "10.255.0.1", 443, true},
        {"10.0.0.0/9", "10.255.0.1", 443, false},
        {"10.128.0.0/9", "10.255.0.1", 443, true},
        {"0.0.0.0/0", "10.255.0.1", 443, true},
        {"10.0.0.0/33", "10.0.0.0", 443, false},
        {"10.0.0.0/8", "ten.example.com", 443, false},
        {"fd00::/8", "fd00::1", 443, true},
        {"fd00::1", "fd00::1", 443, true},
        {"[fd00::1]:6443", "fd00::1", 6443, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(no_proxy_names(cases[i].list, cases[i].host, cases[i].port), cases[i].named);
}

static const char *environment(struct env *env, const char *name)
{
    (void)env;
    if (strcmp(name, "HTTPS_PROXY") == 0)
        return "http://secure:1";
    if (strcmp(name, "http_proxy") == 0)
        return "http://plain:2";
    return strcmp(name, "NO_PROXY") == 0 ? "10.0.0.0/8" : NULL;
}

static void test_K20_the_kubeconfig_goes_before_the_environment(void **state)
{
    (void)state;
    static const struct {
        const char *server, *url, *host;
    } cases[] = {
        {"https://api.example:6443", NULL, "secure"},
        {"http://api.example", NULL, "plain"},
        {"https://10.96.0.1:443", NULL, NULL},
        {"https://127.0.0.1:6443", NULL, NULL},
        {"https://[::1]:6443", NULL, NULL},
        {"https://localhost", NULL, NULL},
        {"https://10.96.0.1:443", "http://own", "own"},
        {"https://127.0.0.1", "socks5://own", "own"},
    };
    struct env env = *env_system();
    env.get = environment;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct proxy *proxy = NULL;
        const struct k8s_access access = {.server = (char *)(uintptr_t)cases[i].server,
                                          .proxy_url = (char *)(uintptr_t)cases[i].url};
        assert_int_equal(proxy_choose(&env, &access, &proxy, NULL), 0);
        assert_int_equal(proxy != NULL, cases[i].host != NULL);
        if (proxy != NULL)
            assert_string_equal(proxy->host, cases[i].host);
        proxy_unref(proxy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_proxy),
        cmocka_unit_test(test_K20_the_kubeconfig_goes_before_the_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
