/* transient: which failures of a step are worth another try without anybody's help. */
#ifndef OPERATION_TRANSIENT_H
#define OPERATION_TRANSIENT_H

#include <stdbool.h>

#include "base/err.h"

/*
 * True for what time can mend: a peer that is not there, a deadline, a lost race, a server that starts, stops
 * or is full, a lock that was not to be had. Refusals, corruption, wrong SQL and our own defects are not.
 */
bool err_is_transient(const struct err *err);

#endif
