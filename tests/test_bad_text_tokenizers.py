"""Text tokenizers that are damaged, of another model or made to do harm, and text that is no text."""

import json
from dataclasses import replace

import pytest
from refusal import refused
from small_model import PROMPT, edit_json, small_config, write_json
from tokenizers import Tokenizer

from migm_core.checkpoints import load_checkpoint
from migm_core.families.lumina_dimoo.prompts import MAX_PROMPT_CHARACTERS, MAX_PROMPT_TOKENS
from migm_core.pipeline import Pipeline


@pytest.mark.parametrize("content", ["{}", "not json", '{"model": {"type": "Moon"}}'])
def test_a_broken_text_tokenizer(copy, content):
    (copy.folder / "tokenizer.json").write_text(content)
    refused(lambda: load_checkpoint(copy.folder), str(copy.folder / "tokenizer.json"))


PANICS = {
    "normalizer": ({"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "precompiled_charsmap is damaged"),
    "model": ({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}, "needs the token 'ab'"),
}


@pytest.mark.parametrize("part", PANICS)
def test_a_text_tokenizer_that_makes_the_library_panic(copy, part):
    """The library's panics are BaseExceptions that no ``except Exception`` catches: a host's worker would die of one."""
    path = copy.folder / "tokenizer.json"
    value, said = PANICS[part]
    edit_json(path, **{part: value})
    with pytest.raises(BaseException) as panic:
        Tokenizer.from_str(path.read_text())
    assert not isinstance(panic.value, Exception)
    refused(lambda: load_checkpoint(copy.folder), str(path), said)


BOMBS = {
    "replaces by more": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100},
    "replaces again and again": {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 30},
    "replaces nothing": {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"Regex": ""}, "content": "aaa"}] * 3},
    "prepends": {"type": "Prepend", "prepend": "a" * 10**6},
    "takes steps": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 1000},
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_text_tokenizer_that_blows_up(copy, what):
    edit_json(copy.folder / "tokenizer.json", normalizer=BOMBS[what])
    refused(lambda: load_checkpoint(copy.folder), "tokenizer.json: normalizer", "belongs to the model")


def test_the_library_reports_no_panic_before_the_sentence(copy, capfd):
    edit_json(copy.folder / "tokenizer.json", pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False})
    refused(lambda: Pipeline.load(copy.folder, device="cpu").generate("a" * 40 + "b"), "tokenizer.json", "prompt")
    assert capfd.readouterr() == ("", "")


def test_a_text_tokenizer_that_fails_on_a_prompt(copy):
    path = copy.folder / "tokenizer.json"
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    edit_json(path, pre_tokenizer=split)  # a panic: the pattern needs more tries than are allowed
    pipeline = Pipeline.load(copy.folder, device="cpu")
    refused(lambda: pipeline.generate("a" * 40 + "b"), str(path), "prompt")
    edit_json(path, pre_tokenizer=None, model={**json.loads(path.read_text())["model"], "unk_token": "[none]"})
    refused(lambda: Pipeline.load(copy.folder, device="cpu").generate("cat"), str(path), "prompt")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_a_prompt_is_read_is_no_fault_of_its_tokenizer(pipeline, interrupt):
    class Interrupted:
        def encode(self, *args, **kwargs):
            raise interrupt

    with pytest.raises(interrupt):
        replace(pipeline.checkpoint.prompts, plain=Interrupted()).prompt(PROMPT)


def test_prompts_are_neither_cut_nor_filled_up(copy, pipeline):
    edit_json(
        copy.folder / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5},
        padding={"strategy": {"Fixed": 30}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"},
    )
    prompts = load_checkpoint(copy.folder).prompts
    assert prompts.prompt(PROMPT).tolist() == pipeline.checkpoint.prompts.prompt(PROMPT).tolist()
    assert prompts.unknown_words("red cat") == ["cat"]


def test_a_text_tokenizer_of_a_larger_model(copy):
    path = copy.folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["unheard"] = 126000
    write_json(path, values)
    refused(lambda: load_checkpoint(copy.folder), str(path), "126000", f"{small_config().vocab_size} rows")


def test_a_prompt_of_5000_words_is_refused_with_the_limit(pipeline):
    words = " ".join(["red house"] * 2500)
    refused(lambda: pipeline.generate(words), "5000 words", str(MAX_PROMPT_TOKENS), error=ValueError)
    refused(lambda: pipeline.generate(PROMPT, words), "5000 words", str(MAX_PROMPT_TOKENS), error=ValueError)
    guided = pipeline.settings(guidance_scale=2.0)
    refused(lambda: pipeline.cautions(guided, PROMPT, words), "The negative prompt has 5000 tokens", error=ValueError)
    assert not pipeline.cautions(replace(guided, guidance_scale=0.0), PROMPT, words)[1:], "it is not read"


def test_a_prompt_of_20_megabytes_is_refused_unread(pipeline):
    prompts = replace(pipeline.checkpoint.prompts, plain=None)  # which would take minutes
    for words in ("red " * 5 * 10**6, "r" * 2 * 10**7):
        refused(lambda: prompts.prompt(words), f"{len(words):,} characters", f"{MAX_PROMPT_CHARACTERS:,}", error=ValueError)
        refused(lambda: prompts.unconditional(words), f"{len(words):,} characters", error=ValueError)
        refused(lambda: prompts.unknown_words(words), f"{len(words):,} characters", error=ValueError)


@pytest.mark.parametrize("text", ["red \ud800 heart", "red \udcff"])
def test_half_a_character_is_no_text(pipeline, text):
    refused(lambda: pipeline.generate(text), f"U+{ord(text[4]):04X} as character 5", error=ValueError)
