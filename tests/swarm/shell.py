"""A shell in an instance on another node, as an administrator has it: `skep exec` in a terminal, through the node's agent."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

from lab import LabError
from world import check


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, words, rows, columns):
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.said = b""

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys):
        os.write(self.master, keys)

    def until(self, text, seconds=60):
        """Reads until the program has written this; what it wrote since the last time."""
        end = time.monotonic() + seconds
        while text not in self.said:
            if time.monotonic() > end:
                raise LabError(f"the terminal does not say {text!r}: {self.said[-400:]!r}")
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.said += os.read(self.master, 65536)
                except OSError:
                    raise LabError(f"the terminal was closed before {text!r}: {self.said[-400:]!r}") from None
        before, _, self.said = self.said.partition(text)
        return before + text

    def end(self, seconds=30):
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            os.close(self.master)


def shell(world):
    """A shell in an instance on another node: sizes, every byte, a full-screen editor, the exit status, all through the agent."""
    lab, stack = world.lab, world.stack
    home, container = stack.home()
    companion = next(companions[0] for node, companions in world.by_node().items() if node != home)
    instance = next(row for row in stack.instances() if row["name"] == companion.name)["instance"]
    docker = ["docker", "-H", f"unix://{lab.socket(home)}", "exec"]
    began = time.monotonic()
    terminal = Terminal([*docker, "-it", "-e", "TERM=xterm", container, "skep", "exec", instance, "sh"], 31, 97)
    try:
        # The outer `docker exec` tells its terminal's size only once it has started.
        terminal.type(b"PS1='>'; hostname; until stty size | grep '31 97'; do usleep 50000; done; echo rea''dy\n")
        said = terminal.until(b"ready\r\n")
        world.note("skep exec until the shell has answered", time.monotonic() - began)
        check(companion.name.encode() in said, f"the shell is not where the visitor is: {said!r}")
        terminal.resize(12, 140)
        # Not at once there: it travels beside what is typed.
        terminal.type(b"until stty size | grep '12 140'; do usleep 50000; done; echo si''zed\n")
        terminal.until(b"sized\r\n")
        terminal.type(b"printf 'a\\001b\\377c\\n'; echo do''ne\n")
        said = terminal.until(b"done\r\n")
        check(b"a\x01b\xffc" in said, f"bytes are changed: {said!r}")
        # The editor draws the whole screen, takes keys one by one, and leaves the file as typed.
        terminal.type(b"vi /tmp/note\n")
        terminal.until(b"- /tmp/note")
        # An escape with something right behind it would be another key: the bottom line tells that it was taken for itself.
        terminal.type(b"ifirst line\rsecond\x01line\x1b")
        terminal.until(b"I /tmp/note")
        terminal.until(b"- /tmp/note")
        terminal.type(b":wq\r")
        # Saved, and the shell is back.
        terminal.until(b"'/tmp/note' ")
        terminal.until(b">")
        terminal.type(b"cat /tmp/note; echo ed''ited\n")
        said = terminal.until(b"edited\r\n")
        check(b"first line\r\nsecond" in said, f"the editor wrote something else: {said!r}")
        terminal.type(b"exit 7\n")
    finally:
        status = terminal.end()
    check(status == 7, f"the exit status is {status}")
    piped = subprocess.run([*docker, "-i", container, "skep", "exec", "-T", instance, "--", "sh", "-c", "echo wrong >&2; cat; exit 3"],
                           input=b"through\n", capture_output=True, timeout=120)
    check((piped.stdout, piped.stderr, piped.returncode) == (b"through\n", b"wrong\n", 3), f"without a terminal: {piped}")
    # A terminal that is closed takes nothing else with it.
    check(companion.visitor.ask("/own/").json["name"] == companion.name, "the app is gone after a shell was in it")
