"""Text tokenizers that cut, fill up, blow up or fail, and prompts that are no text."""

import json
import random

from small_model import PROMPT

from .room import Room, drawn
from .trying import Attempt, python

LONG = 20 * 10**6  # letters; such a prompt is refused, or used, within a second
PROMPTS = (
    *("", " ", "\n" * 100, "\0", "\ud800", "a\udcff", "\udce4 latin-1", "\u202e\u200b\ufeff", "e" + "\u0301" * 5000, "🫠" * 50, "cat " * 5000),
    *("a" * 100_000, "<|mdm_mask|>", "<system>", "</user>", "\x1b[31m", "кот", "%s {} \\", "a" * 40 + "b"),
)


def _replace(before: str, after: str, count: int = 1) -> dict:
    each = {"type": "Replace", "pattern": {"String": before}, "content": after}
    return each if count == 1 else {"type": "Sequence", "normalizers": [each] * count}


def _split(pattern: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


# A part of tokenizer.json, and whether it must be refused, must change nothing, or may do either.
PARTS = {
    "cuts": ({"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}}, "right"),
    "cuts badly": ({"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5}}, "right"),
    "fills up": ({"padding": {"strategy": {"Fixed": 30}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}}, "right"),
    "fills up to 10^9": ({"padding": {"strategy": {"Fixed": 10**9}, "direction": "Left", "pad_to_multiple_of": 2**40, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}}, "right"),
    "replaces by more": ({"normalizer": _replace("a", "a" * 10_000)}, "either"),
    "replaces by ever more": ({"normalizer": _replace("a", "aaaaaaaaaa", 12)}, "either"),
    "replaces by a gigabyte": ({"normalizer": _replace("a", "aa" * 10, 8)}, "either"),
    "replaces nothing": ({"normalizer": _replace("", "aaaa", 10)}, "either"),
    "prepends": ({"normalizer": {"type": "Prepend", "prepend": "a" * 10**6}}, "either"),
    "a charsmap that is none": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "refused"),
    "a charsmap of noise": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "QUFB" * 1000}}, "either"),
    "an unknown normalizer": ({"normalizer": {"type": "Moon"}}, "refused"),
    "splits forever": ({"pre_tokenizer": _split("(a+)+$")}, "either"),
    "splits by a bad pattern": ({"pre_tokenizer": _split("(((")}, "refused"),
    "splits by a large pattern": ({"pre_tokenizer": _split("(" * 5000 + "a" + ")" * 5000)}, "either"),
    "splits by a{10000}{10000}": ({"pre_tokenizer": _split("a{1000}{1000}{1000}")}, "either"),
    "a merge of no token": ({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}, "refused"),
    "no model": ({"model": None}, "refused"),
    "an unknown model": ({"model": {"type": "Moon"}}, "refused"),
    "an empty vocabulary": ({"model": {"type": "WordLevel", "vocab": {}, "unk_token": "[UNK]"}}, "either"),
    "an unknown token that is none": ({"model": {"type": "WordLevel", "vocab": {"cat": 0}, "unk_token": "[none]"}}, "either"),
    "ids past the table": ({"model": {"type": "WordLevel", "vocab": {"cat": 0, "[UNK]": 10**6}, "unk_token": "[UNK]"}}, "refused"),
    "ids past all numbers": ({"model": {"type": "WordLevel", "vocab": {"[UNK]": 2**32}, "unk_token": "[UNK]"}}, "refused"),
    "negative ids": ({"model": {"type": "WordLevel", "vocab": {"[UNK]": -1}, "unk_token": "[UNK]"}}, "refused"),
    "unigram without its unknown": ({"model": {"type": "Unigram", "unk_id": 10**6, "vocab": [["a", -1.0]]}}, "refused"),
    "unigram of NaN": ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", float("nan")], ["b", 1e308]]}}, "either"),
    "word pieces of no end": ({"model": {"type": "WordPiece", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]", "continuing_subword_prefix": "", "max_input_chars_per_word": 10**9}}, "either"),
    "a template of ids past the table": (
        {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [], "special_tokens": {"x": {"id": "x", "ids": [10**9], "tokens": ["x"]}}}},
        "either",
    ),
    "added tokens past the table": ({"added_tokens": [{"id": 10**6, "content": "moon", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}]}, "either"),
    "an added token of no letters": ({"added_tokens": [{"id": 0, "content": "", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}]}, "either"),
    "ten thousand normalizers": ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 10_000}}, "either"),
    "normalizers in each other": (None, "either"),
    "another version": ({"version": "9.9"}, "either"),
}


def plan(rng: random.Random, room: Room) -> Attempt:
    return rng.choices((_part, _prompt, _long, _damaged), (8, 5, 2, 3))[0](rng, room)


def _part(rng: random.Random, room: Room) -> Attempt:
    path = room.model / "tokenizer.json"
    name = rng.choice(list(PARTS))
    values, expected = PARTS[name]
    if values is None:
        depth = rng.choice((10, 50, 120, 10_000))
        inner = '{"type": "Sequence", "normalizers": [' * depth + '{"type": "Lowercase"}' + "]}" * depth
        path.write_text(path.read_text().rstrip()[:-1] + ', "normalizer": ' + inner + "}")
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    prompt = PROMPT if expected == "right" else rng.choice((PROMPT, "a" * 100_000, "a" * 40 + "b", "a"))
    return Attempt(name, lambda: python(lambda: room.run(prompt=prompt)), ((path.name, "prompt"),), expected, room.same if expected == "right" else drawn, room.folder)


def _prompt(rng: random.Random, room: Room) -> Attempt:
    prompt = rng.choice(PROMPTS) if rng.random() < 0.7 else "".join(chr(rng.randrange(0x11000)) for _ in range(rng.choice((1, 10, 300))))
    return Attempt(f"prompt {ascii(prompt)[:40]}", lambda: python(lambda: room.run(prompt=prompt)), (("prompt", "Prompt"),), "either", drawn, room.folder)


def _long(rng: random.Random, room: Room) -> Attempt:
    prompt = rng.choice(("a", "a ", "\n", "ä", "🫠", "\ud800", "red cat "))
    prompt *= LONG // len(prompt.encode("utf-8", "surrogatepass"))
    pipeline = room.load()
    negative = rng.random() < 0.3
    action = (lambda: pipeline.generate(PROMPT, prompt, steps=2, guidance_scale=1.0)) if negative else (lambda: pipeline.generate(prompt, steps=2))
    return Attempt(f"{LONG:,} bytes of {ascii(prompt[:2])}", lambda: python(action), ("prompt",), "refused", seconds=1)


def _damaged(rng: random.Random, room: Room) -> Attempt:
    """A value of tokenizer.json replaced."""
    from .json_files import _changed, _path

    path = room.model / "tokenizer.json"
    values, where, value = _changed(rng, json.loads(path.read_text()))
    path.write_text(json.dumps(values), "utf-8", "surrogatepass")
    return Attempt(f"{_path(where)} = {ascii(value)[:40]}" if not isinstance(value, int) else _path(where), lambda: python(lambda: room.run()), (path.name,), "either", drawn, room.folder)
