#!/usr/bin/python3
"""
symbols: proves that the protocol engines do no I/O.

  symbols.py ENGINE.a... -- LOWER.a...

Follows every symbol that an engine library needs through the libraries below it, as the linker
would, and lists what is left: all of it must be on the short list of pure C library functions.
A list of what is allowed, not of what is forbidden: a file, socket or clock call that nobody
thought of fails too.
"""

import subprocess
import sys

PURE = set("""
    abort calloc malloc realloc reallocarray free
    memchr memcmp memcpy memmem memmove memrchr memset explicit_bzero
    strchr strcmp strcspn strdup strlen strncmp strnlen strrchr strspn strstr
    snprintf vsnprintf
    u8_check u8_mblen u8_normalize uninorm_nfc
    inet_pton idn2_to_ascii_8z idn2_free
""".split())

# What compilers, sanitizers and fortified headers add; __memcpy_chk is memcpy.
COMPILER = ("__asan_", "__ubsan_", "__sanitizer_", "__gcov_", "__stack_chk_fail",
            "_GLOBAL_OFFSET_TABLE_")

# A failed check writes its last words before it aborts: that is not I/O of an engine.
LAST_WORDS = {"check.c.o": {"fprintf", "stderr"}}


class Object:
    def __init__(self, name):
        self.name, self.defined, self.needed = name, set(), set()

    def member(self):
        return self.name.split("[")[1].rstrip("]").split("/")[-1]


def read(archives):
    """The objects of some archives, in order."""
    objects = {}
    listing = subprocess.run(["nm", "-A", "-P"] + archives, check=True, text=True,
                             stdout=subprocess.PIPE).stdout
    for line in listing.splitlines():
        name, rest = line.split(": ", 1)
        symbol, kind = rest.split()[:2]
        o = objects.setdefault(name, Object(name))
        if kind in "Uw":
            o.needed.add(symbol)
        elif kind.isupper() or kind == "i":
            o.defined.add(symbol)
    return list(objects.values())


def plain(symbol):
    if symbol.startswith("__") and symbol.endswith("_chk"):
        return symbol[2:-4]
    return symbol


def allowed(o, symbol):
    return (symbol.startswith(COMPILER) or plain(symbol) in PURE
            or plain(symbol) in LAST_WORDS.get(o.member(), ()))


def offenders(engines, lower):
    """Pairs of a chain of objects and a symbol that must not be there."""
    home = {s: o for o in lower + engines for s in o.defined}
    chains = {o.name: [o] for o in engines}
    waiting, found = list(engines), []
    while waiting:
        o = waiting.pop()
        for symbol in sorted(o.needed):
            if symbol not in home:
                if not allowed(o, symbol):
                    found.append((chains[o.name], symbol))
            elif home[symbol].name not in chains:
                chains[home[symbol].name] = chains[o.name] + [home[symbol]]
                waiting.append(home[symbol])
    return found


def main(args):
    split = args.index("--")
    engines, lower = read(args[:split]), read(args[split + 1:])
    if not all(o.defined for o in engines) or len(engines) < split:
        sys.exit("an engine library defines nothing: nothing was proved")
    found = offenders(engines, lower)
    for chain, symbol in found:
        print(symbol, "needed by", " <- ".join(o.name for o in reversed(chain)))
    print(len(engines), "engine objects,", len(found), "offending symbols")
    return 1 if found else 0


sys.exit(main(sys.argv[1:]))
