"""The words of the lakeside world: how each attribute may be said, and the text tokenizer, a word a token."""

import re
from collections.abc import Collection

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from ...families.lumina_dimoo.config import SPECIAL_TOKENS, TokenLayout
from ...families.lumina_dimoo.prompts import SYSTEM_PROMPTS

# Each word that says an attribute, by value. The first is the name that answers and faults use.
MEANINGS = {
    "time": {
        "dawn": ("dawn", "sunrise", "morning"),
        "day": ("day", "daytime", "noon", "daylight"),
        "sunset": ("sunset", "dusk", "evening"),
        "night": ("night", "midnight", "moonlight"),
    },
    "weather": {
        "clear": ("clear", "cloudless"),
        "cloudy": ("cloudy", "overcast", "clouds"),
        "misty": ("misty", "foggy", "hazy", "mist", "fog"),
    },
    "ground": {
        "grass": ("grass", "grassy", "meadow"),
        "sand": ("sand", "sandy", "beach"),
        "snow": ("snow", "snowy"),
        "lavender": ("lavender",),
    },
    "kind": {
        "balloon": ("balloon",),
        "airship": ("airship", "blimp", "zeppelin"),
        "kite": ("kite",),
        "house": ("house", "cottage"),
        "windmill": ("windmill", "mill"),
        "lighthouse": ("lighthouse",),
        "tent": ("tent",),
        "tree": ("tree",),
        "sailboat": ("sailboat", "boat", "yacht"),
        "duck": ("duck",),
    },
    "colour": {
        "red": ("red", "scarlet", "crimson"),
        "yellow": ("yellow", "lemon"),
        "green": ("green", "emerald"),
        "blue": ("blue", "azure"),
        "purple": ("purple", "violet"),
        "white": ("white", "ivory"),
    },
    "size": {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")},
    "finish": {
        "plain": ("plain",),
        "striped": ("striped", "stripy", "stripes"),
        "wooden": ("wooden", "timber", "wood"),
        "stone": ("stone",),
    },
    "relation": {
        "left of": ("left",),
        "right of": ("right",),
        "above": ("above", "over"),
        "below": ("below", "under", "beneath"),
        "in front of": ("front",),
        "behind": ("behind",),
    },
}
# What only joins words, asks or commands.
_OTHERS = """
    . , ? a an the it its is are was there and of on to in by at with from into onto for as
    lake water sky land shore field fields scene picture image view air hot rubber sailing made covered
    stands floats flies sits lies see you can we shows show
    make turn change paint give remove take away add put replace move colour color bigger larger smaller
    what which how many where does do has have any kind object objects time weather ground size material finish pattern
    yes no one two three four none nothing describe caption
    or like cover covers generate canny edge map mask depth according this same also
"""
_SAID = [word for values in MEANINGS.values() for words in values.values() for word in words]
WORDS = list(dict.fromkeys(["[unknown]", *_SAID, *_OTHERS.split()]))

TEXT_IDS = 256  # image codes start here; some ids before stay free
assert len(WORDS) + len(SYSTEM_PROMPTS) + len(SPECIAL_TOKENS) <= TEXT_IDS

_WORD = r"[^\W_]+|[.,?]"


def split_words(text: str) -> list[str]:
    """Words and punctuation of a text as the tokenizer cuts it, in lower case."""
    return re.findall(_WORD, text.lower())


def unknown_words(prompt: str) -> list[str]:
    """The words of a prompt that no model of this world knows, each once, in order."""
    known = set(WORDS)
    return list(dict.fromkeys(word for word in split_words(prompt) if word not in known))


def text_layout(codebook_size: int) -> TokenLayout:
    """Special tokens after the words and the system prompts; image codes from TEXT_IDS."""
    return TokenLayout.of_small_model(len(WORDS) + len(SYSTEM_PROMPTS), TEXT_IDS, codebook_size)


def text_tokenizer(unlearned: Collection[str] = ()) -> Tokenizer:
    """Word-level, lower case, unknown words mapped to one token; each task's system prompt is a single token.

    Args:
        unlearned: words that a model has never seen, which are unknown then; all others keep their ids.
    """
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS) if word not in unlearned}, unk_token=WORDS[0]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    tokenizer.add_tokens([AddedToken(prompt, normalized=False) for prompt in SYSTEM_PROMPTS.values()])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    return tokenizer
