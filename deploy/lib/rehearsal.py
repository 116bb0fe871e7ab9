"""What deploy/backup/restore-rehearsal does: a restore in a scratch folder, held against the spool.

The newest backup, or what it takes for a point in time, is restored into a scratch folder, on a
free port, where the log is replayed as in an emergency. `mailfleet fsck` compares it with the
volumes. The live database is asked, if it answers, what it has deleted since. Nothing of the fleet
is changed, no log is archived by the scratch instance, and nothing is left running or on disk.
"""

import argparse
import configparser
import contextlib
import datetime
import glob
import gzip
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

from part import HOST, FleetError, Owner, Part

UTC = datetime.timezone.utc
EX_OK, EX_DANGLING, EX_FAILED = 0, 69, 75

# A message's id is made when its file is begun, its pointer commits when it has ended: what is so
# much older than the recovery point is not mail that was accepted after it.
DELIVERY = datetime.timedelta(minutes=15)

# The keywords of libpq that an operator's database.url may have, and what psql takes them from.
LIBPQ = {"host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "dbname": "PGDATABASE",
         "user": "PGUSER", "password": "PGPASSWORD", "passfile": "PGPASSFILE",
         "sslmode": "PGSSLMODE", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY",
         "sslrootcert": "PGSSLROOTCERT", "options": "PGOPTIONS",
         "target_session_attrs": "PGTARGETSESSIONATTRS"}

# In the scratch instance: who may come in, and that it disturbs nobody.
HBA = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
SETTINGS = {
    "archive_mode": "off", "hot_standby": "off", "logging_collector": "off",
    "log_destination": "stderr", "log_line_prefix": "%m [%p] ", "log_timezone": "UTC",
    "lc_messages": "C", "timezone": "UTC", "ssl": "off", "synchronous_standby_names": "",
    "shared_preload_libraries": "", "primary_conninfo": "", "external_pid_file": "",
    "max_prepared_transactions": 100, "cluster_name": "rehearsal",
}

BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
ID = re.compile(f"[0-7][{BASE32}]{{25}}")  # of a message: 128 bits


# --- small things that are read ------------------------------------------------------------------


def conninfo(text):
    """A connection string of libpq as keywords: the URI form, or `key=value ...`."""
    if not re.match(r"postgres(ql)?://", text):
        pairs = re.findall(r"(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s\\]|\\.)+))", text)
        return {key: re.sub(r"\\(.)", r"\1", quoted or bare) for key, quoted, bare in pairs}
    uri = urllib.parse.urlsplit(text)
    login, _, places = uri.netloc.rpartition("@")
    user, _, password = login.partition(":")
    hosts, ports = [], []
    for place in filter(None, places.split(",")):
        host, port = re.fullmatch(r"(\[.*\]|[^:]*)(?::(\d*))?", place).groups()
        hosts.append(urllib.parse.unquote(host.strip("[]")))
        ports.append(port or "")
    found = {"user": urllib.parse.unquote(user), "password": urllib.parse.unquote(password),
             "host": ",".join(hosts), "port": ",".join(ports),
             "dbname": urllib.parse.unquote(uri.path.lstrip("/")),
             **dict(urllib.parse.parse_qsl(uri.query))}
    return {key: value for key, value in found.items() if value.strip(",")}


def quoted(keywords):
    return " ".join("{}='{}'".format(key, str(value).replace("\\", r"\\").replace("'", r"\'"))
                    for key, value in keywords.items())


def point_in_time(text):
    try:
        point = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: not a time like 2026-01-31T12:00Z") from None
    return (point if point.tzinfo else point.replace(tzinfo=UTC)).astimezone(UTC)


def id_number(text):
    """The 128 bits of a message's id; its first 48 are milliseconds since 1970."""
    number = 0
    for char in text:
        number = number << 5 | BASE32.index(char)
    return number


def id_time(text):
    return datetime.datetime.fromtimestamp((id_number(text) >> 80) / 1000, UTC)


def id_uuid(text):
    digits = f"{id_number(text):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def open_log(name):
    """Plain, or as logrotate leaves it."""
    with open(name, "rb") as log:
        packed = log.read(2) == b"\x1f\x8b"
    return (gzip.open if packed else open)(name, "rt", errors="replace")


