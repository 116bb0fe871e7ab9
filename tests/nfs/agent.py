"""The first process of a guest of the laboratory (lab.py): sets it up and runs what it is told to.

    agent.py ADDRESS/BITS HOST PORT FILE_SYSTEM_MODULE...

It mounts what the kernel wants, brings the network up and connects to HOST:PORT, where lab.py
waits: that connection carries the port that the agent listens on, and its end is the guest's end,
so no guest outlives whoever started it.

A connection to the agent's port is one process: a line of JSON says what to run, each line after
that is a signal for it; at the process's end one line of JSON comes back, and if the connection
ends before, the process is killed. Nothing of this touches a file system that hangs.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback

POWER_OFF = 0x4321FEDC
OUTPUT_MAX = 4 << 20

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(kind, at, options=""):
    check(libc.mount(kind.encode(), at.encode(), kind.encode(), 0, options.encode()), at)


def insert_module(path):
    with open(path, "rb") as module:
        image = module.read()
    check(libc.init_module(image, ctypes.c_ulong(len(image)), b""), path)


def set_up(address, modules):
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    os.symlink("/proc/self/fd", "/dev/fd")  # the kernel has mounted /dev
    for folder in "/run", "/tmp", "/mnt":
        mount("tmpfs", folder, "mode=1777" if folder == "/tmp" else "mode=755")
    os.mkdir("/dev/shm")
    mount("tmpfs", "/dev/shm", "mode=1777")
    for words in (["addr", "add", address, "dev", "vec0"], ["link", "set", "vec0", "up"],
                  ["link", "set", "lo", "up"]):
        subprocess.run(["/usr/sbin/ip", *words], check=True)
    for module in modules:
        insert_module(module)


# --- one process ----------------------------------------------------------------------------------


def start(order, output):
    return subprocess.Popen(
        order["argv"], cwd=order["cwd"], env=order["env"], stdin=subprocess.DEVNULL, stdout=output,
        stderr=output, start_new_session=True,
        **({"user": order["uid"], "group": order["gid"], "extra_groups": []}
           if "uid" in order else {}))


def pass_signals(lines, process):
    """The group goes with its leader, and all of it when nobody is there any more."""
    for line in lines:
        send(process, int(line))
    send(process, signal.SIGKILL)


def send(process, number):
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def serve(connection):
    with connection, connection.makefile("r") as lines, tempfile.TemporaryFile() as output:
        order = json.loads(lines.readline())
        try:
            process = start(order, output)
            threading.Thread(target=pass_signals, args=(lines, process), daemon=True).start()
            status = process.wait()
        except OSError as error:
            status = 127
            output.write(f"{error}\n".encode())
        output.seek(0)
        said = output.read(OUTPUT_MAX).decode(errors="replace")
        connection.sendall(json.dumps({"status": status, "output": said}).encode() + b"\n")


def serve_all(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def agent(host, port):
    listener = socket.create_server(("", 0))
    threading.Thread(target=serve_all, args=(listener,), daemon=True).start()
    with socket.create_connection((host, port)) as control:
        control.sendall(f"{listener.getsockname()[1]}\n".encode())
        control.recv(1)


def main(address, host, port, modules, *_of_the_kernel):
    """The first process takes the status of every orphan; the agent is its child."""
    set_up(address, modules.split(","))
    pid = os.fork()
    if not pid:
        agent(host, int(port))
        os._exit(0)
    while os.wait()[0] != pid:
        pass


try:
    main(*sys.argv[1:])
except BaseException:
    traceback.print_exc()
finally:
    libc.reboot(POWER_OFF)
