"""Parity of understanding, image to image and painting with the published implementation, on recorded inputs and outputs.

Runs on every directory in the environment variable MIGM_TASKS_REFERENCE_DIR (separated like a PATH), and without it on the one kept as
test data. What a directory calls ``base``, ``vqvae`` and ``config_of`` are paths relative to it.
"""

import hashlib
import json
import os
import random
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from migm_core.canvas import Canvas
from migm_core.checkpoints import TensorSource
from migm_core.families.lumina_dimoo import painting, pictures, tasks, understanding
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.buckets import Fit, Size, buckets, nearest, sizes_for_reading
from migm_core.families.lumina_dimoo.files import BASE_PREFIX, build_base, build_image_tokenizer
from migm_core.families.lumina_dimoo.prompts import SYSTEM_PROMPTS, system_prompt
from migm_core.families.lumina_dimoo.reading import option_rows
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.families.lumina_dimoo.sequence import image_tokens
from migm_core.families.lumina_dimoo.text_settings import TextSettings
from migm_core.families.lumina_dimoo.understanding import transfer_counts, write
from migm_core.images import to_images
from migm_core.sampling.loop import sample
from migm_core.sampling.methods import MLCache, Vanilla
from migm_core.sampling.noise import SeededNoise
from migm_core.tokenizers.amused_vq import ImageTokenizer

DIRECTORIES = [
    Path(d) for d in os.environ.get("MIGM_TASKS_REFERENCE_DIR", str(Path(__file__).parent / "data" / "tasks")).split(os.pathsep) if d
]


@dataclass(frozen=True)
class Reference:
    meta: dict
    cases: dict
    base: Lumina
    image_tokenizer: ImageTokenizer

    @property
    def layout(self):
        return self.base.config.tokens


@cache
def reference(folder: Path) -> Reference:
    meta = json.loads((folder / "meta.json").read_text())
    config = json.loads((folder / meta["config_of"]).read_text())
    config = config.get("config", config)
    tokens = {**meta["ids"], "image_codes": meta["text_vocab_size"], "codebook_size": meta["codebook_size"]}
    source = TensorSource.open(folder / meta["base"]).prefixed(BASE_PREFIX)
    base = build_base({**config, "tokens": tokens}, str(folder), source, output_rows="all", dtype=torch.float32)
    vqvae = folder / meta["vqvae"]
    image_source = TensorSource.open(vqvae / "diffusion_pytorch_model.safetensors")
    image_tokenizer = build_image_tokenizer(json.loads((vqvae / "config.json").read_text()), str(vqvae), image_source)
    return Reference(meta, load_file(folder / "cases.safetensors"), base, image_tokenizer)


def per_directory(key, select):
    """Parameters (directory, item) for every item that a directory's meta.json lists."""
    pairs = [(d, item) for d in DIRECTORIES for item in select(json.loads((d / "meta.json").read_text()))]
    return pytest.mark.parametrize(("folder", key), pairs, ids=[f"{d.name}-{item.get('name') or item.get('edit_type') or k}" for k, (d, item) in enumerate(pairs)])


each_directory = pytest.mark.parametrize("folder", DIRECTORIES, ids=lambda d: d.name)


# Pictures to tokens.


@each_directory
def test_buckets(folder):
    for side, sizes in reference(folder).meta["buckets"].items():
        assert [list(size) for size in buckets(int(side))] == sizes


@each_directory
def test_choice_scaling_and_crop(folder):
    r = reference(folder)
    for target, cases in r.meta["preprocessing"].items():
        for case in cases:
            size = tuple(case["input"])
            how = Fit.of(size, nearest(size, sizes_for_reading(size) if target == "by_area" else buckets(int(target))))
            ours = {"output": how.size, "halvings": how.halvings, "resized": how.scaled, "slack": how.slack, "crop_box": how.box(random.Random(case["python_seed"]))}
            ours = json.loads(json.dumps(ours))
            assert ours == {key: case[key] for key in ours}, (target, size)


