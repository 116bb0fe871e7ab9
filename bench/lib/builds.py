"""The release build that is measured: the one that MAILFLEET_BUILD names, else build-bench, which is brought up to
date, with the packages that the benchmarks need.
"""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class BuildError(Exception):
    pass


def run(*words):
    """What a program says; it must succeed."""
    try:
        done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{words[0]}: {error.strerror}") from None
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, words))}: status {done.returncode}\n{done.stdout}")
    return done.stdout


def release(*targets):
    if given := os.environ.get("MAILFLEET_BUILD"):
        return Path(given)
    run("bash", "-ec", f'. "{ROOT}/deploy/lib/packages.sh"; install_packages "$@"', "bash",
        *(ROOT / name for name in ("deploy/packages", "deploy/packages-nas", "bench/packages")))
    folder = ROOT / "build-bench"
    made = (folder / "build.ninja").exists()
    run("meson", *(["configure", folder] if made else ["setup", folder, ROOT]),
        "-Dbuildtype=release", "-Dbench=true", "-Dwerror=false")
    run("ninja", "-C", folder, *targets)
    return folder
