/*
 * script: runs a recorded conversation against an engine, and checks every reply and action.
 *
 * A script is a text file:
 *   O name=value ...   options of the engine, first line; the adapter knows them
 *   C text             the client sends text and CRLF; \r \n \t \0 \\ \xHH are understood
 *   C- text            the same without CRLF
 *   C* n text          text n times, without CRLF
 *   S text             the next reply line is this (same escapes), without its CRLF
 *   S* text            the next reply line begins with this
 *   A text             the engine's next action, as the adapter writes it
 *   = text             the answer to that action, in the adapter's words
 *   # ...              a comment; empty lines too
 * Each script runs three ways, with the same result: all input at once, byte by byte, and split at
 * random places from a fixed seed that is printed on failure. At the end nothing may be left over.
 */
#ifndef MAILFLEET_TESTS_SCRIPT_H
#define MAILFLEET_TESTS_SCRIPT_H

#include "base/buffer.h"

struct script_adapter {
    /* A new engine; greeting, if any, goes to out. NULL: an option is not known. */
    void *(*open)(struct span options, struct buf *out);
    /*
     * One step. Appends to action what the engine asks for, or nothing when it needs input. FLUSH
     * is handled inside. False: the engine has closed.
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
