/*
 * err: the one error value.
 *
 * An error is filled where the fault is known, prefixed on the way up with err_wrap(), and logged once, by
 * the owner of the operation that failed. Functions return 0 for success and a non-zero enum err_code
 * otherwise; a `struct err *` that the caller passes may be NULL when only the code matters.
 * On success an error struct is left untouched.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#define ERR_MESSAGE_SIZE 512

/* code, name in logs and in the API, what it means */
#define ERRC_MAP(X)                                                                                          \
    X(NONE, "none")               /* success */                                                              \
    X(INVALID, "invalid")         /* the caller's input is wrong; retrying cannot help */                    \
    X(NOT_FOUND, "not_found")     /* the thing named does not exist */                                       \
    X(EXISTS, "exists")           /* the thing to create exists already */                                   \
    X(CONFLICT, "conflict")       /* compare-and-swap lost, or the state forbids it now */                   \
    X(REFUSED, "refused")         /* a rule of shardherd or of the server forbids it */                      \
    X(AUTH, "auth")               /* not authenticated or not allowed */                                     \
    X(UNAVAILABLE, "unavailable") /* the peer cannot be reached; retrying may help */                        \
    X(TIMEOUT, "timeout")         /* a deadline passed; the outcome may be unknown */                        \
    X(CANCELED, "canceled")       /* the caller took it back */                                              \
    X(CLOSED, "closed")           /* the peer or we ended the connection */                                  \
    X(LIMIT, "limit")             /* a size, count or rate limit was hit */                                  \
    X(PROTOCOL, "protocol")       /* the peer broke the protocol */                                          \
    X(TLS, "tls")                 /* certificate or TLS failure */                                           \
    X(IO, "io")                   /* file or socket error */                                                 \
    X(SQL, "sql")                 /* PostgreSQL reported an error; sqlstate is set */                        \
    X(UNSUPPORTED, "unsupported") /* this build, server or platform cannot do it */                          \
    X(CORRUPT, "corrupt")         /* stored data cannot be what we wrote */                                  \
    X(STALE, "stale")             /* a newer leader exists (term), stop at once */                           \
    X(INTERNAL, "internal")       /* a defect of shardherd */

enum err_code {
#define X(name, text) ERRC_##name,
    ERRC_MAP(X)
#undef X
        ERRC_MAX
};

struct err {
    enum err_code code;
    char sqlstate[6];               /* "" unless code is ERRC_SQL */
    char message[ERR_MESSAGE_SIZE]; /* never holds a secret */
};

/* Sets code and message and returns code, so that `return err_set(...)` works. Truncates. */
int err_set(struct err *e, enum err_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Like err_set() with ": " and strerror(errnum) (errno values, positive) at the end; code ERRC_IO. */
int err_set_errno(struct err *e, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Sets ERRC_SQL with its SQLSTATE (5 characters; NULL is taken as "XX000"). */
int err_set_sql(struct err *e, const char *sqlstate, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "<prefix>: " before the message; returns the code. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* dst = src, when both are not NULL. Returns src's code (ERRC_NONE for NULL). */
int err_copy(struct err *dst, const struct err *src);

/* Resets to "no error". */
void err_clear(struct err *e);

/* True if e is ERRC_SQL with this SQLSTATE. */
int err_is_sql(const struct err *e, const char *sqlstate);

/* The stable lower-case name of a code ("not_found"); "unknown" for a number out of range. */
const char *err_code_name(enum err_code code);

#endif
