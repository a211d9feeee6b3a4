#include "runtime/kube_version.h"

#include <stddef.h>
#include <stdlib.h>
#include <yyjson.h>

#include "runtime/kube_meta.h"

/* Where the image is: of a StatefulSet, of a Cluster. */
static const char *const images[] = {"/spec/template/spec/containers/0/image", "/spec/imageName"};

static void replace(yyjson_mut_doc *doc, const char *pointer, const char *text)
{
    (void)yyjson_mut_doc_ptr_set(doc, pointer, yyjson_mut_strcpy(doc, text));
}

bool kube_version_keep(yyjson_val *live, yyjson_mut_doc *doc)
{
    /* "~1" is the "/" within a name */
    static const char annotation[] = "/metadata/annotations/shardherd.io~1postgresql-version";
    const char *made = kube_annotation(live, KUBE_VERSION_ANNOTATION);
    const char *wanted = yyjson_mut_get_str(yyjson_mut_doc_ptr_get(doc, annotation));
    if (made[0] == '\0' || wanted == NULL || atoi(made) >= atoi(wanted))
        return false;
    replace(doc, annotation, made);
    for (size_t i = 0; i < sizeof images / sizeof images[0]; i++) {
        const char *image = yyjson_get_str(yyjson_ptr_get(live, images[i]));
        if (image != NULL && yyjson_mut_doc_ptr_get(doc, images[i]) != NULL)
            replace(doc, images[i], image);
    }
    return true;
}
