"""The commands of tasks, questions, comparisons and downloads, recording of tasks and classes, and the two that run as modules: bad options, spoilt
pictures and lists, full and read-only disks, a hub that lies."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from small_model import PROMPT

from migm_core.command import answered

from .commands import NUMBERS, TEXTS, _in_words, _value, captured, command, full_disk
from .maskgit import make_maskgit
from .pictures import READING, save_pictures, spoil
from .room import Room, read_only
from .tasks import TASKS, with_sizes
from .trying import Attempt

# Of each command the options: "n" for a number, "t" for a text, "p" for the path of a picture.
RUN = {"--model": "t", "--head": "t", "--steps": "n", "--budget": "n", "--cfg": "n", "--temperature": "n", "--seed": "n", "--batch": "n", "--device": "t", "--dtype": "t", "--out": "t", "--report": "t"}
OPTIONS = {
    "edit": {**RUN, "--image": "p", "--image-cfg": "n", "--negative": "t", "--prompt-file": "t"},
    "paint": {**RUN, "--image": "p", "--mask": "p", "--extend": "n", "--grow": "n", "--grow-tokens": "n", "--feather": "n", "--mask-rule": "t"},
    "generate": {**RUN, "--task": "t", "--image": "p", "--kind": "t", "--mask": "p", "--extend": "n", "--image-cfg": "n", "--size": "n"},
    "ask": {"--image": "p", "--options": "t", "--length": "n", "--block": "n", "--steps": "n", "--temperature": "n", "--guidance-scale": "n", "--cfg": "n", "--remasking": "t", "--stop": "t", "--seed": "n", "--report": "t", "--model": "t"},
    "compare": {"--methods": "t", "--rounds": "n", "--seed": "n", "--report": "t", "--steps": "n", "--cfg": "n", "--temperature": "n", "--size": "n", "--model": "t", "--head": "t", "--prompt-file": "t"},
}
SIZES = ("32x32", "0x0", "-8x8", "33x32", "32", "x", "99999x99999", "999999999x999999999", "٣x٣", "32X32")
METHODS = ("", ";", "vanilla", "vanilla; shortcut 2", "shortcut 0", "shortcut 99 of 2", "moon 3", "vanilla 9 9", "shortcut budget=", "ml-cache interval=x", "vanilla steps=3", "vanilla;" * 2000, "9" * 500, "shortcut 2 of 1e9", "vanilla \udcff")
LINES = (
    *("", "\n\n", "{", "null", "[]", "5", '{"task": "moon"}', '{"task": 5}', '{"task": "edit"}', '{"task": "edit", "prompt": "x", "pictures": ["gone.png"]}', '{"task": "edit", "prompt": "x", "pictures": 5}'),
    *('{"task": "edit", "prompt": 5, "pictures": ["house.png"]}', '{"prompt": "x", "moon": 1}', '{"task": "dense", "kind": "moon", "pictures": ["house.png"]}', '{"prompt": ' + '"a' * 1 + 'a' * 10**6 + '"}'),
    *('{"task": "paint", "pictures": ["house.png"], "grow": 1e400}', '{"task": "paint", "pictures": ["house.png"], "grow": NaN}', '{"task": "paint", "pictures": ["house.png"], "extend": [1, 2]}'),
    *('{"task": "paint", "pictures": ["house.png"], "mask": "house.png", "feather": -1}', "[" * 100_000, '{"a":' * 100_000, '{"prompt": "\\ud800"}', '{"prompt": "\\u0000"}', '{"pictures": ["/dev/zero"], "task": "edit", "prompt": "x"}'),
    *('{"task": "edit", "prompt": "x", "pictures": ["house.png"], "negative": null}', '{"task": "paint", "pictures": ["house.png"], "extend": ' + "9" * 5000 + "}", '{"task": "style", "pictures": ["house.png"]}'),
    *('{"task": "edit", "prompt": "x", "pictures": ["house\\u0000.png"]}', '{"task": "edit", "prompt": "x", "pictures": ["' + "x" * 5000 + '"]}', "\ufeff" + '{"prompt": "cat"}'),
)
RECIPE_STAGES = ("reader", "tokenizer", "base", "trajectories", "head", "classes", "class-head", "evaluation", "all", "pack", "assemble", "timing", "warm-up", "dry-run", "moon", "")
RECIPE_FILES = ("reader.safetensors", "tokenizer.safetensors", "base.safetensors", "head.safetensors", "base.spent", "base/checkpoint.pt", "evaluation.json", "tokenizer/checkpoint.pt")


def plan(rng: random.Random, room: Room) -> Attempt:
    with_sizes(room)
    save_pictures(room.folder)
    makers = (_options, _picture, _full, _read_only, _requests, _classes, _download, _module)
    return rng.choices(makers, (8, 4, 3, 3, 4, 3, 4, 5))[0](rng, room)


def _base(name: str, room: Room) -> tuple[list, dict]:
    """What the command takes for a short run."""
    model = {"--model": room.model, "--device": "cpu"}
    run = {**model, "--head": room.head, "--steps": 2, "--budget": 2, "--out": room.folder / "image.png"}
    return {
        "edit": (["make it red"], {**run, "--image": room.folder / "house.png"}),
        "paint": (["a red house"], {**run, "--image": room.folder / "house.png", "--mask": room.folder / "mask.png"}),
        "generate": (["a red house"], {**run, "--task": "control", "--image": room.folder / "house.png"}),
        "ask": (["What is it?"], {**model, "--image": room.folder / "house.png", "--length": 8, "--block": 8, "--steps": 2}),
        "compare": ([PROMPT], {**model, "--head": room.head, "--rounds": 1, "--steps": 2, "--methods": "vanilla"}),
    }[name]


def _full_argv(name: str, given: list, options: dict) -> list:
    return [name, *given, *(f"{option}={value}" for option, value in options.items())]


def _option_value(rng: random.Random, option: str, kind: str, room: Room) -> object:
    if option == "--size":
        return rng.choice(SIZES)
    if option == "--methods":
        return rng.choice(METHODS)
    if option == "--task":
        return rng.choice((*TASKS, "moon", ""))
    if option == "--extend":
        return rng.choice((*NUMBERS, "8,8,8,8", "0,0,0,0", "1,2", "999999999", "8192", "8;8;8;8"))
    if kind == "p":
        return rng.choice((room.folder / "wide.png", room.folder, "/dev/zero", "/dev/null", *TEXTS))
    return _value(rng, kind)


def _options(rng: random.Random, room: Room) -> Attempt:
    name = rng.choice(list(OPTIONS))
    given, options = _base(name, room)
    if rng.random() < 0.15:
        value = rng.choice(TEXTS)
        given, option = [value], "the words"
    elif "--prompt-file" in OPTIONS[name] and rng.random() < 0.2:
        path = options["--prompt-file"] = room.folder / "prompts.txt"
        path.write_text("")
        given, option, value = [], "prompts.txt", spoil_file(rng, path, room)
    else:
        option = rng.choice(list(OPTIONS[name]))
        value = options[option] = _option_value(rng, option, OPTIONS[name][option], room)
    about = (option, option.strip("-"), option.strip("-").replace("-", "_"), "width", "height", "size", "budget", "guidance_scale", "prompt", "steps", "length", "task", "picture", "setting", "question", _in_words(str(value)))
    return Attempt(f"{name} {option}={ascii(str(value))[:50]}", lambda: command(*_full_argv(name, given, options)), (about,), "either", lambda made: bool(made.out), room.folder)


def _picture(rng: random.Random, room: Room) -> Attempt:
    """A file that is no picture, by the commands that read one."""
    name = rng.choice(("edit", "paint", "generate", "ask"))
    given, options = _base(name, room)
    option = "--mask" if name == "paint" and rng.random() < 0.5 else "--image"
    what = spoil(rng, options[option])
    argv = _full_argv(name, given, options)
    return Attempt(f"{name} {option}: {what}", lambda: command(*argv), (options[option].name,), "either", lambda made: bool(made.out), room.folder, READING)


def _writing(rng: random.Random, room: Room, target: Path) -> tuple[str, list, dict]:
    """A command that writes into a folder."""
    name = rng.choice(("edit", "paint", "ask", "compare", "generate"))
    given, options = _base(name, room)
    if name in ("ask", "compare"):
        options["--report"] = target / "report.json"
    else:
        options |= {"--out": target / "image.png", **({"--report": target / "report.json"} if rng.random() < 0.5 else {})}
    return name, given, options


def _full(rng: random.Random, room: Room) -> Attempt:
    if rng.random() < 0.4:
        return _recorded_on(rng, room, "full")
    target = room.folder / "target"
    target.mkdir()
    name, given, options = _writing(rng, room, target)

    def run():
        full_disk()
        return command(*_full_argv(name, given, options))

    return Attempt(f"full disk: {name}", run, (str(target),), "either", bool, room.folder)


def _read_only(rng: random.Random, room: Room) -> Attempt:
    if rng.random() < 0.4:
        return _recorded_on(rng, room, "read-only")
    target = room.folder / "target"
    target.mkdir()
    name, given, options = _writing(rng, room, target)
    read_only(target)
    return Attempt(f"read-only disk: {name}", lambda: command(*_full_argv(name, given, options)), (str(target),), "refused", bool, room.folder)


def _recorded_on(rng: random.Random, room: Room, disk: str) -> Attempt:
    """Runs of tasks, of classes and of the recipe on a disk that takes nothing."""
    work = room.folder / "target" / "work"
    work.parent.mkdir()
    list_ = room.folder / "requests.jsonl"
    list_.write_text(json.dumps({"task": "edit", "prompt": "a red roof", "pictures": ["house.png"]}) + "\n" + json.dumps({"prompt": PROMPT}) + "\n")
    published = rng.random() < 0.5
    name, action = rng.choice(
        (
            ("collect of tasks", lambda: command("collect", work, "--model", room.model, "--prompt-file", list_, "--task=edit=1", "--count=2", "--steps=4", "--device=cpu")),
            ("collect of classes", lambda: command("collect", work, "--model", make_maskgit(room), "--count=2", "--steps=4", "--device=cpu", *["--published"] * published)),
            ("recipe", lambda: recipe("tokenizer", work, "--size=tiny", "--seconds=1", "--device=cpu")),
            ("recipe, pack", lambda: recipe("pack", work)),
            ("download", lambda: download(room, "made/model", "--to", work)),
        )
    )
    if name == "collect of classes":
        make_maskgit(room)
    if disk == "read-only":
        read_only(work.parent)

    def run():
        if disk == "full":
            full_disk()
        return action()

    # A shard of tokens alone has fewer bytes than the limit.
    expected = "either" if disk == "full" and name in ("collect of classes", "recipe, pack") else "refused"
    return Attempt(f"{disk} disk: {name}", run, (str(work.parent),), expected, bool, room.folder if disk == "read-only" else None)


def _requests(rng: random.Random, room: Room) -> Attempt:
    """Lists of requests and shares of tasks."""
    path = room.folder / "requests.jsonl"
    line = rng.choice(LINES)
    good = json.dumps({"task": "edit", "prompt": "a red roof", "pictures": ["house.png"]})
    path.write_text(rng.choice((line, f"{good}\n{line}")), "utf-8", "surrogatepass")
    what = ascii(line)[:50]
    if rng.random() < 0.25:
        path.write_text(good)
        what = spoil(rng, rng.choice((path, room.folder / "house.png")))
    share = rng.choice((None, None, None, "edit=1", "edit=0", "edit", "moon=1", "edit=nan", "=", "edit=1e400", "dense=1", "edit=-1", "edit=1=2"))
    options = [] if share is None else [f"--task={share}"]
    if rng.random() < 0.3:
        option = rng.choice(("--count", "--batch", "--steps", "--cfg", "--image-cfg", "--seed"))
        options.append(f"{option}={rng.choice(NUMBERS)}")
    argv = ["collect", room.folder / "work", "--model", room.model, "--prompt-file", path, "--count=2", "--steps=4", "--device=cpu", *options]
    about = (path.name, "house.png", "--task", "task", *(option.partition("=")[0] for option in options), *(option.partition("=")[0].strip("-") for option in options), "guidance_scale", "No requests", "steps")
    return Attempt(f"collect of {what}, {' '.join(options)[:60]}", lambda: command(*argv), (about,), "either", bool)


def _classes(rng: random.Random, room: Room) -> Attempt:
    """MaskGIT by commands: classes, lists of them, its own options and others'."""
    folder = make_maskgit(room)
    run = {"--model": folder, "--steps": 2, "--device": "cpu", "--head": "none", "--out": room.folder / "image.png"}
    how = rng.choice(("class", "option", "task", "collect", "collect", "ask", "compare"))
    text = rng.choice(("", "moon", "-1", "10", "3,4", "3,", "1e3", "a" * 5000, "\udcff", "3\n4", "9" * 400))
    option, value = rng.choice(("--choice-temperature", "--softmax-temperature", "--schedule", "--randomize", "--temperature", "--size", "--negative")), rng.choice((*NUMBERS, *TEXTS[:6], "32x32", "linear"))
    if how == "class":
        argv = _full_argv("generate", [text], run)
    elif how == "option":
        argv = _full_argv("generate", ["3"], {**run, option: value})
    elif how == "task":
        save_pictures(room.folder)
        argv = _full_argv(rng.choice(("edit", "generate")), ["3"], {**run, "--image": room.folder / "house.png", "--steps": 2})
        argv += ["--task=edit"] if argv[0] == "generate" else []
    elif how == "ask":
        argv = ["ask", text or "What?", f"--model={folder}", "--device=cpu"]
    elif how == "compare":
        argv = ["compare", text, f"--model={folder}", "--head=none", "--rounds=1", "--steps=2", "--methods=vanilla", "--device=cpu"]
    else:
        lines = room.folder / "classes.txt"
        lines.write_text(rng.choice((text, f"3\n{text}", "3\n4", "3\0", '{"task": "edit"}')), "utf-8", "surrogateescape")
        argv = ["collect", room.folder / "work", f"--model={folder}", f"--prompt-file={lines}", "--count=2", "--steps=4", "--device=cpu", f"--batch={rng.choice(('1', '2', '0', '-1', '99'))}"]
        argv += rng.choice(([], ["--published"], ["--no-features"], ["--dry-run"], ["--task=edit=1"]))
    about = ("class", "Class", "prompt", "PROMPT", option, option.strip("-").replace("-", "_"), "size", "width", "task", "picture", "MaskGIT", "batch", "classes.txt", "steps", "question", "negative")
    return Attempt(f"MaskGIT, {how}: {ascii(argv[1])[:30]} {ascii(str(argv[-1]))[:40]}", lambda: command(*argv), (about,), "either", bool, None if how == "collect" else room.folder)


