"""How large the models are, and how much of what they learn from is made at a time."""

from dataclasses import dataclass, field

from ...config import LuminaConfig
from ...models.image_tokenizer import ImageTokenizerConfig
from ...models.shortcut import ShortcutConfig
from ...training.head import head_for
from ..lakeside.words import TEXT_IDS, text_layout


@dataclass(frozen=True)
class Sizes:
    """Attributes:
    pixels: along each side of a picture.
    tokenizer: of the image tokenizer.
    d_model, n_heads, n_layers, mlp_hidden_size: of the base.
    prompt_length: to which prompts are filled up, in tokens; with 16 rows of 17 tokens and four more, sequences of a multiple of 16.
    pictures_a_step, samples_a_step: of the tokenizer's and of the base's training, over all processes.
    fill: pictures that are rendered and tokenised together; fills: that a step's samples come from.
    uses: how often a picture is shown before others take its place, each time masked anew and mostly in other words.
    wordings: prompts for each picture.
    runs: of a round of the head's training; steps_a_round: that learn from them; rows_a_step: of them in a step.
    """

    pixels: int = 256
    tokenizer: ImageTokenizerConfig = field(
        default_factory=lambda: ImageTokenizerConfig(
            block_out_channels=(24, 48, 96, 128, 160), latent_channels=16, num_vq_embeddings=2048, layers_per_block=1, norm_num_groups=8
        )
    )
    d_model: int = 384
    n_heads: int = 6
    n_layers: int = 12
    mlp_hidden_size: int = 1024
    prompt_length: int = 76
    pictures_a_step: int = 64
    samples_a_step: int = 256
    fill: int = 512
    fills: int = 8
    uses: int = 4
    wordings: int = 4
    runs: int = 256
    steps_a_round: int = 200
    rows_a_step: int = 64
    steps: int = 64
    budgets: tuple[int, ...] = (9, 11, 14)

    @property
    def side(self) -> int:
        """Tokens along each side of a picture."""
        return self.pixels // self.tokenizer.factor

    @property
    def length(self) -> int:
        """Of a whole sequence, filled up, in tokens."""
        return self.prompt_length + self.side * (self.side + 1) + 4

    def base(self) -> LuminaConfig:
        codes = self.tokenizer.num_vq_embeddings
        return LuminaConfig(
            d_model=self.d_model,
            n_heads=self.n_heads,
            n_kv_heads=self.n_heads,
            n_layers=self.n_layers,
            mlp_hidden_size=self.mlp_hidden_size,
            rope_theta=1000.0,  # some hundred positions: faster rotations tell them apart
            vocab_size=TEXT_IDS + codes,
            max_sequence_length=512,
            tokens=text_layout(codes),
        )

    def head(self) -> ShortcutConfig:
        return head_for(self.base(), 2)


SIZES = {
    "card": Sizes(),  # for a large GPU
    "tiny": Sizes(  # to try the recipe, not to learn anything
        pixels=128,
        tokenizer=ImageTokenizerConfig(block_out_channels=(8, 8, 8, 16, 16), latent_channels=8, num_vq_embeddings=32, layers_per_block=1, norm_num_groups=4),
        d_model=32,
        n_heads=2,
        n_layers=2,
        mlp_hidden_size=64,
        pictures_a_step=4,
        samples_a_step=8,
        fill=8,
        fills=2,
        uses=8,
        runs=4,
        steps_a_round=4,
        rows_a_step=4,
        steps=8,
        budgets=(2, 3),
    ),
}
