"""Terminals in which a page's shell steps are tried, as a reader would, in the order of the page.

What a page says to people is enough, but for what only the eye tells; that stands in comments:

    ```sh title="terminal 2"          a terminal of that name; without a title, the first one
    ```text                           right after shell: what must be seen there, "..." for anything
    ```text title="terminal 1"        what must be seen in that terminal
    ```python title="desk.py"         a file to be made where the first terminal stands
    <!-- keeps running -->            before shell: it goes on; Ctrl-C ends it later
    <!-- exits with 1 -->             before shell: that is what the page says happens
    <!-- press Ctrl-C in terminal 1 -->
    <!-- done before -->              before shell: another page has said it, and it was done
    <!-- tried by: .ci/run -->        before shell: that is what tries it
    <!-- tried if: docker info -->    before shell: tried only where this command succeeds
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest

SECONDS = 60.0
END_SECONDS = 240.0  # an installation on a busy machine
FIRST = "terminal 1"
_STEP = re.compile(
    r"^```(?P<language>\w+)(?P<info>[^\n]*)\n(?P<code>.*?)^```$|^<!-- (?P<comment>[^\n]*) -->$",
    re.DOTALL | re.MULTILINE,
)
_TITLE = re.compile(r'title="(?P<title>[^"]+)"')
# A long line is folded where the terminal ends, and goes on indented. One way to match each text:
# many ways to the same end would be tried one after the other while a line is awaited.
_SPACE, _ANYTHING = r"(?: *+\n ++| ++)", r"(?:[^\n]|\n ++)*?"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\x07]*\x07|\r")


def _folded(line: str) -> str:
    """What finds a line of a page in a terminal; "..." stands for anything."""
    parts = [
        _SPACE.join(re.escape(word) for word in part.split()) for part in line.strip().split("...")
    ]
    spaced = [
        (_SPACE if part[:1].isspace() else "") + found + (_SPACE if part[-1:].isspace() else "")
        for part, found in zip(line.strip().split("..."), parts, strict=True)
    ]
    return _ANYTHING.join(spaced)


class Step(NamedTuple):
    """A fenced block of a page and the comments right before it, or a key to be pressed.

    It adjoins if there is no text between it and the step before.
    """

    line: int
    language: str
    title: str | None
    code: str
    comments: tuple[str, ...] = ()
    adjoins: bool = False


def steps(text: str) -> Iterator[Step]:
    """What is to be done, in order."""
    comments: list[str] = []
    last = 0
    adjoins = False
    for found in _STEP.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if text[last : found.start()].strip():
            comments, adjoins = [], False
        last = found.end()
        if found["comment"] is not None:
            if found["comment"].startswith("press "):
                yield Step(line, "key", None, found["comment"].removeprefix("press "))
            comments.append(found["comment"])
            continue
        title = _TITLE.search(found["info"])
        yield Step(
            line,
            found["language"],
            title["title"] if title else None,
            found["code"],
            tuple(comments),
            adjoins,
        )
        comments, adjoins = [], True


class Terminal:
    """A shell on a pseudo-terminal; commands come through a pipe, keys through the terminal."""

    def __init__(self, folder: Path, env: Mapping[str, str], notes: Path) -> None:
        self._notes = notes
        self._number = 0
        self._text = ""
        self._changed = threading.Condition()
        self.seen = 0
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env={**env, "TERM": "xterm", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # The terminal is to be the session's own, so that a key's signal finds the commands.
            preexec_fn=lambda: fcntl.ioctl(1, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        threading.Thread(target=self._read, daemon=True).start()
        # Its commands share the shell's process group: Ctrl-C is theirs.
        self._write("trap : INT; trap 'worst=$?' ERR\n")

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65_536)
            except OSError:  # Linux: nobody has the other end open any more
                data = b""
            with self._changed:
                self._text += data.decode(errors="replace")
                self._changed.notify_all()
            if not data:
                return

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def start(self, code: str) -> None:
        """Gives the shell a block of commands."""
        self.seen = len(self.text)
        self._number += 1
        script = self._notes / f"{id(self)}-{self._number}.sh"
        script.write_text(code)
        self._write(f'worst=0; . {script} </dev/tty; echo "[ended {self._number}: $worst]"\n')

    def ended(self) -> int:
        """Waits for the end of the block; the exit code of what failed in it, or 0."""
        return int(self.wait(rf"\[ended {self._number}: (\d+)\]", 0, END_SECONDS)[1])

    def press_ctrl_c(self) -> None:
        """As a person does."""
        os.write(self._master, b"\x03")

    @property
    def text(self) -> str:
        """All that was shown, without colours."""
        with self._changed:
            return _ESCAPES.sub("", self._text)

    def wait(self, pattern: str, start: int, seconds: float = SECONDS) -> re.Match[str]:
        """Waits until the pattern is seen behind `start`."""
        deadline = time.monotonic() + seconds
        while True:
            if found := re.compile(pattern, re.MULTILINE).search(self.text, start):
                return found
            with self._changed:
                self._changed.wait(0.1)
            if time.monotonic() > deadline or self._process.poll() is not None:
                pytest.fail(f"{pattern!r} was not seen in this terminal:\n{self.text[start:]}")

    def close(self) -> None:
        """Ends the shell and whatever still runs in it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        for number in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(3)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
            break
        os.close(self._master)


