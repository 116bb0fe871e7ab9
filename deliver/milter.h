/*
 * milter: the conversation that an MTA has with one content filter (Sendmail's milter protocol,
 * version 6), as an engine without I/O: bytes in, bytes out, one event by value.
 *
 * By hand: libmilter is the filter's side only. It knows no sockets and no message; deliver/filter
 * has the connection, the deadlines and what a verdict means.
 */
