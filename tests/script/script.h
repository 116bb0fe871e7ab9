/*
 * script: runs a recorded conversation against an engine, and checks every reply and action.
 *
 * A script is a text file:
 *   O name=value ...   options of the engine, first line; the adapter knows them
 *   C text             the client sends text and CRLF
 *   C- text            the same without CRLF
 *   C* n text          text n times, without CRLF
 *   S text             the next reply line is this, without its CRLF
 *   S* text            the next reply line begins with this
 *   A text             the engine's next action, as the adapter writes it
 *   = text             the answer to that action, in the adapter's words
 *   # ...              a comment; empty lines too
 * In every text \r \n \t \0 \\ \xHH are understood. S, A and = lines are compared in their order;
 * what comes before an A has been said when the engine asks for it. C lines are one stream: the
 * engine may read on only as far as its actions let it.
 *
 * Each script runs three ways, with the same result: all input at once, byte by byte, and split at
 * random places from fixed seeds, which are printed on failure. At the end nothing may be left
 * over: no input, no reply, no line of the script.
 */
#ifndef MAILFLEET_TESTS_SCRIPT_H
#define MAILFLEET_TESTS_SCRIPT_H

#include "base/buffer.h"

struct script_adapter {
    /* A new engine; greeting, if any, goes to out. NULL: an option is not known. */
    void *(*open)(struct span options, struct buf *out);
    /*
     * One step. Appends to action what the engine asks for, or nothing when it needs input. FLUSH
     * is handled inside. False: the engine has closed. The memory of *in is gone afterwards.
     */
    bool (*step)(void *engine, struct span *in, struct buf *out, struct buf *action);
    /* Answers the open action; false if the text makes no sense. Not called for actions that the
     * adapter answers itself; such an action is followed by no `=` line. */
    bool (*answer)(void *engine, struct span text, struct buf *out);
    /* Whether the open action waits for a `=` line. */
    bool (*waits)(void *engine);
    void (*close)(void *engine);
};

/* Runs the files named in argv; TAP on standard output; the exit code is 1 if one failed. */
int script_main(int argc, char **argv, const struct script_adapter *a);

#endif