def _succeeds(command: str) -> bool:
    words = shlex.split(command)
    if not shutil.which(words[0]):
        return False
    return subprocess.run(words, capture_output=True, check=False, timeout=60).returncode == 0


class Reader:
    """Follows pages to the letter.

    Args:
        folder: Where the first page is read.
        notes: A folder for the reader's own files.
        env: The environment of every terminal.
        ports: Ports that pages name, and free ones to use instead.
    """

    def __init__(
        self, folder: Path, notes: Path, env: Mapping[str, str], ports: Mapping[str, str]
    ) -> None:
        self._folder, self._notes, self._env, self._ports = folder, notes, env, ports
        self._terminals: dict[str, Terminal] = {}
        self._last: Terminal | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for terminal in self._terminals.values():
            terminal.close()

    def follow(self, page: Path) -> None:
        """Does what the page says."""
        for step in steps(page.read_text(encoding="utf-8")):
            try:
                self._do(step)
            except pytest.fail.Exception as failure:
                pytest.fail(f"{page.name}, line {step.line}: {failure}", pytrace=False)

    def _do(self, step: Step) -> None:
        if step.language == "key":
            _, _, name = step.code.partition(" in ")
            self._terminal(name).press_ctrl_c()
            code = self._terminal(name).ended()
            if code:
                pytest.fail(f"what Ctrl-C ended exits with {code}:\n{self._terminal(name).text}")
        elif step.language == "sh":
            self._run(step)
        elif step.language == "text" and step.title in self._terminals:
            self._look(self._terminals[step.title], self._with_ports(step.code))
        elif step.language == "text" and step.adjoins and self._last is not None:
            self._look(self._last, self._with_ports(step.code))
        elif step.title and "/" not in step.title[:1]:
            file = self._where(self._terminal(FIRST)) / step.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self._with_ports(step.code), encoding="utf-8")
        if step.language not in ("sh", "text"):
            self._last = None

    def _run(self, step: Step) -> None:
        self._last = None
        wanted = 0
        for comment in step.comments:
            if comment.startswith("tried if: ") and not _succeeds(comment[10:]):
                return
            if comment == "done before" or comment.startswith("tried by: "):
                return
            if comment.startswith("exits with "):
                wanted = int(comment.removeprefix("exits with "))
        self._last = terminal = self._terminal(step.title or FIRST)
        terminal.start(self._with_ports(step.code))
        if "keeps running" in step.comments:
            return
        if (code := terminal.ended()) != wanted:
            pytest.fail(f"exits with {code}, not {wanted}:\n{terminal.text[terminal.seen :]}")

    def _look(self, terminal: Terminal, expected: str) -> None:
        for line in expected.splitlines():
            if line.strip() in ("", "..."):
                continue
            terminal.seen = terminal.wait(_folded(line), terminal.seen).end()

    def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            self._terminals[name] = Terminal(self._folder, self._env, self._notes)
        return self._terminals[name]

    def _where(self, terminal: Terminal) -> Path:
        return Path(os.readlink(f"/proc/{terminal._process.pid}/cwd"))

    def _with_ports(self, code: str) -> str:
        for named, free in self._ports.items():
            code = re.sub(rf"\b{named}\b", free, code)
        return code
