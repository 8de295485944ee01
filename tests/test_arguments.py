"""An argument of another kind than the public functions take: one clear error that names it, before anything is computed."""

import os
import sys

import numpy as np
import pytest
import torch
from small_model import PROMPT

from migm_core import Pipeline, Settings
from migm_core.arguments import read_text
from migm_core.canvas import Canvas
from migm_core.devices import resolve_device, resolve_dtype
from migm_core.families.lumina_dimoo.config import LuminaConfig
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.families.lumina_dimoo.tasks import text_guidance
from migm_core.families.lumina_dimoo.text_settings import TextSettings
from migm_core.families.maskgit.classes import ClassNames
from migm_core.families.maskgit.config import MaskGitConfig
from migm_core.families.maskgit.rule import MaskGitRule
from migm_core.families.maskgit.schedules import unmask_counts
from migm_core.sampling.methods import METHODS, Shortcut, Vanilla
from migm_core.tokenizers.amused_vq import ImageTokenizerConfig
from migm_core.tokenizers.tiled_decoding import check_tile


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"prompt": None}, "prompt is None, expected text"),
        ({"prompt": 3}, "prompt is 3, expected text"),
        ({"prompt": ["a", None]}, "prompt is None, expected text"),
        ({"prompt": []}, "list of prompts is empty"),
        ({"prompt": {"text": "a"}}, "prompt is a dict, expected text"),
        ({"negative": None}, "negative is None, but must be text"),
        ({"width": "32"}, "width is '32', but must be a whole number"),
        ({"height": 32.0}, "height is 32.0, but must be a whole number"),
        ({"height": True}, "height is True, but must be a whole number"),
        ({"steps": "8"}, "steps is '8', but must be a whole number"),
        ({"steps": 7.5}, "steps is 7.5, but must be a whole number"),
        ({"budget": 3.0}, "budget is 3.0, but must be a whole number"),
        ({"budget": "3"}, "budget is '3', but must be a whole number"),
        ({"method": 3}, "method is 3, expected one of vanilla"),
        ({"method": ["vanilla"]}, r"method is \['vanilla'\], expected one of vanilla"),
        ({"method": Vanilla}, "method is <class .*, expected one of vanilla"),
        ({"method": Shortcut(budget=3)}, "shortcut method needs a shortcut head"),
        ({"guidance_scale": "strong"}, "guidance_scale is 'strong', but must be a number"),
        ({"guidance_scale": [2.0]}, r"guidance_scale is \[2.0\], but must be a number"),
        ({"temperature": "hot"}, "temperature is 'hot', but must be a number"),
        ({"temperature": True}, "temperature is True, but must be a number"),
        ({"interval": 2.5, "method": "ml-cache"}, "interval is 2.5, but must be a whole number"),
        ({"seed": "1"}, "seed is '1', but must be a whole number"),
        ({"seed": 1.0}, "seed is 1.0, but must be a whole number"),
        ({"seeds": [1]}, "There are 1 seeds for one prompt"),
        ({"seeds": 1, "prompt": ["a", "b"]}, "There are 1 seeds for 2 prompts"),
        ({"seeds": [1, 2.0], "prompt": ["a", "b"]}, "seeds holds 2.0, but each must be a whole number"),
        ({"seeds": [1, -2], "prompt": ["a", "b"]}, "seeds holds -2, but each must be a whole number"),
        ({"batch": "2"}, "batch is '2', but must be a whole number"),
        ({"batch": 2.0}, "batch is 2.0, but must be a whole number"),
        ({"batch": 3, "prompt": ["a", "b"]}, "batch is 3, but there are 2 prompts"),
        ({"canvas": torch.zeros(1, 4, 4)}, "canvas is a Tensor, but must be a Canvas"),
        ({"canvas": "empty"}, "canvas is 'empty', but must be a Canvas"),
        ({"canvas": Canvas.empty(1, 4, 4), "width": 64}, "width is 64, but the canvas has 32 pixels there"),
        ({"canvas": Canvas.empty(3, 4, 4), "batch": 2}, "canvas holds 3 images; expected one, or 2"),
        ({"callback": 3}, "callback is 3, but must be a function"),
        ({"guidance": 2.0}, "no setting 'guidance'. Did you mean 'guidance_scale'"),
        ({"stepz": 2}, "no setting 'stepz'. Did you mean 'steps'"),
    ],
    ids=str,
)
def test_an_argument_of_another_kind_is_named(pipeline, asked, expected):
    steps = []
    with pytest.raises(ValueError, match=expected) as caught:
        pipeline.generate(**{"prompt": PROMPT, "callback": steps.append} | asked)
    assert not steps and "\n" not in str(caught.value)


