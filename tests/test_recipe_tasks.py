"""The recipe's tasks beside text to image: what the base learns is what the engine asks of it, and the judge finds the truth right."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from migm_core.canvas import Canvas
from migm_core.families.lumina_dimoo import tasks as lumina
from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.initial import initialise
from migm_core.families.lumina_dimoo.sequence import image_tokens
from migm_core.families.lumina_dimoo.understanding import start_sequence
from migm_core.families.request import TaskRequest
from migm_core.sampling.loop import sample
from migm_core.sampling.methods import Vanilla
from migm_core.sampling.noise import SeededNoise
from migm_core.tokenizers.amused_vq import ImageTokenizer
from migm_core.training.distributed import World
from migm_core.training.masked import losses
from migm_core.worlds import lakeside
from migm_core.worlds.lakeside.reader import WEIGHTS
from migm_core.worlds.recipe.lessons import pictures
from migm_core.worlds.recipe.padded import PaddedBase
from migm_core.worlds.recipe.sizes import SIZES
from migm_core.worlds.recipe.task_evaluation import AnswerEvaluator, TaskEvaluator
from migm_core.worlds.recipe.task_lessons import TaskPrompts, asked, task_samples
from migm_core.worlds.recipe.tasks import TASKS

TINY, CPU = SIZES["tiny"], torch.device("cpu")
IMAGES = [name for name, task in TASKS.items() if not task.words]
read_by_judge = pytest.mark.skipif(not WEIGHTS.exists(), reason="the reader is not trained: python -m migm_core.worlds.recipe reader FOLDER")


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    model = Lumina(TINY.base(), output_rows="all")
    initialise(model)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return ImageTokenizer(TINY.tokenizer).eval()


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


@read_by_judge
@pytest.mark.parametrize("name", ["edit", "control", "subject"])
def test_the_judge_finds_true_pictures_right_and_those_that_were_shown_wrong(name):
    requests = asked(name, SIZES["card"], 3, "dev", 32, CPU)
    judged = [sum(verdict.right for verdict in TASKS[name].judge(pictures, requests)) for pictures in (requests.truth, requests.pictures)]
    assert judged[0] >= len(requests) - 1 and judged[1] == 0


def test_edits_stay_within_what_the_models_know():
    sizes = replace(TINY, variety=SIZES["cpu"].variety)
    requests = asked("edit", sizes, 5, "train", 60, CPU)
    assert 20 < len(requests) < 60 and sizes.variety.holds(requests.edits.scenes).all() and (requests.edits.scenes.variation == requests.scenes.variation).all()


@pytest.mark.parametrize("name", IMAGES)
def test_a_base_learns_and_samples_what_the_engine_asks_of_it(name, base, images):
    """Filled up and in one batch, three branches give the tokens that the engine's own branches give."""
    look = TaskEvaluator(name, replace(TINY, steps=4), images, base, None, 3, "train")
    row = look.generated(look.ways[0], range(1))
    encoder = TaskPrompts.of_sizes(TINY).encoder
    task = next(task for task in lumina.TASKS.values() if task.system == TASKS[name].system)
    kind = next((kind for kind in task.kinds or {} if task.text("", kind) == look.asked.texts[0]), "")
    request = TaskRequest(task.name, "" if kind else look.asked.texts[0], kind=kind)
    codes = images.encode(look.asked.pictures[:1])[0]
    branches = task.branches(encoder, request, [codes], lumina.TEXT_SCALE, lumina.IMAGE_SCALE)
    with torch.inference_mode():
        own = sample(base, branches, Canvas.empty(1, 8, 8), Vanilla(), look.rule(look.ways[0]), steps=4, noise=SeededNoise([torch.Generator().manual_seed(0)]))
    assert torch.equal(own.codes, row)


def test_answers_are_learned_where_the_engine_writes_them(base, images):
    prompts, requests = TaskPrompts.of_sizes(TINY), asked("question", TINY, 2, "train", 1, CPU)
    ids, weights = prompts.answers(requests.answers, 8)
    said = len(prompts.encoder.text(requests.answers[0]))
    assert (ids[0, said:] == prompts.encoder.layout.eoa).all() and weights[0].tolist() == [1.0] * (said + 1) + [pytest.approx(0.1)] * (7 - said)
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


def test_an_answer_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="9 tokens, expected at most 8"):
        TaskPrompts.of_sizes(TINY).answers(["red " * 9], 8)


def test_batches_are_of_text_to_image_and_of_each_task_in_turn(images):
    batches = task_samples(TINY, images, 0, World())
    seen = [next(batches) for _ in range(2 * len(TINY.tasks))]
    text, others = seen[::2], seen[1::2]
    assert all(codes.dim() == 3 and prompts.shape[1] <= TINY.prompt_length for prompts, codes, _ in text)
    for name, (prompts, codes, weights) in zip(TINY.tasks, others):
        words = TASKS[name].words
        assert codes.shape == weights.shape == ((8, words) if words else (8, 8, 8)) and prompts.shape == (8, TINY.prompt_length + 74)


def test_the_tokenizer_learns_some_maps_and_lone_objects():
    one = replace(TINY, pictures_a_step=7, maps_every=2)
    (images, weights), (plain, _) = (next(pictures(sizes, 3, World())) for sizes in (one, replace(one, maps_every=0)))
    changed = (images - plain).abs().flatten(1).amax(1) > 0
    assert changed.tolist() == [True, False] * 3 + [True] and (weights[changed] == 1).all() and weights[1].max() > 1
    edges, depth, alone = images[0], images[2], images[4]
    assert torch.equal(edges[0], edges[2]) and torch.equal(depth[0], depth[2]) and edges.mean() < depth.mean() < alone.mean()


def test_answers_are_judged(base, images):
    look = AnswerEvaluator("question", TINY, images, base, 2, "train")
    row = look.of(look.ways[0], 2)
    assert row.prompts == 2 and row.way == "question, answers of at most 8 tokens" and 0 <= row.right <= 1 and len(row.verdicts) == 2
