#!/usr/bin/python3
"""
layers: proves that lower layers never include higher ones.

  layers.py SOURCE_ROOT

    base <- proto <- engine (pop3, smtp)
    base <- net   <- store
    engine + net + store <- daemon, session <- main

Reads every #include of the product's sources, and holds each library of the outside to the
layers that are its door.
"""

import pathlib
import re
import sys

ALL = {"base", "proto", "net", "store", "daemon"}

# Directory: the layers that its files may include.
LAYERS = {
    "common/base": {"base"},
    "common/proto": {"base", "proto"},
    "common/net": {"base", "net"},
    "common/store": {"base", "net", "store"},
    "common/daemon": {"base", "net", "store", "daemon"},
    "frontend": ALL,
    "deliver": ALL,
    "admin": {"base", "proto", "net", "store"},
}

# The engine library of a directory. Its sources, as meson.build names them, include base and
# proto, and of their own directory only each other. No header of the operating system either.
ENGINE_LIBRARY = {"frontend": "pop3", "deliver": "smtp"}
ENGINE_SYSTEM = {"assert.h", "ctype.h", "inttypes.h", "limits.h", "stdarg.h", "stdbool.h",
                 "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "string.h",
                 "arpa/inet.h", "idn2.h", "uninorm.h"}  # of which symbols.py lets the pure part in

# Header of the outside: the directories it may be included in.
DOORS = {
    "uv.h": {"common/net", "common/store", "common/daemon"},
    "openssl/": {"common/net", "common/store", "common/daemon", "admin"},
    "libpq": {"common/store"},
    "libmemcached": {"common/store", "admin"},  # admin asks each server by itself
    "crypt.h": {"common/store"},
    "gsasl.h": {"common/store"},
    "ini.h": {"common/base"},
    "unistr.h": {"common/base"},
    "uninorm.h": {"common/store", "deliver"},
    "idn2.h": {"common/store", "deliver"},
    "microhttpd.h": {"common/daemon"},
    "ares.h": {"common/net"},
    "seccomp.h": {"common/daemon"},
    "curl/": {"common/store", "admin"},
    "jose/": {"common/store"},
    "jansson.h": {"common/store", "admin"},
    "bsd/": {"admin"},
    "zlib.h": {"admin"},
    "sys/socket.h": {"common/net", "common/store", "common/daemon", "admin"},
}

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')


def engine_stems(root, folder):
    """The names, without .c, of the files of the folder's engine."""
    if folder not in ENGINE_LIBRARY:
        return set()
    build = (root / folder / "meson.build").read_text()
    files = re.search(rf"static_library\('{ENGINE_LIBRARY[folder]}', files\(([^)]*)\)", build)[1]
    return {name.removesuffix(".c") for name in re.findall(r"'([^']+)'", files)}


class Folder:
    def __init__(self, root, name):
        self.name = name
        self.sources = sorted((root / name).glob("*.[ch]"))
        self.engine = engine_stems(root, name)
        self.own = {p.name for p in self.sources}
        if name == "admin":  # addresses are read as the delivery node reads them
            self.own |= {stem + ".h" for stem in engine_stems(root, "deliver")}

    def complaint_local(self, stem, header):
        """What is wrong with #include "header" in stem.c or stem.h; None if nothing is."""
        layer, slash, _ = header.partition("/")
        if not slash:
            if stem in self.engine and header.removesuffix(".h") not in self.engine:
                return "not part of the engine"
            return None if header in self.own else "say which layer it is of"
        layers = {"base", "proto"} if stem in self.engine else LAYERS[self.name]
        return None if layer in layers else f"only {', '.join(sorted(layers))} may be included here"

    def complaint_system(self, stem, header):
        if stem in self.engine and header not in ENGINE_SYSTEM:
            return "an engine does no I/O and has no clock"
        for prefix, folders in DOORS.items():
            if header.startswith(prefix) and self.name not in folders:
                return f"is for {', '.join(sorted(folders))}"
        return None

    def check(self):
        """Prints what is wrong; returns how much."""
        wrong = 0
        for path in self.sources:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                m = INCLUDE.match(line)
                complaint = self.complaint_local if m and m[1] == '"' else self.complaint_system
                why = complaint(path.stem, m[2]) if m else None
                if why:
                    print(f"{self.name}/{path.name}:{number}: {m[2]}: {why}")
                    wrong += 1
        return wrong


def main(root):
    found = {str(p.parent.relative_to(root)) for top in ("common", "frontend", "deliver", "admin")
             for p in (root / top).rglob("*.[ch]")}
    if found != set(LAYERS):
        sys.exit(f"folders and table differ: {sorted(found ^ set(LAYERS))}")
    folders = [Folder(root, name) for name in LAYERS]
    wrong = sum(f.check() for f in folders)
    print(sum(len(f.sources) for f in folders), "files,", wrong, "wrong includes")
    return 1 if wrong else 0


sys.exit(main(pathlib.Path(sys.argv[1])))
