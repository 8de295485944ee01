"""Answers in words: as they are written, where they end, what they cost, and the likeliest of given ones."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from refusal import refused_request as refused
from small_model import edit_tensors, make_small_model, small_config

from migm_core.checkpoints import QUANTISED, CheckpointError, convert, load_checkpoint
from migm_core.families.lumina_dimoo import pictures
from migm_core.families.lumina_dimoo.config import LuminaConfig, TokenLayout
from migm_core.families.lumina_dimoo.inputs import for_reading
from migm_core.families.lumina_dimoo.pictures import to_pixels
from migm_core.families.lumina_dimoo.reading import option_rows
from migm_core.families.lumina_dimoo.sequence import image_tokens
from migm_core.families.lumina_dimoo.text_output import load_text_output
from migm_core.families.lumina_dimoo.text_settings import TextSettings
from migm_core.families.lumina_dimoo.understanding import TextSequence, cut, end_of, start_sequence, write
from migm_core.modules.transformer import KeyValueCache
from migm_core.pipeline import Pipeline
from migm_core.trained import Trained

QUESTION = "large red house"
SHORT = {"length": 16, "block": 8, "stop": "never"}


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Pipeline:
    """A tiny model of its own, since questions give it more rows; pictures to be read have 32x32 pixels."""
    made = make_small_model(tmp_path_factory.mktemp("reader"))
    pipeline = Pipeline.load(made.folder, None, dtype="fp32", device="cpu")
    pipeline.checkpoint = replace(pipeline.checkpoint, trained=Trained(((32, 32),)))
    return pipeline


@pytest.fixture(scope="module")
def layout(reader) -> TokenLayout:
    return reader.checkpoint.base.config.tokens


def picture(colour: str) -> Image.Image:
    image = Image.new("RGB", (40, 40), colour)
    image.paste("white", (5, 9, 20, 31))
    return image


# The rows that text needs.


def test_text_rows_are_loaded_when_a_question_is_asked(small):
    checkpoint, whole = load_checkpoint(small.folder, dtype="fp32"), load_checkpoint(small.folder, dtype="fp32", output_rows="all")
    features = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="image codes' rows"):
        write(checkpoint.base, tokens, 1, TextSettings(2, 2))
    images_only = checkpoint.base.code_logits(features)
    load_text_output(checkpoint)
    assert torch.equal(checkpoint.base.logits(features), whole.base.logits(features))
    assert torch.equal(checkpoint.base.code_logits(features), images_only)
    before = checkpoint.base.text_out
    load_text_output(checkpoint)
    assert checkpoint.base.text_out is before
    load_text_output(whole)
    assert whole.base.text_out is None, "it has all rows already"


@pytest.mark.parametrize("dtype", ["bf16", "fp8", "int8"])
def test_text_rows_come_from_files_of_other_kinds(small, tmp_path, dtype):
    path = tmp_path / "one.safetensors"
    convert(small.folder, path, dtype=QUANTISED.get(dtype, torch.bfloat16))
    checkpoint, whole = load_checkpoint(path, dtype="fp32"), load_checkpoint(path, dtype="fp32", output_rows="all")
    load_text_output(checkpoint)
    features = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(checkpoint.base.logits(features), whole.base.logits(features))


def test_images_are_the_same_before_and_after_a_question(reader):
    before = reader.generate(QUESTION, steps=3).tokens
    reader.understand(QUESTION, **SHORT)
    assert torch.equal(reader.generate(QUESTION, steps=3).tokens, before)


# The answer as it is written.


def test_the_answer_grows_and_what_was_shown_stays(reader):
    reports = []
    reply = reader.understand(QUESTION, picture("red"), **SHORT, callback=reports.append)
    assert [report.index for report in reports] == [*range(16)]
    assert [report.block for report in reports] == [0] * 8 + [1] * 8
    for earlier, later in zip(reports, reports[1:]):
        assert later.text.startswith(earlier.text)
    assert reports[-1].text == reply.text and torch.equal(reports[-1].tokens, reply.answer.tokens)
    assert any(report.text for report in reports[:-1]), "words before the end"


def test_what_a_callback_raises_ends_the_run(reader):
    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reader.understand(QUESTION, **SHORT, callback=stop)


def test_seeds_and_temperature(reader):
    one, same, other = (reader.understand(QUESTION, **SHORT, temperature=1.0, seed=seed).answer.tokens for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(*(reader.understand(QUESTION, **SHORT, seed=seed).answer.tokens for seed in (1, 2))), "no noise at temperature 0"
    assert not torch.equal(*(reader.understand(QUESTION, **SHORT, remasking="random", seed=seed).answer.unmasked_at for seed in (1, 2)))


def test_fewer_passes_write_several_tokens_each(reader):
    answer = reader.understand(QUESTION, **SHORT, steps=4).answer
    assert answer.unmasked_at.sort().values.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert answer.passes == 4


def test_log_probabilities_are_those_of_the_written_tokens(reader, layout):
    prompt = reader.checkpoint.prompts.prompt(QUESTION, "understanding")
    tokens, start = start_sequence(prompt, 4, layout)
    load_text_output(reader.checkpoint)
    base = reader.checkpoint.base
    answer = write(base, tokens, start, TextSettings(4, 4, steps=1, stop="never"))
    with torch.no_grad():
        logits = base.logits(base(tokens, base.rotary(tokens.shape[1], tokens.device)))[0, start : start + 4]
    expected = logits.double().log_softmax(-1).gather(-1, answer.tokens[:, None])[:, 0]
    assert torch.allclose(answer.log_probability.double(), expected, atol=1e-5)
    assert answer.tokens.tolist() == logits.argmax(-1).tolist()


# Pictures.


def test_pictures_stand_in_order_before_the_end_of_the_question(reader, layout):
    seen = []
    base = reader.checkpoint.base
    features = type(base).features

    def spy(sequence, cache=None):
        seen.append(sequence.tokens[0].tolist())
        return features(base, sequence, cache)

    base.features = spy
    try:
        reply = reader.understand(QUESTION, [picture("red"), picture("blue")], **SHORT)
    finally:
        del base.features
    codes = [reader.encode(to_pixels(each)).codes[0] for each in reply.pictures]
    assert not torch.equal(*codes)
    shown = [token for each in codes for token in image_tokens(each, layout).tolist()]
    text = reader.checkpoint.prompts.prompt(QUESTION, "understanding").tolist()
    assert seen[0] == [*text[:-1], *shown, text[-1], layout.boa, *[layout.mask] * 16, layout.eoa]
    assert [each.size for each in reply.pictures] == [(32, 32)] * 2


def test_questions_on_one_picture_encode_it_once(reader, monkeypatch):
    encoded, encode = [], reader.encode
    monkeypatch.setattr(reader, "encode", lambda pixels: encoded.append(1) or encode(pixels))
    questions = [QUESTION, "small blue tree"]
    replies = reader.understand(questions, picture("red"), **SHORT)
    assert len(encoded) == 1
    told = []
    reader.understand(questions, picture("red"), **SHORT, callback=lambda report: told.append(report.question))
    assert told == [0] * 16 + [1] * 16
    for question, reply in zip(questions, replies):
        assert torch.equal(reader.understand(question, picture("red"), **SHORT).answer.tokens, reply.answer.tokens)


# Where an answer ends.


def test_an_answer_is_cut_at_its_first_end():
    layout = TokenLayout()
    end = [layout.eoa, layout.padding, layout.end_of_text]
    for first in end:
        assert cut([5, 6, first, 7], layout) == [5, 6]
        assert end_of([5, 6, first, 7], layout) == 2
    assert cut([5, layout.mask, layout.image_codes, layout.image_codes + 9000, 6], layout) == [5, 6]
    assert end_of([5, layout.mask, layout.eoa], layout) is None, "a mask before it may still become a word"
    assert end_of([5, 6], layout) is None


def test_a_run_stops_after_the_block_in_which_the_answer_ends(reader, layout):
    load_text_output(reader.checkpoint)
    endless = reader.understand(QUESTION, length=24, block=8, stop="never").answer
    token = int(endless.tokens[3])
    base = with_tokens(reader.checkpoint.base, end_of_text=token)
    tokens, start = start_sequence(reader.checkpoint.prompts.prompt(QUESTION, "understanding"), 24, layout)
    first = endless.tokens.tolist().index(token)
    answer = write(base, tokens, start, TextSettings(24, 8))
    assert answer.passes == 8 * (first // 8 + 1) < 24
    assert answer.end == first
    assert (answer.tokens[answer.passes :] == layout.mask).all(), "blocks that were not begun"
    assert write(base, tokens, start, TextSettings(24, 8, stop="never")).passes == 24


def with_tokens(base, **ids):
    """The same model with another token layout."""
    other = type(base)(replace(base.config, tokens=replace(base.config.tokens, **ids)), device="meta")
    other.load_state_dict({name: tensor for name, tensor in base.state_dict().items() if not name.startswith("text_out")}, assign=True)
    other.text_out = base.text_out
    return other.eval()


def test_an_answer_that_has_no_end_is_said_to_be_unfinished(reader):
    reply = reader.understand(QUESTION, length=16, block=8)
    assert reply.answer.end is None
    assert "not finished in 16 tokens" in reply.notes[-1]


# Keys and values kept between passes.


def test_a_cached_pass_is_a_full_one_where_nothing_has_changed(reader, layout):
    base = reader.checkpoint.base
    tokens, start = start_sequence(reader.checkpoint.prompts.prompt(QUESTION, "understanding"), 8, layout)
    sequence, cache = TextSequence(tokens, base.rotary(tokens.shape[1], tokens.device)), KeyValueCache()
    with torch.inference_mode():
        full = base.features(sequence, cache)
        positions = torch.arange(start, tokens.shape[1])[None]
        assert torch.allclose(base.features_at(sequence, positions, cache), full[:, start:], atol=1e-5)


def test_the_cache_computes_the_answer_alone_and_reports_its_error(reader, monkeypatch):
    base = reader.checkpoint.base
    load_text_output(reader.checkpoint)
    full, part = counted(base, "features", monkeypatch), counted(base, "features_at", monkeypatch)
    for guidance_scale in (0.0, 1.5):
        full.clear(), part.clear()
        answer = reader.understand(QUESTION, picture("red"), length=24, block=8, stop="never", cache=True, guidance_scale=guidance_scale).answer
        assert (len(full), len(part)) == (3, 3 * 7 + 2), "one full pass a block; at the next block's start the old keys are tried once more"
        assert len(answer.cache_errors) == 2
        for error in answer.cache_errors:
            assert error.kl > 0 and error.cosine < 1 and 0 <= error.changed <= 1
        reply = reader.understand(QUESTION, length=16, block=8, stop="never", cache=True)
        assert "nats" in reply.notes[-1] and "differed" in reply.notes[-1]
    full.clear()
    assert len(reader.understand(QUESTION, length=8, block=8, stop="never", cache=True).answer.cache_errors) == 1, "of one block, its last pass"
    assert len(full) == 2


def test_the_cache_is_exact_where_every_pass_starts_a_block(reader):
    exact, cached = (reader.understand(QUESTION, **SHORT, steps=2, cache=cache).answer for cache in (False, True))
    assert torch.equal(exact.tokens, cached.tokens)
    assert reader.understand(QUESTION, **SHORT).answer.cache_errors == ()


def counted(base, name: str, monkeypatch) -> list:
    calls, method = [], getattr(base, name)
    monkeypatch.setattr(base, name, lambda *args, **kwargs: calls.append(1) or method(*args, **kwargs), raising=False)
    return calls


# The likeliest of some answers.


def test_a_choice_takes_one_pass_and_compares_likelihoods(reader, layout, monkeypatch):
    options = ["red", "blue tree", "large", "small red house"]
    base, prompts = reader.checkpoint.base, reader.checkpoint.prompts
    load_text_output(reader.checkpoint)
    calls = counted(base, "features", monkeypatch)
    choice = reader.choose("which one", options, picture("red"))
    assert len(calls) == 1
    codes = reader.encode(to_pixels(choice.pictures[0])).codes[0]
    prompt = prompts.prompt("which one", "understanding", image_tokens(codes, layout))
    for option, likelihood in zip(options, choice.log_likelihoods):
        ids = prompts.text(option)
        row = torch.cat([prompt, torch.tensor([layout.boa, *[layout.mask] * len(ids), layout.eoa, *[layout.eoa] * (3 - len(ids))])])[None]
        with torch.no_grad():
            logits = base.logits(base(row, base.rotary(row.shape[1], row.device)))[0, len(prompt) + 1 :]
        expected = logits[: len(ids)].log_softmax(-1)[range(len(ids)), ids].mean()
        assert likelihood == pytest.approx(expected.item(), abs=1e-4)
    assert choice.log_likelihoods[choice.index] == max(choice.log_likelihoods) and choice.option == options[choice.index]
    assert sum(choice.probabilities) == pytest.approx(1)


def test_choices_on_one_picture_encode_it_once(reader, monkeypatch):
    encoded, encode = [], reader.encode
    monkeypatch.setattr(reader, "encode", lambda pixels: encoded.append(1) or encode(pixels))
    questions, options = [QUESTION, "small blue tree"], ["red", "large blue"]
    choices = reader.choose(questions, options, picture("red"))
    assert len(encoded) == 1
    for question, choice in zip(questions, choices, strict=True):
        assert reader.choose(question, options, picture("red")).log_likelihoods == choice.log_likelihoods
    assert choices[0].log_likelihoods != choices[1].log_likelihoods
    refused(lambda: reader.choose([], options), "list of questions is empty")


def test_options_are_filled_up_with_padding():
    layout = TokenLayout()
    rows = option_rows(torch.tensor([7]), [1, 3], 3, layout)
    assert rows.tolist() == [
        [7, layout.boa, layout.mask, layout.eoa, layout.padding, layout.padding],
        [7, layout.boa, layout.mask, layout.mask, layout.mask, layout.eoa],
    ]


# The layout of smaller models.


def test_a_model_that_names_no_padding_has_none(tmp_path):
    assert LuminaConfig().tokens.padding == 126339
    config = small_config()
    assert config.tokens.padding is None and config.tokens.padding not in config.tokens.ends
    assert LuminaConfig.from_json(config.to_json()).tokens == config.tokens
    named = small_config(tokens=replace(config.tokens, padding=3))
    assert LuminaConfig.from_json(named.to_json()).tokens.ends[1] == 3


# Bad input: one sentence each.


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"length": 100, "block": 32}, ("length is 100", "blocks of 32", "Take 96 or 128")),
        ({"length": 20, "block": 32}, ("length is 20", "Take 32")),
        ({"length": 64, "block": 16, "steps": 10}, ("steps is 10", "4 blocks", "Take 8 or 12")),
        ({"length": 0}, ("length is 0",)),
        ({"length": 10**6}, ("length is 1000000",)),
        ({"block": 2.5}, ("block is 2.5",)),
        ({"temperature": -1}, ("temperature is -1",)),
        ({"guidance_scale": float("nan")}, ("guidance_scale is nan",)),
        ({"remasking": "low"}, ("remasking is 'low'", "low-confidence, random")),
        ({"stop": "now"}, ("stop is 'now'", "answer, end-of-text, never")),
        ({"lenght": 8}, ("lenght", "Did you mean 'length'")),
    ],
    ids=lambda value: None,
)
def test_settings_out_of_range_are_refused(reader, settings, expected):
    refused(lambda: reader.understand(QUESTION, **settings), *expected)


@pytest.mark.parametrize(
    ("question", "images", "expected"),
    [
        ("", (), ("question is empty",)),
        (7, (), ("question is int",)),
        ("heart " * 3000, (), ("The question has 3000 tokens (3000 words)", "limit is 2048", "Shorten it")),
        (QUESTION, [Image.new("RGB", (1, 1))], ("1x1",)),
        (QUESTION, [picture("red"), "nothing.png"], ("Picture 2", "nothing.png", "does not exist")),
        (QUESTION, torch.full((32, 32, 3), float("nan")), ("not finite",)),
    ],
    ids=lambda value: None,
)
def test_questions_and_pictures_that_cannot_be_are_refused(reader, question, images, expected):
    refused(lambda: reader.understand(question, images, **SHORT), *expected)


def test_more_pictures_than_a_pass_can_hold_are_refused_before_they_are_encoded():
    shown = [Image.new("RGB", (32, 32))] * 65
    one = [picture.size for picture in for_reading(shown[:2], lambda pixels: torch.zeros(1, 32, 32), 16).pictures]
    assert one == [(512, 512)] * 2
    refused(lambda: for_reading(shown, lambda pixels: pytest.fail("encoded"), 16), "65 pictures", "66,560 image tokens", "limit is 65,536")
    assert len(for_reading(shown[:64], lambda pixels: torch.zeros(1, 32, 32), 16).pictures) == 64
    refused(lambda: for_reading(shown[:17], lambda pixels: pytest.fail("encoded"), 8), "17 pictures", "69,632 image tokens")


def test_a_picture_is_not_scaled_to_more_than_a_pass_can_hold(monkeypatch):
    monkeypatch.setattr(pictures, "fit", lambda *_: pytest.fail("scaled"))
    refused(lambda: for_reading(Image.new("RGB", (32, 32)), lambda pixels: pytest.fail("encoded"), 16, [(20000, 20000)]), "1,562,500 image tokens", "limit is 65,536")


def test_weights_that_are_no_numbers_are_named(copy):
    edit_tensors(copy.folder / "model.safetensors", lambda tensors: tensors["model.transformer.ln_f.weight"].fill_(float("nan")))
    broken = Pipeline.load(copy.folder, None, dtype="fp32", device="cpu")
    for ask in (lambda: broken.understand(QUESTION, **SHORT), lambda: broken.choose(QUESTION, ["red", "blue"])):
        with pytest.raises(CheckpointError, match=r"model.transformer.ln_f.weight holds values that are not finite"):
            ask()


@pytest.mark.parametrize(("options", "expected"), [(["red"], "1 options"), (["red", ""], "option ''"), ("red blue", "options is 'red blue'"), ([b"red", b"blue"], "must be a list of texts"), (5, "options is 5"), (["red"] * 65, "65 options")])
def test_options_that_cannot_be_are_refused(reader, options, expected):
    refused(lambda: reader.choose(QUESTION, options), expected)
