"""The command line: bad options, damaged working folders, full and read-only disks."""

import io
import random
import resource
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

from small_model import PROMPT

from migm_core.cli import main

from .files import OTHER_THINGS, STATE_DICTS
from .room import Room, read_only
from .trying import Attempt, Crash, Refusal

NUMBERS = ("0", "-1", "-0", "1", "nan", "inf", "-inf", "1e400", "1.5", "", "x", "1_0", "0x10", "١", "9" * 400, str(2**63), str(2**64), "1e-300")
TEXTS = ("", " ", "\udcff", "\x1b[31m", "a\nb", "x" * 5000, "--", "-", "none", "demo", "auto", "..", "/", "/dev/null", "nowhere", "a/b", "CON")
# Of each command, what must stand there and the options: "n" for a number, "t" for a text.
GENERATE = {"--negative": "t", "--model": "t", "--head": "t", "--size": "n", "--steps": "n", "--budget": "n", "--method": "t", "--cfg": "n", "--temperature": "n"}
GENERATE |= {"--seed": "n", "--batch": "n", "--device": "t", "--dtype": "t", "--tile": "n", "--out": "t", "--report": "t"}
TRAINING = {
    "collect": {"--count": "n", "--batch": "n", "--steps": "n", "--cfg": "n", "--temperature": "n", "--seed": "n", "--prompt-file": "t", "--model": "t", "--device": "t"},
    "train-head": {"--steps": "n", "--batch": "n", "--lr": "n", "--ratio": "n", "--rollout": "n", "--ema": "n", "--seed": "n", "--clip": "n", "--init-from": "t"},
    "evaluate": {"--prompts": "n", "--steps": "n", "--methods": "t", "--cfg": "n", "--temperature": "n", "--seed": "n", "--head": "t", "--out": "t"},
}
LIMIT = 3000  # bytes that a file may have on a full disk


def command(*argv: object) -> SimpleNamespace:
    """Run a command of `migm` in this process, see ``captured``."""
    return captured(lambda: main([str(each) for each in argv]), "migm")


def captured(run: Callable[[], int], name: str) -> SimpleNamespace:
    """Run a program in this process; what it printed.

    Raises:
        Refusal: it says in its last line why it did nothing. Crash: it ended otherwise.
    """
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = run()
    except BaseException as error:
        raise Crash(f"{type(error).__name__}: {error}") from error
    lines = [line for line in err.getvalue().splitlines() if line.strip()]
    if status == 0 and "Traceback" not in err.getvalue():
        return SimpleNamespace(out=out.getvalue(), err=err.getvalue())
    if status == 2 and lines and lines[-1].startswith(f"{name}:") and "Traceback" not in err.getvalue():
        raise Refusal(lines[-1].removeprefix(f"{name}:").strip())
    raise Crash(f"status {status}: {err.getvalue()[-300:]}")


def plan(rng: random.Random, room: Room) -> Attempt:
    return rng.choices((_options, _damaged, _full, _read_only), (6, 2, 2, 2))[0](rng, room)


def plan_training(rng: random.Random, room: Room) -> Attempt:
    return rng.choices((_training_options, _damaged_work, _full_work, _read_only_work, _resumed_otherwise), (6, 5, 2, 2, 2))[0](rng, room)


def _in_words(value: str) -> str:
    """How a value begins where a message shows it."""
    return " ".join(ascii(value)[1:-1].replace("\\n", " ").split())[:20] or "."


def _value(rng: random.Random, kind: str) -> str:
    return rng.choice(NUMBERS if kind == "n" else TEXTS)


def _options(rng: random.Random, room: Room) -> Attempt:
    out = room.folder / "image.png"
    if rng.random() < 0.8:
        argv = {"--model": room.model, "--head": room.head, "--steps": 2, "--budget": 2, "--out": out, "--device": "cpu"}
        name = rng.choice(list(GENERATE))
        argv[name] = f"{_value(rng, 'n')}x{_value(rng, 'n')}" if name == "--size" else _value(rng, GENERATE[name])
        prompt = PROMPT if rng.random() < 0.9 else _value(rng, "t")
        full = ["generate", prompt, *(f"{option}={value}" for option, value in argv.items())]
        about, value = (name, name.strip("-"), "width", "height", "size", "budget", "guidance_scale", "prompt", _in_words(str(argv[name]))), argv[name]
    else:
        name, value = rng.choice(("inspect", "convert", "moon", "", "--moon", "generate")), _value(rng, "t")
        full = [name, value] if name != "convert" else [name, value, room.folder / "out.safetensors"]
        about = ("",)
    return Attempt(f"{name} {ascii(value)[:50]}", lambda: command(*full), (about,), "either", lambda made: bool(made.out), room.folder)


