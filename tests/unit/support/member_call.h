/*
 * member_call: orders to the agent of a member over HTTP, as curl would give them. They block, and fail the
 * test that gives them. To be included after cmocka.h.
 */
#ifndef SUPPORT_MEMBER_CALL_H
#define SUPPORT_MEMBER_CALL_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/pg_server.h"

static inline int member_connect(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
        return fd;
    close(fd);
    return -1;
}

/* The status; the whole answer in ret. 0: nobody answers. */
static inline int member_call(int port, const char *token, const char *method, const char *path,
                              const char *body, char *ret, size_t size)
{
    char request[4096];
    int fd = member_connect(port), status = 0;
    size_t length = 0;
    ssize_t n;
    ret[0] = '\0';
    if (fd < 0)
        return 0;
    snprintf(request, sizeof request,
             "%s %s HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nAuthorization: Bearer %s\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             method, path, token, strlen(body), body);
    assert_int_equal(write(fd, request, strlen(request)), (ssize_t)strlen(request));
    while (length < size - 1 && (n = read(fd, ret + length, size - 1 - length)) > 0)
        length += (size_t)n;
    ret[length] = '\0';
    close(fd);
    return sscanf(ret, "HTTP/1.1 %d", &status) == 1 ? status : 0;
}

/* Repeated while another order is being written down, or the agent starts. */
static inline void member_assign(int port, const char *token, const char *order)
{
    char text[16384];
    int status = 503;
    for (int i = 0; i < 500 && status == 503; i++) {
        status = member_call(port, token, "POST", "/v1/assign", order, text, sizeof text);
        if (status == 503)
            pg_server_wait_ms(20);
    }
    if (status != 200)
        fail_msg("%s: %s", order, text);
}

/* Until the status has this in it, for a minute at most. */
static inline void member_wait(int port, const char *token, const char *word)
{
    char text[16384];
    for (int i = 0; i < 3000; i++) {
        assert_int_equal(member_call(port, token, "GET", "/v1/status", "", text, sizeof text), 200);
        if (strstr(text, word) != NULL)
            return;
        pg_server_wait_ms(20);
    }
    fail_msg("never %s: %s", word, text);
}

#endif
