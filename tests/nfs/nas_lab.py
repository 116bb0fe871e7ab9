"""A laboratory with a server in it: what the tests of this folder stand on.

One network, one nfs-ganesha with one export, a wire before it, and a guest. The export belongs to
an ordinary user and is closed to all others, root included: the server squashes it.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "deploy/lib"), str(ROOT / "tests/nfs")]

from lab import Guest, Lab  # noqa: E402
from nas import NO_PORTMAPPER, Ganesha  # noqa: E402
from part import Owner  # noqa: E402
from wire import Wire  # noqa: E402

USER = 61234, 61234  # uid and gid of nobody on this machine
NFS_PORT, MOUNT_PORT = 2049, 20048  # the laboratory is empty
SANITIZERS = {"UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}


class NasLab:
    """A mixin of TestCase; the laboratory lives as long as the class's tests run."""

    memory = "512M"

    @classmethod
    def setUpClass(cls):
        build = Path(os.environ["MAILFLEET_BUILD"])
        cls.guest_build = Path(f"{build}-guest")
        if not (cls.guest_build / "build.ninja").exists():
            raise FileNotFoundError(f"{cls.guest_build}: `tests/run nfs` builds it")
        cls.folder = Path(tempfile.mkdtemp(prefix="mailfleet-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.export = cls.folder / "export"
        cls.export.mkdir(mode=0o700)
        os.chown(cls.export, *USER)
        cls.lab = cls.enterClassContext(Lab())
        cls.nas = Ganesha(Owner(cls.folder), "nas", NFS_PORT, MOUNT_PORT, [cls.export],
                          build / NO_PORTMAPPER, address=cls.lab.address)
        cls.addClassCleanup(cls.end_nas)
        with cls.lab.inside():
            cls.nas.up()
        cls.wire = cls.enterClassContext(
            Wire((cls.lab.address, NFS_PORT), host=cls.lab.address, lab=cls.lab))
        cls.guest = cls.enterClassContext(Guest(cls.lab, cls.memory))
        cls.guest.share(cls.guest_build)

    @classmethod
    def end_nas(cls):
        if not cls.nas.stop():
            raise AssertionError(f"the NFS server had to be killed\n{cls.nas.log_tail()}")

    @classmethod
    @contextlib.contextmanager
    def mounted(cls, version, at, options):
        """The export in the guest, by the wire."""
        cls.guest.mount(version, cls.export, at, cls.wire.port, MOUNT_PORT, options)
        try:
            yield
        finally:
            cls.guest.unmount(at)

    @classmethod
    def run_in_guest(cls, program, env, timeout=100):
        """A program of the guest's build, as the user: (status, output)."""
        return cls.guest.run([cls.guest_build / program], env={**SANITIZERS, **env}, user=USER,
                             timeout=timeout)