IMAGE = torch.zeros(32, 32, 3)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"task": 3}, "task is 3, expected one of text-to-image"),
        ({"task": ["edit"], "images": IMAGE}, r"task is \['edit'\], expected one of text-to-image"),
        ({"task": "edti", "images": IMAGE}, "task is 'edti', expected one of text-to-image"),
        ({"task": "edit", "images": 3}, "The picture is int, expected a PIL image"),
        ({"task": "edit", "images": [None]}, "The picture is NoneType, expected a PIL image"),
        ({"task": "edit", "images": [IMAGE, IMAGE]}, "The task edit takes 1 picture"),
        ({"task": "edit", "images": IMAGE, "image_guidance_scale": "x"}, "image_guidance_scale is 'x', but must be a number"),
        ({"task": "paint", "images": IMAGE, "mask": 3}, "The mask is int, expected a PIL image"),
        ({"task": "paint", "images": IMAGE, "extend": 3}, "extend is 3, expected four whole numbers"),
        ({"task": "dense", "images": IMAGE, "kind": 3}, "kind is 3, expected text"),
        ({"images": IMAGE}, "no task. Choose one"),
        ({"mask": IMAGE}, "no task. Choose one"),
        ({"kind": 3}, "no task. Choose one"),
    ],
    ids=lambda value: str({name: "..." if isinstance(each, torch.Tensor) else each for name, each in value.items()}) if isinstance(value, dict) else "",
)
def test_a_tasks_argument_of_another_kind_is_named(pipeline, asked, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        pipeline.generate(PROMPT, **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"question": None}, "question is NoneType, expected text"),
        ({"question": []}, "list of questions is empty"),
        ({"question": "what?", "images": 3}, "The picture is int, expected a PIL image"),
        ({"question": "what?", "steps": "x"}, "steps is 'x', but must be a whole number"),
        ({"question": "what?", "callback": 3}, "callback is 3, but must be a function"),
        ({"question": "what?", "stepz": 3}, "no setting 'stepz'. Did you mean 'steps'"),
    ],
    ids=str,
)
def test_a_questions_argument_of_another_kind_is_named(pipeline, asked, expected):
    with pytest.raises(ValueError, match=expected):
        pipeline.understand(**asked)


def test_numbers_of_numpy_are_numbers(pipeline):
    ours = pipeline.generate(PROMPT, steps=np.int64(6), budget=np.int32(2), guidance_scale=np.float32(2), temperature=np.float64(1), seed=np.uint8(3))
    assert torch.equal(ours.tokens, pipeline.generate(PROMPT, steps=6, budget=2, guidance_scale=2.0, temperature=1.0, seed=3).tokens)
    assert {type(value) for value in ours.settings.used().values()} == {int, float, str}


@pytest.mark.parametrize(
    ("codes", "masked", "expected"),
    [
        ([[[1]]], [[[True]]], "codes is a list, but must be a tensor"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), np.ones((1, 2, 2), bool), "masked is a ndarray, but must be a tensor"),
        (torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool), "codes are of torch.float32, expected torch.int64"),
        (torch.zeros(2, 2, dtype=torch.int64), torch.ones(2, 2, dtype=torch.bool), r"one shape \(batch, height, width\)"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), torch.ones(1, 2, 2), "boolean mask"),
    ],
)
def test_a_canvas_of_another_kind_is_refused(codes, masked, expected):
    with pytest.raises(ValueError, match=expected):
        Canvas(codes, masked)


