"""Certificates of an authority of the test's own, by the openssl command."""

import subprocess
import tempfile
from pathlib import Path


class Authority:
    """Makes certificates in a folder that the nodes can read."""

    def __init__(self, folder):
        self.folder = folder
        self.certificate, self.key = folder / "ca.pem", folder / "ca.key"
        self.openssl(self.key, self.certificate, "-subj", "/CN=authority",
                     "-addext", "basicConstraints=critical,CA:TRUE")

    @staticmethod
    def openssl(key, certificate, *options):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:P-256", "-noenc", "-days", "2", "-keyout", key,
                        "-out", certificate, *options], check=True, capture_output=True)

    def make(self, *names):
        """(certificate, key) as PEM text; names like DNS:a.test."""
        with tempfile.TemporaryDirectory() as folder:
            key, certificate = Path(folder, "key"), Path(folder, "certificate")
            self.openssl(key, certificate, "-subj", "/CN=leaf", "-CA", self.certificate,
                         "-CAkey", self.key, "-addext", "subjectAltName=" + ",".join(names),
                         "-addext", "basicConstraints=critical,CA:FALSE")
            return certificate.read_text(), key.read_text()


def replace(path, text):
    """As a careful program does: nobody sees half of it."""
    new = path.with_name("." + path.name)
    new.write_text(text)
    new.chmod(0o644)
    new.rename(path)
