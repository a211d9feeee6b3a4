/*
 * kube_authority: the authority of a database as its Secret has it, and how it gives way to a new one. Pure.
 *
 *   STEADY   ca.crt, ca.key                        two thirds of its life
 *   PREPARE  + next.crt, next.key                  everybody is to know the next one: a twelfth of its life
 *   SWITCH   ca.* is the next one, previous.crt    everything is issued anew; the old one is known for as
 * long DROP     ca.crt, ca.key                        again
 *
 * Each step is one compare-and-swap of the Secret, so that a crash between two leaves one of them. What a
 * step needs of the others (bundles, certificates) is looked at before it, and made by everybody's next pass.
 */
#ifndef RUNTIME_KUBE_AUTHORITY_H
#define RUNTIME_KUBE_AUTHORITY_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/kube_certificate.h"

struct yyjson_val;

struct kube_authority {
    struct kube_pair now;  /* what issues */
    struct kube_pair next; /* what will; none = not prepared */
    char *previous;        /* the certificate of what issued before; NULL = nothing known of it is left */
    int64_t since_us;      /* of the last step, wall clock; 0 = there was none */
};
void kube_authority_clear(struct kube_authority *a);

/* False when it lacks ca.crt or ca.key. */
bool kube_authority_read(struct yyjson_val *secret, struct kube_authority *ret);

/* ca.crt for servers and clients: the present one first, then what else is to be known. free() it. */
char *kube_authority_bundle(const struct kube_authority *a);

enum kube_authority_step {
    KUBE_AUTHORITY_STAY,
    KUBE_AUTHORITY_PREPARE,
    KUBE_AUTHORITY_SWITCH,
    KUBE_AUTHORITY_DROP
};
/* What is due; with STAY, ret_due_us is when something will be. */
enum kube_authority_step kube_authority_due(struct env *env, const struct kube_authority *a,
                                            int64_t *ret_due_us);
/* How long to wait before it is looked at again whether a due step is possible, microseconds. */
int64_t kube_authority_pause_us(const struct kube_authority *a);

/*
 * Whether a Secret with a certificate is ready for the step: its ca.crt has the next authority (SWITCH), or
 * its tls.crt is of the present one and its ca.crt has that (DROP).
 */
bool kube_authority_ready(const struct kube_authority *a, enum kube_authority_step step,
                          struct yyjson_val *secret, struct env *env);

#endif
