"""The recipe's tasks beside text to image: what the base learns is what the engine asks of it, and the judge finds the truth right."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from migm_core.canvas import Canvas
from migm_core.families.lumina_dimoo import tasks as lumina
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.initial import initialise
from migm_core.families.lumina_dimoo.sequence import image_tokens
from migm_core.families.lumina_dimoo.text_settings import TextSettings
from migm_core.families.lumina_dimoo.understanding import start_sequence, write
from migm_core.families.request import TaskRequest
from migm_core.sampling.loop import sample
from migm_core.sampling.methods import Vanilla
from migm_core.sampling.noise import SeededNoise
from migm_core.tokenizers.amused_vq import ImageTokenizer
from migm_core.training.distributed import World
from migm_core.training.masked import losses
from migm_core.worlds import lakeside
from migm_core.worlds.lakeside.reader import WEIGHTS
from migm_core.worlds.lakeside.scene import KIND_NAMES, NONE
from migm_core.worlds.recipe.evaluation import faults_of, table
from migm_core.worlds.recipe.lessons import for_encoding, pictures
from migm_core.worlds.recipe.padded import PaddedBase
from migm_core.worlds.recipe.sizes import SIZES
from migm_core.worlds.recipe.task_evaluation import AnswerEvaluator, AnswerWay, TaskEvaluator, task_ways
from migm_core.worlds.recipe.task_lessons import ROOMS, TaskPrompts, _fill, answer_weights, asked, block_masks, in_room, task_samples
from migm_core.worlds.recipe.tasks import TASKS

TINY, CPU = SIZES["tiny"], torch.device("cpu")
IMAGES = [name for name, task in TASKS.items() if not task.words]
read_by_judge = pytest.mark.skipif(not WEIGHTS.exists(), reason="the reader is not trained: python -m migm_core.worlds.recipe reader FOLDER")


@pytest.fixture(autouse=True)
def without_bfloat16(monkeypatch):
    """What is compared here is equal in float32, in which not every machine would compute."""
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    model = Lumina(TINY.base(), output_rows="all")
    initialise(model)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return ImageTokenizer(TINY.tokenizer).eval().requires_grad_(False)


@pytest.mark.parametrize("name", TASKS)
def test_requests_are_whole_and_the_same_for_whoever_asks(name):
    first, again = (asked(name, TINY, 7, "train", 6, CPU) for _ in range(2))
    assert first.texts == again.texts and first.answers == again.answers and torch.equal(first.pictures, again.pictures)
    assert 0 < len(first) <= 6 and first.pictures.shape == (len(first), 3, 128, 128)
    assert len(first.answers) == len(first) if TASKS[name].words else first.truth.shape == first.pictures.shape
    assert len(first[:2]) == 2 and torch.equal(first[:2].pictures, first.pictures[:2])
    assert not lakeside.unknown_words(" ".join(first.texts + first.answers)), "the model knows every word of its tasks"


@pytest.mark.parametrize("name", [name for name in TASKS if name in ("dense", "question", "caption")])
def test_the_judge_finds_the_truth_right_and_another_wrong(name):
    requests = asked(name, TINY, 3, "train", 8, CPU)
    truth = requests.truth if requests.truth is not None else requests.answers
    other = truth.roll(2, 0) if requests.truth is not None else ["purple" if answer != "purple" else "red" for answer in truth]
    assert all(verdict.right for verdict in TASKS[name].judge(truth, requests))
    assert sum(verdict.right for verdict in TASKS[name].judge(other, requests)) <= 1


@pytest.mark.parametrize("size", ["card", "cpu"])
def test_a_map_that_lacks_an_object_is_wrong(size):
    sizes = SIZES[size]
    requests = asked("dense", sizes, 3, "dev", 12, CPU)
    scenes, last = requests.scenes, requests.scenes.present.sum(1) - 1
    without = replace(scenes, kind=scenes.kind.where(torch.arange(4) != last[:, None], NONE))
    maps = TASKS["dense"].ask(without, 3, sizes.pixels, sizes.variety).truth
    kinds = [KIND_NAMES[kind] for kind in scenes.kind[torch.arange(len(scenes)), last]]
    verdicts = TASKS["dense"].judge(maps, requests)
    assert all(f"map of the {kind}" in verdict.faults for kind, verdict in zip(kinds, verdicts))
    blurred = F.interpolate(F.avg_pool2d(requests.truth, 2), scale_factor=2.0, mode="bilinear")
    assert all(verdict.right for verdict in TASKS["dense"].judge(blurred, requests))


@read_by_judge
@pytest.mark.parametrize("name", ["edit", "control", "subject"])
def test_the_judge_finds_true_pictures_right_and_those_that_were_shown_wrong(name):
    requests = asked(name, SIZES["card"], 3, "dev", 32, CPU)
    judged = [sum(verdict.right for verdict in TASKS[name].judge(pictures, requests)) for pictures in (requests.truth, requests.pictures)]
    assert judged[0] >= len(requests) - 1 and judged[1] == 0


def test_edits_stay_within_what_the_models_know():
    sizes = replace(TINY, variety=SIZES["cpu"].variety)
    requests = asked("edit", sizes, 5, "train", 60, CPU)
    assert 15 < len(requests) < 60 and sizes.variety.holds(requests.edits.scenes).all() and (requests.edits.scenes.variation == requests.scenes.variation).all()


def test_edits_of_training_scenes_lead_to_none_that_is_held_out():
    requests = asked("edit", TINY, 5, "train", 60, CPU)
    assert 30 < len(requests) < 60 and (requests.scenes.split() == 2).all() and (requests.edits.scenes.split() == 2).all()
    assert len(asked("edit", TINY, 5, "dev", 20, CPU)) == 20


@pytest.mark.parametrize("name", IMAGES)
def test_a_base_learns_and_samples_what_the_engine_asks_of_it(name, base, images):
    """Filled up and in one batch, three branches give the tokens that the engine's own branches give."""
    look, way = TaskEvaluator(name, TINY, images, base, None, 3, "train"), replace(task_ways(name, TINY)[0], steps=4)
    row = look.generated(way, range(1))
    encoder = TaskPrompts.of_sizes(TINY).encoder
    task = next(task for task in lumina.TASKS.values() if task.system == TASKS[name].system)
    kind = next((kind for kind in task.kinds or {} if task.text("", kind) == look.asked.texts[0]), "")
    request = TaskRequest(task.name, "" if kind else look.asked.texts[0], kind=kind)
    codes = images.encode(look.asked.pictures[:1])[0]
    branches = task.branches(encoder, request, [codes], lumina.TEXT_SCALE, lumina.IMAGE_SCALE)
    with torch.inference_mode():
        own = sample(base, branches, Canvas.empty(1, 8, 8), Vanilla(), look.rule(way), steps=4, noise=SeededNoise([torch.Generator().manual_seed(0)]))
    assert torch.equal(own.codes, row)


