"""How large the models are, and how much of what they learn from is made at a time."""

from dataclasses import dataclass, field, replace

from ...families.lumina_dimoo.config import LuminaConfig
from ...families.lumina_dimoo.head import ShortcutConfig, head_for
from ...families.maskgit.config import MaskGitConfig
from ...families.maskgit.head import MaskGitHeadConfig
from ...families.maskgit.rule import MaskGitRule
from ...tokenizers.amused_vq import ImageTokenizerConfig
from ..lakeside import BUNDLED, CLASS_NAMES, Variety
from ..lakeside.words import TEXT_IDS, text_layout


@dataclass(frozen=True)
class ClassSizes:
    """Of the model of classes, MaskGIT's.

    Attributes:
        d_model, n_heads, n_layers: of the base.
        samples_a_step: of its training.
        pictures: that it learns from, at least; they are rendered where the base's training has left fewer.
        runs, steps_a_round, rows_a_step: of the head's training, as in Sizes.
        steps, budget: of a run: pairs, the published ones, the first as the checkpoint's own.
        few: steps of a vanilla run that costs about what the shortcut does, for each of the pairs.
        softmax_temperature: of all runs: above the published 1 objects are less often of two kinds.
    """

    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 5
    samples_a_step: int = 512
    pictures: int = 50000
    runs: int = 512
    steps_a_round: int = 50
    rows_a_step: int = 256
    steps: tuple[int, ...] = (15, 32)
    budgets: tuple[int, ...] = (7, 12)
    few: tuple[int, ...] = (8, 14)
    softmax_temperature: float = 1.5

    @property
    def rule(self) -> MaskGitRule:
        return MaskGitRule(softmax_temperature=self.softmax_temperature)


@dataclass(frozen=True)
class Sizes:
    """Attributes:
    pixels: along each side of a picture.
    variety: which scenes the models know.
    tokenizer: of the image tokenizer, in sizes that a VQGAN has as well if there is a model of classes.
    outer_last: whether the tokenizer learns on pictures of half the size until its codes stand still.
    d_model, n_heads, n_layers, mlp_hidden_size: of the base.
    shallow_share: of the base's training that is done with half of the layers, at half of the cost (Gong et al., 2019, "Efficient training of BERT by
        progressively stacking").
    prompt_length: to which prompts are filled up, in tokens; with 16 rows of 17 tokens and four more, sequences of a multiple of 16.
    tasks: of ``tasks.TASKS``, that the base learns after text to image.
    maps_every: of so many pictures for the tokenizer one is a map or a lone object, as some tasks want; 0 for none.
    reader_batch: pictures in a step of the judge's reader; reader_pairs: of pictures that are rendered together for it; reader_fills: that a step's pictures come from.
    pictures_a_step, samples_a_step: of the tokenizer's and of the base's training, over all processes.
    picture_uses: how often a picture is shown to the tokenizer.
    fill: pictures that are rendered and tokenised together; fills: that a step's samples come from.
    uses: how often one is shown to the base before others take its place, each time masked anew and mostly in other words.
    wordings: prompts for each picture.
    on_policy_every: steps of the base's training from one that learns from on-policy states to the next.
    recorded: rounds of runs that the stage of trajectories records.
    runs: of a round of the head's training; steps_a_round: that learn from them; rows_a_step: of them in a step.
    classes: of the model of classes; None for no such model.
    """

    pixels: int = 256
    variety: Variety = BUNDLED
    tokenizer: ImageTokenizerConfig = field(
        default_factory=lambda: ImageTokenizerConfig(
            block_out_channels=(64, 64, 64, 64, 128), latent_channels=16, num_vq_embeddings=1024, layers_per_block=1, norm_num_groups=32
        )
    )
    outer_last: bool = True
    d_model: int = 384
    n_heads: int = 6
    n_layers: int = 12
    mlp_hidden_size: int = 1024
    shallow_share: float = 0.0
    tasks: tuple[str, ...] = ("edit", "control", "dense", "subject", "question", "caption")
    maps_every: int = 12
    prompt_length: int = 76
    reader_batch: int = 128
    reader_pairs: int = 256
    reader_fills: int = 4
    pictures_a_step: int = 32
    samples_a_step: int = 128
    picture_uses: int = 1
    fill: int = 512
    fills: int = 8
    uses: int = 8
    wordings: int = 4
    on_policy_every: int = 4
    recorded: int = 6
    runs: int = 256
    steps_a_round: int = 25
    rows_a_step: int = 256
    steps: int = 64
    budgets: tuple[int, ...] = (9, 11, 14)
    few: tuple[int, ...] = (13, 14, 16, 32)
    classes: ClassSizes | None = field(default_factory=ClassSizes)

    @property
    def side(self) -> int:
        """Tokens along each side of a picture."""
        return self.pixels // self.tokenizer.downscale_factor

    @property
    def length(self) -> int:
        """Of a whole sequence, filled up, in tokens."""
        return self.prompt_length + self.side * (self.side + 1) + 4

    @property
    def budget(self) -> int:
        """The checkpoint's own."""
        return sorted(self.budgets)[len(self.budgets) // 2]

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
            max_sequence_length=1024,
            tokens=text_layout(codes),
        )

    def head(self) -> ShortcutConfig:
        return head_for(self.base(), 2)

    def class_base(self) -> MaskGitConfig:
        sizes = self.classes
        return MaskGitConfig(
            grid=self.side,
            codebook_size=self.tokenizer.num_vq_embeddings,
            n_classes=len(CLASS_NAMES),
            d_model=sizes.d_model,
            n_layers=sizes.n_layers,
            n_heads=sizes.n_heads,
            mlp_hidden_size=4 * sizes.d_model,
        )

    def class_head(self) -> MaskGitHeadConfig:
        return MaskGitHeadConfig(self.classes.d_model, self.classes.n_heads, bottleneck_ratio=2)


