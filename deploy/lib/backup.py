"""pgBackRest of a fleet's PostgreSQL, with the settings that operators get in deploy/backup.

The repository is a folder beside the fleet's data. Everything is done as PostgreSQL's user, which
owns it. What a backup is for, and in which order things are done, is told in docs/backup.md.
"""

import configparser
import json
import re
import shutil

from part import HOST, ROOT, FleetError

PROGRAM = "/usr/bin/pgbackrest"
STANZA = "mailfleet"


class Backup:
    def __init__(self, fleet):
        self.fleet = fleet
        self.repository = fleet.state / "backup"
        self.config = fleet.state / "config" / "pgbackrest.conf"

    @property
    def postgres(self):
        return self.fleet["postgres"]

    def prepare(self):
        """Writes the configuration, and makes the folders that it names."""
        fleet, user = self.fleet, self.postgres.user
        locks = fleet.state / "run" / "pgbackrest"
        for folder in self.repository, locks:
            fleet.make_dir(folder, user, 0o750)
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(ROOT / "deploy/backup/pgbackrest.conf")
        parser.read_dict({
            "global": {"repo1-path": self.repository, "lock-path": locks, "log-level-file": "off"},
            STANZA: {"pg1-path": self.postgres.data, "pg1-port": fleet.ports.postgres,
                     "pg1-user": "postgres"}})
        del parser["global"]["log-path"]
        fleet.write(self.config, "".join(
            f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in parser[name].items())
            for name in parser.sections()), None, 0o644)

    def settings(self):
        """What mailfleet needs to know of it."""
        return {"backup.stanza": STANZA, "backup.command": f"{PROGRAM} --config={self.config}"}

    def postgres_settings(self):
        """What PostgreSQL needs, as in deploy/backup/postgresql.conf."""
        text = (ROOT / "deploy/backup/postgresql.conf").read_text()
        settings = {key: value.strip("'")
                    for key, value in re.findall(r"^(\w+) = (.+)$", text, re.MULTILINE)}
        settings["archive_command"] = settings["archive_command"].replace(
            "pgbackrest ", f"{PROGRAM} --config={self.config} ", 1)
        return settings

    def run(self, *words, timeout=300):
        """One command of pgBackRest on the fleet's stanza; its output."""
        fleet = self.fleet
        # It knows only sockets by name; libpq takes the rest from here.
        return fleet.run([PROGRAM, f"--config={self.config}", f"--stanza={STANZA}", *words],
                         user=self.postgres.user, timeout=timeout,
                         env={"PGHOST": HOST, "PGPASSWORD": fleet.saved["postgres_password"]})

    def create(self):
        self.run("stanza-create")

    def take(self, kind="full"):
        self.run(f"--type={kind}", "backup")

    def info(self):
        return json.loads(self.run("--output=json", "info"))

    def restore(self, *words):
        """Puts the newest backup, or what the words ask for, in place of the data."""
        if self.postgres.pids():
            raise FleetError("PostgreSQL runs: nothing is restored under it")
        data = self.postgres.data
        shutil.rmtree(data, ignore_errors=True)
        self.fleet.make_dir(data, self.postgres.user, 0o700)
        self.run(*words, "restore")
