#!/usr/bin/env python3
"""The real image: a Debian with R Shiny, Streamlit and Dash and our example of each, from where this machine has its packages.

  sudo tests/swarm/debian.py            makes it, and says where it is

debootstrap lays the ground, with all that apt says R and Shiny need; uv adds the Python packages that the examples pin. The
release, mirror and proxy are those of this machine's apt. What is kept is one tar under .tools, named by the hash of all it is made of,
so that it is made again only when one of these has changed. A run that is ended leaves nothing that lasts: it
works in a folder of its own, and mounts of its own. What the network does once is tried again.

Absent: loading it into an engine, see real.py.
"""

import contextlib
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KEPT = ROOT / ".tools/real-image"
EXAMPLES = ROOT / "examples/apps"
APPS = ("shiny-r", "streamlit", "dash")
PACKAGES = ("r-base-core", "r-cran-shiny", "python3")
REQUIREMENTS = [word for app in ("streamlit", "dash") for word in ("-r", str(EXAMPLES / app / "requirements.txt"))]
# What Skep itself adds to a Dash app's environment, too.
SERVER = "gunicorn"
# In dpkg's words, and once more at the end for what was there before dpkg.
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/R/doc")
CACHES = ("var/cache/apt", "var/lib/apt/lists", "var/log", "debootstrap")
# Run once here, as far as that goes without a visitor, so that no container compiles at its start what these import.
TRIED = ("from streamlit.testing.v1 import AppTest; import streamlit.web.bootstrap, streamlit.web.cli, uvicorn; "
         "assert not AppTest.from_file('/srv/streamlit/app.py').run(timeout=300).exception",
         "import sys, gunicorn.app.wsgiapp, gunicorn.workers.gthread; sys.path.insert(0, '/srv/dash'); "
         "import app; app.draw('all', 3); app.server.test_client().get('/')")
CHANGES = ["ENV HOME=/tmp LANG=C.UTF-8 PYTHONUNBUFFERED=1 PATH=/usr/local/bin:/usr/bin:/bin", "EXPOSE 8080",
           "USER 65534:65534", "WORKDIR /srv"]


TRIES = 3


class RecipeError(Exception):
    pass


