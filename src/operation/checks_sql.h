/*
 * checks_sql: the queries of the checks, embedded at build time. They are sent as they are, so that a check
 * installs nothing: a dry run changes nothing on either side.
 */
#ifndef OPERATION_CHECKS_SQL_H
#define OPERATION_CHECKS_SQL_H

/* Each is one SELECT without a semicolon; of columns severity, subject, finding, remedy. Settings that they
 * read are named at the top of the files. */
extern const char checks_server_sql[], checks_source_sql[], checks_target_sql[], checks_offer_sql[];

/* One SELECT of one JSON object. */
extern const char checks_facts_sql[]; /* of S, for checks_target_sql */
extern const char roles_sql[];        /* of S, for roles_apply_sql; holds password hashes */

extern const char roles_apply_sql[]; /* a DO statement */

#endif
