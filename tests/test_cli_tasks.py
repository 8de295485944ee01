"""Pictures on the command line: edit, paint, the other tasks, and questions, with the tiny model."""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_model import PROMPT, edit_json

from migm_core.cli import main
from migm_core.cli.ask import Stream
from migm_core.families import FAMILIES
from migm_core.families.lumina_dimoo.understanding import TextReport
from migm_core.pipeline import Pipeline
from migm_core.sampling.probe import Probed, judge
from migm_core.sampling.setting import settings_of

SIZES = [[32, 32], [48, 16], [16, 48]]
TASKS = {name: task for family in FAMILIES for name, task in family.tasks.items()}
SHORT = ["--steps", 4, "--budget", 3]


@pytest.fixture(scope="module")
def model(small, tmp_path_factory) -> Path:
    """The tiny model with small sizes of its own, which its input pictures take."""
    folder = shutil.copytree(small.folder, tmp_path_factory.mktemp("sizes") / "model")
    edit_json(folder / "generation_config.json", trained={"sizes": SIZES})
    return folder


@pytest.fixture
def migm(model, small, tmp_path, monkeypatch):
    """Run a command with it in a folder of two pictures and a mask; its exit status."""
    monkeypatch.chdir(tmp_path)
    for name, seed, size in (("house.png", 0, (32, 32)), ("wide.png", 1, (60, 20))):
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(name)
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 255
    Image.fromarray(mask).save("mask.png")

    def run(command, *argv) -> int:
        head = [] if command == "ask" else ["--head", small.head]
        return main([str(part) for part in (command, *argv, "--model", model, *head, "--dtype", "fp32", "--device", "cpu")])

    return run


@pytest.fixture(scope="module")
def painter(model, small) -> Pipeline:
    return Pipeline.load(model, small.head, dtype="fp32", device="cpu")


def said_by(path: str) -> dict:
    return json.loads(Image.open(path).text["migm"])


def written() -> list[str]:
    return sorted(path.name for path in Path().iterdir() if path.name not in ("house.png", "wide.png", "mask.png"))


def test_edit_writes_what_python_gives_and_names_all_that_it_used(migm, painter, capsys, small):
    assert migm("edit", "a red roof", "--image", "house.png", *SHORT, "--seed", 3, "--image-cfg", 1.5, "--report", "run.json") == 0
    result = painter.generate("a red roof", task="edit", images="house.png", steps=4, budget=3, seed=3, image_guidance_scale=1.5)
    assert Image.open("migm.png").tobytes() == result.images[0].tobytes()
    printed = capsys.readouterr().out
    assert result.head_report in printed and re.search(r"the head's predictions (good|fair|poor): off by ", printed)
    image, report = said_by("migm.png"), json.loads(Path("run.json").read_text())
    expected = {"task": "edit", "pictures": ["house.png"], "method": "shortcut", "head": str(small.head), "guidance_scale": 2.5, "image_guidance_scale": 1.5}
    for said in (image, report):
        assert expected.items() <= said.items()
        assert said["head_fits"] == result.head_fits
        assert not {"mask", "kind", "negative", "grow", "extend", "interval"} & said.keys()
    assert image["prompt"] == report["images"][0]["prompt"] == "a red roof"
    assert judge([Probed(**each) for each in report["probed"]]) == result.head_fits
    assert len(report["probed"]) == len(report["full_steps"]) - 1