def _damaged(rng: random.Random, room: Room) -> Attempt:
    """Files of every kind, by commands."""
    file = rng.choice(("model/model.safetensors", "model/config.json", "model/tokenizer.json", "shortcut.safetensors", "shortcut.pth", "single.safetensors"))
    path = room.folder / file
    what = rng.choice(list(STATE_DICTS if path.suffix == ".pth" else OTHER_THINGS))
    path.unlink()
    (STATE_DICTS if path.suffix == ".pth" else OTHER_THINGS)[what](rng, path)
    top = room.folder / Path(file).parts[0]
    argv = ["inspect", top] if rng.random() < 0.4 else ["convert", top, room.folder / "out.safetensors"]
    looked = argv[0] == "inspect" and top.is_dir()  # which says in its lines what is wrong
    return Attempt(f"{argv[0]} {file}: {what}", lambda: command(*argv), ((path.name, str(top)),), "either" if looked else "refused", lambda made: "not complete" in made.out, room.folder)


def _write(room: Room, rng: random.Random, target: Path) -> list:
    """A command that writes into a folder."""
    return rng.choice(
        (
            ["generate", PROMPT, "--model", room.model, "--head", room.head, "--steps", 2, "--budget", 2, "--out", target / "image.png", "--device", "cpu"],
            ["generate", PROMPT, "--model", room.model, "--head", room.head, "--steps", 2, "--budget", 2, "--out", target / "image.png", "--report", target / "report.json"],
            ["generate", PROMPT, "--model", room.model, "--head", "none", "--batch", 3, "--steps", 2, "--out", target / "image.png"],
            ["convert", room.model, target / "out.safetensors", "--dtype", rng.choice(("fp16", "int8", "fp8"))],
            ["convert", room.head, target / "out.safetensors"],
            ["convert", room.head, target / "new" / "out.safetensors"],
        )
    )


