"""A NAS is lost in several ways: new mail goes to the other volume, lists need none, and what is on it
is temporarily not to be had."""

import contextlib
import errno
import os
import re
import subprocess

from hosts import freeze, thaw
from lab import VOLUME_SIZE
from mail import Refused
from scenario import TEMPORARY, Scenario


class VolumeScenario(Scenario):
    sees = "messages on it can't be read ([SYS/TEMP]); lists and new mail go on"
    # What was on its way there comes again.
    answers = {"readers": TEMPORARY, "sender": {"451", "answer lost"}, "mta": {"deferred"}}

    def goes_on(self, since, delivery=15):
        """Deliveries stop at most for a file call's deadline, polls of what was read already never."""
        self.since(since, "delivery", within=delivery)
        self.since(since, "quiet poll", within=8)

    def read(self, lab):
        """Reads the idle mailboxes until a message is not to be had for now; octets that were read,
        and whether that is all."""
        town, ledger, octets = self.day.town, self.day.ledger, 0
        with lab.hosts["client1"].inside():
            for address in town.idle:
                box = ledger.mailboxes[address]
                with town.service.open(True, timeout=30) as pop3:
                    pop3.ok(f"USER {box.address}")
                    pop3.ok(f"PASS {box.password}")
                    for number, uid in pop3.uidl().items():
                        try:
                            message = pop3.retr(number)
                        except Refused as refused:
                            self.expect(refused.reply.startswith("-ERR [SYS/TEMP]"), refused.reply)
                            pop3.quit()
                            return octets, False
                        ledger.read(address, uid, message)
                        octets += len(message)
                    pop3.quit()
        return octets, True

    def expect_unreadable(self, lab):
        self.expect(not self.read(lab)[1], "everything is read from the volume that is away")

    def readable_again(self, lab):
        self.until(30, lambda: None if self.read(lab)[1] else "what is on the volume can't be read")
        self.well_again()


class NasKilled(VolumeScenario):
    """An NFS server is killed (SIGKILL)."""

    name = "nas-kill"

    def run(self, lab):
        killed = self.now()
        lab.nas[0].kill()
        self.expect_unreadable(lab)
        self.wait(6)
        self.goes_on(killed)
        lab.nas[0].up()
        self.readable_again(lab)


class NasFrozen(VolumeScenario):
    """An NFS server is frozen (SIGSTOP)."""

    name = "nas-freeze"

    def run(self, lab):
        frozen = self.now()
        freeze(lab.nas[0])
        self.expect_unreadable(lab)
        self.wait(5)
        self.goes_on(frozen)
        thaw(lab.nas[0])
        self.readable_again(lab)


@contextlib.contextmanager
def filled(*folders):
    """The file systems of these folders are full while this lasts."""
    files = [folder / ".filler" for folder in folders]
    try:
        for file in files:
            fill(file)
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def fill(file):
    """To the last octet: in pieces, the smaller the fuller."""
    with open(file, "wb", buffering=0) as out:
        for size in 1 << 20, 1 << 12, 1:
            try:
                while True:
                    out.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


class NasFull(VolumeScenario):
    """The file system of an NFS server is full (ENOSPC), then those of both."""

    name = "nas-full"
    sees = "one full: nothing. Both: senders are told to try again (4xx), polls go on"
    answers = {"sender": {"451"}, "mta": {"deferred"}}

    def run(self, lab):
        first, second = (nas.exports[1] for nas in lab.nas)
        full = self.now()
        with filled(first):
            self.expect(not free(first), "there is room left")
            self.wait(6)
            self.goes_on(full)
            files = count(second)
            self.wait(2)
            self.expect(count(second) > files, "nothing is delivered to the other volume")
            both = self.now()
            with filled(second):
                self.wait(1)  # what was under way
                accepted = len(self.day.ledger.times["delivery"])
                self.wait(5)
                self.expect(len(self.day.ledger.times["delivery"]) == accepted,
                            "mail is accepted that there is no room for")
        self.well_again()
        self.since(both, "delivery")  # as long as they are full
        self.since(both, "quiet poll", within=8)


class NasReadonly(VolumeScenario):
    """The file system of an NFS server is read-only, from a restart of it on."""

    name = "nas-readonly"
    sees = "[SYS/TEMP] for what is on it while it restarts; new mail goes to the other volume"

    def run(self, lab):
        nas, began = lab.nas[0], self.now()
        folder = nas.exports[1]
        nas.stop()  # it keeps files open for writing
        remount(folder, "ro")
        try:
            nas.up()
            files = count(lab.nas[1].exports[1])
            self.wait(8)
            self.goes_on(began)
            self.since(began, "poll", within=8)
            self.expect(self.read(lab)[1], "what is on the volume can't be read")
            self.expect(count(lab.nas[1].exports[1]) > files,
                        "nothing is delivered to the other volume")
        finally:
            remount(folder, "rw")
        self.well_again()


class NasReplaced(VolumeScenario):
    """An NFS server is replaced by a copy of it, on another file system."""

    name = "nas-replaced"

    def run(self, lab):
        nas = lab.nas[0]
        folder = nas.exports[1]
        before = os.stat(folder).st_dev
        began = self.now()
        nas.stop()
        copy(lab, folder)
        self.expect(os.stat(folder).st_dev != before, "it is the file system that it was")
        self.expect_unreadable(lab)
        self.wait(3)
        self.goes_on(began)
        # Handles in pointers lead nowhere now: each message is looked up by its path.
        stale = self.stale(lab)
        nas.up()
        self.readable_again(lab)
        self.expect(self.stale(lab) > stale, "no handle led nowhere")

    @staticmethod
    def stale(lab):
        """How many handles of files have led nowhere."""
        return sum(int(re.search(r"^mailfleet_nfs_handles_stale_total (\d+)$", node.get("/metrics")[0],
                                 re.MULTILINE)[1]) for node in lab.front_ends)


def copy(lab, folder):
    """The same files on a new file system, at the same place."""
    new = folder.with_name(folder.name + "-copy")
    lab.mount(new, VOLUME_SIZE)
    subprocess.run(["cp", "-a", f"{folder}/.", new], check=True)
    stat = os.stat(folder)
    os.chown(new, stat.st_uid, stat.st_gid)
    os.chmod(new, stat.st_mode & 0o7777)
    subprocess.run(["umount", folder], check=True)
    subprocess.run(["mount", "--move", new, folder], check=True)
    new.rmdir()


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def free(folder):
    return os.statvfs(folder).f_bavail


def count(folder):
    """How many files a volume has."""
    return sum(len(files) for _, _, files in os.walk(folder))