def run(*words, **how):
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, text=True, **how)
    if done.returncode:
        raise RecipeError(f"{' '.join(map(str, words))[:200]}: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout


def release():
    """The code name of this machine's Debian, or of what is made from it."""
    name = platform.freedesktop_os_release().get("VERSION_CODENAME")
    return name or _fail("/etc/os-release names no release to make another of")


def _fail(why):
    raise RecipeError(why)


def key():
    """Changes with anything the image is made of."""
    made_of = hashlib.sha256(f"{release()} {platform.machine()} {SERVER}\n".encode())
    files = [Path(__file__), *(path for app in APPS for path in sorted((EXAMPLES / app).rglob("*"))
             if path.is_file() and "__pycache__" not in path.parts)]
    for path in files:
        made_of.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return made_of.hexdigest()[:16]


def tar():
    return KEPT / f"{key()}.tar"


# --- what this machine's apt says --------------------------------------------------------------------------------------
def mirror():
    """The address of the release and its components."""
    name = release()
    rows = [line.split("|") for line in run("apt-get", "indextargets", "--format",
                                            "$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(ORIGIN)|$(COMPONENT)",
                                            "Identifier: Packages").splitlines()]
    # Others name their parts as the release is named, too: only its makers' own has what a system is made of. Whose a source is, is
    # known once its list has been read.
    maker = platform.freedesktop_os_release().get("ID", "").lower()
    rows = [(address, component, origin.lower() == maker) for address, said, known, origin, component in rows if name in (said, known)]
    rows = [row for row in rows if row[2]] or rows
    address = next((address for address, component, _ in rows if component == "main"), None)
    if address is None:
        raise RecipeError(f"apt knows no source of {name}")
    rows = [row[:2] for row in rows]
    return address, ",".join(dict.fromkeys(component for other, component in rows if other == address))


def proxies():
    found = {}
    for scheme in ("http", "https"):
        line = run("apt-config", "shell", "PROXY", f"Acquire::{scheme}::Proxy").strip()
        value = shlex.split(line)[0].partition("=")[2] if line else ""
        if value and value != "DIRECT":
            found[f"{scheme}_proxy"] = value
    return found


def closure():
    """All packages that these need: virtual ones and alternatives, too, which debootstrap does not resolve."""
    words = ["apt-get", "install", "--simulate", "--no-install-recommends", "-o", "Dir::State::status=/dev/null", "-t", release(),
             *PACKAGES]
    try:
        said = run(*words)
    except RecipeError:
        # No lists yet, or old ones.
        again("the package lists", lambda: run("apt-get", "-o", "Acquire::Retries=3", "update", "-qq"))
        said = run(*words)
    return sorted({line.split()[1].partition(":")[0] for line in said.splitlines() if line.startswith("Inst ")})


# --- making it ---------------------------------------------------------------------------------------------------------
class Steps:
    def __init__(self):
        self.last = time.monotonic()

    def done(self, what):
        now = time.monotonic()
        print(f"{what}: {now - self.last:.1f} s", flush=True)
        self.last = now


def make(scratch):
    """Makes the tar unless it is there; its path."""
    target = tar()
    if target.is_file():
        print("kept from before: 0.0 s", flush=True)
        return target
    if shutil.which("debootstrap") is None:
        raise RecipeError("debootstrap is missing: apt-get install debootstrap")
    root, steps = Path(scratch) / "root", Steps()
    again("debootstrap", lambda: bootstrap(root), root)
    steps.done("debootstrap")
    again("the Python packages", lambda: python(root))
    steps.done("Python packages")
    for app in APPS:
        shutil.copytree(EXAMPLES / app, root / "srv" / app, ignore=shutil.ignore_patterns("__pycache__", "requirements.*", "skep.toml"))
    for tried in TRIED:
        # Nothing of who runs this: their Python may be one that is not to write what it compiles.
        run("chroot", root, "env", "-i", "PATH=/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8", "python3", "-c", tried)
    for place in (*LEFT_OUT, *CACHES):
        shutil.rmtree(root / place, ignore_errors=True)
    for place in ("tmp", "var/tmp"):
        for left in (root / place).iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    steps.done("tried once, and cleaned")
    keep(root, target)
    steps.done("packed")
    return target


def again(what, act, half=None):
    """Does it once more, half-made as it may be thrown away before: a mirror that did not answer, a connection that broke while this
    stood still, somebody else's apt."""
    for left in reversed(range(TRIES)):
        try:
            return act()
        except RecipeError as error:
            if not left:
                raise
            print(f"{what}, tried again: {error}", file=sys.stderr, flush=True)
            time.sleep(5)
            if half is not None:
                shutil.rmtree(half, ignore_errors=True)


def bootstrap(root):
    address, components = mirror()
    settings = root / "etc/dpkg/dpkg.cfg.d"
    settings.mkdir(parents=True)
    # It is thrown away at any failure, so nothing needs to be on the disk at once.
    (settings / "lean").write_text("force-unsafe-io\n" + "".join(f"path-exclude=/{place}/*\n" for place in LEFT_OUT))
    # In a mount namespace: what it mounts ends with it, however it ends.
    run("unshare", "--mount", "--propagation", "private", "debootstrap", "--variant=minbase", f"--components={components}",
        f"--include={','.join(closure())}", release(), root, address, env={**os.environ, **proxies(), "LC_ALL": "C.UTF-8"})


def python(root):
    """The packages for the Python in there, whatever Python is out here."""
    name = os.readlink(root / "usr/bin/python3")
    own = ROOT / ".tools/bin/uv"
    uv = own if own.exists() else shutil.which("uv") or _fail("uv is missing: ./setup.sh test")
    run(uv, "pip", "install", "--quiet", "--target", root / "usr/local/lib" / name / "dist-packages",
        "--python-version", name.removeprefix("python"), "--only-binary", ":all:",
        *REQUIREMENTS, SERVER, env={"UV_HTTP_TIMEOUT": "120", **os.environ})


def keep(root, target):
    """In the place of earlier ones; under another name until it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Of runs that were killed while they packed.
    for left in target.parent.iterdir():
        if left.suffix[1:].isdigit() and not Path("/proc", left.suffix[1:]).exists():
            left.unlink()
    half = target.with_suffix(f".{os.getpid()}")
    try:
        run("tar", "--numeric-owner", "-C", root, "-cf", half, ".")
        owner = ROOT.stat()
        for path in (target.parent.parent, target.parent, half):
            os.chown(path, owner.st_uid, owner.st_gid)
        half.rename(target)
    finally:
        half.unlink(missing_ok=True)
    for other in target.parent.glob("*.tar"):
        if other != target:
            other.unlink()


class Making:
    """The same in the background, at the lowest priority: a process of its own, so that it can be ended with all it started."""

    def __init__(self, lab):
        self.scratch, self.log, self.tar = lab.dir / "real", lab.dir / "real.log", tar()
        self.scratch.mkdir()
        self.began = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(["nice", "-n", "19", sys.executable, "-B", __file__, self.scratch], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True)
        lab.at_end(self.stop)

    def wait(self, seconds):
        """The steps it told the time of, once it has ended well. From now on it is nothing that is done beside other things."""
        if self.process.poll() is None:
            os.setpriority(os.PRIO_PGRP, self.process.pid, 0)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = f"not within {seconds} s"
        said = self.log.read_text()
        if status != 0:
            raise RecipeError(f"the real image: {status}: {said[-2000:]}")
        return [line for line in said.splitlines() if re.fullmatch(r".+: [\d.]+ s", line)]

    @contextlib.contextmanager
    def held(self):
        """It stands still meanwhile."""
        running = self.process.poll() is None
        if running:
            os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            if running:
                os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def main():
    if os.geteuid() != 0:
        sys.exit("run it as root: debootstrap makes a root of its own")
    if len(sys.argv) > 1:
        make(sys.argv[1])
        return
    with tempfile.TemporaryDirectory(prefix="skep-real-") as scratch:
        print(make(scratch))


if __name__ == "__main__":
    main()
