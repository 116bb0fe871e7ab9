/*
 * tree: things by a key of theirs, in order: tsearch(3), whose header takes the name struct entry
 * and so can't stand beside store/directory.h. It owns what was added: one piece of memory each.
 */
#ifndef MAILFLEET_ADMIN_TREE_H
#define MAILFLEET_ADMIN_TREE_H

typedef int tree_compare(const void *a, const void *b);

/* NULL: there is none. */
void *tree_find(void *const *root, const void *wanted, tree_compare *compare);
/* What is equal to thing and there already, which thing is freed for; or thing. */
void *tree_add(void **root, void *thing, tree_compare *compare);
void tree_walk(const void *root, void (*fn)(void *thing, void *arg), void *arg);
void tree_free(void **root);

#endif
