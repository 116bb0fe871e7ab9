#!/usr/bin/python3 -B
"""Debian's rspamd and opendkim as milters: their verdicts, and that what they sign and verify comes
to them, and through us, octet by octet.

They run on sockets in a temporary folder, as nobody, without network. rspamd has its own check for
the GTUBE test message and a few rules of this test, which a field of the message chooses from.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import harness

CLIENT = Path(os.environ["MAILFLEET_BUILD"]) / "tests/system/filter_client"
RECEIVED = b"Received: from client.example.com\r\n by mx.example.org with ESMTP\r\n"
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

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
    end
  end })
"""


def message(*fields, body=b"Hello\r\n"):
    return b"".join(field + b"\r\n" for field in
                    (b"From: sender@example.com", b"To: user@example.org", b"Subject: test",
                     b"Date: Thu, 01 Jan 2026 00:00:00 +0000", b"Message-ID: <1@example.com>",
                     *fields)) + b"\r\n" + body


class Milters(unittest.TestCase):
    time_limit = 120

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="mailfleet-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.folder.chmod(0o755)
        cls.identity = {"user": "nobody", "group": "nogroup", "extra_groups": []} \
            if os.geteuid() == 0 else {}

    def own(self, path):
        if self.identity:
            shutil.chown(path, "nobody", "nogroup")
        return path

    def directory(self, name):
        path = self.folder / f"{self._testMethodName}-{name}"
        path.mkdir()
        path.chmod(0o755)
        return self.own(path)

    def start(self, folder, name, *command, end=signal.SIGTERM):
        """A server in the foreground, and the address of its socket, which it listens on."""
        path = folder / f"{name}.sock"
        with open(folder / f"{name}.out", "wb") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       cwd=folder, start_new_session=True, **self.identity)
        self.addCleanup(self.stop, process, end)
        while True:
            self.assertIsNone(process.poll(), (folder / f"{name}.out").read_text())
            try:
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(str(path))
                return f"unix:{path}"
            except OSError:
                time.sleep(0.05)

    @staticmethod
    def stop(process, how):
        process.send_signal(how)
        process.wait()

    def ask(self, text, *milters):
        """The last stage with its verdict, and the message that it made."""
        done = subprocess.run([CLIENT, *milters], input=text, stdout=subprocess.PIPE, check=True)
        stage, _, rest = done.stdout.partition(b"\n")
        while stage.split()[1] == b"accept" and stage.split()[0] != b"end":
            stage, _, rest = rest.partition(b"\n")
        return stage.decode().rstrip(), rest

    # --- rspamd ---------------------------------------------------------------------------------

    def rspamd(self):
        """The addresses of its three sockets."""
        folder = self.directory("rspamd")
        names = ("rspamd", "discard", "quarantine")
        workers = "".join(WORKER.format(dir=folder, name=name) for name in names)
        (folder / "rspamd.conf").write_text(RSPAMD.format(dir=folder, workers=workers))
        (folder / "rules.lua").write_text(RULES)
        (folder / "tlds").write_text("com\norg\n")
        self.start(folder, "rspamd", "/usr/bin/rspamd", "-f", "-c", folder / "rspamd.conf")
        return [f"unix:{folder}/{name}.sock" for name in names]

    def test_rspamd(self):
        rspamd, discard, quarantine = self.rspamd()
        plain, spam = message(), message(body=GTUBE + b"\r\n")
        self.assertEqual(self.ask(plain, rspamd), ("end accept 0", RECEIVED + plain))
        self.assertEqual(self.ask(spam, rspamd), ("end refuse 554 5.7.1 Gtube pattern", b""))
        self.assertEqual(self.ask(message(b"X-Wish: soft reject"), rspamd),
                         ("end defer 451 4.7.1 By the rule of the test", b""))
        self.assertEqual(self.ask(spam, discard), ("end discard 0", b""))
        self.assertEqual(self.ask(spam, quarantine),
                         ("end quarantine 0  Spam message quarantined", RECEIVED + spam))
        stage, changed = self.ask(message(b"X-Wish: headers", b"X-Last: kept  as\r\n\tit is"),
                                  rspamd)
        self.assertEqual(stage, "end accept 0")
        self.assertEqual(changed, RECEIVED + message(
            b"X-Last: kept  as\r\n\tit is",
            b"X-Seen: 192.0.2.1|client.example.com|sender@example.com|user@example.org|01test"))

    # --- opendkim -------------------------------------------------------------------------------

    def opendkim(self, name, *lines):
        folder = self.directory(name)
        conf = folder / "opendkim.conf"
        conf.write_text("\n".join([f"Socket local:{folder}/{name}.sock", "UMask 000", "Syslog no",
                                   "Background no", "RequireSafeKeys no",
                                   "AuthservID mx.example.org",
                                   f"TemporaryDirectory {folder}", *lines, ""]))
        # It has no children, and takes seconds to end by itself.
        return self.start(folder, name, "/usr/sbin/opendkim", "-f", "-x", conf, end=signal.SIGKILL)

    def keys(self):
        """A private key, and a file with what the DNS would say of it."""
        folder = self.directory("keys")
        key = folder / "private.pem"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True,
                       stderr=subprocess.DEVNULL)
        self.own(key).chmod(0o600)
        public = subprocess.run(["openssl", "rsa", "-in", key, "-pubout"], check=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        record = "v=DKIM1; k=rsa; p=" + "".join(public.splitlines()[1:-1])
        (folder / "public").write_text(f"test._domainkey.example.com {record}\n")
        return key, folder / "public"

    def test_opendkim(self):
        key, public = self.keys()
        signer = self.opendkim("signer", "Mode s", "Domain example.com", "Selector test",
                               f"KeyFile {key}", "InternalHosts 192.0.2.0/24",
                               "Canonicalization simple/simple")
        verifier = self.opendkim("verifier", "Mode v", f"TestPublicKeys {public}",
                                 "AlwaysAddARHeader yes")
        text = message(b"X-Folded:  two\r\n   lines", body=b"one \r\n\r\n\ttwo\r\n" * 20000)
        stage, plain = self.ask(text, verifier)
        self.assertEqual(stage, "end accept 0")
        self.assertTrue(plain.startswith(b"Authentication-Results: mx.example.org; dkim=none"),
                        plain[:300])
        self.assertTrue(plain.endswith(RECEIVED + text))
        # One after the other: the second verifies what the first has inserted.
        stage, signed = self.ask(text, signer, verifier)
        self.assertEqual(stage, "end accept 0")
        self.assertIn(b"\tdkim=pass", signed[:1000])
        self.assertIn(b"\r\nDKIM-Signature: ", signed)
        self.assertTrue(signed.endswith(text))
        # And as it goes on to another host.
        relayed = signed[signed.index(b"DKIM-Signature: "):]
        _, verified = self.ask(relayed, verifier)
        self.assertIn(b"\tdkim=pass", verified[:1000])
        _, verified = self.ask(relayed.replace(b"\ttwo", b"\tTwo", 1), verifier)
        self.assertIn(b"\tdkim=fail", verified[:1000])


if __name__ == "__main__":
    harness.main()
