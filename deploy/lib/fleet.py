"""A whole mailfleet on one machine, under one state folder.

PostgreSQL, memcached, delivery nodes, front-ends and HAProxy in front of each pair, on request an
NFS server as well, all private: own data, own ports, nothing of the system's own servers is
touched. deploy/quickstart is the command line of this module, and the system tests use it as their
library.

It is for trying and testing on one machine, not a way to run a service: a part that dies stays
dead until start() is called.
"""

import collections
import contextlib
import fcntl
import glob
import grp
import http.client
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import string
from pathlib import Path

from backup import Backup
from nas import NO_PORTMAPPER, Ganesha, check_root
from part import HERE, HOST, ROOT, FleetError, Owner, Part

DOMAIN = "quickstart.test"
DEFAULT_BASE_PORT = 20100
PORTS = 100  # a fleet's ports are base .. base + PORTS - 1
MAX_NODES = 4  # of each kind, by the port plan below

NEW_CERTIFICATE = ["/usr/bin/openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                   "ec_paramgen_curve:P-256", "-noenc", "-days", "3650"]

PROGRAMS = {
    "mailfleet": "admin/mailfleet",
    "mailfleet-deliver": "deliver/mailfleet-deliver",
    "mailfleet-frontend": "frontend/mailfleet-frontend",
    "no_portmapper.so": NO_PORTMAPPER,
}


class Ports:
    """The port plan: everything is a fixed distance from the base port."""

    def __init__(self, base):
        self.base = base
        self.smtp, self.pop3, self.pop3s = base, base + 1, base + 2  # the balancer's
        self.postgres, self.memcached = base + 3, base + 4
        self.nfs, self.mount = base + 5, base + 6
        self.balancer_health = base + 7

    def deliver(self, n):
        first = self.base + 10 * n
        return {"smtp": first, "smtp_proxy": first + 1, "lmtp": first + 2, "agent": first + 8,
                "health": first + 9}

    def frontend(self, n):
        first = self.base + 50 + 10 * n
        return {"pop3": first, "pop3s": first + 1, "pop3_proxy": first + 2,
                "pop3s_proxy": first + 3, "agent": first + 8, "health": first + 9}

    def all(self):
        nodes = [p for n in range(1, MAX_NODES + 1) for p in (self.deliver(n), self.frontend(n))]
        return [self.smtp, self.pop3, self.pop3s, self.postgres, self.memcached,
                self.nfs, self.mount, self.balancer_health, *(port for node in nodes for port in node.values())]


# --- parts ---------------------------------------------------------------------------------------


class Postgres(Part):
    stop_signal = signal.SIGINT  # a fast shutdown: sessions are ended, the data is left clean
    user = "postgres"

    def __init__(self, fleet, name):
        super().__init__(fleet, name)
        self.data = fleet.state / "data" / "postgres"

    def programs(self):
        found = glob.glob("/usr/lib/postgresql/*/bin/postgres")
        if not found:
            raise FleetError("PostgreSQL's programs are not in /usr/lib/postgresql")
        return Path(max(found, key=lambda path: int(path.split("/")[4]))).parent

    def prepare(self):
        fleet = self.owner
        if fleet.backup:
            fleet.backup.prepare()
        if not (self.data / "PG_VERSION").exists():
            # A cluster that was half made is made anew: nothing is in it yet.
            shutil.rmtree(self.data, ignore_errors=True)
            fleet.make_dir(self.data, self.user, 0o700)
            password = fleet.state / "run" / "postgres-password"
            fleet.write(password, fleet.saved["postgres_password"] + "\n", self.user, 0o600)
            fleet.run([self.programs() / "initdb", "-D", self.data, "-U", "postgres",
                       f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8",
                       "--locale=C.UTF-8", "--data-checksums"], user=self.user)
            password.unlink()

    def command(self):
        # TCP alone: the path of a socket would have to be short. What durability rests on (fsync,
        # synchronous_commit, full_page_writes) stays as it is by default: on.
        settings = {
            "listen_addresses": self.address, "port": self.owner.ports.postgres,
            "unix_socket_directories": "", "max_connections": 300, "timezone": "UTC",
            "log_timezone": "UTC", "log_line_prefix": "%m [%p] %q%u@%d ",
            **(self.owner.backup.postgres_settings() if self.owner.backup else {}),
            **self.owner.postgres_settings,
        }
        return [self.programs() / "postgres", "-D", self.data,
                *(word for key, value in settings.items() for word in ("-c", f"{key}={value}"))]

    def probe(self):
        try:
            self.owner.sql("SELECT 1", superuser=True, database="postgres")
        except FleetError as error:
            return str(error)
        return None


class Memcached(Part):
    user = "memcache"

    def command(self):
        return ["/usr/bin/memcached", "-l", self.address, "-p", self.owner.ports.memcached,
                "-U", "0", "-m", "256", "-R", "1000"]

    def probe(self):
        reply = greeting(self.address, self.owner.ports.memcached, b"version\r\n")
        return None if reply.startswith(b"VERSION") else "no answer on its port"


class Nas(Ganesha):
    """Takes every client for the fleet's user, whoever it says it is.

    Any user of this machine reaches its ports, and can guess handles of files that are outside of
    the exported folders: they may do what the fleet's user may, but nothing as anybody else.
    """

    def __init__(self, fleet, name):
        super().__init__(fleet, name, fleet.ports.nfs, fleet.ports.mount, fleet.nas_folders,
                         fleet.state / "bin" / "no_portmapper.so")

    def prepare(self):
        user = pwd.getpwnam(self.owner.user)
        self.export = {"Squash": "All_Squash", "Anonymous_uid": user.pw_uid,
                       "Anonymous_gid": user.pw_gid}
        super().prepare()


class Node(Part):
    """A delivery node or a front-end. When root starts it, it goes to its own user by itself."""

    def __init__(self, fleet, name, program, ports, place=HERE):
        super().__init__(fleet, name, place)
        self.program = program
        self.ports = ports
        self.config = fleet.state / "config" / f"{name}.conf"

    def listeners(self):
        """The settings that name its ports."""
        at = {kind: f"{self.address}:{port}" for kind, port in self.ports.items()}
        if "smtp" in at:
            return {"smtp.listen": at["smtp"], "smtp.proxy_listen": at["smtp_proxy"],
                    "lmtp.listen": at["lmtp"], "deliver.health": at["health"],
                    "deliver.agent": at["agent"]}
        return {"pop3.listen": at["pop3"], "pop3.tls_listen": at["pop3s"],
                "pop3.proxy_listen": at["pop3_proxy"],
                "pop3.proxy_tls_listen": at["pop3s_proxy"], "frontend.health": at["health"],
                "frontend.agent": at["agent"]}

    def prepare(self):
        self.owner.write_config(self.config, {"node.name": self.name, **self.listeners(),
                                              **self.owner.node_settings.get(self.name, {})})

    def command(self):
        return [self.owner.state / "bin" / self.program, "--config", self.config]

    def probe(self):
        return self.get("/readyz")[1]

    def get(self, path):
        """Asks the health listener: the body, and why the answer is not 200 or None."""
        connection = http.client.HTTPConnection(self.address, self.ports["health"], timeout=5)
        try:
            with self.place.inside():
                connection.request("GET", path)
            reply = connection.getresponse()
            body = reply.read().decode(errors="replace")
            return body, None if reply.status == 200 else body.strip() or str(reply.status)
        except (OSError, http.client.HTTPException) as error:
            return "", f"its health port does not answer ({error})"
        finally:
            connection.close()


class Haproxy(Part):
    """Starts as root when it can, and then goes to its own user by itself."""

    def __init__(self, fleet, name, place=HERE):
        super().__init__(fleet, name, place)
        self.listen = self.address
        self.config = fleet.state / "config" / f"{name}.cfg"
        self.socket = fleet.state / "run" / f"{name}.sock"  # of its commands

    def servers(self, nodes, kind):
        return "\n".join(f"    server {node.name} {node.address}:{node.ports[kind]} "
                         f"check port {node.ports['health']} agent-port {node.ports['agent']}"
                         for node in nodes)

    def prepare(self):
        fleet = self.owner
        template = string.Template((ROOT / "deploy/haproxy/haproxy.cfg").read_text())
        fleet.write(self.config, template.substitute(
            drop_root="    user haproxy\n    group haproxy\n" if fleet.root else "",
            # A longer path HAProxy would not start with.
            stats_socket=f"    stats socket {self.socket} mode 600 level admin"
            if len(str(self.socket)) < 90 else "",
            smtp=f"{self.listen}:{fleet.ports.smtp}", pop3=f"{self.listen}:{fleet.ports.pop3}",
            pop3s=f"{self.listen}:{fleet.ports.pop3s}",
            health=f"{self.listen}:{fleet.ports.balancer_health}",
            smtp_servers=self.servers(fleet.delivery_nodes, "smtp_proxy"),
            pop3_servers=self.servers(fleet.front_ends, "pop3_proxy"),
            pop3s_servers=self.servers(fleet.front_ends, "pop3s_proxy")), None, 0o644)

    def command(self):
        return ["/usr/sbin/haproxy", "-db", "-f", self.config]

    def probe(self):
        for port, hello in (self.owner.ports.smtp, b"220 "), (self.owner.ports.pop3, b"+OK"):
            if not greeting(self.address, port).startswith(hello):
                return f"no greeting through port {port}"
        return None


def greeting(address, port, send=b"", timeout=5):
    """What a server says first (after send), or nothing."""
    try:
        with socket.create_connection((address, port), timeout=timeout) as s:
            s.sendall(send)
            return s.recv(1024)
    except OSError:
        return b""


# --- the fleet -----------------------------------------------------------------------------------


class Fleet(Owner):
    """All parts, by name: fleet["deliver1"].kill().

    settings go into the configuration of every node ("spool.grace": "1s"), node_settings into
    that of one ({"deliver1": {...}}), postgres_settings into PostgreSQL's. env is what every part
    finds in its environment. say is told of every step. With nas, a new fleet has so many volumes
    on an NFS server of its own, instead of one in a local folder; an old one has what it had. With
    backup, PostgreSQL archives its log to a repository of pgBackRest, which has no backup yet.
    """

    def __init__(self, state, base_port=None, build=None, delivery_nodes=2, front_ends=2,
                 settings=None, node_settings=None, postgres_settings=None, env=None,
                 say=lambda line: None, nas=0, backup=False):
        super().__init__(state, env, say)
        self.user = "mailfleet" if self.root else pwd.getpwuid(os.geteuid()).pw_name
        self.build = Path(build) if build else None
        self.settings = settings or {}
        self.node_settings = node_settings or {}
        self.postgres_settings = postgres_settings or {}
        self.backup = Backup(self) if backup else None
        self.saved = self.load(base_port, nas)
        self.ports = Ports(self.saved["base_port"])
        self.config = self.state / "config" / "mailfleet.conf"
        self.admin_program = self.state / "bin" / "mailfleet"
        self.ca = self.state / "tls" / "ca.pem"
        self.spool = self.state / self.saved["spool"]
        self.nas_folders = [self.state / f"nas{n}" for n in range(1, self.saved["nas"] + 1)]
        # Where the volumes are on this machine, so that tests can look into them.
        self.spools = self.nas_folders or [self.spool]

        self.delivery_nodes = self.make_delivery_nodes(delivery_nodes)
        self.front_ends = self.make_front_ends(front_ends)
        self.parts = self.make_parts()

    # What a fleet that is laid out otherwise has of its own, beside database_url, cache_servers,
    # volume_urls() and up():

    operator = HERE  # where the operator's commands are run

    def make_delivery_nodes(self, count):
        return [Node(self, f"deliver{n}", "mailfleet-deliver", self.ports.deliver(n))
                for n in range(1, count + 1)]

    def make_front_ends(self, count):
        return [Node(self, f"frontend{n}", "mailfleet-frontend", self.ports.frontend(n))
                for n in range(1, count + 1)]

    def make_parts(self):
        return [Postgres(self, "postgres"), Memcached(self, "memcached"),
                *([Nas(self, "nas")] if self.nas_folders else []),
                *self.delivery_nodes, *self.front_ends, Haproxy(self, "haproxy")]

    def certificate_names(self):
        return ["localhost", DOMAIN, f"*.{DOMAIN}", socket.gethostname(),
                *(f"deliver{n}" for n in range(1, MAX_NODES + 1)),
                *(f"frontend{n}" for n in range(1, MAX_NODES + 1))]

    @property
    def database_hosts(self):
        """Where PostgreSQL is: one host:port, or several with commas."""
        return f"{HOST}:{self.ports.postgres}"

    @property
    def cache_servers(self):
        return [f"{HOST}:{self.ports.memcached}"]

    def __getitem__(self, name):
        for part in self.parts:
            if part.name == name:
                return part
        names = ", ".join(part.name for part in self.parts)
        raise FleetError(f"there is no part {name}; there are: {names}")

    # --- state -----------------------------------------------------------------------------

    def load(self, base_port, nas):
        """What is remembered between runs: ports, passwords, accounts, what the volumes are on."""
        try:
            saved = json.loads((self.state / "state.json").read_text())
        except FileNotFoundError:
            return {"base_port": base_port or DEFAULT_BASE_PORT, "nas": nas,
                    "accounts": [], "volumes": [], "spool": "spool/v1",
                    "postgres_password": secrets.token_hex(16),
                    "database_password": secrets.token_hex(16)}
        if base_port and base_port != saved["base_port"]:
            raise FleetError(f"the fleet in {self.state} has base port {saved['base_port']}; "
                             "use another --state for another one")
        saved.setdefault("nas", 0)  # made before there was a choice
        saved.setdefault("spool", "spool")
        if nas and not saved["nas"]:
            raise FleetError(f"the fleet in {self.state} was made without --nas; "
                             "use another --state for one with it")
        return saved

    def save(self):
        self.write(self.state / "state.json", json.dumps(self.saved, indent=2) + "\n", None, 0o600)

    @contextlib.contextmanager
    def locked(self):
        """One command at a time changes a fleet."""
        self.state.mkdir(parents=True, exist_ok=True)
        with open(self.state / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.say("waiting for another command on this fleet")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def write_config(self, path, extra):
        """mailfleet.conf for one node; sections as the keys' first words."""
        sections = collections.defaultdict(dict)
        for name, value in {**self.base_settings(), **self.settings, **extra}.items():
            section, key = name.split(".")
            sections[section][key] = value
        text = "\n".join(
            f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
            for section, keys in sections.items())
        self.write(path, text, self.user, 0o640)

    def base_settings(self):
        return {
            **({"node.user": self.user} if self.root else {}),
            "node.drain_time": "5s",
            "node.fleet_key_file": self.state / "secret" / "fleet.key",
            "spool.roots": self.state / "spool",
            "database.url": self.database_url,
            "cache.servers": ", ".join(self.cache_servers),
            "tls.certificate": self.state / "tls" / "node.pem",
            "tls.key": self.state / "tls" / "node.key",
            **(self.backup.settings() if self.backup else {}),
        }

    @property
    def database_url(self):
        return (f"postgresql://mailfleet:{self.saved['database_password']}@"
                f"{self.database_hosts}/mailfleet?target_session_attrs=read-write")

    # --- what needs the database --------------------------------------------------------------

    def sql(self, statement, superuser=False, database="mailfleet"):
        """Runs SQL; the rows, as lists of strings."""
        user = "postgres" if superuser else "mailfleet"
        password = self.saved["postgres_password" if superuser else "database_password"]
        url = f"postgresql://{user}@{self.database_hosts}/{database}?connect_timeout=5"
        if "," in self.database_hosts:
            url += "&target_session_attrs=read-write"
        output = self.run(["/usr/bin/psql", "-XAtqw", "-F", "\t", "-v", "ON_ERROR_STOP=1", url],
                          env={"PGPASSWORD": password}, stdin=statement, place=self.operator)
        return [line.split("\t") for line in output.splitlines()]

    def admin(self, *words, stdin=""):
        """The operator's command; its output."""
        return self.run([self.admin_program, "--config", self.config, *words], user=self.user,
                        stdin=stdin, place=self.operator)

    # --- up and down ----------------------------------------------------------------------------

    def up(self):
        """Starts what is missing; everything that was there stays."""
        self.lay_out()
        self["postgres"].up()
        self.create_database()
        if self.backup:
            self.backup.create()
        self["memcached"].up()
        if self.nas_folders:
            self["nas"].up()
        self.init_store()
        for node in self.delivery_nodes + self.front_ends:
            if not node.pids():
                self.say(f"starting {node.name}")
            node.start()
        for node in self.delivery_nodes + self.front_ends:
            node.wait_ready()
        self["haproxy"].up()

    def down(self):
        """Stops everything, what is in front first."""
        for part in reversed(self.parts):
            if part.pids():
                self.say(f"stopping {part.name}")
                if not part.stop():
                    self.say(f"{part.name} did not stop in time and was killed")
            part.pid_file.unlink(missing_ok=True)

    def lay_out(self):
        self.state.mkdir(parents=True, exist_ok=True)
        if not (self.state / "state.json").exists():
            self.check_ports()
        if self.root:
            self.make_user()
            self.check_reachable()
        if self.nas_folders:
            check_root()
        os.chmod(self.state, 0o755)
        for name in "bin", "config", "data", "log", "run", "tls":
            self.make_dir(self.state / name, None, 0o755)
        roots = [] if self.nas_folders else [self.state / "spool"]
        for folder in self.state / "secret", *roots, *self.spools:
            self.make_dir(folder, self.user, 0o750)
        self.save()
        self.copy_programs()
        self.make_certificates()
        self.write_config(self.config, {})

    def check_ports(self):
        for port in self.ports.all():
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    s.bind((HOST, port))
                except OSError:
                    raise FleetError(
                        f"port {port} is taken by another program; choose other ports with "
                        f"--base-port N (N to N + {PORTS - 1} are used)") from None

    def make_user(self):
        try:
            grp.getgrnam(self.user)
            pwd.getpwnam(self.user)
        except KeyError:
            self.say(f"adding the system user {self.user}")
            self.run(["/usr/sbin/useradd", "--system", "--user-group", "--no-create-home",
                      "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", self.user])

    def check_reachable(self):
        """The parts run as other users than root: they must be able to get to their files."""
        for folder in self.state.parents:
            if not folder.stat().st_mode & 0o001:
                raise FleetError(f"{folder} is closed to the users that the fleet runs as; "
                                 "choose another folder with --state DIR")

    def copy_programs(self):
        """Out of the build, which the fleet's users may not be able to reach."""
        if not self.build:
            return
        for name, where in PROGRAMS.items():
            new = self.state / "bin" / (name + ".new")
            shutil.copyfile(self.build / where, new)
            new.chmod(0o755)
            new.rename(self.state / "bin" / name)

    def make_certificates(self):
        """A certificate authority, and one certificate for all nodes."""
        tls = self.state / "tls"
        if (tls / "node.pem").exists():
            return
        self.run([*NEW_CERTIFICATE, "-keyout", tls / "ca.key", "-out", self.ca,
                  "-subj", "/CN=mailfleet quickstart",
                  "-addext", "basicConstraints=critical,CA:TRUE",
                  "-addext", "keyUsage=critical,keyCertSign,cRLSign"])
        self.own(tls / "ca.key", None, 0o600)
        self.own(self.ca, None, 0o644)
        self.issue_certificate(tls)

    def issue_certificate(self, tls):
        """The nodes' certificate and its key, in a folder that has the authority's."""
        alternatives = ",".join([*(f"DNS:{name}" for name in self.certificate_names()),
                                 "IP:127.0.0.1", "IP:::1"])
        self.run([*NEW_CERTIFICATE, "-CA", tls / "ca.pem", "-CAkey", tls / "ca.key",
                  "-keyout", tls / "node.key", "-out", tls / "node.pem.new",
                  "-subj", "/CN=localhost", "-addext", f"subjectAltName={alternatives}",
                  "-addext", "basicConstraints=critical,CA:FALSE",
                  "-addext", "extendedKeyUsage=serverAuth"])
        self.own(tls / "node.key", self.user, 0o640)
        self.own(tls / "node.pem.new", None, 0o644)
        (tls / "node.pem.new").rename(tls / "node.pem")

    def create_database(self):
        if not self.sql("SELECT 1 FROM pg_roles WHERE rolname = 'mailfleet'", True, "postgres"):
            self.sql("CREATE ROLE mailfleet LOGIN PASSWORD "
                     f"'{self.saved['database_password']}'", True, "postgres")
        if not self.sql("SELECT 1 FROM pg_database WHERE datname = 'mailfleet'", True, "postgres"):
            self.sql("CREATE DATABASE mailfleet OWNER mailfleet", True, "postgres")

    def init_store(self):
        """Schema, fleet key, and volumes: folders of the NAS, or one that is local."""
        self.admin("init")
        self.own(self.state / "secret" / "fleet.key", self.user, 0o640)
        for url in self.volume_urls()[len(self.volumes()):]:
            self.admin("volume", "add", url)

    def volume_urls(self):
        if not self.nas_folders:
            return [f"file://{self.spool}"]
        user = pwd.getpwnam(self.user)
        return [self["nas"].url(number, user.pw_uid, user.pw_gid)
                for number in self["nas"].exports]

    # --- what is in it -----------------------------------------------------------------------------

    def volumes(self):
        """The volumes as the database has them; as they were last seen, when it is away."""
        try:
            listed = json.loads(self.admin("volume", "list", "--json"))
        except FleetError:
            return self.saved["volumes"]
        volumes = [{"id": volume["id"], "url": volume["url"]} for volume in listed]
        if volumes != self.saved["volumes"]:
            self.saved["volumes"] = volumes
            self.save()
        return volumes

    def add_account(self, address, *options):
        """An account with a random password, which is remembered and returned."""
        password = secrets.token_urlsafe(12)
        self.admin("account", "add", address, "--password-stdin", *options, stdin=password + "\n")
        self.saved["accounts"].append({"address": address, "password": password})
        self.save()
        return password

    def password(self, address):
        """The remembered password of an account, or None."""
        return next((account["password"] for account in self.saved["accounts"]
                     if account["address"] == address), None)

    def status(self):
        """What tools may rely on; deploy/quickstart status --json prints it."""
        ports = self.ports
        return {
            "pop3": [{"name": node.name, "host": HOST, "port": node.ports["pop3"],
                      "tls_port": node.ports["pop3s"], "proxy_port": node.ports["pop3_proxy"],
                      "health": f"{HOST}:{node.ports['health']}"} for node in self.front_ends],
            "smtp": [{"name": node.name, "host": HOST, "port": node.ports["smtp"],
                      "proxy_port": node.ports["smtp_proxy"],
                      "health": f"{HOST}:{node.ports['health']}"}
                     for node in self.delivery_nodes],
            "lmtp": [{"name": node.name, "host": HOST, "port": node.ports["lmtp"]}
                     for node in self.delivery_nodes],
            "balancer": {"pop3": {"host": HOST, "port": ports.pop3, "tls_port": ports.pop3s},
                         "smtp": {"host": HOST, "port": ports.smtp}},
            "database": self.database_url,
            "memcached": [f"{HOST}:{ports.memcached}"],
            "volumes": self.volumes(),
            "ca": str(self.ca),
            "accounts": self.saved["accounts"],
            "pids": {part.name: part.pids() for part in self.parts},
            "admin": str(self.admin_program),
            "config": str(self.config),
        }
