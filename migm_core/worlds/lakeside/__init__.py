"""The lakeside world: small landscapes by a lake, their prompts, edits, questions and maps, and a judge of pictures of them.

What the rest of the project uses, all over batches of N scenes:

    sample_scenes(count, generator, split=None) -> Scenes      on the generator's device; split: "train", "dev", "test"; variety: which scenes occur, such as BUNDLED
    render(scenes, size=256) -> Tensor                         pictures, float32 (N, 3, size, size) in 0..1, on the scenes' device
    render_layers(scenes, size=256) -> Layers                  .image, .depth (N, 1, size, size), .masks bool (N, 4, size, size)
    depth_maps(scenes, size=256), edge_maps(images)            control pictures, (N, 3, size, size) in 0..1
    render_subjects(scenes, slots, size=256) -> Tensor         one object of each scene alone on a plain backdrop

    prompts(scenes, seed, complete=False) -> list[str]         one to three sentences; some attributes left open unless complete
    parse(prompts) -> Request                                  what prompts say; attributes left open are -1
    unknown_words(prompt) -> list[str]                         words that no model of this world knows
    text_tokenizer() -> tokenizers.Tokenizer                   a word a token; text_layout(codebook_size) -> TokenLayout

    edits(scenes, seed) -> Edits                               .instructions list[str], .scenes the edited Scenes
    subject_prompts(scenes, slots, seed) -> list[str]          prompts that leave the subject's look to its picture
    questions(scenes, seed) -> list[tuple[str, str]]           a question and its short answer; captions(scenes, seed) -> list[str]

    judge(images, request) -> list[Verdict]                    request: what parse or scenes.request() gives
    judge_edits(images, before, edits) -> list[Verdict]        also that all else stayed; before: pictures of the scenes before
    judge_positions(images, scenes) -> list[Verdict]            also that each object is where the scene has it, as a control picture says
    judge_answers(answers, asked) -> list[bool]                asked: what questions gives
    judge_captions(captions, scenes) -> list[Verdict]
    read(images) -> list[Reading]                              what the judge sees, without any scene

    classes_of(scenes) -> Tensor                               for models of classes: int64 (N,), index into CLASS_NAMES
    judge_classes(images, classes) -> list[Verdict]

A Verdict has ``right: bool`` and ``faults: dict[str, str]``, from an attribute ("time", "colour of the house") to a sentence.

Seeds are ints; generators are torch.Generators. No function touches global random state.
"""

from .classes import CLASS_NAMES, classes_of, judge_classes, random_classes
from .editing import Edits, edits
from .judging import Verdict, judge, judge_answers, judge_captions, judge_edits, judge_maps, judge_objects_in_maps, judge_positions
from .maps import depth_maps, edge_maps, mask_pictures, object_masks, render_subjects, subject_prompts
from .parsing import parse
from .prompting import captions, prompts
from .questioning import questions
from .reader import Reading, SeenObject, read
from .renderer import Layers, render, render_layers
from .sampling import BUNDLED, Variety, sample_scenes
from .scene import Request, Scenes
from .words import text_layout, text_tokenizer, unknown_words

__all__ = [
    "BUNDLED",
    "CLASS_NAMES",
    "Edits",
    "Layers",
    "Reading",
    "Request",
    "Scenes",
    "SeenObject",
    "Variety",
    "Verdict",
    "captions",
    "classes_of",
    "depth_maps",
    "edge_maps",
    "edits",
    "judge",
    "judge_answers",
    "judge_captions",
    "judge_classes",
    "judge_edits",
    "judge_maps",
    "judge_objects_in_maps",
    "judge_positions",
    "mask_pictures",
    "object_masks",
    "parse",
    "prompts",
    "questions",
    "random_classes",
    "read",
    "render",
    "render_layers",
    "render_subjects",
    "sample_scenes",
    "subject_prompts",
    "text_layout",
    "text_tokenizer",
    "unknown_words",
]
