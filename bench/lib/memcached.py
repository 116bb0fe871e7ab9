"""What memcached was asked, out of its own statistics.

A counter that is made (ma with N, of a key that is absent) is the one command that it counts nowhere.
"""

import re
import socket

# Found or not, done or refused: each command is in one of them.
READS = "cmd_get",
WRITES = ("cmd_set", "cmd_touch", "delete_hits", "delete_misses", "incr_hits", "incr_misses", "decr_hits",
          "decr_misses")


def commands(host, port):
    """(those that read, those that write), since it was started."""
    with socket.create_connection((host, port), timeout=5) as s:
        s.sendall(b"stats\r\nquit\r\n")
        said = b"".join(iter(lambda: s.recv(65536), b"")).decode()
    found = {name: int(n) for name, n in re.findall(r"^STAT (\w+) (\d+)\r$", said, re.MULTILINE)}
    return sum(found[name] for name in READS), sum(found[name] for name in WRITES)
