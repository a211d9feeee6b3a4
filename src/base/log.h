/*
 * log: one line per event, on stderr, as logfmt or JSON.
 *
 * Only owners of an operation log; libraries return errors. Keys are stable: op, db, shard, instance, err,
 * rule. Values never hold secrets. Writing a line is one write(2); a line is at most LOG_LINE_MAX bytes,
 * longer values are cut with "...".
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#define LOG_LINE_MAX 4096

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_LOGFMT, LOG_JSON };

/* Before the first line; the default is LOG_INFO and LOG_LOGFMT. */
void log_setup(enum log_level least, enum log_format format);

/* "debug", "info", "warn", "error" to the level; -1 for anything else. */
int log_level_parse(const char *text);

/*
 * log_event(LOG_INFO, "shard split", "op", id, "shard", name, NULL): pairs of key and text, ended by NULL.
 * A pair whose value is NULL is left out. Thread-safe.
 */
void log_event(enum log_level level, const char *message, ...) __attribute__((sentinel));

/* A value for log_event() from a number; the text lives until the 16th next call in the same thread. */
const char *log_num(long long value);
const char *log_real(double value, int decimals);

#endif
