"""Wires and a portmapper that do what no real one does, for the tests of the nfs back-end."""

import asyncio
import contextlib
import socket
import struct
import threading
import types

from wire import CALL, LAST_FRAGMENT, Wire, read_call, read_record


class FreezeWire(Wire):
    """A wire that can lose the connections that stand, so that neither end is told."""

    def freeze(self):
        self.do(self.freeze_links)

    async def freeze_links(self):
        for link in self.links:
            link.wire = types.SimpleNamespace(flowing=asyncio.Event(), on_call=self.on_call)


class OddWire(Wire):
    """A wire that changes answers, or whose clients do not notice that the server was restarted."""

    procedure = None  # before the next call of it the server is started anew,
    restart = None    # by this,
    restarted = 0     # so many times
    edits = {}        # procedure -> a function that gives its results anew

    async def serve(self, reader, writer):
        replies = to_server = None
        called = {}
        try:
            while record := await read_record(reader):
                xid, kind, name = read_call(record)
                if kind == CALL:
                    self.on_call(name)
                    called[xid] = name
                if due := kind == CALL and name == self.procedure:
                    self.procedure = None
                    await asyncio.get_running_loop().run_in_executor(None, self.restart)
                    self.restarted += 1
                if due or not to_server:
                    there, to_server = await asyncio.open_connection(*self.server)
                    replies = asyncio.ensure_future(self.pass_replies(there, writer, called))
                to_server.write(record)
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()
        if to_server:
            to_server.close()
            await replies

    async def pass_replies(self, reader, writer, called):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while record := await read_record(reader):
                name = called.pop(struct.unpack_from(">I", record, 4)[0])
                writer.write(self.edited(record, self.edits.get(name)))

    @staticmethod
    def edited(record, edit):
        """The results begin behind the verifier and the status of the reply. (RFC 5531)"""
        if not edit:
            return record
        at = 28 + struct.unpack_from(">I", record, 20)[0]
        reply = record[4:at] + edit(record[at:])
        return struct.pack(">I", LAST_FRAGMENT | len(reply)) + reply


# --- what may be wrong with the results of a call (RFC 1813) ---------------------------------------
#
# Each by the word that a program has for it, with the program's number.


def words(results, at, n):
    return struct.unpack_from(f">{n}I", results, at)


def behind_attributes(results, at):
    """Behind a post_op_attr."""
    return at + (88 if words(results, at, 1)[0] else 4)


def without_handle(results, _):
    """Of CREATE or MKDIR: it was done, but the server does not tell what file it is."""
    if words(results, 0, 2) != (0, 1):
        return results
    return struct.pack(">II", 0, 0) + results[12 + words(results, 8, 1)[0]:]


def with_status(_, status):
    return struct.pack(">III", status, 0, 0)


def long_with_status(results, status):
    """Of READ: it fails, unless it is as short as that of a sentinel."""
    return with_status(results, status) if len(results) > 200 else results


def short(results, most):
    """Of READ: some of the octets, and there are more."""
    if words(results, 0, 1) != (0,):
        return results
    at = behind_attributes(results, 4)
    count = min(most, words(results, at, 1)[0])
    octets = results[at + 12:at + 12 + count]
    return results[:at] + struct.pack(">III", count, 0, count) + octets + b"\0" * (-count % 4)


def longer(results, more):
    """Of READ: more octets than there were asked for."""
    at = behind_attributes(results, 4)
    count = words(results, at, 1)[0]
    octets = results[at + 12:at + 12 + count] + b"x" * more
    return results[:at] + struct.pack(">III", len(octets), 0, len(octets)) + octets \
        + b"\0" * (-len(octets) % 4)


def without_attributes(results, _):
    """Of READ."""
    return results[:4] + struct.pack(">I", 0) + results[behind_attributes(results, 4):]


def behind_wcc(results):
    return behind_attributes(results, 4 + (28 if words(results, 4, 1)[0] else 4))


def taken(results, count):
    """Of WRITE: so many octets."""
    at = behind_wcc(results)
    return results[:at] + struct.pack(">I", count) + results[at + 4:]


def partly_taken(results, most):
    """Of WRITE: some of the octets."""
    return taken(results, min(most, *words(results, behind_wcc(results), 1)))


def unstable(results, _):
    """Of WRITE: it is not durable yet."""
    at = behind_wcc(results) + 4
    return results[:at] + struct.pack(">I", 0) + results[at + 4:]


def limits(results, most):
    """Of FSINFO: rtmax and wtmax."""
    at = behind_attributes(results, 4)
    read, write = struct.pack(">I", most), struct.pack(">I", most)
    return results[:at] + read + results[at + 4:at + 12] + write + results[at + 16:]


EDITS = {function.__name__: function for function in (
    without_handle, with_status, long_with_status, short, longer, without_attributes, taken,
    partly_taken, unstable, limits)}


class Portmapper(threading.Thread):
    """Answers every call with one number (RFC 1833, section 3.2: GETPORT), or None with nothing.

    It is where the thread is that makes it.
    """

    def __init__(self, lab, number):
        super().__init__()
        self.listener = socket.create_server((lab.address, 111))
        self.number = number
        self.start()

    def run(self):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            while True:
                client = stack.enter_context(self.listener.accept()[0])
                record = client.recv(1024)
                if self.number is not None and record:
                    client.sendall(struct.pack(">IIIIIIII", 1 << 31 | 28,
                                               *struct.unpack(">I", record[4:8]), 1, 0, 0, 0, 0,
                                               self.number))

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join()
