"""The parts of the laboratory that a fleet on one machine does not have, each on a host of its own.

They run with the files of deploy/, filled in: what is tested here is what operators are given. Each
listens at its host's address on the port that the world knows. Nothing here knows the whole
laboratory: what a part needs of the others it is told.
"""

import contextlib
import http.client
import json
import signal
import string
import subprocess

from fleet import Haproxy, Memcached, greeting
from nsd import Nsd
from part import ROOT, Part, processes
from postfix import Postfix


def template(file, /, **values):
    """A file of deploy/, filled in."""
    return string.Template((ROOT / "deploy" / file).read_text()).substitute(values)


def settings_of(text):
    """The lines of a configuration that are not comments."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def http_get(address, port, path, timeout=2):
    """Status and body; OSError when there is no answer."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(errors="replace")
    except http.client.HTTPException as error:
        raise OSError(str(error)) from None
    finally:
        connection.close()


class Etcd(Part):
    user = "etcd"
    members = ()  # all of them, this one too

    def prepare(self):
        self.data = self.owner.state / "data" / self.name
        self.owner.make_dir(self.data, self.user, 0o700)

    def launch(self, env, log):
        cluster = ",".join(f"{m.name}=http://{m.address}:2380" for m in self.members)
        lines = settings_of(template("patroni/etcd.env", name=self.name, address=self.address,
                                     data_dir=self.data, cluster=cluster))
        return super().launch({**env, **dict(line.split("=", 1) for line in lines)}, log)

    def command(self):
        return ["/usr/bin/etcd"]

    def probe(self):
        try:
            body = http_get(self.address, 2379, "/health")[1]
        except OSError as error:
            return str(error)
        return None if '"true"' in body else body


class Patroni(Part):
    """Patroni and the PostgreSQL that it looks after, on one host."""

    user = "postgres"
    stop_timeout = 40

    def __init__(self, fleet, name, place, etcd_hosts, bin_dir):
        super().__init__(fleet, name, place)
        self.etcd_hosts, self.bin_dir = etcd_hosts, bin_dir
        self.postgres_is_ours = True
        self.data = fleet.state / "data" / name
        self.config = fleet.state / "config" / f"{name}.yml"

    def prepare(self):
        saved = self.owner.saved
        self.owner.make_dir(self.data, self.user, 0o700)
        self.owner.write(self.owner.state / "bin/reconnect",
                         (ROOT / "deploy/pgbouncer/reconnect").read_text(), None, 0o755)
        self.owner.write(self.config, template(
            "patroni/patroni.yml", name=self.name, address=self.address,
            network=self.owner.network.subnet, etcd_hosts=", ".join(self.etcd_hosts),
            data_dir=self.data / "data", bin_dir=self.bin_dir, pgpass=self.data / "pgpass",
            superuser_password=saved["postgres_password"],
            replication_password=saved["database_password"],
            watchdog="'off'",  # it would reset this machine
            callbacks=self.callbacks()), self.user, 0o600)

    def callbacks(self):
        """For PgBouncer, which is there always, and used by a scenario at least."""
        command = (f"{self.owner.state}/bin/reconnect http://{self.address}:8008 "
                   f"{pgbouncer_sockets(self.owner, self.place)}")
        return f"{{on_start: {command}, on_role_change: {command}}}"

    def command(self):
        # Patroni takes a dead PostgreSQL for a living one until its parent has reaped it: as systemd
        # does at once, but not the first process of every machine that tests are run on.
        return ["/usr/bin/tini", "-s", "--", "/usr/bin/python3", "-B", "/usr/bin/patroni",
                self.config]

    def postmaster(self):
        """The pid of the PostgreSQL, or None. It outlives a Patroni that is killed."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int((self.data / "data/postmaster.pid").read_text().split()[0])
            if pid in self.place.pids():
                return pid
        return None

    def pids(self):
        found = super().pids()
        if self.postgres_is_ours and (postmaster := self.postmaster()):
            ours = {postmaster}
            alive = processes()
            while more := {p.pid for p in alive.values() if p.parent in ours} - ours:
                ours |= more
            found += sorted(ours - set(found))
        return found

    def start(self, env=None):
        self.postgres_is_ours = False  # what a killed Patroni has left is for this one to find
        try:
            super().start(env)
        finally:
            self.postgres_is_ours = True

    def probe(self):
        try:
            status, body = http_get(self.address, 8008, "/health")
        except OSError as error:
            return str(error)
        return None if status == 200 else body[:200]

    def cluster(self):
        """name -> (role, state), as this one knows it: leader, sync_standby or replica. Asked from
        where this thread is."""
        status, body = http_get(self.address, 8008, "/cluster", timeout=1)
        if status != 200:
            raise OSError(body[:200])
        return {m["name"]: (m["role"], m.get("state")) for m in json.loads(body)["members"]}


def pgbouncer_sockets(owner, place):
    return owner.state / "run" / f"pgbouncer-{place.name}"


class Pgbouncer(Part):
    """In front of one PostgreSQL, on its host."""

    user = "postgres"

    def prepare(self):
        config = self.owner.state / "config"
        saved = self.owner.saved
        sockets = pgbouncer_sockets(self.owner, self.place)
        self.owner.make_dir(sockets, self.user, 0o700)
        users = {"mailfleet": saved["database_password"], "postgres": saved["postgres_password"]}
        self.owner.write(config / f"{self.name}.users", "".join(
            f'"{user}" "{password}"\n' for user, password in users.items()), self.user, 0o600)
        self.owner.write(config / f"{self.name}.ini", template(
            "pgbouncer/pgbouncer.ini", address=self.address, users=config / f"{self.name}.users",
            socket_folder=sockets), self.user, 0o600)

    def command(self):
        return ["/usr/sbin/pgbouncer", self.owner.state / "config" / f"{self.name}.ini"]

    def probe(self):
        # An SSLRequest: S or N is an answer.
        reply = greeting(self.address, 6432, b"\x00\x00\x00\x08\x04\xd2\x16\x2f", timeout=2)
        return None if reply[:1] in (b"S", b"N") else "no answer on its port"


class Cache(Memcached):
    def command(self):
        words = [word for line in settings_of(template("memcached/memcached.conf",
                                                       address=self.address, memory=64))
                 for word in line.split()]
        return ["/usr/bin/memcached", *words]


class Balancer(Haproxy):
    """HAProxy at every address of its host, as the service's address comes and goes."""

    def __init__(self, fleet, name, place):
        super().__init__(fleet, name, place)
        self.listen = "0.0.0.0"