def test_answers_are_learned_where_the_engine_writes_them(base, images):
    prompts, requests = TaskPrompts.of_sizes(TINY), asked("question", TINY, 2, "train", 1, CPU)
    ids, end = prompts.answers(requests.answers, 8), prompts.encoder.layout.eoa
    said = len(prompts.encoder.text(requests.answers[0]))
    assert (ids[0, said:] == end).all() and answer_weights(ids, end)[0].tolist() == [1.0] * (said + 1) + [pytest.approx(0.5 / (7 - said))] * (7 - said)
    codes = images.encode(requests.pictures)
    whole = prompts.whole(TASKS["question"], requests.texts, codes)
    masked = torch.arange(8)[None] >= said - 1
    found = losses(PaddedBase(base), whole, ids, masked)

    picture = image_tokens(codes[0], prompts.encoder.layout)
    tokens, start = start_sequence(prompts.encoder.prompt(requests.texts[0], "understanding", picture), 8, prompts.encoder.layout)
    tokens[0, start : start + 8] = torch.where(masked[0], tokens[0, start : start + 8], ids[0])
    with torch.no_grad():
        logits = base.logits(base(tokens, base.rotary(tokens.shape[1], CPU)))[0, start : start + 8]
        torch.testing.assert_close(found[0], F.cross_entropy(logits, ids[0], reduction="none").where(masked[0], 0))


def test_answers_are_learned_in_the_room_and_the_blocks_of_the_product():
    settings, prompts, rng, generator = TextSettings(), TaskPrompts.of_sizes(TINY), random.Random(0), torch.Generator().manual_seed(0)
    assert ROOMS[settings.length] == settings.block and "Describe this image." in asked("caption", TINY, 1, "train", 8, CPU).texts
    ids, end = prompts.answers(["red", "a house and a tree", "lake " * 40], 128), prompts.encoder.layout.eoa
    found = [in_room(ids, 40, end, rng, generator) for _ in range(200)]
    assert {room.shape[1] for room, *_ in found} == {48, 72, 128} and sum(room.shape[1] == 48 for room, *_ in found) > 70
    for room, weights, masked in found:
        assert room.shape == weights.shape == masked.shape and masked.any(1).all() and weights.sum(1).tolist() == pytest.approx([2.5, 6.5, 41.5])
    masks = torch.stack([block_masks(ids, end, 32, generator) for _ in range(200)])
    begun = (~masks).reshape(200, 3, 4, 32).any(3)  # blocks of which some is known
    assert not begun[:, :2, 1:].any() and begun[:, 2].sum(0)[:2].min() > 50 and not begun[:, 2, 2:].any()
    assert (masks[:, 2, 32:].all(1) | ~masks[:, 2, :32].any(1)).all(), "what is before the block is known, what is behind it masked"