def deleted_in_logs(files):
    """(mailbox, uuid) of what sessions deleted, as front-ends have logged it at QUIT."""
    for name in files:
        with open_log(name) as log:
            for line in log:
                line = line.split('"', 1)[0]  # what is in quotes may be a stranger's
                if " pop3.deleted " not in line:
                    continue
                mailbox = re.search(r" mailbox=(\d+)", line)
                ids = re.search(r" ids=([0-9a-z,]+)", line)
                for blob in ids[1].split(",") if mailbox and ids else ():
                    if ID.fullmatch(blob):
                        yield mailbox[1], id_uuid(blob)


def free_port():
    with socket.create_server((HOST, 0)) as s:
        return s.getsockname()[1]


def logged_time(line):
    text = re.match(r"([-\d]+ [:\d.]+) UTC", line)
    return datetime.datetime.fromisoformat(text[1]).replace(tzinfo=UTC) if text else None


# --- the scratch instance ------------------------------------------------------------------------


class Scratch(Part):
    stop_signal = signal.SIGINT
    stop_timeout = 120

    def __init__(self, owner, options):
        super().__init__(owner, "postgres")
        self.options = options
        self.user = options.postgres_user if owner.root else None
        self.data = owner.state / "data"
        self.sockets = owner.state / "sockets"
        self.port = options.port or free_port()
        self.bin = programs()

    def pgbackrest(self, *words, timeout=None):
        options = self.options
        config = [f"--config={options.pgbackrest_config}"] if options.pgbackrest_config else []
        words = [*shlex.split(options.pgbackrest), *config, f"--stanza={options.stanza}", *words]
        return self.owner.run(words, user=self.user, timeout=timeout)

    def restore(self):
        """The files of the backup; the label of the one that was taken."""
        for folder in self.data, self.sockets:
            self.owner.make_dir(folder, self.user, 0o700)
        target = []
        if self.options.time:
            target = ["--type=time", f"--target={self.options.time.isoformat(sep=' ')}",
                      "--target-action=promote"]
        said = self.pgbackrest(f"--pg1-path={self.data}", "--archive-mode=off",
                               "--log-level-console=info", "--log-level-file=off",
                               "--log-level-stderr=off",
                               f"--tablespace-map-all={self.owner.state / 'tablespaces'}",
                               *target, "restore")
        label = re.search(r"restore backup set (\S+?),", said)
        if not label:
            raise FleetError(f"pgBackRest does not say what it has restored:\n{said}")
        return label[1]

    def prepare(self):
        self.owner.write(self.data / "rehearsal.conf", "", self.user, 0o600)
        self.owner.write(self.data / "rehearsal_hba.conf", HBA, self.user, 0o600)

    def command(self):
        settings = {"config_file": self.data / "rehearsal.conf",
                    "hba_file": self.data / "rehearsal_hba.conf",
                    "listen_addresses": HOST, "port": self.port,
                    "unix_socket_directories": self.sockets,
                    "shared_buffers": self.options.memory, **SETTINGS}
        return [self.bin / "postgres", "-D", self.data,
                *(word for key, value in settings.items() for word in ("-c", f"{key}={value}"))]

    def probe(self):
        """Ready is: everything is replayed, and it takes writes. A replay may take hours, and
        asking costs a process: so its log is read first."""
        if "ready to accept connections" not in self.log.read_text(errors="replace"):
            return "the log is being replayed"
        try:
            self.sql("SELECT pg_current_wal_lsn()", database="postgres")  # fails while it recovers
        except FleetError as error:
            return str(error)
        return None

    def sql(self, statement, database=None):
        """As superuser, by the socket that nobody else reaches."""
        out = self.owner.run([self.bin / "psql", "-XAtqw", "-F", "\t", "-v", "ON_ERROR_STOP=1"],
                             user=self.user, stdin=statement, timeout=None,
                             env={"PGHOST": self.sockets, "PGPORT": str(self.port),
                                  "PGUSER": self.options.superuser,
                                  "PGDATABASE": database or self.options.database["dbname"]})
        return [line.split("\t") for line in out.splitlines()]

    def first_checkpoint(self):
        """The next transaction when the backup began: of the checkpoint that replay starts at."""
        label = (self.data / "backup_label").read_text()
        high, low = re.search(r"CHECKPOINT LOCATION: ([0-9A-F]+)/([0-9A-F]+)", label).groups()
        timeline = int(re.search(r"START TIMELINE: (\d+)", label)[1])
        control = self.owner.run([self.bin / "pg_controldata", self.data], user=self.user)
        octets = int(re.search(r"Bytes per WAL segment: +(\d+)", control)[1])
        segment = f"{timeline:08X}{int(high, 16):08X}{int(low, 16) // octets:08X}"
        folder = self.owner.state / "first"
        self.owner.make_dir(folder, self.user, 0o700)
        self.pgbackrest(f"--pg1-path={self.data}", "--log-level-console=warn",
                        "--log-level-file=off", "archive-get", segment, folder / segment)
        record = self.owner.run([self.bin / "pg_waldump", f"--path={folder}",
                                 f"--timeline={timeline}", f"--start={high}/{low}", "--limit=1"],
                                user=self.user)
        epoch, xid = re.search(r"; xid (\d+):(\d+);", record).groups()
        shutil.rmtree(folder)
        return int(epoch) << 32 | int(xid)

    def next_transaction(self):
        return int(self.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())")[0][0])


