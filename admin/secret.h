/*
 * secret: what a login is checked with: a crypt(3) hash and SCRAM keys of one password.
 */
#ifndef MAILFLEET_ADMIN_SECRET_H
#define MAILFLEET_ADMIN_SECRET_H

#include "admin.h"
#include "args.h"

struct secret {
    char hash[PASSWORD_HASH_MAX + 1]; /* empty: login by SCRAM alone */
    char scram[ENTRY_SCRAM_MAX + 1];  /* empty: no login by SCRAM */
};

/*
 * What the options ask for; EX_OK, or a code after a message. What they do not give is empty, and
 * is to be stored so: a hash or keys of the old password would let it in still.
 */
int secret_new(struct admin *a, const struct args *args, struct secret *s);

#endif
