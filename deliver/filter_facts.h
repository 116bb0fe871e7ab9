/*
 * filter_facts: what the milters of a session are told of it: the client, its greeting, the paths
 * and parameters of the open transaction, and the macros that name all of these.
 *
 * One owner, who embeds it and does not move it: the filter. It copies what it is told; engines
 * read `told` whenever they have something to say, so its spans hold until the next call here.
 */
#ifndef MAILFLEET_DELIVER_FILTER_FACTS_H
#define MAILFLEET_DELIVER_FILTER_FACTS_H

#include "base/arena.h"
#include "filter.h"
#include "milter.h"

struct filter_facts {
    struct milter_facts told;
    struct arena arena; /* of what holds for the whole session */
    char client_port[8];
    struct buf helo, mail, rcpt, name;
};

/* message is borrowed for its whole life. */
void filter_facts_init(struct filter_facts *f, const struct filter_client *c,
                       const struct rewrite *message);
void filter_facts_fini(struct filter_facts *f);

/* A transaction begins. A greeting that is not the last one's is told anew. */
void filter_facts_mail(struct filter_facts *f, struct span helo, struct span reverse_path,
                       const struct span *parameters, size_t n);
void filter_facts_rcpt(struct filter_facts *f, struct span forward_path);
/* The message's id; empty: it has none yet. */
void filter_facts_name(struct filter_facts *f, struct span id);
struct span filter_facts_id(const struct filter_facts *f);

#endif
