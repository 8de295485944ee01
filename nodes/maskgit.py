"""MIGM MaskGIT Class and MIGM MaskGIT Sampler: images of classes."""

import json

from comfy_api.latest import io

from ..migm_core import arguments
from ..migm_core.families import family_named
from ..migm_core.families.maskgit.classes import ClassNames, imagenet_names
from ..migm_core.loading import BUNDLED
from . import choices
from .sampler import Sampler, cfg, links, seed, steps
from .sockets import CLASSES, ClassList, advanced, expect, schema

FAMILY = family_named("maskgit")
PUBLISHED = FAMILY.defaults
IMAGENET = ClassNames.of(len(imagenet_names()))
MORE = {
    "schedule": "arccos, the published one, begins with few.",
    "softmax_temperature": "The published model takes 1, the bundled demo 1.5. Tokens are sampled at every value.",
    "choice_temperature": "It falls to nothing at the last step, and counts only where randomize is linear.",
    "randomize": "linear: its log-probability and noise. no: its probability. random: chance. warm_up: chance at the first two steps, then its probability.",
}
SHOWN = {"choice_temperature"}  # not advanced


def class_names() -> list[str]:
    """Those of the bundled model, where its file is there and whole, and those of ImageNet."""
    try:
        own = list(map(str, json.loads((BUNDLED["demo-classes"] / "config.json").read_text(encoding="utf-8"))["class_names"]))
    except (OSError, ValueError, LookupError, TypeError):  # loading the model says what is wrong; the list must not keep the host from starting
        own = []
    return [*own, *IMAGENET.labels()]


class MaskGITClass(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MIGMMaskGITClass",
            display_name="MIGM MaskGIT Class",
            category="MIGM",
            search_aliases=["class", "imagenet", "label", "category", "maskgit", "prompt"],
            description="What a MaskGIT model is to generate: one of its classes, or several at once, an image of each.",
            inputs=[
                io.Combo.Input(
                    "class_name",
                    options=class_names(),
                    tooltip="First the 48 classes of the bundled demo, a weather, a time of day and a ground each, then the 1,000 of ImageNet. Type to search.",
                ),
                io.String.Input(
                    "several",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Instead of the name: classes by name or number, one a line or with commas between them. Each gives an image, in this order. "
                    "One class with a canvas of several images gives that many.",
                ),
            ],
            outputs=[CLASSES.Output("classes", display_name="classes", tooltip="For MIGM MaskGIT Sampler.")],
        )

    @classmethod
    def execute(cls, class_name, several="") -> io.NodeOutput:
        for name, text in (("class_name", class_name), ("several", several)):
            arguments.text(name, text)
        return io.NodeOutput(ClassList(several if several.strip() else class_name))


class MaskGITSampler(Sampler):
    family = FAMILY

    @classmethod
    def define_schema(cls):
        rule = {name: each if name in SHOWN else advanced(each) for name, each in choices.rule_settings(FAMILY, MORE).items()}
        return cls.of_family(
            [
                *links(CLASSES.Input("classes", tooltip="From MIGM MaskGIT Class."), "MIGM Load MaskGIT"),
                seed("The same seed gives the same image, alone or in a batch; image i of a batch has the seed plus i."),
                steps(PUBLISHED["steps"], f"The published model and the bundled demo take {PUBLISHED['steps']}.", least=FAMILY.rule().least_steps),
                choices.budget(PUBLISHED["budget"], f"Of {PUBLISHED['steps']} steps the published model takes 7 or 8, the bundled demo 7."),
                cfg(PUBLISHED["guidance_scale"], "class"),
                *rule.values(),
                choices.method(),
            ],
            node_id="MIGMMaskGITSampler",
            display_name="MIGM MaskGIT Sampler",
            search_aliases=["KSampler", "sampler", "generate", "class to image", "inpaint", "accelerate", "maskgit", "imagenet"],
            description="Generate the masked tokens of a canvas by classes, and watch them appear. With a shortcut head most steps skip the large model.",
        )

    @classmethod
    def execute(cls, model, classes, head=None, canvas=None, **settings) -> io.NodeOutput:
        expect(ClassList, classes=classes)
        return cls.sample(model, classes, head, canvas, **settings)
