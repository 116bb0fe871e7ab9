/*
 * smtp_data: the message: DATA and BDAT (RFC 5321, section 4.1.1.4; RFC 3030), its pieces, and the
 * replies to it. The answers to DATA_BEGIN and DATA_END, in smtp.h, are here, too.
 */
#ifndef MAILFLEET_DELIVER_SMTP_DATA_H
#define MAILFLEET_DELIVER_SMTP_DATA_H

#include "smtp_state.h"

/* In the phases from PHASE_DATA to PHASE_REPLIES. */
enum smtp_action_kind smtp_data_step(struct smtp *s, struct span *in, struct buf *out);

/* The command BDAT. */
enum smtp_action_kind smtp_data_bdat(struct smtp *s, struct span arg, struct buf *out);

#endif
