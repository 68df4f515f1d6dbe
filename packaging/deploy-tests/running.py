"""Real programs for the tests: started on ports of their own in a temporary folder, ended with it."""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import documented

TLS = ssl.create_default_context()
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE  # as a kubelet's probes do


def programs():
    """The folder of the built programs: the first argument, or cargo's; they are built if they aren't there."""
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(documented.ROOT, "target")
    folder = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(target, "debug"))
    missing = [
        name for name in ("ebbtide", "ebbtide-agent", "ebbtide-fleet") if not os.path.exists(os.path.join(folder, name))
    ]
    if missing and len(sys.argv) > 1:
        sys.exit(f"{folder} has no {', '.join(missing)}")
    if missing:
        if not shutil.which("cargo"):
            sys.exit(f"{folder} has no {', '.join(missing)}, and cargo, which would build them, is missing")
        subprocess.run(
            ["cargo", "build", "--locked", "-p", "ebbtide-agent", "-p", "ebbtide-fleet"],
            cwd=documented.ROOT,
            check=True,
        )
    return folder


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def page(url, timeout=5):
    """Status and text of a page; 0 and the reason if nobody answers."""
    try:
        # never by a proxy: all of it is on this machine
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=TLS))
        with opener.open(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)


def until(what, holds, patience=30.0):
    """Waits until `holds()` is something, and returns it."""
    end = time.monotonic() + patience
    while not (found := holds()):
        if time.monotonic() > end:
            raise TimeoutError(f"it never came to that: {what}")
        time.sleep(0.1)
    return found


class Stage:
    """A temporary folder with programs that run in it."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="ebbtide-packaging-")
        self.running = {}

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        # the last that was started ends first, so that agents can say goodbye
        for name in reversed(list(self.running)):
            self.end(name)
        if kind not in (None, SystemExit):
            for log in sorted(f for f in os.listdir(self.folder) if f.endswith(".log")):
                with open(self.path(log), errors="replace") as file:
                    print(f"--- {log}\n{''.join(file.readlines()[-15:])}", file=sys.stderr)
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def write(self, name, text, mode=0o644):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def start(self, name, command, **environment):
        """Starts a program; its words go to NAME.log."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("EBBTIDE_")}
        with open(self.path(f"{name}.log"), "w") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**clean, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.running[name] = process
        return process

    def runs(self, name):
        code = self.running[name].poll()
        if code is not None:
            raise RuntimeError(f"{name} ended with {code}")
        return True

    def end(self, name):
        process = self.running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