def test_the_head_is_measured_when_it_is_asked_for(migm, capsys):
    assert migm("edit", "a red roof", "--image", "house.png", *SHORT, "--no-probe", "--out", "no.png") == 0
    assert "predictions" not in capsys.readouterr().out and "head_fits" not in said_by("no.png")
    assert migm("generate", PROMPT, *SHORT, "--probe", "--out", "yes.png") == 0
    assert "the head's predictions" in capsys.readouterr().out and said_by("yes.png")["head_fits"] in ("good", "fair", "poor")
    assert migm("generate", PROMPT, *SHORT, "--probe", "--method", "vanilla") == 0
    assert "migm: --probe changes nothing with the vanilla method.\n" in capsys.readouterr().err


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_shortcut_run_of_every_task_says_how_the_head_does(migm, task, capsys):
    argv = ["--task", task.name, *(part for picture in ["house.png", "wide.png"][: len(task.pictures)] for part in ("--image", picture))]
    argv += [PROMPT] * task.takes_text + ["--kind", next(iter(task.kinds or ()), "left")] * (task.kinds is not None) + ["--mask", "mask.png"] * task.paints
    assert migm("generate", *argv, *SHORT, "--batch", 2, "--out", "run.png", "--report", "run.json") == 0
    printed, report = capsys.readouterr().out, json.loads(Path("run.json").read_text())
    (word,) = {said["head_fits"] for said in (said_by("run-0.png"), said_by("run-1.png"), report)}
    assert word in ("good", "fair", "poor") and f"the head's predictions {word}: off by " in printed and len(report["probed"]) == 2


def test_without_the_head_nothing_is_said_of_it(migm, capsys):
    assert migm("edit", "a red roof", "--image", "house.png", "--steps", 3, "--method", "vanilla", "--report", "run.json") == 0
    assert "head" not in capsys.readouterr().out
    for said in (said_by("migm.png"), json.loads(Path("run.json").read_text())):
        assert not {"head", "head_fits", "probed", "probe"} & said.keys()


@pytest.mark.parametrize("task", [task for task in TASKS.values() if task.guides_by_pictures], ids=lambda task: task.name)
def test_every_task_by_its_name(migm, task):
    pictures = ["house.png", "wide.png"][: len(task.pictures)]
    kind = None if task.kinds is None else next(iter(task.kinds), "left")
    argv = [*([PROMPT] if task.takes_text else []), "--task", task.name, *(part for picture in pictures for part in ("--image", picture))]
    assert migm("generate", *argv, *([] if kind is None else ["--kind", kind]), *SHORT, "--report", "run.json") == 0
    for said in (said_by("migm.png"), json.loads(Path("run.json").read_text())):
        assert (said["task"], said["pictures"], said.get("kind")) == (task.name, pictures, kind)
    assert said_by("migm.png").get("prompt") == (PROMPT if task.takes_text else None)
    assert ("Description" in Image.open("migm.png").text) == task.takes_text
    assert Image.open("migm.png").size == ((32, 32) if len(pictures) == 1 else (48, 16))


def test_a_task_takes_another_size_a_batch_and_a_prompt_of_each_line(migm, painter):
    assert migm("edit", "a red roof", "--image", "wide.png", "--size", "16x32", "--batch", 2, *SHORT, "--out", "two.png") == 0
    assert [Image.open(f"two-{index}.png").size for index in range(2)] == [(16, 32)] * 2 and said_by("two-1.png")["seed"] == 1
    Path("prompts.txt").write_text("a red roof\n\na blue door\n")
    assert migm("edit", "--prompt-file", "prompts.txt", "--image", "house.png", *SHORT, "--out", "each.png") == 0
    for line, (prompt, seed) in {1: ("a red roof", 0), 3: ("a blue door", 1)}.items():
        assert said_by(f"each-{line}.png")["prompt"] == prompt
        alone = painter.generate(prompt, task="edit", images="house.png", steps=4, budget=3, seed=seed)
        assert Image.open(f"each-{line}.png").tobytes() == alone.images[0].tobytes()


def test_paint_leaves_what_is_not_masked_and_counts_its_own_tokens(migm):
    assert migm("paint", PROMPT, "--image", "house.png", "--mask", "mask.png", "--steps", 12, "--budget", 3, "--report", "run.json") == 0
    before, after = np.asarray(Image.open("house.png")), np.asarray(Image.open("migm.png"))
    assert (before[:, :16] == after[:, :16]).all() and (before[:, 16:] != after[:, 16:]).any()
    report, said = json.loads(Path("run.json").read_text()), said_by("migm.png")
    settings = {"mask": "mask.png", "task": "paint", "mask_rule": "touched", "grow": 0, "feather": 0, "blend": True, "extend": [0, 0, 0, 0]}
    assert settings.items() <= report.items() and settings.items() <= said.items()
    assert report["vanilla_passes"] <= 8, "8 of the 16 tokens are generated"


