#include "store/lease_note.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/mem.h"

#define NOTE_MAX 2048 /* bytes kept: some fifteen names, of which the Lease has one */

struct lease_note {
    int fd;
    char *identity, *dead;
};

/* Whole lines, the newest at the end. */
static char *read_dead(int fd)
{
    char *text = mem_zalloc(NOTE_MAX + 1);
    off_t size = lseek(fd, 0, SEEK_END);
    ssize_t got = size > 0 ? pread(fd, text, NOTE_MAX, size > NOTE_MAX ? size - NOTE_MAX : 0) : 0;
    text[got > 0 ? got : 0] = '\0';
    char *first = size > NOTE_MAX ? strchr(text, '\n') : NULL, *last = strrchr(text, '\n');
    if (last != NULL)
        last[1] = '\0';
    else
        text[0] = '\0'; /* a name that was being written */
    if (first != NULL)
        memmove(text, first + 1, strlen(first));
    return text;
}

/* A file that is written half names nobody: its last line has no end. */
static int write_all(int fd, const char *text)
{
    size_t length = strlen(text);
    return ftruncate(fd, 0) == 0 && pwrite(fd, text, length, 0) == (ssize_t)length ? 0 : -1;
}

int lease_note_open(const char *path, const char *identity, struct lease_note **ret, struct err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set_errno(err, errno, "cannot open %s", path);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int error = errno;
        (void)close(fd);
        return error == EWOULDBLOCK ? err_set(err, ERRC_CONFLICT, "%s is locked by a manager that runs", path)
                                    : err_set_errno(err, error, "cannot lock %s", path);
    }
    struct lease_note *note = mem_alloc(sizeof *note);
    *note = (struct lease_note){fd, mem_strdup(identity), read_dead(fd)};
    char *text = mem_printf("%s%s\n", note->dead, identity);
    int error = write_all(fd, text) != 0 ? errno : 0;
    free(text);
    if (error != 0) {
        lease_note_close(note);
        return err_set_errno(err, error, "cannot write %s", path);
    }
    *ret = note;
    return 0;
}

void lease_note_close(struct lease_note *note)
{
    if (note == NULL)
        return;
    (void)close(note->fd);
    free(note->identity);
    free(note->dead);
    free(note);
}

const char *lease_note_identity(const struct lease_note *note)
{
    return note->identity;
}

const char *lease_note_dead(const struct lease_note *note)
{
    return note->dead;
}
