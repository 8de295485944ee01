"""JSON of every file and of metadata: other values, other kinds, other text."""

import copy
import json
import random
from pathlib import Path

from .room import Room, drawn, edit_metadata
from .trying import Attempt, python

FILES = ("model/config.json", "model/vqvae/config.json", "model/generation_config.json", "model/tokenizer.json", "sharded/model.safetensors.index.json")
METADATA = ("config", "vqvae_config", "generation_config")  # of the single file
# The kinds of values that decide what is computed. A value of another kind must be refused.
KINDS = {
    **dict.fromkeys(("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size", "vocab_size", "embedding_size", "max_sequence_length"), int),
    **dict.fromkeys(("rms_norm_eps", "rope_theta"), float),
    **dict.fromkeys(("latent_channels", "layers_per_block", "norm_num_groups", "num_vq_embeddings", "in_channels", "out_channels"), int),
    **dict.fromkeys(("width", "height", "steps", "budget"), int),
    **dict.fromkeys(("guidance_scale", "temperature"), float),
    **dict.fromkeys(("mask", "newline", "boi", "eoi", "boa", "eoa", "uncondition", "system", "user", "image_codes", "codebook_size"), int),
}
VALUES = (
    *(None, True, False, "", "64", "large", [], {}, [1], {"a": 1}, 0, -1, 1, 2, 5, 1.5, 1e30, -0.0, 10**9, 2**31, 2**63, 2**64 - 1, 10**30),
    *(10**400, -(10**400), float("inf"), float("-inf"), float("nan"), "\ud800", "\x1b[31mred\n", "\0", "x" * 10**5, [[]] * 1000, "../../etc/passwd"),
)


def plan(rng: random.Random, room: Room) -> Attempt:
    return rng.choices((_value, _value_in_metadata, _text, _text_in_metadata), (6, 2, 3, 1))[0](rng, room)


def _paths(values: object, before: tuple = ()) -> list[tuple]:
    """Where the values of a JSON object are; of long tables some."""
    found = []
    items = list(values.items()) if isinstance(values, dict) else list(enumerate(values)) if isinstance(values, list) else []
    for key, value in items[:40]:
        found += [(*before, key), *_paths(value, (*before, key))]
    return found


def _changed(rng: random.Random, values: dict) -> tuple[dict, tuple, object]:
    """An object with one value replaced, taken away or added; where, and by what."""
    values = copy.deepcopy(values)
    keys = _paths(values)
    where, value = rng.choice(keys), rng.choice(VALUES)
    if rng.random() < 0.1:
        where = (rng.choice(("attention_bias", "rope_scaling", "trained", "moon", "tokens", "\x1b[2Jkey\n", "k" * 10_000)),)
    inner = values
    for key in where[:-1]:
        inner = inner[key]
    if rng.random() < 0.1 and where[-1] in (inner if isinstance(inner, dict) else range(len(inner))):
        del inner[where[-1]]
        return values, where, "nothing"
    inner[where[-1]] = value
    return values, where, value


def _right(where: tuple, value: object):
    """Whether a run with a changed value may have come to an image: what decides must be of its kind."""
    kind = KINDS.get(where[-1]) if isinstance(where[-1], str) else None
    fits = kind is None or value is None or value == "nothing" or type(value) is kind or kind is float and type(value) is int
    return lambda result: fits and drawn(result)


def _value(rng: random.Random, room: Room) -> Attempt:
    file = rng.choice(FILES)
    path = room.folder / file
    values, where, value = _changed(rng, json.loads(path.read_text()))
    path.write_text(json.dumps(values), "utf-8", "surrogatepass")
    folder = room.folder / Path(file).parts[0]
    keys = [key for key in where if isinstance(key, str)][:1]
    names = (path.name,) if path.name in ("tokenizer.json", "model.safetensors.index.json") else (path.name, _shown(keys[0]))
    # A config that fits no tensor is refused in the name of the weights.
    names = ((*names[:1], "model.safetensors", "diffusion_pytorch_model.safetensors"), *names[1:]) if value != "nothing" else ((str(folder),),)
    return Attempt(f"{file}: {_path(where)} = {_brief(value)}", lambda: python(lambda: room.run(folder)), names[:1], "either", _right(where, value), room.folder)