def programs():
    found = glob.glob("/usr/lib/postgresql/*/bin/postgres")
    if not found:
        raise FleetError("PostgreSQL's programs are not in /usr/lib/postgresql")
    return Path(max(found, key=lambda path: int(path.split("/")[4]))).parent


def read_replay(log):
    """What PostgreSQL tells of the replay: seconds, octets of log, when the last commit was."""
    text = log.read_text(errors="replace")
    begin = re.search(r"redo starts at ([0-9A-F]+)/([0-9A-F]+)", text)
    end = re.search(r"redo done at ([0-9A-F]+)/([0-9A-F]+) .*elapsed: ([\d.]+) s", text)
    last = re.search(r"last completed transaction was at log time (.+)", text)
    if not begin or not end:
        return {"seconds": 0.0, "octets": 0, "last": None}
    position = [int(high, 16) << 32 | int(low, 16)
                for high, low in (begin.groups(), end.groups()[:2])]
    return {"seconds": float(end[3]), "octets": position[1] - position[0],
            "last": datetime.datetime.fromisoformat(last[1]) if last else None}


# --- the comparison ------------------------------------------------------------------------------


class Rehearsal:
    def __init__(self, options, owner):
        self.options, self.owner = options, owner
        self.scratch = Scratch(owner, options)
        self.report = {"target": options.time and iso(options.time)}

    def run(self):
        self.restore_and_replay()
        self.compare_with_spool()
        self.compare_with_deletions()
        return self.report

    def restore_and_replay(self):
        options, scratch, say = self.options, self.scratch, self.owner.say
        began = time.monotonic()
        say(f"restoring into {self.owner.state}")
        label = scratch.restore()
        restored = time.monotonic()
        first = scratch.first_checkpoint()
        say(f"restored {label} in {restored - began:.1f} s; replaying the log")
        replaying = time.monotonic()
        scratch.start()
        scratch.wait_ready(timeout=options.timeout)
        ready = time.monotonic()
        replay = read_replay(scratch.log)
        last = scratch.next_transaction()
        begun = self.backup_began(label)
        if replay["last"] is None:
            replay["last"] = self.backup_began(label, "stop")
        transactions, seconds = last - first, max(replay["seconds"], 0.01)
        load_seconds = (replay["last"] - begun).total_seconds()
        self.point = replay["last"]
        self.report |= {
            "backup": label, "backup_began": iso(begun),
            "recovery_point": iso(replay["last"]),
            "recovery_seconds": round(restored - began + ready - replaying, 2),
            "restore_seconds": round(restored - began, 2),
            "replay_seconds": replay["seconds"], "replay_octets": replay["octets"],
            "replay_transactions": transactions,
            "replay_rate": round(transactions / seconds),
            "load_seconds": round(load_seconds, 2),
            "load_rate": round(transactions / load_seconds, 1) if load_seconds > 0 else None,
            "replay_multiple": round(load_seconds / seconds, 1),
        }
        say(f"replayed {transactions} transactions in {replay['seconds']:.2f} s")

    def backup_began(self, label, which="start"):
        info = json.loads(self.scratch.pgbackrest("--output=json", "--log-level-console=warn",
                                                  "--log-level-file=off", "info"))
        for stanza in info:
            for backup in stanza["backup"]:
                if backup["label"] == label:
                    return datetime.datetime.fromtimestamp(backup["timestamp"][which], UTC)
        raise FleetError(f"pgBackRest has forgotten its backup {label}")

    def compare_with_spool(self):
        """`mailfleet fsck` with the scratch database in place of the live one, and no cache."""
        options = self.options
        password = secrets.token_hex(16)
        user = options.database["user"]
        # Through stdin, so that no list of processes shows it. The role is the restored one.
        self.scratch.sql(f"SET password_encryption = 'scram-sha-256'; "
                         f"ALTER ROLE \"{user}\" LOGIN PASSWORD '{password}'")
        url = quoted({"host": HOST, "port": self.scratch.port, "user": user, "password": password,
                      **{key: value for key, value in options.database.items()
                         if key in ("dbname", "options")}})
        config = self.owner.state / "mailfleet.conf"
        self.owner.write(config, scratch_config(options.config, url), None, 0o600)
        words = [options.mailfleet, "--config", config, "--json", "fsck",
                 *shlex.split(options.fsck)]
        self.owner.say("comparing with the spool")
        done = subprocess.run([str(word) for word in words], text=True, errors="replace",
                              stdout=subprocess.PIPE, check=False, env=self.owner.env)
        if done.returncode >= 64:  # up to 63 they are the classes that were found
            raise FleetError(f"mailfleet fsck failed ({done.returncode})")
        self.read_findings(done.stdout)

    def read_findings(self, text):
        counts, after, before = {}, 0, []
        for finding in findings(text):
            cls = finding["class"]
            counts[cls] = counts.get(cls, 0) + 1
            if cls == "orphan":
                if id_time(finding["id"]) > self.point - DELIVERY:
                    after += 1
                else:
                    before.append(finding["id"])
        self.report |= {
            "lost": counts.get("orphan", 0), "lost_after_point": after,
            "lost_before_point": len(before), "lost_before_point_ids": before[:100],
            "dangling": sum(counts.get(cls, 0)
                            for cls in ("missing", "wrong-size", "wrong-volume")),
            "found": counts,
        }

    def compare_with_deletions(self):
        """Pointers of the scratch database that were deleted since."""
        deleted = set(deleted_in_logs(self.options.log))
        asked = [f"{len(self.options.log)} logs"] if self.options.log else []
        with contextlib.suppress(FleetError):
            deleted |= self.deleted_in_ledger()
            asked.append("the live database")
        self.report["deletions_from"] = asked
        self.report["resurrected"] = self.count_pointers(deleted) if asked else None

    def deleted_in_ledger(self):
        since = (self.point - DELIVERY).isoformat()
        env = {LIBPQ[key]: value for key, value in self.options.database.items() if key in LIBPQ}
        text = self.owner.run([self.scratch.bin / "psql", "-XAtqw", "-F", "\t",
                               "-v", "ON_ERROR_STOP=1"],
                              env={"PGCONNECT_TIMEOUT": "5", **env}, timeout=None, stdin=f"""
            SELECT mailbox_id, blob_id FROM ledger
             WHERE seq > 0 AND mailbox_id > 0 AND deleted_at > '{since}'
             UNION
            SELECT mailbox_id, blob_id FROM ledger_past
             WHERE seq > 0 AND mailbox_id > 0 AND deleted_at > '{since}'""")
        return {tuple(line.split("\t")) for line in text.splitlines()}

    def count_pointers(self, deleted):
        rows = "".join(f"{mailbox}\t{blob}\n" for mailbox, blob in sorted(deleted))
        return int(self.scratch.sql(
            "SET client_min_messages = error;\n"
            "CREATE TEMPORARY TABLE deleted (mailbox_id bigint, blob_id uuid);\n"
            f"COPY deleted FROM STDIN;\n{rows}\\.\n"
            "ANALYZE deleted;\n"
            "SELECT count(*) FROM message m JOIN deleted d "
            "ON d.mailbox_id = m.mailbox_id AND d.blob_id = m.blob_id;")[0][0])


