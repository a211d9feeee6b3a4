/*
 * wire: a connection to a server whose packets can be made to vanish, without root.
 */
#ifndef PG_WIRE_H
#define PG_WIRE_H

#include <linux/filter.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "pg/pg_test.h"

/* Every packet to this socket vanishes from now on, unacknowledged: a firewall, a cable that was pulled. */
static inline void drop_packets(int fd)
{
    struct sock_filter nothing[] = {{.code = BPF_RET | BPF_K, .k = 0}};
    const struct sock_fprog program = {.len = 1, .filter = nothing};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), 0);
}

/* Between a client and the server, until it is told to drop. */
struct wire {
    pthread_t thread;
    int listener, port; /* of the server */
    _Atomic bool drop, dropping, stop;
};

static inline bool forward(int from, int to)
{
    char bytes[8192];
    ssize_t n = recv(from, bytes, sizeof bytes, MSG_DONTWAIT);
    return n < 0 || (n > 0 && write(to, bytes, (size_t)n) == n);
}

static inline void *wire_run(void *data)
{
    struct wire *w = data;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)w->port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int client = accept(w->listener, NULL, NULL), up = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool open = connect(up, (struct sockaddr *)&a, sizeof a) == 0;
    while (!w->stop) {
        struct pollfd fds[] = {{.fd = client, .events = POLLIN}, {.fd = up, .events = POLLIN}};
        if (w->drop && !w->dropping) {
            drop_packets(client);
            w->dropping = true;
        }
        if (poll(fds, w->dropping || !open ? 0 : 2, 5) > 0)
            open = forward(client, up) && forward(up, client);
    }
    close(client);
    close(up);
    return NULL;
}

#endif
