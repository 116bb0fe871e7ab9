/*
 * replies: the table itself. Constant; it formats nothing.
 */
#include "replies.h"

#include <stddef.h>

#include "smtp.h"

#define X(name, word)                                                                              \
    _Static_assert((int)SMTP_##name == (int)REPLY_##name, "the verdicts are the first replies");
SMTP_VERDICT_LIST(X)
#undef X

const struct reply_row replies[REPLIES] = {
#define X(name, code, enhanced, text) { code, enhanced, text },
    REPLY_LIST(X)
#undef X
};