def full_disk() -> None:
    """From here on files end after LIMIT bytes, with an error as a full disk gives it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def _full(rng: random.Random, room: Room) -> Attempt:
    target = room.folder / "target"
    target.mkdir()
    argv = _write(room, rng, target)

    def run():
        full_disk()
        return command(*argv)

    return Attempt(f"full disk: {argv[0]}", run, (str(target),), "refused" if argv[0] == "convert" else "either", bool, room.folder)


def _read_only(rng: random.Random, room: Room) -> Attempt:
    target = room.folder / "target"
    target.mkdir()
    argv = _write(room, rng, target)
    read_only(target)
    return Attempt(f"read-only disk: {argv[0]}", lambda: command(*argv), (str(target),), "refused", bool, room.folder)


# Training.


def _train(room: Room, name: str, work: Path) -> dict:
    """A short run of a training command on a working folder: its options."""
    return {
        "collect": {"--model": room.model, "--count": 3, "--steps": 4, "--device": "cpu"},
        "train-head": {"--model": room.model, "--steps": 3, "--device": "cpu"},
        "evaluate": {"--model": room.model, "--prompts": 2, "--steps": 2, "--size": "128x128", "--device": "cpu", "--out": work / "numbers.json"},
    }[name]


def _argv(name: str, work: Path, options: dict) -> list[str]:
    return [name, str(work), *(f"{option}={value}" for option, value in options.items())]


def _training_options(rng: random.Random, room: Room) -> Attempt:
    """One bad option, on a folder that is not there yet or holds what the command needs."""
    name = rng.choice(list(TRAINING))
    fresh = rng.random() < 0.3
    work = room.folder / "work" if fresh else room.work()
    option = rng.choice(list(TRAINING[name]))
    value = _value(rng, TRAINING[name][option])
    argv = _argv(name, work, {**_train(room, name, work), option: value})
    about = (option, option.strip("-"), "lr", "guidance_scale", "temperature", "budget", "model", "checkpoint", "head", "trajectories", "numbers.json", _in_words(value))
    return Attempt(f"{name} {option}={ascii(value)[:40]}{' in a new folder' if fresh else ''}", lambda: command(*argv), (about,), "either", bool, room.folder)


DAMAGED = {
    "collect": ("trajectories/trajectory-000000.safetensors",),
    "train-head": ("trajectories/trajectory-000000.safetensors", "trajectories/trajectory-000001.safetensors", "head/checkpoint.pt"),
    "evaluate": ("head/shortcut.safetensors",),
}


def _damaged_work(rng: random.Random, room: Room) -> Attempt:
    work = room.work()
    name = rng.choice(list(DAMAGED))
    file = rng.choice(DAMAGED[name])
    path = work / file
    content = path.read_bytes()
    how = rng.choice(("cut", "flip", "foreign", "thing"))
    if how == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    elif how == "flip":
        changed = bytearray(content)
        for _ in range(rng.choice((1, 20))):
            changed[rng.randrange(min(len(changed), rng.choice((300, len(changed)))))] = rng.randrange(256)
        path.write_bytes(changed)
    elif how == "foreign":
        other = rng.choice([each for each in work.rglob("*") if each.is_file() and each.suffix == path.suffix and each != path])
        shutil.copy(other, path)
    else:
        path.unlink()
        rng.choice(list((STATE_DICTS if path.suffix == ".pt" else OTHER_THINGS).values()))(rng, path)
    argv = _argv(name, work, _train(room, name, work))
    return Attempt(f"{name}: {file} {how}", lambda: command(*argv), ((path.name, str(path.parent)),), "either", bool)


def _full_work(rng: random.Random, room: Room) -> Attempt:
    name = rng.choice(list(TRAINING))
    work = room.work()
    if name != "evaluate":
        shutil.rmtree(work / {"collect": "trajectories", "train-head": "head"}[name])
    argv = _argv(name, work, _train(room, name, work))

    def run():
        full_disk()
        return command(*argv)

    return Attempt(f"full disk: {name}", run, (str(work),), "either" if name == "evaluate" else "refused", bool)


def _read_only_work(rng: random.Random, room: Room) -> Attempt:
    name = rng.choice(list(TRAINING))
    work = room.work()
    if name != "evaluate" and rng.random() < 0.5:
        work = room.folder / "parent" / "new"
        work.parent.mkdir()
        read_only(work.parent)
    else:
        read_only(work)
    argv = _argv(name, work, _train(room, name, work))
    return Attempt(f"read-only disk: {name}", lambda: command(*argv), (str(work.parent), ), "refused", bool, room.folder)


def _resumed_otherwise(rng: random.Random, room: Room) -> Attempt:
    """Go on with what was begun, with other options."""
    work, name = room.work(), rng.choice(("collect", "train-head"))
    options = _train(room, name, work)
    if name == "collect":
        options |= rng.choice(({"--steps": 3}, {"--seed": 9}, {"--count": 4}, {"--cfg": 1}))
    else:
        options |= rng.choice(({"--ratio": 4}, {"--steps": 1}, {"--muon-lr": 0.01}, {"--model": "demo"}, {"--init-from": "demo"}))
    argv = _argv(name, work, options)
    about = ("checkpoint.pt", "ratio", "trajector", "steps", "head", "width")
    return Attempt(f"{name} resumed with {list(options.items())[-1]}", lambda: command(*argv), (about,), "either", bool)


def make_work(folder: Path, model: Path, head: Path) -> None:
    """A working folder with a little of everything in it: two steps of each training command."""
    folder.mkdir()
    room = SimpleNamespace(model=model, head=head)
    for name, few in (("collect", {"--count": 2}), ("train-head", {"--steps": 2})):
        command(*_argv(name, folder, {**_train(room, name, folder), **few}))
    shutil.copy(head, folder / "head" / "shortcut.safetensors")
    for lock in folder.rglob("lock"):
        lock.unlink()
