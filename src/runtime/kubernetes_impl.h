/*
 * kubernetes_impl: what the files of the Kubernetes back end share. Not for other folders.
 *
 * A call on the runtime is a kube_op. It owns at most one request at a time (op->call); whoever cancels it
 * gets the request's callback first.
 */
#ifndef RUNTIME_KUBERNETES_IMPL_H
#define RUNTIME_KUBERNETES_IMPL_H

#include "base/list.h"
#include "runtime/kubernetes.h"

struct kubernetes {
    struct runtime base; /* first */
    struct loop *loop;
    struct runtime_kubernetes_options options; /* strings are ours */
    struct list ops;
    struct loop_task settle; /* runs `closed` when nothing is left */
    bool closing;
    void (*closed)(void *data);
    void *closed_data;
};

#endif
