"""A wire to an NFS server: counts the calls that go over it, and breaks it when it is told to.

    with Wire((HOST, 2049)) as wire:                  # listens on wire.port
        wire.reset(); ...; wire.counts()              # {"LOOKUP": 1, "READ": 1}
        wire.hang(); wire.resume()                    # nothing goes through, no connection ends
        wire.refuse(); wire.cut(); wire.accept()      # ECONNREFUSED, connections are reset
        wire.drop_reply("WRITE")                      # of the next one; then its connection is cut

A proxy on a thread of its own that splits the TCP stream into RPC records (RFC 5531, section 11)
and knows the procedures of NFSv3 (RFC 1813); it changes no octet. A call counts when all of it has
come from the client. An NFSv4 COMPOUND counts as the operation that it is made for (RFC 8881), as a
Linux client's /proc/self/mountstats has it, too. All of it may be called from any thread. MOUNT has
a port of its own, which the wire does not stand before.
"""

import asyncio
import collections
import socket
import struct
import threading

NFS, MOUNT, ACL = 100003, 100005, 100227
PROCEDURES = {
    (NFS, 3): "NULL GETATTR SETATTR LOOKUP ACCESS READLINK READ WRITE CREATE MKDIR SYMLINK MKNOD "
              "REMOVE RMDIR RENAME LINK READDIR READDIRPLUS FSSTAT FSINFO PATHCONF COMMIT".split(),
    (NFS, 4): "NULL COMPOUND".split(),
    (MOUNT, 3): "MNT_NULL MNT DUMP UMNT UMNTALL EXPORT".split(),
    (ACL, 3): "ACL_NULL GETACL SETACL".split(),  # on NFSv3's port, and in no mountstats
}
OPERATIONS = dict(enumerate((  # of NFSv4
    "ACCESS CLOSE COMMIT CREATE DELEGPURGE DELEGRETURN GETATTR GETFH LINK LOCK LOCKT LOCKU LOOKUP "
    "LOOKUPP NVERIFY OPEN OPENATTR OPEN_CONFIRM OPEN_DOWNGRADE PUTFH PUTPUBFH PUTROOTFH READ "
    "READDIR READLINK REMOVE RENAME RENEW RESTOREFH SAVEFH SECINFO SETATTR SETCLIENTID "
    "SETCLIENTID_CONFIRM VERIFY WRITE RELEASE_LOCKOWNER BACKCHANNEL_CTL BIND_CONN_TO_SESSION "
    "EXCHANGE_ID CREATE_SESSION DESTROY_SESSION FREE_STATEID GET_DIR_DELEGATION GETDEVICEINFO "
    "GETDEVICELIST LAYOUTCOMMIT LAYOUTGET LAYOUTRETURN SECINFO_NO_NAME SEQUENCE SET_SSV "
    "TEST_STATEID WANT_DELEGATION DESTROY_CLIENTID RECLAIM_COMPLETE").split(), 3))
# Operations that only say which file the others are about, or what it is like by the way, and where
# their arguments end.
BESIDES = {"SEQUENCE": lambda record, at: at + 32, "PUTFH": lambda record, at: skip(record, at, 1),
           "GETATTR": lambda record, at: skip(record, at, 4),
           **dict.fromkeys("PUTROOTFH SAVEFH RESTOREFH GETFH".split(), lambda record, at: at)}
LAST_FRAGMENT = 1 << 31
RECORD_MAX = 16 << 20
CALL, REPLY = 0, 1
RESET = struct.pack("ii", 1, 0)  # close() discards what is unsent


