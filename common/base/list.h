/*
 * list: an intrusive, doubly linked, circular list.
 *
 * The head is a struct list too. A link that is in no list points to itself after list_init, so
 * list_del may be called twice. Nothing is allocated; the embedding struct owns the link.
 */
#ifndef MAILFLEET_BASE_LIST_H
#define MAILFLEET_BASE_LIST_H

#include <stdbool.h>

struct list {
    struct list *next;
    struct list *prev;
};

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

/* At the end of the list. */
static inline void list_add(struct list *head, struct list *l)
{
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

static inline void list_del(struct list *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    list_init(l);
}

/* Takes the first link off, or returns NULL. */
static inline struct list *list_pop(struct list *head)
{
    struct list *l = head->next;
    if (l == head) {
        return 0;
    }
    list_del(l);
    return l;
}

#define LIST_FOR(l, head) for (struct list *l = (head)->next; l != (head); l = l->next)
/* The body may remove l. */
#define LIST_FOR_SAFE(l, head)                                                                     \
    for (struct list *l = (head)->next, *l##_next = l->next; l != (head);                          \
         l = l##_next, l##_next = l->next)

#endif
