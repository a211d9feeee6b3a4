#include "runtime/kube_authority.h"

#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/mem.h"
#include "k8s/exec_plugin.h"
#include "runtime/kube_meta.h"

#define US_PER_S 1000000ll

void kube_authority_clear(struct kube_authority *a)
{
    kube_pair_clear(&a->now);
    kube_pair_clear(&a->next);
    free(a->previous);
    memset(a, 0, sizeof *a);
}

bool kube_authority_read(yyjson_val *secret, struct kube_authority *ret)
{
    struct kube_authority a = {
        .now = {kube_secret_value(secret, "ca.crt"), kube_secret_value(secret, "ca.key")},
        .next = {kube_secret_value(secret, "next.crt"), kube_secret_value(secret, "next.key")},
        .previous = kube_secret_value(secret, "previous.crt"),
    };
    if (!rfc3339_read(kube_annotation(secret, KUBE_WRITTEN_ANNOTATION), &a.since_us))
        a.since_us = 0;
    if (a.next.certificate == NULL || a.next.key == NULL)
        kube_pair_clear(&a.next);
    if (a.now.certificate == NULL || a.now.key == NULL) {
        kube_authority_clear(&a);
        return false;
    }
    *ret = a;
    return true;
}

char *kube_authority_bundle(const struct kube_authority *a)
{
    struct buf text = {0};
    (void)buf_add_text(&text, a->now.certificate);
    if (a->next.certificate != NULL)
        (void)buf_printf(&text, "\n%s", a->next.certificate);
    if (a->previous != NULL)
        (void)buf_printf(&text, "\n%s", a->previous);
    return buf_take(&text);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How long the present one stays after the next was made known: shorter when it ends before. */
static int64_t overlap_us(const struct kube_authority *a)
{
    int64_t life = 0, until = 0;
    if (!kube_certificate_life(a->now.certificate, &life, &until))
        return 0;
    return a->next.certificate == NULL ? life / 12 : least(life / 12, (until - a->since_us) / 2);
}

enum kube_authority_step kube_authority_due(struct env *env, const struct kube_authority *a,
                                            int64_t *ret_due_us)
{
    int64_t life = 0, until = 0, due = 0;
    enum kube_authority_step step = KUBE_AUTHORITY_PREPARE;
    if (a->previous != NULL)
        step = KUBE_AUTHORITY_DROP;
    else if (a->next.certificate != NULL)
        step = KUBE_AUTHORITY_SWITCH;
    if (step != KUBE_AUTHORITY_PREPARE)
        due = a->since_us + overlap_us(a);
    else if (kube_certificate_life(a->now.certificate, &life, &until))
        due = until - life / 3;
    *ret_due_us = due;
    return env->wall_us(env) >= due ? step : KUBE_AUTHORITY_STAY;
}

int64_t kube_authority_pause_us(const struct kube_authority *a)
{
    int64_t life = 0, until = 0, pause;
    (void)kube_certificate_life(a->now.certificate, &life, &until);
    pause = least(life / 120, 3600 * US_PER_S);
    return pause > US_PER_S ? pause : US_PER_S;
}

/* Line ends behind it do not count. */
static bool holds(const char *bundle, const char *certificate)
{
    size_t length = certificate != NULL ? strlen(certificate) : 0;
    while (length > 0 && certificate[length - 1] == '\n')
        length--;
    return length > 0 && memmem(bundle, strlen(bundle), certificate, length) != NULL;
}

bool kube_authority_ready(const struct kube_authority *a, enum kube_authority_step step, yyjson_val *secret,
                          struct env *env)
{
    char *known = kube_secret_value(secret, "ca.crt"), *certificate = kube_secret_value(secret, "tls.crt");
    const char *needed = step == KUBE_AUTHORITY_SWITCH ? a->next.certificate : a->now.certificate;
    bool ready = known != NULL && holds(known, needed);
    if (ready && step == KUBE_AUTHORITY_DROP)
        ready =
            kube_certificate_judge(env, certificate, a->now.certificate, NULL) != KUBE_CERTIFICATE_UNUSABLE;
    free(known);
    free(certificate);
    return ready;
}
