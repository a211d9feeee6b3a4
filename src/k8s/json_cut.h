/*
 * json_cut: takes a member out of a JSON text before it is parsed.
 *
 * A third to two thirds of what an API server sends of an object is metadata.managedFields, which nobody here
 * reads. Finding its end is several times faster than parsing it. Pure; the text may be anything.
 */
#ifndef K8S_JSON_CUT_H
#define K8S_JSON_CUT_H

#include <stddef.h>

/*
 * path: names of members, NULL at the end; {"metadata", "managedFields"} looks into the first "metadata"
 * only. If the last one is there and is an object or array, it becomes null in place, and what follows moves
 * up. Returns the new length. A text that is no JSON, or has blanks between its tokens, may stay as it is;
 * JSON stays JSON, with the same members and values otherwise.
 */
size_t json_cut(char *text, size_t length, const char *const *path);

#endif
