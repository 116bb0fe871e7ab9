/*
 * export: not made yet.
 */
#include "commands.h"

int command_export(struct admin *a, const struct args *args)
{
    (void)a;
    (void)args;
    return EX_UNAVAILABLE;
}