def findings(text):
    """The objects of `mailfleet fsck --json` that are findings; the last one is the totals."""
    return [row for row in map(json.loads, text.splitlines()) if "class" in row]


def scratch_config(path, url):
    parser = read_config(path)
    parser.read_dict({"database": {"url": url}, "cache": {"servers": ""}})
    return "".join(f"[{name}]\n" + "".join(f"{key} = {value}\n"
                                           for key, value in parser[name].items())
                   for name in parser.sections())


def read_config(path):
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",),
                                       comment_prefixes=("#", ";"), strict=False)
    parser.optionxform = str
    with open(path) as text:
        parser.read_file(text)
    return parser


def iso(when):
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def show(report):
    told = [
        ("backup", "{backup}, begun {backup_began}"),
        ("recovery point", "{recovery_point}, the last commit that is there"),
        ("recovery time", "{recovery_seconds} s: {restore_seconds} s for the files, "
                          "{replay_seconds} s for the log"),
        ("replay", "{replay_transactions} transactions, {replay_rate} a second, "
                   "{replay_multiple} times the load that made them ({load_rate} a second)"),
        ("lost", "{lost} files that the database does not know: {lost_after_point} of mail that "
                 "came after the recovery point, {lost_before_point} older"),
        ("dangling", "{dangling} pointers without their file"),
        ("resurrected", "{resurrected} messages are back that were deleted since"),
    ]
    for title, text in told:
        print(f"{title + ':':16}{text.format(**report)}")
    if report["resurrected"] is None:
        print(f"{'':16}(not known: neither logs nor the live database)")
    for blob in report["lost_before_point_ids"]:
        print(f"{'lost, older:':16}{blob}")


