/*
 * sqlf: SQL text with values put in safely.
 *
 *   %L  const char *   quoted literal, NULL gives NULL
 *   %I  const char *   quoted identifier
 *   %d  int64_t        'n'::bigint (the least bigint has no plain literal)
 *   %s  const char *   as it is
 */
#ifndef OPERATION_SQLF_H
#define OPERATION_SQLF_H

#include <stdarg.h>

#include "base/buf.h"

void sqlf(struct buf *out, const char *fmt, ...);
void sqlvf(struct buf *out, const char *fmt, va_list args);

#endif