def _value_in_metadata(rng: random.Random, room: Room) -> Attempt:
    import safetensors

    with safetensors.safe_open(room.single, "pt") as file:
        metadata = file.metadata()
    key = rng.choice([key for key in METADATA if key in metadata])
    values, where, value = _changed(rng, json.loads(metadata[key]))
    edit_metadata(room.single, **{key: json.dumps(values)})
    name = f"metadata {key}: {_path(where)} = {_brief(value)}"
    return Attempt(name, lambda: python(lambda: room.run(room.single)), (str(room.single),), "either", _right(where, value), room.folder)


def _hostile_text(rng: random.Random, text: str) -> tuple[str, bytes]:
    """Text that is no JSON, or is JSON of a size or depth that no file has."""
    content, depth = text.encode(), rng.choice((1000, 100_000, 3_000_000))
    spot = rng.randrange(len(content))
    return rng.choice(
        (
            ("cut short", content[:spot]),
            ("a byte changed", content[:spot] + bytes([rng.randrange(256)]) + content[spot + 1 :]),
            ("nested lists", b"[" * depth + b"]" * depth),
            ("nested objects", b'{"a":' * depth + b"1" + b"}" * depth),
            ("nested inside", content.rstrip()[:-1] + b',"deep":' + b"[" * depth + b"]" * depth + b"}"),
            ("many digits", content.rstrip()[:-1] + b',"many":' + b"9" * 10**6 + b"}"),
            ("300 MB of spaces", content + b" " * (300 * 2**20)),
            ("many keys", b"{" + b",".join(b'"%d":0' % k for k in range(400_000)) + b"}"),
            ("UTF-16", text.encode("utf-16")),
            ("latin-1", content.rstrip()[:-1] + b',"\xe4":"\xff"}'),
            ("a mark at its start", b"\xef\xbb\xbf" + content),
            ("a zero byte", content[:spot] + b"\0" + content[spot:]),
            ("twice", content + content),
            ("a list", b"[" + content + b"]"),
            ("a number", b"1e999"),
            ("NaN", content.rstrip()[:-1] + b',"rope_theta":NaN}'),
            ("nothing", b""),
            ("keys twice", content.rstrip()[:-1] + b',"d_model":1,"d_model":2,"steps":-1}'),
        )
    )


def _text(rng: random.Random, room: Room) -> Attempt:
    file = rng.choice((*FILES, "model/tokenizer_config.json"))
    path = room.folder / file
    what, content = _hostile_text(rng, path.read_text())
    path.write_bytes(content)
    folder = room.folder / Path(file).parts[0]
    about = (path.name, "model.safetensors", "diffusion_pytorch_model.safetensors")
    return Attempt(f"{file}: {what}", lambda: python(lambda: room.run(folder)), (about,), "either", drawn, room.folder)


def _text_in_metadata(rng: random.Random, room: Room) -> Attempt:
    key = rng.choice((*METADATA, "_quantization_metadata", "kind", "cross_attention"))
    what, content = _hostile_text(rng, json.dumps({"d_model": 32}))
    if len(content) > 2**26:
        what, content = "many spaces", b"{" + b" " * 2**20 + b"}"
    path = room.head if key == "cross_attention" else room.single
    edit_metadata(path, **{key: content.decode("utf-8", "replace")})
    return Attempt(f"metadata {key}: {what}", lambda: python(lambda: room.run(room.single)), (str(path),), "either", drawn, room.folder)


def _path(where: tuple) -> str:
    return ".".join(str(key)[:30] for key in where).encode("unicode_escape").decode()


def _shown(key: str) -> str:
    return key[:20]


def _brief(value: object) -> str:
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**100 else f"10**{len(str(abs(value))[:1]) and 400}"
    return text if len(text) < 60 else text[:60] + "..."
