#!/usr/bin/python3
"""
reconnect: deploy/pgbouncer/reconnect tells PgBouncer of a new primary when that takes writes, and not
before; and of anything else at once. Patroni and PgBouncer are stand-ins that note what they were asked.

  reconnect.py ROOT
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = Path(sys.argv[1]).resolve() / "deploy/pgbouncer/reconnect"
# As Patroni 3.0 answers for a server that it has promoted, before that has ended recovery, and after.
RECOVERS = '{"state": "running", "role": "replica", "xlog": {"received_location": 7, "replayed_location": 7}}'
PRIMARY = '{"state": "running", "role": "master", "xlog": {"location": 7}}'
CURL = f"""#!/bin/sh
echo "$@" >>asked
[ "$(wc -l <asked)" -gt 1 ] || exit 7
[ "$(wc -l <asked)" -gt 3 ] && echo '{PRIMARY}' || echo '{RECOVERS}'
"""
PSQL = '#!/bin/sh\necho "$@" >>asked\n'


def asked(role):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in ("curl", CURL), ("psql", PSQL):
            path = Path(folder, name)
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755)
        subprocess.run([COMMAND, "http://h:8008", "/sockets", "on_role_change", role, "mailfleet"], check=True,
                       cwd=folder, env={"PATH": f"{folder}:{os.environ['PATH']}"}, timeout=60)
        return Path(folder, "asked").read_text(encoding="utf-8").splitlines()


wrong = []
for who in "master", "primary", "replica":
    *before, last = asked(who)
    if len(before) != (0 if who == "replica" else 4) or set(before) - {"-s -m 1 http://h:8008/patroni"}:
        wrong.append(f"{who}: before PgBouncer was told Patroni was asked {before}")
    if last != "-qX -h /sockets -p 6432 -U pgbouncer -d pgbouncer -c RECONNECT":
        wrong.append(f"{who}: PgBouncer was told {last}")
print("\n".join(wrong) or "it is told in time")
sys.exit(1 if wrong else 0)