@per_directory("case", lambda meta: meta["pixels"])
def test_pixels(folder, case):
    r = reference(folder)
    picture = drawn(case["width"], case["height"], case["mode"])
    if not case["name"].endswith("_last_rgb"):
        picture = picture.convert("RGB")
    how = Fit.of(picture.size, nearest(picture.size, buckets(case["target"])))
    ours = pictures.fit(picture, how, random.Random(case["python_seed"])).convert("RGB")
    assert [*how.box(random.Random(case["python_seed"]))] == case["crop_box"]
    if (name := f"pixels.{case['name']}") in r.cases:
        assert np.array_equal(np.asarray(ours), r.cases[name].numpy())
    assert hashlib.sha256(ours.tobytes()).hexdigest() == case["sha256"]


def drawn(width: int, height: int, mode: str) -> Image.Image:
    """The picture that the recorded pixels were made of."""
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    values = ((7 * x + 11 * y + 85 * c + x * y // 64) % 256).astype(np.uint8)
    return Image.fromarray(values if channels > 1 else values[..., 0])


@per_directory("case", lambda meta: meta["encode"])
@torch.inference_mode()
def test_a_picture_as_tokens(folder, case):
    r = reference(folder)
    image = Image.fromarray(r.cases[f"encode.{case['name']}.image"].numpy())
    codes = r.image_tokenizer.encode(pictures.to_pixels(image))
    assert image_tokens(codes[0], r.layout).tolist() == r.cases[f"encode.{case['name']}.tokens"].tolist()


# Templates.


def of_edit_type(edit_type: str) -> tuple[tasks.Task, str]:
    """The task and the kind that a published ``--edit_type`` comes to: the first word of a list that it contains decides.

    The documented canny_pred, hed_pred, depth_pred and openpose_pred contain none of them: they are "free", not "dense".
    """
    words = {"dense": "dense", "control": "control", "subject": "subject", "edit": "edit", "ref_transfer": "style", "multi_view": "multi-view"}
    name = next((name for word, name in words.items() if word in edit_type), "free")
    kind = {"dense": edit_type.split("_")[0], "multi-view": edit_type.split("_")[-1]}.get(name, "")
    return tasks.TASKS[name], kind


@per_directory("case", lambda meta: meta["templates"])
def test_templates(folder, case):
    task, kind = of_edit_type(case["edit_type"])
    system, text = system_prompt(task.system), task.text(case["prompt"], kind)
    assert system == case["system"]
    for words, expected in ((text, case["conditional"]), ("<uncondition>", case["without_text"])):
        assert f"<system>{system}</system><user>{words}</user>" == expected


@each_directory
def test_the_template_of_understanding(folder):
    said = reference(folder).meta["understanding_template"]
    assert f"<system>{SYSTEM_PROMPTS['understanding']}</system><user>{said['question']}</user>" == said["prompt"]


# Understanding.


class PublishedTextNoise:
    """Numbers for the whole sequence at each pass, from torch's default generator: of tokens, then of positions."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, positions, length, columns, of_positions):
        of_tokens = torch.rand(1, length, columns, generator=self.generator, dtype=torch.float64)[0, positions] if columns else torch.empty(len(positions), 0)
        return of_tokens, torch.rand(1, length, generator=self.generator)[0, positions] if of_positions else torch.empty(0)

    def skip(self, length, columns, of_positions):
        self.draw(torch.zeros(1, dtype=torch.int64), length, columns, of_positions)


@per_directory("run", lambda meta: meta["understanding"])
def test_understanding_writes_the_recorded_answer(folder, run):
    r = reference(folder)
    case = {key: r.cases[f"u.{run['name']}.{key}"] for key in ("input_ids", "answer", "fixed_at")}
    base = r.base
    if "end_of_text" in run:
        base = with_end_of_text(base, run["end_of_text"])
    settings = TextSettings(
        length=run["gen_length"],
        block=run["block_length"],
        steps=run["steps"],
        temperature=run["temperature"],
        guidance_scale=run["cfg_scale"],
        remasking=run["remasking"].replace("_", "-"),
        stop="end-of-text" if "end_of_text" in run else "never",
    )
    answer = write(base, case["input_ids"], run["answer_start"], settings, noise=PublishedTextNoise(run.get("seed", 0)))
    assert answer.tokens.tolist() == case["answer"].tolist()
    assert answer.unmasked_at.tolist() == case["fixed_at"].tolist()
    assert answer.passes == run["forward_passes"]


def with_end_of_text(base: Lumina, token: int) -> Lumina:
    """The same model with another token for the end of text."""
    other = Lumina(replace(base.config, tokens=replace(base.config.tokens, end_of_text=token)), output_rows="all", device="meta")
    other.load_state_dict(base.state_dict(), assign=True)
    return other.eval()


@each_directory
def test_transfer_counts(folder):
    for case in reference(folder).meta["transfer_counts"]:
        assert transfer_counts(case["masked"], case["steps"]) == case["fixed"]


@per_directory("run", lambda meta: meta["understanding"])
def test_our_start_of_an_answer_is_the_recorded_one(folder, run):
    r = reference(folder)
    ids, masks = r.cases[f"u.{run['name']}.input_ids"], (r.cases[f"u.{run['name']}.fixed_at"] != understanding.KNOWN).sum()
    prompt = ids[0, : run["answer_start"] - 1]
    if masks < run["gen_length"]:  # the benchmark's: a short answer, its end, padding
        assert option_rows(prompt, [int(masks)], run["gen_length"], r.layout).tolist() == ids.tolist()
        return
    ours, start = understanding.start_sequence(prompt, run["gen_length"], r.layout)
    assert start == run["answer_start"]
    assert ours.tolist() == ids.tolist()


# Image to image.


@pytest.mark.parametrize("remasking", ["exact", "below-cut-off"])
@per_directory("run", lambda meta: meta["i2i"])
def test_image_to_image_gives_the_recorded_tokens(folder, run, remasking):
    r = reference(folder)
    case = f"i2i.{run['input']}."
    prompt, canvas = split(r, r.cases[case + "input_ids"], run["output_grid"])
    branches = tasks.image_guidance(prompt, r.cases[case + "uncond_text_ids"], r.cases[case + "uncond_image_ids"], run["cfg_scale"], run["cfg_img"])
    assert sampled(r, branches, canvas, Vanilla(), run, remasking) == recorded(r, f"i2i.{run['name']}", remasking)


@per_directory("run", lambda meta: meta["i2i"])
def test_pictures_stand_before_the_end_of_the_prompt(folder, run):
    r = reference(folder)
    case = f"i2i.{run['input']}."
    (*text, end), answer = r.cases[case + "uncond_image_ids"].tolist(), r.cases[case + "input_ids"][0].tolist()
    boa = len(answer) - 1 - answer[::-1].index(r.layout.boa)
    built, rest = [], answer[len(text) : boa - 1]
    for height, width in run["input_grids"]:
        length = height * (width + 1) + 2
        codes = torch.tensor(rest[1 : length - 1]).view(height, width + 1)[:, :width] - r.layout.image_codes
        built += image_tokens(codes, r.layout).tolist()
        rest = rest[length:]
    assert not rest
    assert [*text, *built, end] == answer[:boa]


def split(r: Reference, ids: torch.Tensor, grid) -> tuple[torch.Tensor, Canvas]:
    """A recorded sequence (1, T) as the prompt before boa and the canvas after it."""
    height, width = grid
    boa = int((ids[0] == r.layout.boa).nonzero()[-1, 0])
    rows = ids[:, boa + 2 : boa + 2 + height * (width + 1)].view(1, height, width + 1)[..., :width]
    masked = rows == r.layout.mask
    return ids[0, :boa], Canvas(torch.where(masked, 0, rows - r.layout.image_codes), masked)


def sampled(r: Reference, branches, canvas, method, run, remasking) -> list[int]:
    noise = SeededNoise([torch.Generator().manual_seed(run["seed"])])
    done = sample(r.base, branches, canvas, method, LuminaRule(run["temperature"], remasking), steps=run["steps"], noise=noise)
    return (done.codes + r.layout.image_codes).flatten().tolist()


def recorded(r: Reference, name: str, remasking: str) -> list[int]:
    """The tokens under a rule; where the two agree there is one record."""
    exact = r.cases.get(f"{name}.tokens_exact_k") if remasking == "exact" else None
    return (r.cases[f"{name}.tokens"] if exact is None else exact).tolist()


# Painting.


@per_directory("case", lambda meta: list({run["picture"]: run for run in meta["painting"]}.values()))
@torch.inference_mode()
def test_painting_prepares_picture_and_mask(folder, case):
    r = reference(folder)
    name = f"paint.{case['picture']}."
    squeezed = painting.squeeze(Image.fromarray(r.cases[name + "image"].numpy()), r.meta["vq_factor"])
    assert np.array_equal(np.asarray(squeezed), r.cases[name + "resized"].numpy())
    codes = r.image_tokenizer.encode(pictures.to_pixels(squeezed))
    assert codes[0].tolist() == r.cases[name + "codes"].tolist()
    assert bytes_differ(r.image_tokenizer.decode(codes), r.cases[name + "reconstruction"]) <= 1
    assert torch.equal(published_mask(case, r.meta["vq_factor"]), r.cases[name + "unknown"])


@per_directory("case", lambda meta: meta["masks"])
def test_masks(folder, case):
    ours = published_mask(case, 16)
    assert [*ours.shape] == case["grid"]
    assert int(ours.sum()) == case["masked"]
    assert torch.equal(ours, reference(folder).cases[f"mask.{case['name']}"])


def centred_rectangle(picture: Size, squeezed: Size, ratio_height: float, ratio_width: float) -> torch.Tensor:
    """The published mask: a rectangle in the middle of a picture, given by the shares of its sides; edges are rounded before and after ``squeeze``.

    Returns:
        1 inside and 0 outside, float32 (1, h, w) in squeezed pixels.
    """
    edges = []
    for share, before, after in ((ratio_height, picture[1], squeezed[1]), (ratio_width, picture[0], squeezed[0])):
        length = round(before * share)
        start = round((before - length) // 2 * after / before)
        edges.append(slice(start, start + round(length * after / before)))
    mask = torch.zeros(1, squeezed[1], squeezed[0])
    mask[:, edges[0], edges[1]] = 1
    return mask


def published_mask(case: dict, downscale_factor: int) -> torch.Tensor:
    size = (case["width"], case["height"])
    mask = centred_rectangle(size, painting.squeezed_size(size, downscale_factor), case["mask_h_ratio"], case["mask_w_ratio"])
    if case["mode"] == "outpainting":
        mask = 1 - mask
    return painting.masked_tokens(mask, downscale_factor, painting.MOSTLY)[0]


@pytest.mark.parametrize("remasking", ["exact", "below-cut-off"])
@per_directory("run", lambda meta: meta["painting"])
@torch.inference_mode()
def test_painting_gives_the_recorded_tokens_and_picture(folder, run, remasking):
    r = reference(folder)
    name, of_picture = f"paint.{run['name']}", f"paint.{run['picture']}"
    prompt, canvas = split(r, r.cases[name + ".input_ids"], r.cases[of_picture + ".codes"].shape)
    ours = Canvas(r.cases[of_picture + ".codes"][None], published_mask(run, r.meta["vq_factor"])[None])
    assert torch.equal(ours.masked, canvas.masked)
    assert torch.equal(ours.codes[~ours.masked], canvas.codes[~canvas.masked])
    branches = tasks.text_guidance(prompt, r.cases[name + ".uncond_ids"], run["cfg_scale"])
    method = MLCache(run["warmup_ratio"], run["refresh_interval"], run["cache_ratio"]) if "cache_ratio" in run else Vanilla()
    tokens = sampled(r, branches, ours, method, run, remasking)
    assert tokens == recorded(r, name, remasking)
    if remasking == "below-cut-off":
        pixels = r.image_tokenizer.decode(torch.tensor(tokens).view(canvas.shape) - r.layout.image_codes)
        assert bytes_differ(pixels, r.cases[name + ".picture"]) <= 1


def bytes_differ(pixels: torch.Tensor, expected: torch.Tensor) -> int:
    """The largest difference between decoded pixels (1, 3, h, w) and recorded bytes (h, w, 3)."""
    return int(np.abs(np.asarray(to_images(pixels)[0], dtype=int) - expected.numpy().astype(int)).max())
