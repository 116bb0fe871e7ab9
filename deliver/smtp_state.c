/*
 * smtp_state: see the header.
 */
#include "smtp_state.h"

#include <stdlib.h>

static bool in_transaction(const struct smtp *s)
{
    bool in_chunk = s->phase == PHASE_CHUNK || s->phase == PHASE_CHUNK_END;
    enum phase p = in_chunk ? s->chunk.from : s->phase;
    return p > PHASE_IDLE;
}

void smtp_state_end(struct smtp *s)
{
    if (in_transaction(s)) {
        s->phase = PHASE_IDLE;
    }
    s->from = (struct address){ 0 };
    s->parameters = (struct parameters){ 0 };
    free(s->words);
    s->words = NULL;
    s->recipients = 0;
    s->size = 0;
    s->refusal = REPLY_OK;
    buf_release(&s->piece);
    free(s->outcome);
    s->outcome = NULL;
    s->replied = 0;
}

enum smtp_action_kind smtp_state_abandon(struct smtp *s)
{
    bool known_to_session = in_transaction(s);
    smtp_state_end(s);
    return known_to_session ? SMTP_RESET : SMTP_NEED_INPUT;
}
