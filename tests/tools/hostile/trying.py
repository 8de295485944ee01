"""One try: a child forked from a parent that has imported torch, what it may take, and what is said of it."""

import json
import os
import random
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .room import Room, contents

MEMORY = 2 * 2**30  # bytes that a try may hold at once, its own processes together
CPU_SECONDS = 10  # of computing, after which a try counts as hung
LONGEST_CPU_SECONDS = 50  # likewise, of what may take longer, with the making of its files
SECONDS = 150  # of waiting, likewise: on a busy machine a second of computing may take ten and more
LONGEST = 700  # letters of a refusal, paths included

REFUSED, RIGHT, WRONG, CRASHED, HUNG, TOO_LARGE = VERDICTS = ("refused", "right", "wrong or unclear", "crashed", "hung", "over 2 GB")
HELD = (REFUSED, RIGHT)


class Refusal(Exception):
    """What was asked for is refused, in these words."""


class Crash(Exception):
    """A failure that is none of ours: an error of another kind, a traceback, a status that no command has."""


@dataclass
class Attempt:
    """What a try does, made in the child.

    Attributes:
        name: what is hostile about it, in words.
        action: does it, and returns what came of it. It raises ``Refusal`` or ``Crash``, see ``python`` and ``commands.command``.
        names: what a refusal must name, such as a file and a key; of a tuple among them one is enough.
        expected: "refused", "right", or "either".
        right: of what came of it, whether that is as it should be.
        folder: which a refusal leaves as it was.
        seconds: of computing that it may take.
    """

    name: str
    action: Callable[[], Any]
    names: tuple = ()
    expected: str = "either"
    right: Callable[[Any], bool] = bool
    folder: Path | None = None
    seconds: float = CPU_SECONDS


@dataclass(frozen=True)
class Outcome:
    """Attributes: number: of the try; words: what was said, or went wrong; megabytes: the most that it held."""

    kind: str
    number: int
    name: str
    verdict: str
    words: str
    seconds: float = 0.0
    megabytes: int = 0

    @property
    def held(self) -> bool:
        return self.verdict in HELD


def python(action: Callable[[], Any]) -> Any:
    """Do something in Python: the errors that are ours are refusals, all others crashes."""
    try:
        return action()
    except (ValueError, OSError) as error:  # a CheckpointError is a ValueError
        raise Refusal(str(error)) from error
    except TypeError as error:
        if "argument" not in str(error):
            raise Crash(f"TypeError: {error}") from error
        raise Refusal(str(error) + ".") from error  # Python's own, of a signature
    except BaseException as error:
        raise Crash(f"{type(error).__name__}: {error}") from error


class Try:
    """A try that is under way in a child.

    Args:
        plan: makes the ``Attempt``, in the child.
        models: with what the try's room is copied from.
    """

    def __init__(self, kind: str, plan: Callable[[random.Random, Room], Attempt], number: int, seed: int, models: Path):
        self.kind, self.number = kind, number
        self.folder = Path(tempfile.mkdtemp(prefix=f"attack-{kind}-{number}-"))
        self.began = time.monotonic()
        self.text, self.most, self.ended = b"", 0, None
        self.words, said = os.pipe()
        self.child = os.fork()
        if not self.child:
            os.close(self.words)
            _in_child(plan, random.Random(f"{seed}/{kind}/{number}"), Room(self.folder / "room", models), self.folder / "output", said)
        os.close(said)

    def poll(self) -> Outcome | None:
        """Wait a moment; what came of it, once it is over."""
        if select.select([self.words], [], [], 0.02)[0]:
            part = os.read(self.words, 1 << 16)
            self.text += part
            return None if part else self._outcome()
        held, computed = taken(self.child)
        self.most = max(self.most, held)
        if held > MEMORY:
            self.ended = TOO_LARGE, f"{held >> 20:,} MB"
        elif computed > LONGEST_CPU_SECONDS or time.monotonic() > self.began + SECONDS:
            self.ended = HUNG, f"{computed:.0f} s of computing in {time.monotonic() - self.began:.0f} s"
        return self._outcome() if self.ended else None

    def _outcome(self) -> Outcome:
        if self.ended:
            _end(self.child)
        _, status, used = os.wait4(self.child, 0)
        _end(self.child)  # what it has left running
        os.close(self.words)
        _remove(self.folder)
        self.most = max(self.most, used.ru_maxrss * 1024)
        lines = [json.loads(line) for line in self.text.decode().splitlines()]
        told = lines[-1] if lines and isinstance(lines[-1], dict) else {}
        if self.ended:
            verdict, words = self.ended
        elif os.WIFSIGNALED(status):
            verdict, words = CRASHED, f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
        elif self.most > MEMORY:
            verdict, words = TOO_LARGE, f"{self.most >> 20:,} MB"
        else:
            verdict, words = told["verdict"], told["words"]
        name = told.get("name") or (lines[0] if lines else "while its files were made")
        return Outcome(self.kind, self.number, name, verdict, words, time.monotonic() - self.began, self.most >> 20)


