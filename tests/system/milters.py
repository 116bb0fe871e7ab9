"""Debian's rspamd, opendkim and clamav-milter on sockets in a folder, as nobody, without network.

rspamd has its own check for the GTUBE test message and a few rules of ours, which a field of the
message chooses from. Its three sockets differ in what becomes of spam. clamd knows one virus, which
we made up.
"""

import os
import shutil
import signal
import socket
import subprocess
import time

GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
VIRUS = b"A virus of the mailfleet tests"

RSPAMD = """
options {{
    pidfile = "{dir}/rspamd.pid";
    filters = "";
    control_socket = "{dir}/control.sock mode=0600";
    tempdir = "{dir}";
    url_tld = "{dir}/tlds"; # all of them take long to read
    cache_file = "{dir}/symbols.cache";
    dns {{ nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }}
}}
logging {{ type = "file"; filename = "{dir}/rspamd.log"; level = "info"; }}
actions {{ reject = 15; }}
{workers}
lua = "{dir}/rules.lua";
"""

# What becomes of spam is a setting of the socket.
WORKER = """
worker "rspamd_proxy" {{
    bind_socket = "{dir}/{name}.sock mode=0666";
    milter = yes;
    timeout = 30s;
    count = 1;
    upstream "local" {{ default = yes; self_scan = yes; }}
    {name}_on_reject = true;
}}
"""

RULES = """
rspamd_config:register_symbol({
  name = 'TEST_RULE', type = 'prefilter', priority = 10,
  callback = function(task)
    local wish = task:get_header('X-Wish')
    if wish == 'soft reject' then
      task:set_pre_result(wish, 'By the rule of the test')
    elseif wish == 'headers' then
      task:set_milter_reply({
        add_headers = { ['X-Seen'] = string.format('%s|%s|%s|%s|%s', tostring(task:get_from_ip()),
          task:get_helo(), task:get_from('smtp')[1].addr, task:get_recipients('smtp')[1].addr,
          task:get_queue_id()) },
        remove_headers = { ['X-Wish'] = 1 } })
    elseif wish == 'tls' then
      task:set_milter_reply({
        add_headers = { ['X-TLS'] = tostring(task:get_request_header('TLS-Version')) } })
    end
  end })
"""

IDENTITY = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def own(path):
    if IDENTITY:
        shutil.chown(path, "nobody", "nogroup")
    return path


def directory(path):
    path.mkdir()
    path.chmod(0o755)
    return own(path)


def address(path):
    """As filter.milters has it."""
    return f"unix:{path}"


class Server:
    """One program in the foreground that listens on sockets."""

    end = signal.SIGTERM

    def __init__(self, folder, sockets, command):
        self.folder = folder
        self.sockets = sockets
        self.command = command
        self.process = None

    def start(self):
        """Returns when it listens on all of its sockets."""
        for path in self.sockets:
            path.unlink(missing_ok=True)
        log = self.folder / "out"
        with open(log, "ab") as out:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=out, cwd=self.folder, start_new_session=True,
                                            **IDENTITY)
        for path in self.sockets:
            self.wait_for(path, log)

    def wait_for(self, path, log):
        while True:
            if self.process.poll() is not None:
                raise AssertionError(log.read_text())
            try:
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(str(path))
                return
            except OSError:
                time.sleep(0.05)

    def signal(self, number):
        """To all of its processes."""
        os.killpg(self.process.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.send_signal(self.end)
            self.process.wait()


class Rspamd(Server):
    NAMES = ("rspamd", "discard", "quarantine")

    def __init__(self, folder):
        sockets = [folder / f"{name}.sock" for name in self.NAMES]
        super().__init__(folder, sockets,
                         ["/usr/bin/rspamd", "-f", "-c", folder / "rspamd.conf"])
        directory(folder)
        workers = "".join(WORKER.format(dir=folder, name=name) for name in self.NAMES)
        (folder / "rspamd.conf").write_text(RSPAMD.format(dir=folder, workers=workers))
        (folder / "rules.lua").write_text(RULES)
        (folder / "tlds").write_text("com\norg\n")
        self.addresses = [address(path) for path in sockets]


class Opendkim(Server):
    end = signal.SIGKILL  # it has no children, and takes seconds to end by itself

    def __init__(self, folder, *lines):
        path = folder / "opendkim.sock"
        super().__init__(folder, [path],
                         ["/usr/sbin/opendkim", "-f", "-x", folder / "opendkim.conf"])
        directory(folder)
        (folder / "opendkim.conf").write_text("\n".join(
            [f"Socket local:{path}", "UMask 000", "Syslog no", "Background no",
             "RequireSafeKeys no", "AuthservID mx.example.org", f"TemporaryDirectory {folder}",
             *lines, ""]))
        self.address = address(path)


class Clamd(Server):
    """With a database of one signature, any file that has VIRUS in it; nothing is downloaded."""

    NAME = "Made.Up.UNOFFICIAL"  # the suffix is clamd's word for what its makers have not signed

    def __init__(self, folder):
        self.path = folder / "clamd.sock"
        super().__init__(folder, [self.path],
                         ["/usr/sbin/clamd", "-F", "-c", folder / "clamd.conf"])
        directory(folder)
        database = directory(folder / "database")
        name = self.NAME.removesuffix(".UNOFFICIAL")
        (database / "test.ndb").write_text(f"{name}:0:*:{VIRUS.hex()}\n")
        (folder / "clamd.conf").write_text("\n".join(
            [f"DatabaseDirectory {database}", f"LocalSocket {self.path}", "LocalSocketMode 666",
             f"TemporaryDirectory {folder}", ""]))


class Clamav(Server):
    """clamav-milter, which asks a clamd."""

    end = signal.SIGKILL  # as opendkim

    def __init__(self, folder, clamd, *lines):
        path = folder / "clamav.sock"
        super().__init__(folder, [path],
                         ["/usr/sbin/clamav-milter", "-c", folder / "clamav-milter.conf"])
        directory(folder)
        (folder / "clamav-milter.conf").write_text("\n".join(
            [f"MilterSocket unix:{path}", "MilterSocketMode 666", f"ClamdSocket unix:{clamd.path}",
             "Foreground yes", f"TemporaryDirectory {folder}", "AddHeader Replace",
             "ReportHostname mx.example.org", *lines, ""]))
        self.address = address(path)
