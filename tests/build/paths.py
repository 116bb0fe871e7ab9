#!/usr/bin/python3
"""
paths: what the documentation names is there.

  paths.py ROOT

Every `path/of/a/file` in backquotes that begins with a folder of the tree must exist; so must each
`fuzz_TARGET`, and in docs/protocols.md each script that a word such as `capa*` means.
"""

import re
import sys
from pathlib import Path

PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/*.md")
SCRIPTS = ("tests/script/pop3", "tests/script/smtp", "tests/script/lmtp")
WORD = re.compile(r"`([^`\s]+)`")


def missing(root, page):
    """The words of a page that name nothing."""
    folders = {p.name for p in root.iterdir() if p.is_dir()}
    for word in WORD.findall(page.read_text(encoding="utf-8")):
        first = word.split("/")[0]
        if "/" in word and first in folders and not word.startswith("/"):
            if not any(root.glob(word.rstrip("/"))):
                yield word
        elif re.fullmatch(r"fuzz_\w+", word):
            if not (root / f"tests/fuzz/{word}.c").exists():
                yield word
        elif page.name == "protocols.md" and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+\*?|[a-z0-9-]+\*",
                                                          word):
            if not any(any((root / s).glob(word + ".script")) for s in SCRIPTS):
                yield word


def main(root):
    root = Path(root)
    pages = [page for pattern in PAGES for page in sorted(root.glob(pattern))]
    found = [(page, word) for page in pages for word in missing(root, page)]
    for page, word in found:
        print(f"{page.relative_to(root)}: {word} is not there")
    print(len(pages), "pages,", len(found), "names of nothing")
    return 1 if found or not pages else 0


sys.exit(main(sys.argv[1]))
