/*
 * podman: the shards' PostgreSQL instances as containers, through the API that podman and Docker have in
 * common, on a Unix socket. Instance "shop-s1-0" is the container "shardherd-shop-s1-0" with a volume of the
 * same name, both labelled shardherd.io/directory with the runtime's directory: what has another label there,
 * or none, is never touched.
 *
 * The image holds PostgreSQL, `shardherd` in its PATH and a user with the number 999, whose home is
 * /var/lib/postgresql (deploy/Containerfile): process 1 is `shardherd agent`, as in a pod. Images are never
 * pulled. The container's root is read-only, without capabilities; data, settings and the superuser's
 * password (0600, put there through the API, so that no argument, variable or mount shows it) are in the
 * volume.
 *
 * runtime_ensure() fails with
 *   ERRC_UNSUPPORTED  the image is not there
 *   ERRC_CONFLICT     a container or volume of that name is not ours, the instance belongs to another shard,
 *                     or its container is paused
 *   ERRC_NOT_FOUND    must_exist, and nothing is known of it
 *   ERRC_CORRUPT      its volume is gone, or a volume of ours is there whose password is not known
 *   ERRC_TIMEOUT      the server did not let us in; with the agent's last words
 * One that runs is adopted as it is; options and settings take effect when it is started: the container is
 * then made anew on the same volume if it is not what the options say. What was never usable is removed.
 */
#ifndef RUNTIME_PODMAN_H
#define RUNTIME_PODMAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"
#include "runtime/runtime.h"

#define PODMAN_NETWORK "host"

struct runtime_podman_options {
    bool docker; /* kind is "docker", not "podman": no other difference */
    /* Holds <name>/{instance.json,password}, as with local instances, and names what is ours; made, 0700. */
    const char *directory;
    const char *socket; /* path, with or without "unix://" */
    const char *image;
    /*
     * NULL = "host": servers listen on `address` themselves. Another one must exist; the server's port is
     * then published on `address`, which must be one that containers reach too, since shards copy from each
     * other: not 127.0.0.1.
     */
    const char *network;
    const char *address;   /* numeric; NULL = 127.0.0.1 */
    int first_port;        /* 0 = 25432; the first free one from here is taken and kept */
    uint64_t memory_bytes; /* limit, from which the server's settings follow; 0 = none */
    double cpus;           /* limit; 0 = none */
    int pids;              /* limit; 0 = the engine's */
    const char *ulimits;   /* "nofile=1024:1024,nproc=1000:1000"; NULL = the engine's */
};

/* Copies the options' strings, makes the directory: call it at start-up. Asks the engine nothing. */
int runtime_podman_open(struct loop *loop, const struct runtime_podman_options *options, struct runtime **ret,
                        struct err *err);

/*
 * Who answers at the socket, "Podman Engine 4.3.1", and whether the image is there. Without an answer in 5 s:
 * ERRC_UNAVAILABLE or ERRC_TIMEOUT with the remedy, engine NULL. No image: ERRC_UNSUPPORTED, engine set. Call
 * it before anything else: it also finds out which version of the API to speak.
 */
typedef void (*runtime_podman_check_cb)(const struct err *err, const char *engine, void *data);
int runtime_podman_check(struct runtime *rt, runtime_podman_check_cb cb, void *data, struct err *err);

#endif