class Keepalived(Part):
    stop_timeout = 10

    def __init__(self, fleet, name, place, peer, priority):
        super().__init__(fleet, name, place)
        self.peer, self.priority = peer, priority
        self.config = fleet.state / "config" / f"{name}.conf"

    def prepare(self):
        self.owner.write(self.config, template(
            "keepalived/keepalived.conf", name=self.name, address=self.address,
            peer=self.peer.address, priority=self.priority, interface="eth0",
            service_address=f"{self.owner.service}/24"), None, 0o644)

    def command(self):
        run = self.owner.state / "run"
        return ["/usr/sbin/keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file",
                self.config, "--pid", run / f"{self.name}.master",
                "--vrrp_pid", run / f"{self.name}.vrrp"]

    def probe(self):
        return None

    def holds(self):
        """Whether the service's address is here."""
        return self.owner.service + "/" in self.place.run("ip", "-o", "-4", "address", "show")


class NameServer(Nsd):
    """Has zones as text: name -> records. serve() changes one while it works."""

    def __init__(self, fleet, name, place, zones):
        folder = fleet.state / "data" / f"{name}-zones"
        super().__init__(fleet, name, {zone: folder / zone for zone in zones},
                         [(place.address, 53)], place)
        self.folder, self.records = folder, zones

    def prepare(self):
        self.owner.make_dir(self.folder, None, 0o755)
        for zone, records in self.records.items():
            self.owner.write(self.folder / zone, records, None, 0o644)
        super().prepare()

    def serve(self, zone, records):
        self.records[zone] = records
        self.prepare()
        self.send(self.pids()[:1], signal.SIGHUP)


class Mta(Postfix):
    """A Postfix that goes to the MX hosts that the DNS names, and asks one name server alone."""

    def __init__(self, fleet, name, place, name_server):
        super().__init__(
            fleet, 25, "smtp", fleet.ca, name=name, place=place,
            mynetworks=fleet.network.subnet, inet_interfaces=place.address,
            # A certificate that is not the MX host's own would be noticed.
            smtp_tls_security_level="verify", smtp_tls_verify_cert_match="hostname",
            # Debian's are 30 s and 5 min: a test has less time than a night.
            smtp_connect_timeout="4s", smtp_helo_timeout="15s", smtp_mail_timeout="15s",
            smtp_rcpt_timeout="15s", smtp_data_init_timeout="15s", smtp_data_xfer_timeout="30s",
            smtp_data_done_timeout="40s", smtp_quit_timeout="5s",
            minimal_backoff_time="1s", maximal_backoff_time="2s", queue_run_delay="1s",
            default_destination_concurrency_limit="8", disable_dns_lookups="no")
        self.name_server = name_server

    def prepare(self):
        super().prepare()
        (self.folder / "resolv.conf").write_text(
            f"nameserver {self.name_server}\noptions timeout:1 attempts:2\n")

    def command(self):
        # It knows no other way to be told whom to ask.
        return ["/usr/bin/unshare", "--mount", "/bin/sh", "-c",
                'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"', "sh",
                self.folder / "resolv.conf", *super().command()]

    def flush(self):
        """What is deferred is tried again at once."""
        with self.place.inside():
            subprocess.run(["/usr/sbin/postqueue", "-c", self.folder / "etc", "-f"], check=False,
                           stderr=subprocess.DEVNULL)