@pytest.mark.parametrize("images", [None, np.zeros((1, 3, 32, 32)), torch.zeros(3, 32, 32), torch.zeros(1, 32, 32, 3)], ids=lambda images: str(type(images)))
def test_pixels_of_another_kind_are_refused(pipeline, images):
    with pytest.raises(ValueError, match="images .*but must be (a tensor|.images, 3, height, width. in floating point)"):
        pipeline.encode(images)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"model": None}, "model is None"),
        ({"model": 3}, "model is 3"),
        ({"head": 3}, "head is 3"),
        ({"dtype": 3}, "Unknown dtype 3"),
        ({"dtype": ["bf16"]}, "Unknown dtype"),
        ({"device": 3.5}, "Device 3.5 is not known"),
        ({"switches": {"tile": 64}}, "switches is"),
    ],
    ids=str,
)
def test_what_is_loaded_is_named_too(small, asked, expected):
    with pytest.raises(ValueError, match=expected):
        Pipeline.load(**{"model": small.folder, "device": "cpu"} | asked)


def test_settings_may_be_made_by_hand(pipeline):
    settings = Settings(32, 32, 6, 2.0, LuminaRule(), "shortcut", {"budget": 2}, seed=4)
    prompts = pipeline.checkpoint.prompts
    branches = text_guidance(prompts.prompt(PROMPT), prompts.unconditional(), 2.0)
    assert torch.equal(pipeline.run(branches, settings).tokens, pipeline.generate(PROMPT, steps=6, budget=2, seed=4).tokens)
    assert set(METHODS) >= {"vanilla", "shortcut", "ml-cache"}


@pytest.mark.skipif(sys.platform == "win32", reason="has no such files")
@pytest.mark.parametrize("what", ["a pipe", "a device", "a folder"])
def test_a_list_that_is_no_regular_file_is_not_waited_for(tmp_path, what):
    path = tmp_path / "prompts.txt"
    {"a pipe": lambda: os.mkfifo(path), "a device": lambda: path.symlink_to("/dev/zero"), "a folder": path.mkdir}[what]()
    with pytest.raises(ValueError, match="prompts.txt is a folder, a device or a pipe. Expected a file with a prompt a line."):
        read_text(path, "a prompt a line")


def test_a_list_has_an_end(tmp_path, monkeypatch):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert read_text(path, "a prompt a line") == "one\ntwo\n"
    monkeypatch.setattr("migm_core.arguments.LARGEST_TEXT", 10)
    with pytest.raises(ValueError, match="prompts.txt has more than 10 bytes"):
        read_text(path, "a prompt a line")


HUGE = 10**5000  # more digits than Python makes text of


@pytest.mark.parametrize(
    "ask",
    [
        lambda pipeline: pipeline.generate(HUGE),
        lambda pipeline: pipeline.generate(["a", "b"], batch=HUGE),
        lambda pipeline: pipeline.generate(["a", "b"], seeds=[1, HUGE]),
        lambda pipeline: pipeline.generate(PROMPT, canvas=Canvas.empty(1, 4, 4), width=HUGE),
        lambda pipeline: pipeline.generate(PROMPT, task="paint", images=IMAGE, extend=(HUGE, 0, 0, 0)),
        lambda pipeline: pipeline.generate(PROMPT, task="edit", images=IMAGE, kind=HUGE),
        lambda _: TextSettings(seed=HUGE),
        lambda _: LuminaConfig(d_model=-HUGE),
        lambda _: LuminaConfig(rms_norm_eps=HUGE),
        lambda _: MaskGitConfig(d_model=HUGE),
        lambda _: MaskGitRule(schedule=HUGE),
        lambda _: MaskGitRule(schedule=(1, -HUGE)),
        lambda _: ClassNames.of(5).number(HUGE),
        lambda _: ClassNames.of(5).number(-HUGE),
        lambda _: unmask_counts(HUGE, 4, 16),
        lambda _: ImageTokenizerConfig.from_json({"act_fn": HUGE}, "config.json"),
        lambda _: ImageTokenizerConfig.from_json({"latent_channels": HUGE}, "config.json"),
        lambda _: ImageTokenizerConfig.from_json({"block_out_channels": [HUGE]}, "config.json"),
        lambda _: check_tile(-HUGE),
        lambda _: resolve_device(HUGE),
        lambda _: resolve_dtype(HUGE, "cpu"),
    ],
)
def test_a_number_of_any_length_is_refused_in_words(pipeline, ask):
    with pytest.raises(ValueError, match="a number of too many digits"):
        ask(pipeline)