# Downloads.

HUBS: dict[str, Callable[[random.Random, dict], None]] = {
    "as it should be": lambda rng, files: None,
    "a file outside": lambda rng, files: files.update({rng.choice(("../evil.safetensors", "/tmp/evil.json", "a/../../evil.json", "a\\..\\evil.json", "a\0b.json")): b"{}"}),
    "20,000 files": lambda rng, files: files.update({f"{k}.json": b"{}" for k in range(20_000)}),
    "no weights": lambda rng, files: [files.pop(name) for name in list(files) if name.endswith(".safetensors")],
    "nothing": lambda rng, files: files.clear(),
    "code": lambda rng, files: files.update({"modeling.py": b"import os", "evil.sh": b"x"}),
    "odd names": lambda rng, files: files.update({"\u202e\x1b[31m.json": b"{}", "x" * 300 + ".json": b"{}"}),
    "a name that is a folder, too": lambda rng, files: files.update({"a.json": b"{}", "a.json/b.json": b"{}"}),
}
ANSWERS = (b"", b"{", b"null", b"[]", b'{"siblings": 5}', b'{"id": 5, "sha": null, "siblings": [{"rfilename": 5}]}', b'{"sha": "../..", "siblings": []}', b"[" * 100_000, b"\xff\xfe", b"<html>", b'{"a":' * 10_000)


