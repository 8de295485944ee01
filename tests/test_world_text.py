"""The lakeside world's English: prompts, edits and questions tell the truth in words that the tokenizer knows."""

import random
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer

from migm_core.families.lumina_dimoo.prompts import PromptEncoder
from migm_core.worlds.lakeside import (
    Variety,
    captions,
    edits,
    judge_answers,
    parse,
    prompts,
    questions,
    sample_scenes,
    subject_prompts,
    text_layout,
    text_tokenizer,
    unknown_words,
)
from migm_core.worlds.lakeside.scene import COLOURS, GROUNDS, KIND_FINISHES, KIND_NAMES, NONE, RELATIONS, SIZES, TIMES, WEATHERS
from migm_core.worlds.lakeside.words import WORDS, split_words

FIELDS = ("time", "weather", "ground", "kind", "colour", "size", "finish", "relation")


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(600, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokenizer():
    return text_tokenizer()


@pytest.mark.parametrize("complete", [False, True])
def test_prompts_say_nothing_that_the_scene_is_not(scenes, complete):
    request, truth = parse(prompts(scenes, 1, complete)), scenes.request()
    for name in FIELDS:
        said, true = getattr(request, name), getattr(truth, name)
        assert ((said == true) | (said == NONE)).all(), name


def test_words_for_what_a_model_has_never_seen_are_unknown_to_it_and_all_others_keep_their_ids(tokenizer):
    unlearned = Variety(sizes=("large",)).unlearned()
    assert "small" in unlearned and "large" not in unlearned and not Variety().unlearned()
    encoder = PromptEncoder.of(text_tokenizer(unlearned), text_layout(16))
    assert encoder.unknown_words("A small red balloon and a large tent.") == ["small"]
    said = "A large red balloon, at dusk."
    assert text_tokenizer(unlearned).encode(said).ids == tokenizer.encode(said).ids


def test_complete_prompts_say_everything_and_others_leave_something_open(scenes):
    full, some, truth = parse(captions(scenes, 1)), parse(prompts(scenes, 1)), scenes.request()
    has_choice = KIND_FINISHES[scenes.kind.clamp(0)].diff(dim=-1)[..., 0] != 0
    for name in ("time", "weather", "ground", "kind", "colour", "size"):
        assert torch.equal(getattr(full, name), getattr(truth, name))
        assert name == "kind" or not torch.equal(getattr(some, name), getattr(truth, name))
    assert torch.equal(full.finish[has_choice], truth.finish[has_choice])
    related = (full.relation != NONE).any(2)
    assert torch.equal(related[:, 1:], scenes.present[:, 1:]), "each object after the first is related to an earlier one"


def test_prompts_are_one_to_three_sentences_in_ever_new_wording(scenes):
    sentences = [prompt.count(".") for prompt in prompts(scenes, 2)]
    assert set(sentences) == {1, 2, 3}
    once = prompts(scenes[:1][torch.zeros(50, dtype=torch.int64)], 3)
    assert len(set(once)) > 45
    assert prompts(scenes[:5], 4) == prompts(scenes[:5], 4)


def test_every_word_of_every_task_is_known(scenes):
    texts = prompts(scenes, 5) + edits(scenes, 5).instructions + [text for pair in questions(scenes, 5) for text in pair]
    texts += subject_prompts(scenes, torch.zeros(len(scenes), dtype=torch.int64), 5)
    texts += [f"Generate a {name} map according to the image." for name in ("canny edge", "depth")]
    assert {word for text in texts for word in unknown_words(text)} == set()


def test_unknown_words_are_named():
    assert unknown_words("A red submarine, and a submarine near the House!") == ["submarine", "near"]


@pytest.mark.parametrize(
    "prompt, first, second, relation",
    [
        ("A tent left of a tree.", "tent", "tree", "right of"),
        ("To the left of the tree is a red tent.", "tree", "tent", "left of"),
        ("A house, and in front of it a duck", "house", "duck", "in front of"),
        ("There is a yacht. A stone windmill stands behind it.", "sailboat", "windmill", "behind"),
        ("under a cloudy sky a zeppelin over a cottage", "airship", "house", "below"),
        ("A kite above a lighthouse under an overcast sky", "kite", "lighthouse", "below"),
    ],
)
def test_relations_are_read_in_either_order(prompt, first, second, relation):
    request = parse([prompt])
    assert [KIND_NAMES[k] for k in request.kind[0, :2]] == [first, second]
    assert RELATIONS[request.relation[0, 1, 0]] == relation


def test_places_are_open_where_nothing_is_said_of_several_objects():
    request = parse(["A boat.", "A boat and a lighthouse.", "A boat left of a lighthouse.", "A lighthouse at night. There is a boat, too."])
    assert request.places_open.tolist() == [False, True, False, True]


def test_attributes_may_follow_in_a_sentence_of_their_own():
    request = parse(["It is a foggy evening in the snow. There is a cottage made of wood. The house is big and violet."])
    assert TIMES[request.time] == "sunset" and WEATHERS[request.weather] == "misty" and GROUNDS[request.ground] == "snow"
    assert COLOURS[request.colour[0, 0]] == "purple" and SIZES[request.size[0, 0]] == "large"


@pytest.mark.parametrize("prompt", ["A red house. The house is blue.", "A wooden balloon.", "A day at night.", "A house left of the house."])
def test_contradictions_are_refused(prompt):
    with pytest.raises(ValueError, match="house|balloon|night"):
        parse([prompt])


def test_the_tokenizer_is_a_file_of_the_published_form(scenes, tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    layout = text_layout(1024)
    encoder = PromptEncoder.of(loaded, layout)
    for prompt in prompts(scenes[:50], 6):
        ids = encoder.text(prompt)
        assert loaded.decode(ids).split() == split_words(prompt)
    assert encoder.text("a submarine")[1] == WORDS.index("[unknown]")
    assert loaded.get_vocab_size() <= layout.image_codes
    special = {name: value for name, value in vars(layout).items() if name not in ("image_codes", "codebook_size")}
    assert loaded.token_to_id("<boi>") == special["boi"] and loaded.token_to_id("<uncondition>") == special["uncondition"]
    assert len(encoder.prompt("a duck", "editing")) == 2 + 5, "a system prompt is one token"


def test_special_tokens_in_a_prompt_stay_text(tokenizer):
    encoder = PromptEncoder.of(tokenizer, text_layout(1024))
    assert text_layout(1024).boi not in encoder.text("a <boi> duck")


def test_an_edit_changes_what_it_names_and_nothing_else(scenes):
    edited = edits(scenes, 7)
    assert set(edited.names) == {"colour", "size", "finish", "remove", "add", "replace", "time", "weather", "ground"}
    for n, name in enumerate(edited.names):
        before, after = scenes[n : n + 1].request(), edited.scenes[n : n + 1].request()
        changed = {field for field in FIELDS if not torch.equal(getattr(before, field), getattr(after, field))}
        if name in ("colour", "size", "finish", "time", "weather", "ground"):
            assert changed == {name}
        elif name == "replace":
            assert {"kind"} <= changed <= {"kind", "finish"}
        else:
            assert "kind" in changed
            assert int(after.kind.ge(0).sum() - before.kind.ge(0).sum()) == (1 if name == "add" else -1)
        said = parse([edited.instructions[n]])
        if name in ("time", "weather", "ground", "colour", "size"):
            values, truth = getattr(said, name), getattr(after, name)
            assert set(values.flatten().tolist()) - {NONE} <= set(truth.flatten().tolist())
    assert torch.equal(edited.scenes.texture, scenes.texture)


def test_a_new_object_is_where_the_instruction_puts_it(scenes):
    edited = edits(scenes, 8)
    for n, name in enumerate(edited.names):
        if name == "add":
            said = parse([edited.instructions[n]])
            slot = edited.slot[n]
            assert edited.request.kind[n, slot] == said.kind[0, 0]
            held = edited.request.relation[n, slot]
            assert (held != NONE).sum() == 1
            first = held[held != NONE]
            assert torch.equal(torch.tensor([1, 0, 3, 2, 5, 4])[first], said.relation[0, 1, 0][None])


def test_answers_are_true_and_short(scenes):
    asked = questions(scenes, 9)
    assert all(1 <= len(answer.split()) <= 3 for _, answer in asked)
    times = scenes.time.tolist()
    counts = scenes.present.sum(1).tolist()
    numbers = ["none", "one", "two", "three", "four"]
    seen = set()
    for n, (question, answer) in enumerate(asked):
        words = split_words(question)
        kinds = [KIND_NAMES[k] for k in scenes.kind[n].tolist() if k >= 0]
        named = [KIND_NAMES[k] for k in parse([question]).kind[0].tolist() if k >= 0]
        if "time" in words:
            assert answer == TIMES[times[n]]
        elif words[:4] == ["how", "many", "objects", "are"] and words[4] == "there" or "do you see" in question:
            assert answer == numbers[counts[n]]
        elif words[0] in ("is", "do") and words[1] in ("there", "you"):
            assert answer == ("yes" if named[0] in kinds else "no")
        elif "colour" in words or "color" in words:
            assert answer == COLOURS[scenes.colour[n, kinds.index(named[0])]]
        else:
            continue
        seen.add(words[0])
    assert seen >= {"what", "how", "is", "do"}


def test_answers_are_judged_by_their_words():
    asked = [("What is left of the house?", "tree"), ("Is there a kite?", "no")]
    assert judge_answers(["A tree.", "no"], asked) == [True, True]
    assert judge_answers(["a tent", "No kite"], asked) == [False, False]


def test_subject_prompts_leave_the_subjects_look_open(scenes):
    some = scenes[:60]
    slots = torch.tensor([random.Random(n).randrange(int(c)) for n, c in enumerate(some.present.sum(1))])
    said = parse(subject_prompts(some, slots, 10))
    rows = torch.arange(60)
    assert (said.colour[rows, slots] == NONE).all() and (said.finish[rows, slots] == NONE).all()
    truth = replace(some, colour=some.colour).request()
    others = torch.arange(4) != slots[:, None]
    assert torch.equal(said.colour[others], truth.colour[others])