CARD = Sizes()
SIZES = {
    "card": CARD,  # for a large GPU
    # The same models; the head learns in smaller rounds, from prompts alone that text to image has: for processors with products in bfloat16.
    "card-on-cpu": replace(CARD, pictures_a_step=16, prompt_length=56, runs=48, rows_a_step=12, steps_a_round=100, classes=replace(CARD.classes, runs=128, rows_a_step=64)),
    "cpu": Sizes(  # for two processor cores and some hours
        pixels=192,
        variety=Variety(count_shares=(0.5, 0.5, 0.0, 0.0), sizes=("large",), landscapes=4, poses=1, centred=True),
        tokenizer=ImageTokenizerConfig(
            block_out_channels=(16, 16, 32, 64, 128), latent_channels=16, num_vq_embeddings=1024, layers_per_block=1, norm_num_groups=4
        ),
        d_model=256,
        n_heads=4,
        n_layers=8,
        mlp_hidden_size=704,
        shallow_share=0.4,
        tasks=("edit", "question", "caption"),
        maps_every=0,
        prompt_length=52,
        reader_batch=128,
        reader_pairs=64,
        reader_fills=32,
        pictures_a_step=8,
        samples_a_step=32,
        picture_uses=3,
        fill=64,
        fills=24,
        uses=5,
        wordings=3,
        recorded=6,
        runs=32,
        steps_a_round=60,
        rows_a_step=16,
        classes=None,
    ),
    "tiny": Sizes(  # to try the recipe, not to learn anything
        pixels=128,
        variety=Variety(),
        tokenizer=ImageTokenizerConfig(block_out_channels=(32, 32, 32, 32, 32), latent_channels=8, num_vq_embeddings=32, layers_per_block=1, norm_num_groups=32),
        maps_every=2,
        d_model=32,
        n_heads=2,
        n_layers=2,
        mlp_hidden_size=64,
        reader_batch=2,
        reader_pairs=4,
        reader_fills=1,
        pictures_a_step=4,
        samples_a_step=8,
        fill=8,
        fills=2,
        uses=8,
        recorded=1,
        runs=4,
        steps_a_round=4,
        rows_a_step=4,
        steps=8,
        budgets=(2, 3),
        few=(3, 4),
        classes=ClassSizes(
            d_model=32, n_heads=2, n_layers=1, samples_a_step=8, pictures=16, runs=4, steps_a_round=4, rows_a_step=4, steps=(6, 8), budgets=(3, 3), few=(4, 5)
        ),
    ),
}
