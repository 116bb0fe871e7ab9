/*
 * tree: see the header.
 */
#include "tree.h"

#include <search.h>
#include <stdlib.h>

#include "base/check.h"

struct visit {
    void (*fn)(void *thing, void *arg);
    void *arg;
};

void *tree_find(void *const *root, const void *wanted, tree_compare *compare)
{
    void **found = tfind(wanted, root, compare);
    return found ? *found : NULL;
}

void *tree_add(void **root, void *thing, tree_compare *compare)
{
    void **found = tsearch(thing, root, compare);
    CHECK(found);
    if (*found != thing) {
        free(thing);
    }
    return *found;
}

static void on_node(const void *node, VISIT which, void *arg)
{
    const struct visit *v = arg;
    if (which == postorder || which == leaf) {
        v->fn(*(void *const *)node, v->arg);
    }
}

void tree_walk(const void *root, void (*fn)(void *thing, void *arg), void *arg)
{
    struct visit v = { .fn = fn, .arg = arg };
    twalk_r(root, on_node, &v);
}

void tree_free(void **root)
{
    tdestroy(*root, free);
    *root = NULL;
}
