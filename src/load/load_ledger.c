#include "load/load_ledger.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

#define READ_SIZE ((size_t)1 << 20)

static void ledger_reset(struct load_ledger *ledger, const char *path)
{
    memset(ledger, 0, sizeof *ledger);
    ledger->fd = -1;
    ledger->path = mem_strdup(path);
}

int load_ledger_create(struct load_ledger *ledger, const char *path, const struct load_shape *shape,
                       struct err *err)
{
    ledger_reset(ledger, path);
    load_state_init(&ledger->state, shape);
    ledger->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
    int code = 0;
    if (ledger->fd < 0)
        code = err_set_errno(err, errno, "ledger \"%s\"", path);
    if (code == 0) {
        load_record_header(&ledger->pending, shape);
        code = load_ledger_flush(ledger, err);
    }
    if (code != 0)
        load_ledger_close(ledger);
    return code;
}

struct replay {
    struct load_ledger *ledger;
    const struct load_shape *shape;
    uint64_t line;
    uint64_t complete; /* bytes of complete lines */
};

static int replay_line(struct replay *r, const char *line, struct err *err)
{
    struct load_shape found;
    r->line++;
    if (r->line > 1)
        return load_record_replay(&r->ledger->state, line, err);
    int code = load_record_parse_header(line, &found, err);
    if (code != 0)
        return code;
    if (r->shape != NULL && (found.customers != r->shape->customers || found.orders != r->shape->orders ||
                             found.key_type != r->shape->key_type))
        return err_set(
            err, ERRC_CONFLICT,
            "it is about %u customers with %u orders and %s keys: name the same, or another ledger",
            found.customers, found.orders, key_type_name(found.key_type));
    load_state_init(&r->ledger->state, &found);
    return 0;
}

/* Replays the complete lines of buf and removes them. */
static int replay_lines(struct replay *r, struct buf *b, struct err *err)
{
    size_t at = 0;
    int code = 0;
    while (code == 0 && at < b->length) {
        char *end = memchr(b->data + at, '\n', b->length - at);
        if (end == NULL)
            break;
        *end = '\0';
        code = replay_line(r, b->data + at, err);
        at = (size_t)(end - b->data) + 1;
    }
    r->complete += at;
    buf_consume(b, at);
    return code;
}

static int replay_file(struct replay *r, int fd, struct err *err)
{
    struct buf b = {0};
    int code = 0;
    for (;;) {
        char *room = buf_reserve(&b, READ_SIZE);
        ssize_t got = read(fd, room, READ_SIZE);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            code = err_set_errno(err, errno, "read");
        if (got <= 0)
            break;
        b.length += (size_t)got;
        b.data[b.length] = '\0';
        code = replay_lines(r, &b, err);
        if (code == 0 && b.length > READ_SIZE)
            code = err_set(err, ERRC_CORRUPT, "a line is longer than 1 MiB");
        if (code != 0)
            break;
    }
    buf_free(&b);
    if (code == 0 && r->line == 0)
        code = err_set(err, ERRC_CORRUPT, "it is empty");
    if (code != 0 && r->line > 0)
        (void)err_wrap(err, "line %llu", (unsigned long long)r->line);
    return code;
}

int load_ledger_open(struct load_ledger *ledger, const char *path, const struct load_shape *shape,
                     bool read_only, struct err *err)
{
    ledger_reset(ledger, path);
    ledger->fd = open(path, read_only ? O_RDONLY | O_CLOEXEC : O_RDWR | O_APPEND | O_CLOEXEC);
    int code = 0;
    if (ledger->fd < 0) {
        code = errno == ENOENT ? err_set(err, ERRC_NOT_FOUND, "there is no such file")
                               : err_set_errno(err, errno, "open");
    } else {
        struct replay r = {.ledger = ledger, .shape = shape};
        code = replay_file(&r, ledger->fd, err);
        /* a torn last record was never acknowledged: new records must not be glued to it */
        if (code == 0 && !read_only && ftruncate(ledger->fd, (off_t)r.complete) != 0)
            code = err_set_errno(err, errno, "truncate");
    }
    if (code != 0) {
        (void)err_wrap(err, "ledger \"%s\"", path);
        load_ledger_close(ledger);
    }
    return code;
}

void load_ledger_close(struct load_ledger *ledger)
{
    if (ledger->fd >= 0) {
        (void)load_ledger_flush(ledger, NULL);
        (void)close(ledger->fd);
    }
    buf_free(&ledger->pending);
    load_state_fini(&ledger->state);
    free(ledger->path);
    ledger->path = NULL;
    ledger->fd = -1;
}

void load_ledger_run(struct load_ledger *ledger, unsigned clients)
{
    ledger->state.unclean_clients = clients;
    buf_printf(&ledger->pending, "run %u\n", clients);
}

void load_ledger_end(struct load_ledger *ledger)
{
    ledger->state.unclean_clients = 0;
    buf_add_text(&ledger->pending, "end\n");
}

void load_ledger_ack(struct load_ledger *ledger, const struct load_write *write)
{
    int code = load_state_apply(&ledger->state, write, NULL);
    assert(code == 0);
    (void)code;
    load_record_write(&ledger->pending, write);
}

void load_ledger_doubt(struct load_ledger *ledger, const struct load_write *write)
{
    int code = load_state_doubt(&ledger->state, write, NULL);
    assert(code == 0);
    (void)code;
    load_record_doubt(&ledger->pending, write);
}

void load_ledger_found(struct load_ledger *ledger, enum finding_kind kind, uint32_t number)
{
    ledger->state.found[kind]++;
    ledger->state.pending[number] = 0;
    load_record_found(&ledger->pending, &ledger->state, kind, number);
}

int load_ledger_flush(struct load_ledger *ledger, struct err *err)
{
    struct buf *b = &ledger->pending;
    size_t at = 0;
    int code = 0;
    while (at < b->length && code == 0) {
        ssize_t n = write(ledger->fd, b->data + at, b->length - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            code = err_set_errno(err, errno, "ledger \"%s\"", ledger->path);
        else
            at += (size_t)n;
    }
    buf_reset(b);
    return code;
}
