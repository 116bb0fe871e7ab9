/*
 * lanes: what is done on the loop with the old mailboxes that threads read (import_read.h): a lane
 * for each thread, which takes its events one by one and answers them.
 *
 * A lane is the caller's, and begins with a lane_head; the head's reader and octets are in here.
 */
#ifndef MAILFLEET_ADMIN_LANES_H
#define MAILFLEET_ADMIN_LANES_H

#include "args.h"
#include "import_read.h"

struct lane_head {
    struct reader *reader;
    size_t index; /* of the account in the list, from listed or ended on */
    struct buf octets;
    bool gone; /* there are no more accounts for it */
};

enum lane_pause {
    LANE_FREE,   /* its reader's next event may come */
    LANE_WAITS,  /* for something else than its reader, which wakes the loop */
    LANE_STEPPED /* it did something else, and wants to be asked again */
};

struct lane_ops {
    enum lane_pause (*pause)(struct lane_head *h); /* asked before each event; NULL: always free */
    /* True: those messages are to be read. *wanted: a flag for each, the caller's until ended. */
    bool (*listed)(struct lane_head *h, const bool **wanted);
    void (*octets)(struct lane_head *h);  /* of a message: h->octets, which are cleared after it */
    void (*message)(struct lane_head *h); /* has ended: to be answered, now or later */
    void (*ended)(struct lane_head *h);   /* the account has, listed or not: is answered after it */
};

/* Until the last account has ended. heads: one for each of o's threads. */
void lanes_run(struct loop *l, const struct readers_options *o, const struct lane_ops *ops,
               struct lane_head *const *heads);

/* What the command line says about reading; EX_OK, or a code after a message. Borrows all. */
int lanes_options(const struct args *args, const struct move_list *list, const char *password,
                  struct readers_options *out);

#endif
