"""What a checkpoint's config.json says: the size of the model and where special tokens lie in its vocabulary."""

import json
from dataclasses import asdict, dataclass, field, fields, replace

import torch

from ...arguments import shown

# What the base model computes: keys of config.json that change its mathematics, with the values that it has. A config that asks for
# anything else is refused, never silently misread. Absent keys and null are fine.
_ARCHITECTURE = {
    "activation_type": ("silu", "swiglu"),
    "block_type": ("llama",),
    "layer_norm_type": ("rms",),
    "include_bias": (False,),
    "include_qkv_bias": (False,),
    "weight_tying": (False,),
    "rope": (True,),
    "alibi": (False,),
    "attention_layer_norm": (False,),
}
_VARIANTS = {
    # Variants that this architecture's own code has.
    "input_emb_norm": (False,),
    "scale_logits": (False,),
    "clip_qkv": (),
    "rope_full_precision": (True,),
    "rope_scaling": (),
    "layer_norm_with_affine": (True,),
    "bias_for_layer_norm": (False,),
    "norm_after": (False,),
    # Variants of other architectures, which a modified model may have.
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "qk_norm": (False,),
    "use_qk_norm": (False,),
    "qk_layernorm": (False,),
    "sliding_window": (),
    "use_sliding_window": (False,),
    "attention_window": (),
    "partial_rotary_factor": (1,),
    "rope_interleaved": (False,),
    "parallel_residual": (False,),
    "use_parallel_residual": (False,),
    "is_causal": (False,),
    "causal": (False,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "attention_multiplier": (),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
}
_ONLY = _ARCHITECTURE | _VARIANTS

# Keys without an effect here: bookkeeping, and options of training or of another program's speed.
_HARMLESS = {
    *("architectures", "auto_map", "model_type", "transformers_version", "torch_dtype", "dtype", "precision", "use_cache", "return_dict"),
    *("flash_attention", "attn_implementation", "init_device", "init_fn", "init_std", "init_cutoff_factor", "emb_init_std", "scale_emb_init"),
    *("block_group_size", "alibi_bias_max", "mlp_ratio", "attention_layer_norm_with_affine", "layer_norm_eps", "tie_word_embeddings"),
    *("attention_dropout", "embedding_dropout", "residual_dropout", "resid_dropout", "dropout", "hidden_dropout", "gradient_checkpointing"),
    *("multi_query_attention", "embedding_size", "tokens", "mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id", "sep_token_id"),
}


@dataclass(frozen=True)
class TokenLayout:
    """Ids of the tokens that frame text and image. The defaults are Lumina-DiMOO's; a smaller model has its own."""

    mask: int = 126336
    newline: int = 126084  # ends each row of image codes
    boi: int = 126349  # begin and end of image
    eoi: int = 126350
    boa: int = 126354  # begin and end of answer
    eoa: int = 126355
    uncondition: int = 126351  # stands for the text in the unconditional branch
    system: int = 126332
    end_system: int = 126333
    user: int = 126334
    end_user: int = 126335
    end_of_text: int = 126081
    padding: int | None = 126339  # fills up what follows an answer; None for a model that was trained without
    image_codes: int = 126356  # id of image code 0
    codebook_size: int = 8192

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer's text."""
        return tuple(token for token in (self.eoa, self.padding, self.end_of_text) if token is not None)

    @classmethod
    def of_small_model(cls, first: int, image_codes: int, codebook_size: int) -> "TokenLayout":
        """A layout with the tokens of ``SPECIAL_TOKENS`` at ids from ``first`` on, in their order, as a tokenizer of their own adds them."""
        ids = {name: first + index for index, name in enumerate(SPECIAL_TOKENS.values())}
        return cls(**ids, image_codes=image_codes, codebook_size=codebook_size)


# How a tokenizer spells the tokens that frame text and image, and what each is in ``TokenLayout``.
SPECIAL_TOKENS = {
    "<|mdm_mask|>": "mask",
    "<newline>": "newline",
    "<boi>": "boi",
    "<eoi>": "eoi",
    "<boa>": "boa",
    "<eoa>": "eoa",
    "<uncondition>": "uncondition",
    "<system>": "system",
    "</system>": "end_system",
    "<user>": "user",
    "</user>": "end_user",
    "<|endoftext|>": "end_of_text",
}


@dataclass(frozen=True)
class LuminaConfig:
    """Sizes of the base model, named as in config.json. The defaults are Lumina-DiMOO 8B's."""

    d_model: int = 4096
    n_heads: int = 32
    n_kv_heads: int = 32
    n_layers: int = 32
    mlp_hidden_size: int = 12288
    vocab_size: int = 134656  # rows of the embedding and output tables
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    max_sequence_length: int = 4096  # of training; longer sequences are computed all the same
    tokens: TokenLayout = field(default_factory=TokenLayout)

    def __post_init__(self):
        for name in ("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size", "vocab_size", "max_sequence_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {shown(value)}, expected a positive integer")
        for name in ("rms_norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 1e-30 < value < 1e30:  # past float32 nothing is finite
                raise ValueError(f"{name} is {shown(value)}, expected a number above 1e-30 and below 1e30")
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise ValueError(f"d_model {self.d_model} does not divide into heads of an even size where n_heads is {self.n_heads}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.tokens.padding == TokenLayout.padding >= self.vocab_size:  # a smaller model that names none
            object.__setattr__(self, "tokens", replace(self.tokens, padding=None))

    @property
    def width(self) -> int:
        return self.d_model

    @property
    def codebook_size(self) -> int:
        return self.tokens.codebook_size

    @property
    def keys(self) -> int:
        """Width of a position's keys, and of its values."""
        return self.d_model // self.n_heads * self.n_kv_heads

    @property
    def block_weights(self) -> int:
        return self.n_layers * (2 * self.d_model * (self.d_model + self.keys) + 3 * self.d_model * self.mlp_hidden_size)

    def sequence_length(self, prompt: int, rows: int, columns: int) -> int:
        """Positions of a prompt, a canvas with a newline at the end of each row, and boa, boi, eoi and eoa around it."""
        return prompt + 4 + rows * (columns + 1)

    def pass_macs(self, computed: int, positions: int) -> int:
        """Multiply-adds of the features of ``computed`` of all positions: queries, keys, values, attention, its projection, the MLP."""
        block = self.d_model * (2 * self.d_model + 2 * self.keys) + 2 * positions * self.d_model + 3 * self.d_model * self.mlp_hidden_size
        return self.n_layers * computed * block

    def pass_bytes(self, positions: int, dtype: torch.dtype) -> int:
        """Most bytes alive in one block of a pass over so many positions."""
        size, wide = dtype.itemsize, 0 if dtype == torch.float32 else 4  # a float32 copy
        # While heads are rotated: the stream, its norm, queries and keys; two float32 products and the copy.
        rotating = (3 * self.d_model + self.keys) * size + (8 + wide) * max(self.d_model, self.keys)
        # Then: the stream, its norm, queries, keys, values, what attention gives and its projection.
        attending = (5 * self.d_model + 2 * self.keys) * size
        # In the MLP: the stream before and after attention, its norm, and three of the hidden size.
        mlp = 3 * (self.d_model + self.mlp_hidden_size) * size
        return positions * max(rotating, attending, mlp)

    def cache_bytes(self, positions: int, dtype: torch.dtype) -> int:
        return 2 * positions * self.n_layers * self.keys * dtype.itemsize

    def table_bytes(self, positions: int) -> int:
        """Cosines and sines of the rotary embedding, float32."""
        return positions * (self.d_model // self.n_heads) * 4 * 2

    @classmethod
    def from_json(cls, values: dict, *, source: str = "config.json") -> "LuminaConfig":
        """Read a published-layout config.

        A dictionary ``tokens`` (ours) overrides ids of the token layout. ``embedding_size``, when it is given, is the number
        of rows of the tables, which may be padded past ``vocab_size``; the loader corrects it from the tensor. Keys that are not
        known here are ignored, see ``unknown_keys``.

        Raises:
            ValueError: naming the source, the key and what was expected.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{source}: expected a JSON object with the model's sizes, found {type(values).__name__}.")
        for key, allowed in _ONLY.items():
            if values.get(key) is not None and values[key] not in allowed:
                expected = " or ".join(map(json.dumps, allowed or (None,)))
                raise ValueError(f"{source}: {key} is {_short(values[key])}, but only {expected} is supported. The model would not be computed as it was trained.")
        missing = [name for name in ("d_model", "n_heads", "n_layers", "mlp_hidden_size") if values.get(name) is None]
        if missing:
            raise ValueError(
                f"{source}: {', '.join(missing)} is missing. Expected the config.json of a Lumina-DiMOO checkpoint."
            )
        known = {f.name: values[f.name] for f in fields(cls) if f.name != "tokens" and values.get(f.name) is not None}
        if values.get("multi_query_attention"):  # one key-value head for all
            if known.setdefault("n_kv_heads", 1) != 1:
                raise ValueError(f"{source}: multi_query_attention is {_short(values['multi_query_attention'])}, but n_kv_heads is {_short(known['n_kv_heads'])}, expected 1.")
        known.setdefault("n_kv_heads", known["n_heads"])
        if values.get("layer_norm_eps") is not None:  # the family's older name
            known.setdefault("rms_norm_eps", values["layer_norm_eps"])
        if "vocab_size" in known and (not isinstance(known["vocab_size"], int) or isinstance(known["vocab_size"], bool) or known["vocab_size"] < 1):
            raise ValueError(f"{source}: vocab_size is {_short(known['vocab_size'])}, expected a positive integer.")
        if values.get("embedding_size"):
            known["vocab_size"] = values["embedding_size"]
        ids = values.get("tokens") or {}
        if not isinstance(ids, dict):
            raise ValueError(f"{source}: tokens is {ids!r:.80}, expected a table of names to token ids.")
        ids = {name: value for name, value in ids.items() if (name, value) != ("padding", None)}
        names = {f.name for f in fields(TokenLayout)}
        wrong = [k for k, v in ids.items() if k not in names or not isinstance(v, int) or isinstance(v, bool) or v < 0]
        if wrong:
            raise ValueError(f"{source}: tokens.{wrong[0]:.40} is not a token id of this architecture. Known are {', '.join(sorted(names))}.")
        try:
            return cls(**known, tokens=TokenLayout(**ids))
        except ValueError as error:
            raise ValueError(f"{source}: {error}.") from None

    def to_json(self) -> dict:
        """The config in the published layout, plus the token ids."""
        values = asdict(self)
        values["embedding_size"] = self.vocab_size
        architecture = {key: allowed[0] for key, allowed in _ARCHITECTURE.items()}
        return {"architectures": ["LLaDAForMultiModalGeneration"], "model_type": "llada", **architecture, **values}


def unknown_keys(values: dict) -> list[str]:
    """Unknown keys of a config that are set to something; they are ignored.

    A mask_token_id that differs from the token layout's counts, too.
    """
    known = {*_ONLY, *_HARMLESS, *(f.name for f in fields(LuminaConfig))}
    ids = values.get("tokens")
    mask = ids.get("mask", TokenLayout.mask) if isinstance(ids, dict) else TokenLayout.mask
    unknown = [key for key, value in values.items() if key not in known and not key.startswith("_") and value not in (None, False, "", 0, [], {})]
    return unknown + (["mask_token_id"] if values.get("mask_token_id", mask) not in (mask, None) else [])


def _short(value: object) -> str:
    """A JSON value as a message shows it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:80] + "..."
