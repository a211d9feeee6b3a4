/*
 * The floor of a scrape: one blocking process that answers each request on a connection with the bytes of a
 * file, in pieces of 256 KiB, by writev().
 *
 *     bench_writev FILE       prints its port on 127.0.0.1; serves one connection after the other until
 * killed
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PIECE_BYTES ((size_t)256 * 1024)
#define PIECES_MAX  1000 /* below IOV_MAX */

static char *read_file(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0)
        return NULL;
    long size = ftell(file);
    rewind(file);
    char *bytes = size > 0 ? malloc((size_t)size) : NULL;
    if (bytes != NULL)
        *length = fread(bytes, 1, (size_t)size, file);
    fclose(file);
    return bytes;
}

static int cut(char *bytes, size_t length, struct iovec *pieces)
{
    int n = 0;
    for (size_t at = 0; at < length && n < PIECES_MAX; at += PIECE_BYTES, n++)
        pieces[n] = (struct iovec){bytes + at, length - at < PIECE_BYTES ? length - at : PIECE_BYTES};
    return n;
}

static int write_all(int fd, struct iovec *pieces, int count)
{
    while (count > 0) {
        ssize_t n = writev(fd, pieces, count);
        if (n < 0)
            return -1;
        size_t left = (size_t)n;
        for (; count > 0 && left >= pieces->iov_len; pieces++, count--)
            left -= pieces->iov_len;
        if (count > 0) {
            pieces->iov_base = (char *)pieces->iov_base + left;
            pieces->iov_len -= left;
        }
    }
    return 0;
}

static void serve(int fd, char *bytes, size_t length)
{
    static struct iovec pieces[PIECES_MAX + 1];
    char request[4096], head[128];
    while (read(fd, request, sizeof request) > 0) {
        int n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", length);
        pieces[0] = (struct iovec){head, (size_t)n};
        if (write_all(fd, pieces, 1 + cut(bytes, length, pieces + 1)) != 0)
            return;
    }
}

int main(int argc, char **argv)
{
    size_t length = 0;
    char *bytes = argc == 2 ? read_file(argv[1], &length) : NULL;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    signal(SIGPIPE, SIG_IGN);
    if (bytes == NULL || bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0) {
        perror("bench_writev");
        return 1;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        serve(fd, bytes, length);
        close(fd);
    }
}
