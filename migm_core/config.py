"""What a checkpoint's config.json says: the size of the model and where special tokens lie in its vocabulary."""

from dataclasses import asdict, dataclass, field, fields


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
    image_codes: int = 126356  # id of image code 0
    codebook_size: int = 8192


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

    # What this implementation computes. A config that asks for anything else is refused, never silently misread.
    _ONLY = {
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

    def __post_init__(self):
        for name in ("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size", "vocab_size", "max_sequence_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected a positive integer")
        for name in ("rms_norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
                raise ValueError(f"{name} is {value!r}, expected a positive number")
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise ValueError(f"d_model {self.d_model} does not divide into heads of an even size where n_heads is {self.n_heads}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")

    @classmethod
    def from_json(cls, values: dict, *, source: str = "config.json") -> "LuminaConfig":
        """Read a published-layout config.

        A dictionary ``tokens`` (ours) overrides ids of the token layout. ``embedding_size``, when it is given, is the number
        of rows of the tables, which may be padded past ``vocab_size``; the loader corrects it from the tensor.

        Raises:
            ValueError: naming the source, the key and what was expected.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{source}: expected a JSON object with the model's sizes, found {type(values).__name__}.")
        for key, allowed in cls._ONLY.items():
            if key in values and values[key] is not None and values[key] not in allowed:
                expected = " or ".join(map(repr, allowed))
                raise ValueError(f"{source}: {key} is {values[key]!r}, but only {expected} is supported.")
        missing = [name for name in ("d_model", "n_heads", "n_layers", "mlp_hidden_size") if values.get(name) is None]
        if missing:
            raise ValueError(
                f"{source}: {', '.join(missing)} is missing. Expected the config.json of a Lumina-DiMOO checkpoint."
            )
        known = {f.name: values[f.name] for f in fields(cls) if f.name != "tokens" and values.get(f.name) is not None}
        known.setdefault("n_kv_heads", known["n_heads"])
        if values.get("embedding_size"):
            known["vocab_size"] = values["embedding_size"]
        ids = values.get("tokens") or {}
        if not isinstance(ids, dict):
            raise ValueError(f"{source}: tokens is {ids!r}, expected a table of names to token ids.")
        names = {f.name for f in fields(TokenLayout)}
        wrong = [k for k, v in ids.items() if k not in names or not isinstance(v, int) or isinstance(v, bool) or v < 0]
        if wrong:
            raise ValueError(f"{source}: tokens.{wrong[0]} is not a token id of this architecture. Known are {', '.join(sorted(names))}.")
        try:
            return cls(**known, tokens=TokenLayout(**ids))
        except ValueError as error:
            raise ValueError(f"{source}: {error}.") from None

    def to_json(self) -> dict:
        """The config in the published layout, plus the token ids."""
        values = asdict(self)
        values["embedding_size"] = self.vocab_size
        fixed = {key: allowed[0] for key, allowed in self._ONLY.items()}
        return {"architectures": ["LLaDAForMultiModalGeneration"], "model_type": "llada", **fixed, **values}