class Wire:
    def __init__(self, server, host="127.0.0.1", port=0, lab=None, look=0):
        """server: (host, port) to go to. lab: the Lab that both ends are in, if they are in one.
        look: a READ of NFSv3 that asks for so many octets counts as LOOK."""
        self.server = server
        self.look = look
        self.host, self.port = host, port
        self.lab = lab
        self.lock = threading.Lock()
        self.calls = collections.Counter()
        self.to_drop, self.drops = None, 0
        self.listener = None
        self.links = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.turn, daemon=True)

    def __enter__(self):
        self.thread.start()
        self.do(self.open)
        return self

    def __exit__(self, *_):
        self.do(self.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    def turn(self):
        if self.lab:
            self.lab.enter()
        self.loop.run_forever()
        self.loop.close()

    def do(self, function, *arguments):
        """On the thread, to its end."""
        async def done():
            return await function(*arguments)
        return asyncio.run_coroutine_threadsafe(done(), self.loop).result(30)

    async def open(self):
        self.flowing = asyncio.Event()
        self.flowing.set()
        await self.listen()

    async def close(self):
        await self.stop_listening()
        await self.cut_all()

    # --- counts -----------------------------------------------------------------------------------

    def reset(self):
        with self.lock:
            self.calls.clear()

    def counts(self):
        """Calls since the last reset, by procedure."""
        with self.lock:
            return dict(self.calls)

    # --- faults -----------------------------------------------------------------------------------

    def refuse(self):
        """No new connection comes about."""
        self.do(self.stop_listening)

    def accept(self):
        self.do(self.listen)

    def cut(self):
        """Every connection ends in a reset, on both sides."""
        self.do(self.cut_all)

    def hang(self):
        """As a server that was stopped: new connections come about, too, and say nothing."""
        self.loop.call_soon_threadsafe(self.flowing.clear)

    def resume(self):
        self.loop.call_soon_threadsafe(self.flowing.set)

    def drop_reply(self, procedure, times=1):
        """The server does the next such calls, but the client loses the connection instead."""
        with self.lock:
            self.to_drop, self.drops = procedure, int(times)

    async def listen(self):
        if not self.listener:
            self.listener = await asyncio.start_server(self.serve, self.host, self.port)
            self.port = self.listener.sockets[0].getsockname()[1]

    async def stop_listening(self):
        if self.listener:
            self.listener.close()
            self.listener = None

    async def cut_all(self):
        links = list(self.links)
        for link in links:
            link.cut()
        await asyncio.gather(*(link.ended.wait() for link in links))

    # --- one connection ---------------------------------------------------------------------------

    async def serve(self, reader, writer):
        link = Link(self)
        self.links.add(link)
        try:
            await link.run(reader, writer)
        finally:
            self.links.discard(link)
            link.ended.set()

    def on_call(self, name):
        """Whether its reply is to be dropped."""
        with self.lock:
            self.calls[name] += 1
            if drop := self.drops > 0 and self.to_drop == name:
                self.drops -= 1
            return drop


class Link:
    """A client's connection and the one to the server that goes with it."""

    def __init__(self, wire):
        self.wire = wire
        self.look = wire.look
        self.writers = []
        self.drop = None  # the call whose reply is not to come
        self.ended = asyncio.Event()
        self.tasks = []

    async def run(self, reader, writer):
        self.writers.append(writer)
        try:
            there, to_server = await asyncio.open_connection(*self.wire.server)
            self.writers.append(to_server)
            self.tasks = [asyncio.ensure_future(self.pump(reader, to_server, self.on_call)),
                          asyncio.ensure_future(self.pump(there, writer, self.on_reply))]
            await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass
        for task in self.tasks:
            task.cancel()
        for writer in self.writers:
            writer.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def cut(self):
        for task in self.tasks:
            task.cancel()
        for writer in self.writers:
            if not writer.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                                           RESET)
                writer.transport.abort()

    async def pump(self, reader, writer, look):
        """Record by record; both sides end when one does."""
        try:
            while record := await read_record(reader):
                keep = look(record)
                await self.wire.flowing.wait()
                if not keep:
                    self.cut()
                    return
                writer.write(record)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass

    def on_call(self, record):
        xid, kind, name = read_call(record)
        if name == "READ" and self.look and asked_for(record) == self.look:
            name = "LOOK"
        if kind == CALL and self.wire.on_call(name):
            self.drop = xid
        return True

    def on_reply(self, record):
        xid, kind = struct.unpack_from(">II", record, 4)
        return (xid, kind) != (self.drop, REPLY)


# --- records --------------------------------------------------------------------------------------


async def read_record(reader):
    """A record with the marks of its fragments; b"" at the end."""
    record = b""
    while True:
        try:
            mark = await reader.readexactly(4)
        except asyncio.IncompleteReadError as error:
            if not error.partial and not record:
                return b""
            raise
        size = struct.unpack(">I", mark)[0]
        if len(record) + (size & ~LAST_FRAGMENT) > RECORD_MAX:
            raise ValueError("this is no RPC stream")
        record += mark + await reader.readexactly(size & ~LAST_FRAGMENT)
        if size & LAST_FRAGMENT:
            return record


def read_call(record):
    """(xid, kind, the name it counts by) of a record whose first fragment holds its head."""
    xid, kind = struct.unpack_from(">II", record, 4)
    if kind != CALL:
        return xid, kind, None
    program, version, procedure = struct.unpack_from(">III", record, 16)
    names = PROCEDURES.get((program, version), ())
    name = names[procedure] if procedure < len(names) else f"{program}.{version}.{procedure}"
    if name == "COMPOUND":
        name = compound_name(record)
    return xid, kind, name


def arguments(record):
    """Where they begin, behind the credential and the verifier."""
    at = 28
    for _ in range(2):
        at = skip(record, at + 4, 1)
    return at


def asked_for(record):
    """The octets that a READ of NFSv3 asks for: behind the handle and the offset."""
    return number_at(record, skip(record, arguments(record), 1) + 8)


def compound_name(record):
    """The first operation that is no by-work, if there is one."""
    at = arguments(record)
    at = skip(record, at, 1) + 4  # the tag, the minor version
    count, at = number_at(record, at), at + 4
    besides = "COMPOUND"
    for _ in range(count):
        number, at = number_at(record, at), at + 4
        name = OPERATIONS.get(number, f"OPERATION_{number}")
        if name not in BESIDES:
            return name
        besides, at = name, BESIDES[name](record, at)
    return besides


def number_at(record, at):
    return struct.unpack_from(">I", record, at)[0]


def skip(record, at, size):
    """Behind a number of things of this size, which are filled up to four octets."""
    return at + 4 + (number_at(record, at) * size + 3 & ~3)
