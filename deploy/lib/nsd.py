"""A private name server: Debian's NSD with deploy/dns/nsd.conf."""

import socket
import string
from pathlib import Path

from part import HERE, HOST, ROOT, Part

QUESTION = b"\x12\x34\x00\x00\x00\x01" + bytes(6) + b"\x00\x00\x02\x00\x01"  # NS of the root


class Nsd(Part):
    """Serves zones: {name: path of its file}. at are the addresses and ports it listens on.

    When root starts it, it goes to its own user by itself, who must be able to read the files.
    """

    def __init__(self, owner, name, zones, at, place=HERE):
        super().__init__(owner, name, place)
        self.zones = zones
        self.at = at
        self.config = owner.state / "config" / f"{name}.conf"
        self.data = owner.state / "data" / name

    def prepare(self):
        owner = self.owner
        for name in "config", "data", "log", "run":
            owner.make_dir(owner.state / name, None, 0o755)
        owner.make_dir(self.data, "nsd", 0o755)
        template = string.Template((ROOT / "deploy/dns/nsd.conf").read_text())
        owner.write(self.config, template.substitute(
            addresses="\n".join(f"    ip-address: {host}@{port}" for host, port in self.at),
            user="nsd" if owner.root else "", zones_folder="/", data_folder=self.data,
            zones="\n".join(f"zone:\n    name: {name}\n    zonefile: {Path(path).absolute()}"
                            for name, path in self.zones.items())), None, 0o644)

    def command(self):
        return ["/usr/sbin/nsd", "-d", "-c", self.config]

    def probe(self):
        """It answers for the root, which it refuses, on each of its addresses."""
        for host, port in self.at:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as s:
                s.settimeout(0.5)
                s.connect((host, port))
                try:
                    s.send(QUESTION)
                    s.recv(512)
                except OSError as error:
                    return f"it does not answer ({error})"
        return None


def free_port(host=HOST):
    """For UDP and TCP, as far as can be told."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((host, 0))
            port = udp.getsockname()[1]
            try:
                socket.create_server((host, port)).close()
                return port
            except OSError:
                pass