def test_an_answer_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="9 tokens, expected at most 8"):
        TaskPrompts.of_sizes(TINY).answers(["red " * 9], 8)


def test_batches_are_of_text_to_image_and_of_each_task_in_turn(images):
    batches = task_samples(TINY, images, 0, World())
    seen = [next(batches) for _ in range(2 * len(TINY.tasks))]
    text, others, fill = seen[::2], seen[1::2], TaskPrompts.of_sizes(TINY).padded.fill
    assert all(codes.dim() == 3 and prompts.shape[1] <= TINY.prompt_length for prompts, codes, _ in text)
    for name, (prompts, codes, weights, *masked) in zip(TINY.tasks, others):
        words = TASKS[name].words
        assert codes.shape == weights.shape and (codes.shape[1] in ROOMS and masked[0].any(1).all() if words else codes.shape == (8, 8, 8) and not masked)
        assert len(prompts) == 8 and (prompts != fill).sum(1).max() == prompts.shape[1] < TINY.prompt_length + 74


def test_half_of_the_pictures_that_are_shown_are_as_if_generated(images):
    requests, prompts, task = asked("question", TINY, 3, "train", 4, CPU), TaskPrompts.of_sizes(TINY), TASKS["question"]
    whole, _ = _fill(task, requests, prompts, for_encoding(images), torch.Generator())
    codes = images.encode(requests.pictures)
    again = images.encode(images.decode(codes))
    assert (again != codes).any() and torch.equal(whole, prompts.whole(task, requests.texts, torch.cat([again[:2], codes[2:]])))


def test_the_tokenizer_learns_some_maps_and_lone_objects():
    one = replace(TINY, pictures_a_step=7, maps_every=2)
    (images, weights), (plain, _) = (next(pictures(sizes, 3, World())) for sizes in (one, replace(one, maps_every=0)))
    changed = (images - plain).abs().flatten(1).amax(1) > 0
    assert changed.tolist() == [True, False] * 3 + [True] and (weights[changed] == 1).all() and weights[1].max() > 1
    edges, depth, alone = images[0], images[2], images[4]
    assert torch.equal(edges[0], edges[2]) and torch.equal(depth[0], depth[2]) and edges.mean() < depth.mean() < alone.mean()


def test_answers_written_together_are_the_engines(images):
    torch.manual_seed(4)
    base = Lumina(TINY.base(), output_rows="all").eval()  # it says something else at each place
    look, encoder = AnswerEvaluator("caption", TINY, images, base, 3, "train"), TaskPrompts.of_sizes(TINY).encoder
    way = AnswerWay("caption", 16, 4)
    look.of(way)
    for text, picture, answer in zip(look.asked.texts, look.asked.pictures, look.answers):
        prompt = encoder.prompt(text, "understanding", image_tokens(images.encode(picture[None])[0], encoder.layout))
        tokens, start = start_sequence(prompt, 16, encoder.layout)
        assert write(base, tokens, start, TextSettings(length=16, block=4), encoder=encoder).text == answer
    assert len(set(look.answers)) > 1


def test_answers_that_there_is_no_time_for_are_left_out(base, images):
    look = AnswerEvaluator("question", TINY, images, base, 20, "train", until=0.0)
    row = look.of(task_ways("question", TINY)[0])
    assert (row.prompts, row.left_out, len(row.verdicts)) == (8, 12, 8) and "| 8 of 20 |" in table([row])


def test_faults_are_counted_by_what_is_wrong():
    faults = ({"house": "", "map of the duck": ""}, {"elsewhere": "", "house and duck": ""}, {"answer": "", "map": ""}, {"objects": "", "tree": ""})
    found = faults_of([lakeside.Verdict(dict(each)) for each in faults])
    assert found == {"kind": 2, "map": 2, "elsewhere": 1, "relation": 1, "answer": 1, "objects": 1}


def test_answers_are_judged(base, images):
    look = AnswerEvaluator("question", TINY, images, base, 2, "train")
    row = look.of(task_ways("question", TINY)[0], 2)
    assert (row.prompts, row.left_out) == (2, 0) and row.way == "question, room for 8 tokens in blocks of 8" and 0 <= row.right <= 1 and len(row.verdicts) == 2