def test_extend_and_no_prompt(migm, painter):
    assert migm("paint", "--image", "house.png", "--extend", "0,0,16,8", "--no-blend", "--feather", 2, *SHORT) == 0
    image = Image.open("migm.png")
    assert image.size == (48, 40) and {"extend": [0, 0, 16, 8], "blend": False, "feather": 2}.items() <= said_by("migm.png").items()
    result = painter.generate("", task="paint", images="house.png", extend=(0, 0, 16, 8), blend=False, feather=2, steps=4, budget=3)
    assert image.tobytes() == result.images[0].tobytes() and "prompt" not in said_by("migm.png")
    assert migm("paint", "--image", "house.png", "--extend", "8", *SHORT) == 0
    assert Image.open("migm.png").size == (48, 48)


def test_a_picture_that_loses_most_of_itself_is_said(migm, capsys):
    Image.new("RGB", (1000, 20)).save("house.png")
    assert migm("edit", "a red roof", "--image", "house.png", *SHORT, "--report", "run.json") == 0
    (caution,) = json.loads(Path("run.json").read_text())["cautions"][:1]
    assert "only its middle" in caution and f"migm: {caution}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["edit", "x"], "takes 1 picture: the picture to edit; none is given"),
        (["edit", "--image", "house.png"], "Expected either an INSTRUCTION or --prompt-file"),
        (["generate", "--task", "edit", "--image", "house.png"], "Expected either a PROMPT or --prompt-file"),
        (["edit", " ", "--image", "house.png"], "needs a prompt"),
        (["edit", "x", "--image", "house.png", "--image", "wide.png"], "2 are given"),
        (["edit", "x", "--image", "nowhere.png"], "--image nowhere.png does not exist"),
        (["edit", "x", "--image=--"], "argument --image: expected one argument"),
        (["edit", "x", "--image", "."], "--image . is no file"),
        (["edit", "x", "--image", "text.png"], "text.png, cannot be read as a picture"),
        (["edit", "x", "--image", "dot.png"], "has 1x1 pixels, but needs at least 16"),
        (["edit", "x", "--image", "house.png", "--size", "33x32"], "width is 33"),
        (["edit", "x", "--image", "house.png", "--image-cfg", "-1"], "image-cfg is -1.0"),
        (["edit", "x", "--image", "house.png", "--mask", "mask.png"], "unrecognized arguments: --mask mask.png. See migm edit --help"),
        (["edit", "red " * 3000, "--image", "house.png"], "the limit is 2048 tokens"),
        (["edit", "--prompt-file", "lines.txt", "--image", "house.png"], "lines.txt, line 3: The prompt has"),
        (["generate", "--task", "style", "--image", "house.png"], "takes 2 pictures: the picture to change and the picture whose style it gets; 1 is given"),
        (["generate", "--task", "dense", "--image", "house.png"], "needs a kind, canny, hed,"),
        (["generate", "x", "--task", "dense", "--kind", "hed", "--image", "house.png"], "The task dense has words of its own. Leave the prompt out"),
        (["generate", "x", "--task", "edit", "--kind", "hed", "--image", "house.png"], "has no kinds"),
        (["generate", "x", "--task", "edit", "--image", "house.png", "--mask", "mask.png"], "takes no mask"),
        (["generate", "x", "--task", "edit", "--image", "house.png", "--grow", "3"], "--grow is a setting of the task paint"),
        (["generate", "x", "--task", "paint", "--image", "house.png", "--size", "32x32"], "takes its size from the picture. Leave --size out"),
        (["generate", "x", "--task", "nothing"], "invalid choice"),
        (["generate", "x", "--task", "text-to-image", "--image", "house.png"], "takes no picture"),
        (["generate", "x", "--image", "house.png"], "--image is given, but no task"),
        (["generate", "x", "--mask", "mask.png"], "--mask is given, but no task"),
        (["generate", "x", "--image-cfg", "2"], "--image-cfg counts only for tasks"),
        (["generate", "x", "--task", "paint", "--image", "house.png", "--image-cfg", "2"], "--image-cfg counts only for tasks"),
        (["paint", "x", "--image", "house.png"], "There is nothing to paint"),
        (["paint", "x", "--image", "house.png", "--mask", "black.png"], "The mask is empty"),
        (["paint", "x", "--image", "house.png", "--mask", "nowhere.png"], "--mask nowhere.png does not exist"),
        (["paint", "x", "--image", "house.png", "--extend", "1,2"], "'1,2' is no LEFT,TOP,RIGHT,BOTTOM"),
        (["paint", "x", "--image", "house.png", "--extend", "-1"], "--extend"),
        (["paint", "x", "--image", "house.png", "--extend", "99999"], "extend is (99999, "),
        (["paint", "x", "--image", "house.png", "--extend", "8", "--grow", "-1"], "grow is -1"),
        (["ask"], "required: QUESTION"),
        (["ask", " "], "The question is empty"),
        (["ask", "red " * 3000], "the limit is 2048 tokens"),
        (["ask", "what", "--image", "nowhere.png"], "--image nowhere.png does not exist"),
        (["ask", "what", "--length", "100", "--block", "32"], "Take 96 or 128"),
        (["ask", "what", "--cfg", "-1"], "cfg is -1.0"),
        (["ask", "what", "--options", "red"], "expected 2 to 64"),
        (["ask", "what", "--options", "red", ""], "The option '' has no tokens"),
        (["ask", "what", "--options", "red", "blue", "--length", "8"], "--length counts for a written answer only"),
    ],
)
def test_what_cannot_be_is_one_clear_sentence_and_nothing_is_written(migm, capsys, argv, expected):
    Path("text.png").write_text("no picture")
    Path("lines.txt").write_text(f"x\n\n{'red ' * 3000}\n")
    Image.new("RGB", (1, 1)).save("dot.png")
    Image.new("L", (32, 32)).save("black.png")
    before = written()
    assert migm(*argv, "--report", "run.json") == 2
    printed = capsys.readouterr()
    assert expected in printed.err and printed.out == ""
    assert len(printed.err.splitlines()) == 1 and printed.err.endswith(".\n")
    assert written() == before


