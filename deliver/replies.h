/*
 * replies: every reply of the SMTP and LMTP engine but the greeting and the answers to EHLO and
 * HELO, which carry the host's name.
 *
 * A constant table. The enhanced code is RFC 3463's; RFC 2034, section 4, wants none in answers to
 * EHLO, HELO and LHLO, and there is none for 3xx. The first rows are enum smtp_verdict's, in its
 * order.
 */
#ifndef MAILFLEET_DELIVER_REPLIES_H
#define MAILFLEET_DELIVER_REPLIES_H

/* clang-format off */
#define REPLY_LIST(X)                                                                  \
    X(OK,              250, "2.0.0", "Delivered")                                      \
    X(UNKNOWN,         550, "5.1.1", "No such mailbox here")                           \
    X(NO_RELAY,        550, "5.7.1", "Relaying denied: not a domain of ours")          \
    X(SUSPENDED,       550, "5.2.1", "Mailbox is disabled")                            \
    X(OVER_QUOTA,      452, "4.2.2", "Mailbox is full")                                \
    X(TOO_LARGE,       552, "5.3.4", "Message is too large")                           \
    X(TOO_MANY,        452, "4.5.3", "Too many recipients")                            \
    X(FAULT,           451, "4.3.0", "Temporary fault, try again later")               \
    X(BLOCKED,         550, "5.7.1", "Your address is on a block list")                \
    X(TOO_FAST,        450, "4.7.1", "Too much from your address, try again later")    \
    X(FILTERED,        550, "5.7.1", "Refused by a content filter")                    \
    X(NO_MEMORY,       452, "4.3.1", "Too busy for this message, try again later")     \
    X(DISCARDED,       250, "2.0.0", "Delivered")                                      \
    X(QUOTA_REJECT,    552, "5.2.2", "Mailbox is full")                                \
    X(DOMAIN_FULL,     452, "4.2.2", "The mailboxes of this domain are full, all together") \
    X(DOMAIN_REJECT,   552, "5.2.2", "The mailboxes of this domain are full, all together") \
                                                                                       \
    X(SENDER_OK,       250, "2.1.0", "Sender ok")                                      \
    X(RCPT_OK,         250, "2.1.5", "Recipient ok")                                   \
    X(CHUNK_OK,        250, "2.0.0", "octets received")                                \
    X(RESET_OK,        250, "2.0.0", "Transaction reset")                              \
    X(NOOP_OK,         250, "2.0.0", "Nothing done")                                   \
    X(BYE,             221, "2.0.0", "Goodbye")                                        \
    X(TLS_GO,          220, "2.0.0", "Start TLS now")                                  \
    X(HELP_TEXT,       214, "2.0.0", "The commands are those of RFC 5321 and RFC 2033") \
    X(VRFY_TEXT,       252, "2.0.0", "Not verified; send it a message to find out")    \
    X(START_DATA,      354, NULL,    "Start mail input; end with <CRLF>.<CRLF>")       \
                                                                                       \
    X(UNKNOWN_COMMAND, 500, "5.5.1", "Unknown command")                                \
    X(NOT_IMPLEMENTED, 502, "5.5.1", "Command not implemented")                        \
    X(LINE_TOO_LONG,   500, "5.5.2", "Line is too long")                               \
    X(USE_LHLO,        500, NULL,    "This is LMTP: send LHLO")                        \
    X(NEED_EHLO,       503, "5.5.1", "Send EHLO first")                                \
    X(NEED_LHLO,       503, "5.5.1", "Send LHLO first")                                \
    X(NEED_MAIL,       503, "5.5.1", "Send MAIL first")                                \
    X(NEED_RCPT,       503, "5.5.1", "No valid recipients")                            \
    X(NEED_CHUNK,      503, "5.5.1", "Send the next chunk with BDAT, or RSET")         \
    X(MAIL_IS_OPEN,    503, "5.5.1", "A transaction is open; end it with RSET")        \
    X(TLS_IS_UP,       503, "5.5.1", "TLS is already active")                          \
    X(NO_TLS,          502, "5.5.1", "TLS is not offered")                             \
    X(NO_XCLIENT,      550, "5.7.1", "XCLIENT is not for you")                         \
                                                                                       \
    X(NO_ARGUMENT,     501, "5.5.4", "This command takes no argument")                 \
    X(HELO_SYNTAX,     501, NULL,    "Send your host name, and nothing else")          \
    X(VRFY_SYNTAX,     501, "5.5.4", "Syntax: VRFY address [SMTPUTF8]")                \
    X(MAIL_SYNTAX,     501, "5.5.4", "Syntax: MAIL FROM:<address> [parameters]")       \
    X(RCPT_SYNTAX,     501, "5.5.4", "Syntax: RCPT TO:<address> [parameters]")         \
    X(XCLIENT_SYNTAX,  501, "5.5.4", "Syntax: XCLIENT attribute=value...")             \
    X(BDAT_SYNTAX,     501, "5.5.4", "Syntax: BDAT size [LAST]; closing the connection") \
    X(PARAM_UNKNOWN,   555, "5.5.4", "Unknown parameter")                              \
    X(PARAM_VALUE,     501, "5.5.4", "A parameter has a bad value")                    \
    X(PARAM_TWICE,     501, "5.5.4", "A parameter was given twice")                    \
    X(NO_BINARYMIME,   555, "5.6.1", "BINARYMIME is not offered; messages are lines")  \
    X(REQUIRES_TLS,    530, "5.7.4", "REQUIRETLS needs TLS")                           \
    X(SENDER_BAD,      501, "5.1.7", "Bad sender address:")                            \
    X(RCPT_BAD,        501, "5.1.3", "Bad recipient address:")                         \
    X(NEED_SMTPUTF8,   553, "5.6.7", "Non-ASCII address without SMTPUTF8")             \
                                                                                       \
    X(MAIL_LOOP,       554, "5.4.6", "Too many Received: headers; mail is looping")    \
    X(BARE_NEWLINE,    550, "5.6.0", "A CR or LF stands alone; lines end in CRLF")     \
    X(TOO_MANY_ERRORS, 421, "4.7.0", "Too many errors, closing the connection")        \
    X(TOO_MANY_MAILS,  421, "4.7.0", "Enough messages for one session, open another")  \
    X(NOT_SMTP,        421, "4.7.0", "This is a mail server, closing the connection")  \
    X(GOING_DOWN,      421, "4.3.2", "Shutting down, try again later")                 \
    X(TOO_SLOW,        421, "4.4.2", "Waited too long, closing the connection")
/* clang-format on */

enum reply {
#define X(name, code, enhanced, text) REPLY_##name,
    REPLY_LIST(X)
#undef X
        REPLIES
};

struct reply_row {
    unsigned code;
    const char *enhanced; /* NULL: none */
    const char *text;
};

extern const struct reply_row replies[REPLIES];

#endif