def _in_child(plan, rng: random.Random, room: Room, output: Path, said: int) -> None:
    """The child's whole life. What it and its children print goes to ``output``."""
    status = 0
    try:
        os.setpgid(0, 0)  # so that it can be ended with its own children
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell's background jobs ignore
        torch.set_num_threads(1)  # the parent's threads are not in the child
        handle = os.open(output, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(handle, stream)
        room.make()
        os.chdir(room.folder)
        made = plan(rng, room)
        os.write(said, (json.dumps(made.name) + "\n").encode())
        verdict, words = judge(made, output)
        os.write(said, json.dumps({"name": made.name, "verdict": verdict, "words": words[:2000]}).encode())
    except BaseException:
        os.write(said, json.dumps({"name": "the try itself", "verdict": CRASHED, "words": traceback.format_exc()[-2000:]}).encode())
        status = 1
    finally:
        os._exit(status)


def judge(made: Attempt, output: Path) -> tuple[str, str]:
    """Act, and say how it went."""
    folder = made.folder
    before = contents(folder) if folder else None
    began = time.process_time()
    try:
        result = made.action()
    except Refusal as refusal:
        words, text = str(refusal), output.read_text(errors="replace")
        if "panicked at" in text or "Traceback (most recent" in text:
            return CRASHED, f"{words}\n{text[-600:]}"
        fault = _fault(words, made)
        if not fault and folder and contents(folder) != before:
            fault = f"left {', '.join(sorted(contents(folder).items() ^ before.items())[0][:1])} behind"
        if not fault and made.expected == "right":
            fault = "refused what is right"
        if not fault and time.process_time() - began > made.seconds:
            return HUNG, f"took {time.process_time() - began:.1f} s: {words}"
        return (WRONG, f"{fault}: {words}") if fault else (REFUSED, words)
    except Crash as crash:
        return CRASHED, str(crash)
    took = time.process_time() - began
    text = output.read_text(errors="replace")
    if "panicked at" in text or "Traceback (most recent" in text:
        return CRASHED, text[-600:]
    if made.expected == "refused":
        return WRONG, f"taken, though it should be refused: {str(result)[:200]}"
    if took > made.seconds:
        return HUNG, f"took {took:.1f} s"
    try:
        right = made.right(result)
    except Exception as error:
        return WRONG, f"what came of it cannot be looked at: {type(error).__name__}: {error}"
    return (RIGHT, "") if right else (WRONG, f"not what was asked for: {str(result)[:200]}")


def _fault(words: str, made: Attempt) -> str | None:
    """What is wrong with a refusal's words."""
    if not words.strip():
        return "no words"
    if len(words) > LONGEST:
        return f"{len(words)} letters"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in words):
        return "control characters or several lines"
    try:
        words.encode()
    except UnicodeEncodeError:
        return "no text that a log can hold"
    if words.rstrip()[-1] not in ".?!)":
        return "no sentence"
    for name in made.names:
        options = name if isinstance(name, tuple) else (name,)
        if not any(str(option) in words for option in options):
            return f"does not name {' or '.join(map(str, options))}"
    return None


def _end(child: int) -> None:
    """End a child and its own children."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all of them are over


def taken(process: int) -> tuple[int, float]:
    """Bytes that a process and its children hold, and the seconds that they have computed."""
    held, computed = 0, 0.0
    try:
        stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        held += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        computed += (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        for other in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            more = taken(int(other))
            held, computed = held + more[0], computed + more[1]
    except (OSError, IndexError):
        pass
    return held, computed


def _remove(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