def test_a_family_without_tasks_says_so(tmp_path, monkeypatch, capsys):
    data = Path(__file__).parent / "data" / "maskgit"
    folder = tmp_path / "maskgit"
    shutil.copytree(data / "vqgan", folder / "VQGAN")
    shutil.copy(data / "MaskGIT_ImageNet_tiny.pth", folder)
    (folder / "config.json").write_text(json.dumps({"n_heads": json.loads((data / "meta.json").read_text())["config"]["n_heads"], "class_names": [f"bird {k}" for k in range(10)]}))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("house.png")
    options = ["--model", str(folder), "--device", "cpu"]
    assert main(["generate", "3", "--task", "edit", "--image", "house.png", *options]) == 2
    assert "MaskGIT has no tasks" in capsys.readouterr().err
    for command in ("generate", "compare"):
        assert main([command, "--task", "dense", "--image", "house.png", *options]) == 2
        assert "MaskGIT has no tasks" in capsys.readouterr().err, "not that no class is given: the task has words of its own"
    assert main(["ask", "what", "--image", "house.png", *options]) == 2
    assert capsys.readouterr().err == "migm: MaskGIT does not answer questions.\n"
    # A class given by its number is named.
    assert main(["generate", "3", *options]) == 0
    assert {"prompt": "3", "class": "bird 3"}.items() <= said_by("migm.png").items()
    assert main(["generate", "3, bird 5", *options, "--report", "run.json"]) == 0
    assert [said_by(f"migm-{index}.png")["class"] for index in range(2)] == ["bird 3", "bird 5"]
    assert [image["class"] for image in json.loads(Path("run.json").read_text())["images"]] == ["bird 3", "bird 5"]