# --- the command ---------------------------------------------------------------------------------


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="restore-rehearsal", allow_abbrev=False,
        description="Restores the newest backup of a mailfleet's database into a scratch folder, "
                    "replays the log, compares it with the spool, and tells what a restore would "
                    "bring and how long it takes. Run it as root on a host that reaches the "
                    "repository and the volumes. Exit status 0: nothing dangles; 69: something "
                    "does; 75: the restore failed.")
    parser.add_argument("--config", default="/etc/mailfleet/mailfleet.conf", metavar="FILE")
    parser.add_argument("--time", type=point_in_time, metavar="TIME",
                        help="to this time, 2026-01-31T12:00Z; it must have been archived")
    parser.add_argument("--stanza", help="unless it is backup.stanza of the configuration")
    parser.add_argument("--pgbackrest", default="/usr/bin/pgbackrest", metavar="COMMAND")
    parser.add_argument("--pgbackrest-config", metavar="FILE")
    parser.add_argument("--scratch", metavar="DIR", default=os.environ.get("TMPDIR", "/var/tmp"),
                        help="where the scratch folder is made; as large as the database")
    parser.add_argument("--port", type=int, metavar="N",
                        help="of the scratch instance; else a free one")
    parser.add_argument("--memory", default="128MB", help="shared_buffers of the scratch instance")
    parser.add_argument("--postgres-user", default="postgres", metavar="USER",
                        help="who reads the repository, when root runs this")
    parser.add_argument("--superuser", default="postgres", metavar="ROLE", help="of the database")
    parser.add_argument("--log", action="append", default=[], metavar="FILE",
                        help="log lines of front-ends: deletions that the live database may not "
                             "know")
    parser.add_argument("--fsck", default="--older 1m", metavar="OPTIONS",
                        help="for mailfleet fsck; default: --older 1m")
    parser.add_argument("--mailfleet", default="/usr/bin/mailfleet", metavar="PROGRAM")
    parser.add_argument("--timeout", type=float, default=86400, metavar="SECONDS",
                        help="most that the replay may take; a day unless given")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    try:
        config = read_config(options.config)
        options.database = conninfo(config.get("database", "url"))
        options.stanza = options.stanza or config.get("backup", "stanza", fallback="")
    except (OSError, configparser.Error) as error:
        parser.error(str(error))
    options.database.setdefault("dbname", options.database.get("user", ""))
    if not options.stanza:
        parser.error("the configuration has no backup.stanza: give --stanza")
    if not os.path.isdir(options.scratch):
        parser.error(f"--scratch: {options.scratch} is not a folder")
    return options


def rehearse(options):
    folder = Path(tempfile.mkdtemp(prefix="mailfleet-rehearsal-", dir=options.scratch))
    try:
        folder.chmod(0o755)
        owner = Owner(folder, say=lambda line: print(f"  {line}", file=sys.stderr, flush=True))
        for name in "log", "run":
            owner.make_dir(folder / name, None, 0o755)
        rehearsal = Rehearsal(options, owner)
        try:
            return rehearsal.run()
        finally:
            rehearsal.scratch.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(argv):
    options = parse(argv)
    # So that what is started is ended, and what is made removed, by `kill` and systemd, too.
    for number in signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, lambda *_: sys.exit(EX_FAILED))
    try:
        report = rehearse(options)
    except FleetError as error:
        print(f"restore-rehearsal: {error}", file=sys.stderr)
        if "before configured recovery target was reached" in str(error):
            print("restore-rehearsal: what was committed until --time is not archived yet",
                  file=sys.stderr)
        return EX_FAILED
    print(json.dumps(report, indent=2)) if options.json else show(report)
    return EX_OK if report["dangling"] == 0 else EX_DANGLING


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
