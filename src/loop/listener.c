/*
 * The listening socket is polled and accepted from here, not by uv_listen(): libuv closes connections, or
 * spins, when file descriptors run out; this pauses instead.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "loop/stream_impl.h"

#define BACKLOG          1024
#define ACCEPTS_PER_TURN 64
#define PAUSE_NS         (100 * ENV_NS_PER_MS)

struct listener {
    struct loop *loop;
    uv_poll_t poll;
    int fd;
    struct loop_timer timer; /* armed while accepting is paused */
    struct tls_context *tls;
    listener_cb cb;
    void *data;
    listener_closed_cb closed;
    void *closed_data;
};

static void on_readable(uv_poll_t *poll, int status, int events);

static bool accepting(const struct listener *l)
{
    return !uv_is_closing((const uv_handle_t *)&l->poll) && !loop_timer_armed(&l->timer);
}

static void accept_pause(struct listener *l)
{
    uv_poll_stop(&l->poll);
    loop_timer_start(&l->timer, PAUSE_NS);
}

static void on_pause_over(struct loop_timer *timer, void *data)
{
    struct listener *l = data;
    if (uv_poll_start(&l->poll, UV_READABLE, on_readable) != 0)
        loop_timer_start(timer, PAUSE_NS);
}

static void hand_over(struct listener *l, int fd)
{
    struct stream *s = stream_new(l->loop, l->tls, STATE_ACCEPTED);
    int rc = stream_tcp_init(s);
    if (rc == 0)
        rc = uv_tcp_open(&s->tcp, fd);
    if (rc != 0) {
        close(fd);
        stream_close(s);
        return;
    }
    stream_accepted(s);
    l->cb(l, s, l->data);
    if (s->cb == NULL)
        stream_close(s);
}

/* False when nothing more is to be had in this turn. */
static bool accept_one(struct listener *l)
{
    int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        hand_over(l, fd);
        return true;
    }
    if (errno == EINTR || errno == ECONNABORTED)
        return true;
    if (errno != EAGAIN && errno != EWOULDBLOCK)
        accept_pause(l); /* no descriptors, no memory: whatever it is, it needs time, not a busy loop */
    return false;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    (void)events;
    struct listener *l = poll->data;
    (void)loop_now(l->loop);
    if (status != 0) {
        accept_pause(l);
        return;
    }
    for (int i = 0; i < ACCEPTS_PER_TURN && accepting(l); i++)
        if (!accept_one(l))
            return;
}

/* A listening socket, or -1 with errno set. */
static int socket_listen(const struct sockaddr *address, socklen_t length)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    const int on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 && bind(fd, address, length) == 0 &&
        listen(fd, BACKLOG) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static int address_listen(const char *address, int port, struct err *err)
{
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
    int fd;
    if (port < 0 || port > 65535) {
        err_set(err, ERRC_INVALID, "%d is not a port", port);
        return -1;
    }
    if (uv_ip4_addr(address, port, &in4) == 0) {
        fd = socket_listen((const struct sockaddr *)&in4, sizeof in4);
    } else if (uv_ip6_addr(address, port, &in6) == 0) {
        fd = socket_listen((const struct sockaddr *)&in6, sizeof in6);
    } else {
        err_set(err, ERRC_INVALID, "cannot listen on \"%s\": not an IPv4 or IPv6 address", address);
        return -1;
    }
    if (fd < 0)
        err_set_errno(err, errno, "cannot listen on %s port %d", address, port);
    return fd;
}

int listener_open(struct loop *loop, const char *address, int port, struct tls_context *tls, listener_cb cb,
                  void *data, struct listener **ret, struct err *err)
{
    struct err fault = {0};
    int fd = address_listen(address, port, &fault);
    if (fd < 0)
        return err_copy(err, &fault);
    struct listener *l = mem_zalloc(sizeof *l);
    int rc = uv_poll_init(&loop->uv, &l->poll, fd);
    if (rc != 0) {
        close(fd);
        free(l);
        return err_set(err, ERRC_IO, "cannot listen on %s port %d: %s", address, port, uv_strerror(rc));
    }
    loop->handles++;
    l->loop = loop;
    l->fd = fd;
    l->poll.data = l;
    l->tls = tls != NULL ? tls_context_ref(tls) : NULL;
    l->cb = cb;
    l->data = data;
    loop_timer_init(loop, &l->timer, on_pause_over, l);
    if (uv_poll_start(&l->poll, UV_READABLE, on_readable) != 0)
        loop_timer_start(&l->timer, PAUSE_NS);
    *ret = l;
    return 0;
}

int listener_port(const struct listener *l)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    if (getsockname(l->fd, (struct sockaddr *)&address, &length) != 0)
        return 0;
    if (address.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)(const void *)&address)->sin6_port);
    return ntohs(((const struct sockaddr_in *)(const void *)&address)->sin_port);
}

void listener_set_tls(struct listener *l, struct tls_context *tls)
{
    if (l->tls == NULL)
        return;
    struct tls_context *old = l->tls;
    l->tls = tls_context_ref(tls);
    tls_context_unref(old);
}

static void on_poll_closed(uv_handle_t *handle)
{
    struct listener *l = handle->data;
    l->loop->handles--;
    if (l->closed != NULL)
        l->closed(l, l->closed_data);
    tls_context_unref(l->tls);
    free(l);
}

void listener_close(struct listener *l, listener_closed_cb closed, void *data)
{
    if (uv_is_closing((uv_handle_t *)&l->poll))
        return;
    l->closed = closed;
    l->closed_data = data;
    loop_timer_stop(&l->timer);
    uv_close((uv_handle_t *)&l->poll, on_poll_closed); /* takes the descriptor out of the poll set first */
    close(l->fd);
}
