"""Programs that run behind the back of who started them, and are found again: what a fleet is of.

A Part is one server with all it needs under its owner's state folder. It is started detached and
found again through <state>/run, so that any later process can look after it. Nothing here knows
which programs there are, and nothing supervises them: a part that dies stays dead until start().
"""

import collections
import contextlib
import os
import pwd
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"


class FleetError(Exception):
    """Something that the operator is told, in one or more lines."""


# --- processes -----------------------------------------------------------------------------------

Process = collections.namedtuple("Process", "pid parent session state started")


def read_process(pid):
    """What /proc says of a process, or None."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2:].split()
    return Process(int(pid), int(fields[1]), int(fields[3]), fields[0], int(fields[19]))


def processes():
    """Every living process of the machine, by pid. Zombies are not alive."""
    found = (read_process(name) for name in os.listdir("/proc") if name.isdigit())
    return {p.pid: p for p in found if p and p.state not in "ZX"}


# --- where they run ------------------------------------------------------------------------------


class Here:
    """Where parts run unless they are told otherwise: this machine, on its loopback address.

    Another place (a host of a laboratory) has another address, and a way to get inside.
    """

    address = HOST

    @staticmethod
    def inside():
        """While this lasts, what this thread starts and connects to is started and seen from there."""
        return contextlib.nullcontext()


HERE = Here()


# --- whose they are ------------------------------------------------------------------------------


class Owner:
    """Whose parts these are: their folder, their environment, and the users they run as.

    say is told of every step. A fleet is one; Owner(folder) is enough for a part by itself.
    """

    def __init__(self, state, env=None, say=lambda line: None):
        self.state = Path(state).absolute()
        self.root = os.geteuid() == 0
        self.say = say
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **(env or {})}

    def run_as(self, user):
        """The arguments of subprocess that start a program as user, when that can be chosen."""
        if not self.root or user is None:
            return {}
        entry = pwd.getpwnam(user)
        return {"user": entry.pw_uid, "group": entry.pw_gid,
                "extra_groups": os.getgrouplist(user, entry.pw_gid)}

    def own(self, path, user, mode):
        if self.root and user:
            entry = pwd.getpwnam(user)
            os.chown(path, entry.pw_uid, entry.pw_gid)
        os.chmod(path, mode)

    def make_dir(self, path, user, mode):
        path.mkdir(parents=True, exist_ok=True)
        self.own(path, user, mode)

    def write(self, path, text, user, mode):
        """Writes a whole file or none: a reader never sees half of it."""
        new = path.with_name(path.name + ".new")
        new.touch(0o600)
        self.own(new, user, mode)
        new.write_text(text)
        new.rename(path)

    def run(self, argv, user=None, env=None, stdin="", timeout=120, place=HERE):
        """Runs a program to its end and returns its output; what it complained of is the error."""
        argv = [str(word) for word in argv]
        try:
            with place.inside():
                done = subprocess.run(argv, cwd="/", input=stdin, text=True, errors="replace",
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                      timeout=timeout, env={**self.env, **(env or {})},
                                      check=False, **self.run_as(user))
        except subprocess.TimeoutExpired:
            raise FleetError(f"{argv[0]} did not end within {timeout} s") from None
        if done.returncode != 0:
            raise FleetError(f"{' '.join(argv)} failed ({done.returncode}): "
                             f"{(done.stderr or done.stdout).strip()}")
        return done.stdout


class Part:
    """One program: how it is started, found, stopped, and known to be ready."""

    stop_signal = signal.SIGTERM
    stop_timeout = 20
    user = None  # who it is started as, when root starts it

    def __init__(self, owner, name, place=HERE):
        self.owner = owner
        self.name = name
        self.place = place
        self.log = owner.state / "log" / f"{name}.log"
        self.pid_file = owner.state / "run" / f"{name}.pid"
        self.child = None  # the Popen, when this very process started it

    @property
    def address(self):
        return self.place.address

    # What a kind of part has of its own:

    def prepare(self):
        """Writes its configuration."""

    def command(self):
        raise NotImplementedError

    def probe(self):
        """Why it is not ready yet, or None. Called inside of its place."""
        raise NotImplementedError

    def why_not_ready(self):
        with self.place.inside():
            return self.probe()

    def launch(self, env, log):
        """Runs the command in a session of its own; its pid."""
        with self.place.inside():
            self.child = subprocess.Popen(
                [str(word) for word in self.command()], cwd="/", stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, env=env,
                **self.owner.run_as(self.user))
        return self.child.pid

    def send(self, pids, number):
        """Sends a signal to processes of the part; those that are gone do not matter."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # What all have in common:

    def runs(self, alive):
        """Whether its master is among these living processes."""
        try:
            pid, started = map(int, self.pid_file.read_text().split())
        except (OSError, ValueError):
            return False
        return pid in alive and alive[pid].started == started

    def pids(self):
        """The pids of the master, first, and of everything it started."""
        self.reap()
        try:
            pid, started = map(int, self.pid_file.read_text().split())
        except (OSError, ValueError):
            return []
        alive = processes()
        if pid in alive and alive[pid].started != started:
            return []  # the number belongs to another process by now
        # Children by parent; and by session, for those that have outlived their master.
        ours = {p.pid for p in alive.values() if p.session == pid or p.pid == pid}
        while more := {p.pid for p in alive.values() if p.parent in ours} - ours:
            ours |= more
        return sorted(ours, key=lambda p: (p != pid, p))

    def start(self, env=None):
        """Starts it unless it runs. wait_ready() tells when it can be used."""
        if self.pids():
            return
        self.prepare()
        with open(self.log, "ab") as log:
            pid = self.launch({**self.owner.env, **(env or {})}, log)
        process = read_process(pid)
        if process is None:
            raise FleetError(f"{self.name} has ended\n{self.log_tail()}")
        self.pid_file.write_text(f"{process.pid} {process.started}\n")

    def wait_ready(self, timeout=60):
        deadline = time.monotonic() + timeout
        while True:
            reason = self.why_not_ready()
            if reason is None:
                return
            if not self.pids():
                raise FleetError(f"{self.name} has ended\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise FleetError(f"{self.name} is not ready: {reason}\n{self.log_tail()}")
            time.sleep(0.05)

    def up(self, env=None):
        if not self.pids():
            self.owner.say(f"starting {self.name}")
        self.start(env)
        self.wait_ready()

    def signal(self, number):
        """Sends a signal to every process of the part, the master first."""
        self.send(self.pids(), number)

    def kill(self):
        """SIGKILL to all of it, and waits until it is gone."""
        victims = self.pids()
        while self.pids() or processes().keys() & victims:
            self.signal(signal.SIGKILL)
            time.sleep(0.01)
        # PostgreSQL takes a dead master for a living one until its parent has reaped it.
        deadline = time.monotonic() + 5
        while victims and read_process(victims[0]) and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.01)
        self.pid_file.unlink(missing_ok=True)

    def reap(self):
        """Takes the status of the master when it is dead and a child of this process."""
        if self.child:
            self.child.poll()

    def stop(self):
        """Stops it in good order; False when it had to be killed."""
        pids = self.pids()
        self.send(pids, signal.SIGCONT)
        self.send(pids[:1], self.stop_signal)
        deadline = time.monotonic() + self.stop_timeout
        while self.pids() and time.monotonic() < deadline:
            time.sleep(0.02)
        in_order = not self.pids()
        self.kill()
        return in_order

    def log_tail(self, lines=20):
        try:
            tail = self.log.read_text(errors="replace").splitlines()[-lines:]
        except OSError:
            tail = []
        return "\n".join([f"the end of {self.log}:", *(f"    {line}" for line in tail)])
