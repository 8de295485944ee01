"""What the READMEs say can be done: commands, examples, links, names."""

import re
import runpy
import shlex
from pathlib import Path

import hosts
import numpy as np
import pytest
import torch
from nodes_without_host import schemas
from PIL import Image

from migm_core import cli
from migm_core.families.lumina_dimoo.tasks import TASKS
from migm_core.worlds import lakeside

REPOSITORY = Path(__file__).parents[1]
READMES = ["README.md", "migm_core/README.md", "migm_core/training/README.md", "migm_core/worlds/recipe/README.md", "migm_core/worlds/recipe/LOG.md", "tests/README.md"]
TEXTS = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in READMES}


def commands(word: str) -> list[str]:
    """All lines of code blocks that call a program, without the words that explain them."""
    lines = {line.strip().split("   ")[0] for text in TEXTS.values() for line in text.splitlines() if line.startswith("    ")}
    return sorted(part.strip() for line in lines for part in line.split("&&") if part.strip().startswith(word + " "))


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("name", READMES)
def test_links_and_pictures_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (REPOSITORY / name).parent / path if path else REPOSITORY / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("command", commands("migm"))
def test_commands_are_understood(command):
    cli.make_parser().parse_args(shlex.split(command)[1:])


def of_the_bundled_model(command: str) -> bool:
    words = shlex.split(command)
    return not {"PROMPT", "INSTRUCTION", "QUESTION"} & {*words} and (words[1] in ("generate", "edit", "paint", "ask", "compare") and "--model" not in words or words[2:3] in (["demo"], ["demo-classes"]) and words[1] != "evaluate")


@pytest.mark.parametrize("command", [*filter(of_the_bundled_model, commands("migm"))])
def test_commands_of_the_bundled_model_run(command, tmp_path, monkeypatch):
    (tmp_path / "migm_core").symlink_to(REPOSITORY / "migm_core")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)[1:]
    for option, picture in zip(words, words[1:]):
        if option in ("--image", "--mask"):
            half = np.zeros((64, 64), np.uint8)
            half[:, 32:] = 255
            Image.fromarray(half).save(picture)
    assert cli.main(words) == 0


@pytest.mark.parametrize("command", [*commands("python"), *re.findall(r"`(?:[^`]*; )?((?:venv/bin/)?python [^`]+)`", TEXTS["tests/README.md"])])
def test_programs_are_there(command):
    for path in re.findall(r"(?:\.\.\./)?(tests/[\w/.]+)", command):
        assert (REPOSITORY / path).exists(), path


def test_the_examples_in_python_do_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text("".join(re.findall(r"```python\n(.+?)```", TEXTS["migm_core/README.md"], re.DOTALL)))
    names = runpy.run_path("example.py")
    before, again = names["result"], names["again"]
    assert (tmp_path / "house.png").exists() and (tmp_path / "tent.png").exists()
    assert before.canvas.codes[:, :, :8].equal(again.canvas.codes[:, :, :8])
    painted, pictures = names["painted"], names["edited"].pictures
    assert (np.asarray(painted.images[0])[:, :128] == np.asarray(before.images[0])[:, :128]).all() and painted.head_fits in ("good", "fair", "poor")
    assert names["wide"].images[0].size == (512, 256) and [picture.size for picture in pictures] == [(256, 256)]
    assert names["reply"].answer.passes <= 8 and names["choice"].option in ("red", "blue")
    several, reused = names["several"], names["reused"]
    assert several.tokens.shape == (2, 16, 16) and several.log_likelihood.shape == (2,)
    assert sum(len(group) for group in several.recorded) == 16 * len(several.recorded)
    for image, (prompt, seed) in enumerate(zip(names["prompts"], (3, 8))):
        assert names["pipeline"].generate(prompt, seed=seed, steps=16, budget=4).tokens[0].equal(several.tokens[image])
    assert reused.full_steps and all(step % 7 == 0 for step in reused.full_steps)
    assert {kind for kind, _ in reused.step_seconds} == {"full", "reused"} and reused.speed_up > 1
    for result, prompt in ((before, "a red house left of a yellow tree at sunset"), (painted, "a red house left of a blue tent at sunset"), (again, "a red house left of a blue tent at sunset")):
        (verdict,) = lakeside.judge(torch.from_numpy(np.asarray(result.images[0], np.float32) / 255).permute(2, 0, 1)[None], lakeside.parse([prompt]))
        assert verdict.right, verdict


def test_it_names_all_tasks_and_their_kinds():
    table = re.search(r"^\| task \|(.+?)\n\n", TEXTS["migm_core/README.md"], re.MULTILINE | re.DOTALL)[1]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", table, re.MULTILINE))
    assert rows.keys() == TASKS.keys()
    kinds = re.search("--kind` (.+?) \\|", rows["dense"])[1]
    assert set(TASKS["dense"].kinds) == set(re.findall(r"\w+", kinds)) - {"or"}


def test_the_first_page_is_short():
    assert len(TEXTS["README.md"].split()) <= 1000


def test_it_names_all_nodes_by_their_names():
    assert set(re.findall(r"^- \*\*(MIGM [^*]+)\*\*: ", TEXTS["README.md"], re.MULTILINE)) == {schema.display_name for schema in schemas().values() if not schema.is_deprecated}


def test_it_names_the_versions_that_are_tested():
    (line,) = re.findall(r"^- Tested on Linux.+?\n(?=- |\n)", TEXTS["README.md"], re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"\d+\.\d+\.\d+", line)) == set(hosts.SUPPORTED)
    oldest = min(hosts.SUPPORTED, key=hosts.numbers)
    assert f"ComfyUI {oldest} or newer" in TEXTS["README.md"] and f'requires-comfyui = ">={oldest}"' in (REPOSITORY / "pyproject.toml").read_text()


def test_the_tests_run_as_it_says():
    script = REPOSITORY / ".ci" / "run"
    if not script.exists():
        pytest.skip("not in an archive")
    (command,) = [line.strip() for line in TEXTS["README.md"].splitlines() if "python -m pytest" in line]
    assert command in script.read_text()
