"""The builds that some tests need beside the one that all are run with: each is made by the first who asks for it.

They are in folders beside that one, of its name and their own. A build takes minutes of computing, so others may
run tests meanwhile; who asks for one that is being made waits for it.
"""

import subprocess
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Where threads meet, ThreadSanitizer looks too.
THREADED = ("loop", "password", "pool", "spool", "spool_dirs")

TESTS = ["-Dtests=true", "-Dfaults=true"]
# name: (why it is another one, options of meson, what of it is made)
BUILDS = {
    "threads": ("with ThreadSanitizer", [*TESTS, "-Db_sanitize=thread"],
                [f"tests/unit/test_{name}" for name in THREADED]),
    "guest": ("without AddressSanitizer, for whose shadow a guest has no room", [*TESTS, "-Db_sanitize=undefined"],
              ["tests/unit/test_spool", "tests/unit/test_spool_faults", "tests/nfs/spool_ops"]),
    "release": ("a release, whose instructions are counted", ["-Dbench=true", "--buildtype=release"],
                ["bench/engines"]),
    "next": ("what an upgrade leads to; it differs by a statement or two, so that no sanitizer has anything to find",
             ["-Dnext_schema=true", "-Dwerror=false", "--buildtype=debug"],
             ["admin/mailfleet", "deliver/mailfleet-deliver", "frontend/mailfleet-frontend",
              "deploy/nas/no_portmapper.so"]),
}


class BuildError(Exception):
    """Its text is the end of what the build said."""


class Builds:
    def __init__(self, base):
        """base: the folder of the build that is there."""
        self.base = base
        self.locks = {name: threading.Lock() for name in BUILDS}
        self.made = {}  # name -> what went wrong, or None

    def folder(self, name):
        return Path(f"{self.base}-{name}")

    def need(self, name):
        """Returns when it is there, of the sources as they are."""
        with self.locks[name]:
            if name not in self.made:
                self.made[name] = self.make(name)
        if self.made[name]:
            raise BuildError(f"build-{name} ({BUILDS[name][0]}):\n{self.made[name]}")

    def make(self, name):
        _, options, targets = BUILDS[name]
        folder = self.folder(name)
        folder.mkdir(exist_ok=True)
        with open(folder / "build.log", "w+", encoding="utf-8", errors="replace") as log:
            commands = [["ninja", "-C", folder, *targets]]
            if not (folder / "build.ninja").exists():
                commands.insert(0, ["meson", "setup", *options, folder, ROOT])
            for command in commands:
                # Tests wait more than they compute: so they go first.
                done = subprocess.run(["nice", "-n", "5", *command], stdin=subprocess.DEVNULL, stdout=log,
                                      stderr=log, check=False)
                if done.returncode != 0:
                    log.seek(0)
                    return "".join(log.readlines()[-40:])
        return None
