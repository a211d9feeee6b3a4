/*
 * findings: what the checks of an operation found, as the JSON array that is journaled and served:
 * [{"severity": "error", "subject": "public.orders", "finding": "...", "remedy": "..."}], errors first.
 */
#ifndef OPERATION_FINDINGS_H
#define OPERATION_FINDINGS_H

#include "base/buf.h"

/* An error refuses the operation, a warning is shown. */
#define FINDING_ERROR   "error"
#define FINDING_WARNING "warning"

struct finding {
    const char *severity;
    const char *subject; /* the table, role, server it is about */
    const char *finding;
    const char *remedy;
};

/*
 * Adds one to the list, behind the errors or at the end; one that is there already is not added again. An
 * empty buffer is an empty list. When the list would outgrow the buffer's limit, the last ones go and one
 * that says how many are not shown takes their place.
 */
void findings_add(struct buf *list, const struct finding *one);
/* The same with each of another list's. */
void findings_join(struct buf *list, const struct buf *more);

/* How many errors are in the list; `first`, if not NULL, gets the first: "subject: finding (remedy: ...)". */
unsigned findings_errors(const struct buf *list, char *first, size_t size);

#endif
