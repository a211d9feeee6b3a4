#include "operation/transient.h"

#include <string.h>

/* Classes and codes of PostgreSQL, appendix A of its manual. */
static const char *const transient_states[] = {
    "08",    /* connection exceptions */
    "40",    /* transaction rollback: serialization, deadlock */
    "53",    /* insufficient resources */
    "57",    /* operator intervention: shutdown, starting up, canceled */
    "55P03", /* lock not available */
    "55006", /* object in use */
    "25P03", /* idle in transaction for too long */
};

static bool sqlstate_is_transient(const char *sqlstate)
{
    for (size_t i = 0; i < sizeof transient_states / sizeof *transient_states; i++)
        if (strncmp(sqlstate, transient_states[i], strlen(transient_states[i])) == 0)
            return true;
    return false;
}

bool err_is_transient(const struct err *err)
{
    switch (err->code) {
    case ERRC_UNAVAILABLE:
    case ERRC_TIMEOUT:
    case ERRC_CLOSED:
    case ERRC_IO:
    case ERRC_CANCELED:
    case ERRC_CONFLICT:
        return true;
    case ERRC_SQL:
        return sqlstate_is_transient(err->sqlstate);
    default:
        return false;
    }
}