def test_help_names_tasks_kinds_and_settings_of_the_registries(capsys):
    def shown(command: str) -> str:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        return " ".join(capsys.readouterr().out.split())

    generate, ask, edit, paint = map(shown, ("generate", "ask", "edit", "paint"))
    for task in TASKS.values():
        assert f"{task.name}: {task.about}" in generate and all(kind in generate for kind in task.kinds or ())
        for name in task.setting_names:
            assert f"--{name.replace('_', '-')} " in generate and f"--{name.replace('_', '-')} " in paint
    for family in FAMILIES:
        for name in settings_of(family.text_settings) if family.text_settings else ():
            assert ("--cfg" if name == "guidance_scale" else f"--{name}") in ask
    assert "--mask" not in edit and "--schedule" not in edit and "--size" not in paint and "--image-cfg" not in paint


def test_an_answer_is_what_python_gives(migm, painter, capsys):
    argv = ["what is it", "--image", "house.png", "--length", 8, "--block", 4, "--temperature", 2, "--seed", 5]
    assert migm("ask", *argv, "--report", "run.json") == 0
    reply = painter.understand("what is it", "house.png", length=8, block=4, temperature=2.0, seed=5)
    printed = capsys.readouterr()
    assert printed.out == reply.text + "\n" and reply.text
    report = json.loads(Path("run.json").read_text())
    (answer,) = report["answers"]
    assert (answer["question"], answer["answer"], report["pictures"]) == ("what is it", reply.text, ["house.png"])
    assert {each.name for each in fields(reply.settings)} <= answer.keys() and answer["passes"] == reply.answer.passes
    assert [f"migm: {note}" for note in reply.notes] == printed.err.splitlines() == [f"migm: {note}" for note in answer["notes"]]


def test_several_questions_are_answered_below_themselves(migm, painter, capsys):
    questions = ["a red house", "blue"]
    assert migm("ask", *questions, "--image", "house.png", "--image", "wide.png", "--length", 8, "--block", 4, "--cache", "--temperature", 2, "--seed", 6) == 0
    replies = painter.understand(questions, ["house.png", "wide.png"], cache=True, length=8, block=4, temperature=2.0, seed=6)
    assert all(reply.text for reply in replies)
    printed = capsys.readouterr()
    assert printed.out == "\n\n".join(f"{question}\n{reply.text}" for question, reply in zip(questions, replies)) + "\n"
    assert "Kept keys and values were off by" in printed.err


def test_an_answer_is_printed_while_it_is_written(capsys):
    stream, printed = Stream(["a", "b"]), []
    for question, text in [(0, ""), (0, "a red"), (0, "a red h\ufffd"), (0, "a red heärt"), (1, "n"), (1, "no")]:
        stream.show(TextReport(0, 4, 0, 1, None, text, question))
        printed.append(capsys.readouterr().out)
    assert printed == ["a\n", "a red", " h", "eärt", "\n\nb\nn", "o"]
    stream.finish(["a red heärt", "no way"])
    assert capsys.readouterr().out == " way\n"


def test_what_an_answer_writes_does_not_move_the_cursor(capsys):
    stream = Stream(["a"])
    stream.show(TextReport(0, 1, 0, 1, None, "one\ntwo\x1b[31m\r"))
    stream.finish(["one\ntwo\x1b[31m\r"])
    assert capsys.readouterr().out == "one\ntwo\\x1b[31m\\r\n"


def test_what_stands_behind_a_mask_that_is_left_is_printed_at_the_end(capsys):
    stream = Stream(["a", "b"])
    for question, text in enumerate(("one", "two")):
        stream.show(TextReport(0, 1, 0, 1, None, text, question))
    stream.finish(["one more", "two"])
    assert capsys.readouterr().out == "a\none\n\nb\ntwo\n\na\none more\n"


def test_the_likeliest_option_comes_first(migm, painter, capsys):
    options = ["red house", "blue", "a small green tree"]
    assert migm("ask", "what is it", "--image", "house.png", "--options", *options, "--report", "run.json") == 0
    choice = painter.choose("what is it", options, "house.png")
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [line[1] for line in lines][0] == choice.option and sorted(line[1] for line in lines) == sorted(options)
    assert {option: share for share, option in lines} == {option: f"{share:.1%}" for option, share in zip(options, choice.probabilities)}
    (answer,) = json.loads(Path("run.json").read_text())["answers"]
    assert answer["answer"] == choice.option and [each["log_likelihood"] for each in answer["options"]] == list(choice.log_likelihoods)