def download(room: Room, name: str, *options: object, hostile: Callable | None = None, answer: bytes | None = None, status: int = 200):
    """`migm download` from a hub on this machine that has the room's model as made/model.

    Args:
        hostile: changes the repository's files.
        answer: of its API in the place of the right one.
    """
    import hub_server

    hub = hub_server.HubServer()
    files = {path.relative_to(room.models / "model").as_posix(): path.read_bytes() for path in (room.models / "model").rglob("*") if path.is_file()}
    if hostile is not None:
        hostile(files)
    hub.repositories = {"made/model": {"main": files}, "made/other": {"main": {"model.safetensors": b"x"}}}
    if answer is not None or status != 200:
        hub_server._Handler._json = lambda self, value: _answer_with(self, answer or b"{}", status)
    os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(room.folder / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    hub_server.RETRIES = 0
    return command("download", name, *options)


def _answer_with(handler, content: bytes, status: int) -> None:
    handler.send_response(status)
    handler._headers(len(content), {"Content-Type": "application/json"})
    if handler.command == "GET":
        handler.wfile.write(content)


def _download(rng: random.Random, room: Room) -> Attempt:
    to = room.folder / "fetched"
    name, options, hostile, answer, status, expected = "made/model", ["--to", to], None, None, 200, "either"
    how = rng.choice(("name", "revision", "folder", "files", "files", "answer", "status", "record"))
    if how == "name":
        name = rng.choice((*TEXTS, "made/gone", "made/model:gone.safetensors", "made/model:../x.safetensors", "made/model@", "made/model:", "a/b/c", "made/model@main@main", "made//model", "made/model:config.json", "../made/model"))
        expected = "refused"
    elif how == "revision":
        options += [f"--revision={rng.choice((*TEXTS, '..', 'main', 'a b', 'refs/pr/1', '0' * 40))}"]
    elif how == "folder":
        options[1] = rng.choice((room.head, room.model, room.folder / "a" / "b", "/dev/null", "/proc/nothing", room.folder / ("x" * 300), ""))
    elif how == "files":
        what = rng.choice(list(HUBS))
        hostile, how = (lambda files: HUBS[what](rng, files)), f"files: {what}"
        expected = "right" if what in ("as it should be", "code") else "either"
    elif how == "answer":
        answer = rng.choice(ANSWERS)
        how, expected = f"answers {ascii(answer)[:30]}", "refused"
    elif how == "status":
        status = rng.choice((400, 404, 418, 429, 500, 503))
        how, expected = f"status {status}", "refused"
    else:
        (to / ".cache/huggingface").mkdir(parents=True)
        (to / ".cache/huggingface/migm.json").write_text(rng.choice(("{", "[]", "null", '{"repository": 5}', "[" * 100_000, '{"repository": "made/other", "revision": "main", "commit": "x", "files": {}, "whole": true}')))
    outside = list(room.folder.parent.iterdir())

    def run():
        made = download(room, name, *options, hostile=hostile, answer=answer, status=status)
        if list(room.folder.parent.iterdir()) != outside or list(to.rglob("*.py")):
            raise AssertionError("wrote outside of its folder, or code")
        return made

    about = (name or ".", "made/model", "revision", str(options[1])[:40] or ".", "--revision", "repository")
    return Attempt(f"download, {how} {ascii(str(name))[:40]} {ascii(str(options[-1]))[-40:]}", run, (about,), expected, lambda made: bool(made.out))


# The modules that are run by themselves.


def recipe(*argv: object):
    from migm_core.worlds.recipe.__main__ import main

    return captured(lambda: answered(lambda: main([str(each) for each in argv]), "recipe"), "recipe")


def speed(*argv: object):
    from migm_core.bench.speed import main

    return captured(lambda: answered(lambda: main([str(each) for each in argv]), "speed"), "speed")


def _module(rng: random.Random, room: Room) -> Attempt:
    if rng.random() < 0.2:
        option = rng.choice(("--family", "--batch", "--layers", "--repeats", "--device", "--dtype", "--moon"))
        value = _value(rng, "t" if option in ("--family", "--device", "--dtype", "--moon") else "n")
        if value == "1":  # which is right, and takes minutes
            value = "0"
        dtype_first = ["--device=moon"] if option == "--dtype" and value == "auto" else []
        argv = [f"{option}={value}", *dtype_first] + ([] if option == "--device" else ["--device=moon"])
        return Attempt(f"bench.speed {option}={ascii(value)[:40]}", lambda: speed(*argv), ((option, option.strip("-"), "Device", "dtype", "argument"),), "refused")
    folder = room.folder / "recipe"
    if rng.random() < 0.5:
        stage = rng.choice(RECIPE_STAGES)
        option = rng.choice(("--seconds", "--piece", "--base", "--prompts", "--split", "--size", "--seed", "--device", "--init-from", "--out", "--moon"))
        value = _value(rng, "t" if option in ("--split", "--size", "--device", "--init-from", "--out", "--moon") else "n")
        if option in ("--out", "--init-from") and value not in ("/dev/null", "nowhere", ".."):
            value = str(room.head)
        options = {"--size": "tiny", "--seconds": "1", "--piece": "2", "--device": "cpu", option: value}
        argv = [stage, folder, *(f"{name}={each}" for name, each in options.items())]
        about = (option, option.strip("-"), "stage", "does not exist", str(folder), _in_words(value), "Device")
        return Attempt(f"recipe {stage} {option}={ascii(value)[:40]}", lambda: recipe(*argv), (about,), "either", bool, room.folder)
    file = rng.choice(RECIPE_FILES)
    path = folder / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    what = spoil_file(rng, path, room)
    stage = {"reader": "evaluation", "tokenizer": "base", "base": "head", "head": "assemble", "evaluation": "evaluation"}[Path(file).parts[0].split(".")[0]]
    if "/" in file or file.endswith(".spent"):
        stage = Path(file).parts[0].split(".")[0]
    argv = [stage, folder, "--size=tiny", "--seconds=1", "--device=cpu"]
    return Attempt(f"recipe {stage}, {file}: {what}", lambda: recipe(*argv), ((path.name, str(folder)),), "either", bool)


def spoil_file(rng: random.Random, path: Path, room: Room) -> str:
    """Something in the place of a file of weights, JSON or a number; what it is."""
    from .files import OTHER_THINGS, STATE_DICTS

    makers = STATE_DICTS if path.suffix == ".pt" and rng.random() < 0.6 else OTHER_THINGS
    what = rng.choice([name for name in makers if name not in ("another suffix", "/dev/full", "/dev/stdin")])
    path.unlink()
    if rng.random() < 0.3:
        shutil.copy(room.head, path)
        return "another file"
    makers[what](rng, path)
    return what


