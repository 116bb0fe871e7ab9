/*
 * error: the texts of enum err.
 *
 * Constant data only. How an error looks to a peer is the matter of each engine's reply table.
 */
#include "base/error.h"

const char *err_text(enum err e)
{
    static const char *const texts[] = {
#define X(name, text) [ERR_##name] = text,
        ERR_LIST(X)
#undef X
    };
    return (unsigned)e < ERR_COUNT ? texts[e] : "unknown error";
}
