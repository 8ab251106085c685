"""Images from this machine's files: nothing is pulled.

The image of Skep takes what its final stage says from deploy/Dockerfile (entry point, environment, ports), so that the two
cannot drift apart; base layer and program come from here. The app's image is the system's Python and a busybox.
"""

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from lab import LabError, run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DOCKERFILE = ROOT / "deploy/Dockerfile"
# Of the standard library, what no app needs.
LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtledemo", "pydoc_data", "__pycache__",
            "dist-packages", "site-packages", "distutils", "unittest"}
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


class Image:
    """A folder that becomes an image's only layer."""

    def __init__(self, folder):
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("etc", "tmp", "bin", "lib", "usr/bin", "usr/local/bin", "var/lib", "proc", "sys", "dev", "run"):
            (folder / name).mkdir(parents=True)
        (folder / "tmp").chmod(0o1777)
        (folder / "etc/nsswitch.conf").write_text("hosts: files dns\n")
        (folder / "etc/passwd").write_text("root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n")
        (folder / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")

    def add(self, source, target):
        place = self.folder / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(source), place)
        return place

    def libraries_of(self, *programs):
        """What these are linked with, and what the C library loads by itself to resolve names."""
        listed = run("ldd", *programs)
        found = set(re.findall(r"(/[^\s:]+\.so[^\s:]*)", listed))
        libc = next((Path(path) for path in found if re.search(r"/libc\.so", path)), None)
        if libc:
            found |= {str(path) for name in ("libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")
                      if (path := libc.parent / name).exists()}
        for path in found:
            if str(path) not in map(str, programs):
                self.add(path, path)

    def pack(self, target):
        with tarfile.open(target, "w") as tar:
            tar.add(self.folder, arcname=".", filter=owned_by_root)
        shutil.rmtree(self.folder)
        return target


def owned_by_root(member):
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def busybox():
    """A busybox that needs no library."""
    for place in (shutil.which("busybox"), "/bin/busybox", "/usr/bin/busybox"):
        if place and "not a dynamic" in subprocess.run(["ldd", place], capture_output=True, text=True).stderr:
            return place
    raise LabError("a static busybox is missing: apt-get install busybox-static")


def skep(binary, scratch):
    """The tar of the Skep image, without what only debuggers read."""
    if not Path(binary).is_file():
        raise LabError(f"{binary} is not there: cargo build --package skep")
    image = Image(scratch / "skep")
    program = image.add(binary, "usr/local/bin/skep")
    run("strip", "--strip-debug", program)
    image.libraries_of(binary)
    state = image.folder / "var/lib/skep"
    state.mkdir()
    state.chmod(0o1777)
    if AUTHORITIES.exists():
        image.add(AUTHORITIES, str(AUTHORITIES))
    return image.pack(scratch / "skep.tar")


def skep_changes():
    """The final stage's metadata, as `docker import --change` takes it."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    final = text[text.rindex("\nFROM "):]
    wanted = ("ENV", "EXPOSE", "ENTRYPOINT", "CMD", "USER", "WORKDIR", "VOLUME", "HEALTHCHECK", "STOPSIGNAL")
    changes = [line for line in final.splitlines() if line.split(" ")[0] in wanted]
    if not any(line.startswith("ENTRYPOINT") for line in changes):
        raise LabError(f"{DOCKERFILE}: its final stage has no ENTRYPOINT")
    return changes


def app(scratch):
    """The tar of the app's image."""
    image = Image(scratch / "app")
    python = next((path for path in map(Path, ("/usr/bin/python3", "/usr/local/bin/python3")) if path.exists()), None)
    if python is None:
        raise LabError("the system's Python is missing: apt-get install python3")
    asked = run(python, "-c", "import sys, sysconfig; print(sys.executable, sysconfig.get_path('stdlib'), sys.prefix)")
    executable, library, _ = asked.split()
    modules = image.folder / library.lstrip("/")
    shutil.copytree(library, modules, symlinks=False, ignore=lambda _, names: [
        name for name in names if name in LEFT_OUT or name.startswith("config-") or name.endswith(".a")])
    image.add(executable, "/usr/bin/python3")
    image.libraries_of(os.path.realpath(executable), *sorted(Path(library).glob("lib-dynload/*.so")))
    shell = image.add(busybox(), "bin/busybox")
    for applet in run(shell, "--list").split():
        if not (image.folder / "bin" / applet).exists():
            (image.folder / "bin" / applet).symlink_to("busybox")
    image.add(HERE / "app.py", "app.py")
    image.add(HERE / "shop.py", "shop.py")
    # What an image of R is started with.
    stand_in = image.folder / "usr/bin/R"
    stand_in.write_text("#!/bin/sh\nexec /usr/bin/python3 -S -E /app.py \"$@\"\n")
    stand_in.chmod(0o755)
    # What it imports is compiled here, once, rather than at each start.
    run("chroot", image.folder, "/usr/bin/python3", "-S", "-E", "-c", "import runpy; runpy.run_path('/app.py')")
    compiled = list(modules.glob("http/__pycache__/server.*.pyc"))
    if not compiled:
        raise LabError("the app's modules were not compiled")
    return image.pack(scratch / "app.tar")


APP_CHANGES = ['CMD ["/usr/bin/python3", "-S", "-E", "/app.py"]', "ENV PATH=/usr/bin:/bin PYTHONHOME=/usr", "EXPOSE 8080",
               "USER 65534:65534"]


def load(lab, node, tar, name, changes, timeout=300):
    words = [word for change in changes for word in ("--change", change)]
    lab.docker(node, "import", *words, tar, name, timeout=timeout)
