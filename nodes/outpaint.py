"""MIGM Outpaint: more of a picture beyond its borders, or a part of it anew, joined with what was there."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..migm_core import arguments
from ..migm_core.canvas import Canvas
from ..migm_core.families import family_named
from ..migm_core.families.lumina_dimoo.painting import MAX_REACH, Painting
from ..migm_core.families.request import TaskRequest
from . import choices
from .host import pictures
from .host.pictures import mask_batch, picture_batch
from .host.weights import LoadedModel
from .sockets import CANVAS, ModelCanvas, advanced, expect, expect_family, optional, schema
from .tasks import LOADER, TaskPrompt, as_images, model_link

SIDES = ("left", "top", "right", "bottom")
FAMILY = family_named("lumina-dimoo")


class Outpaint(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        joining = choices.inputs_of(Painting)
        return schema(
            node_id="MIGMOutpaint",
            display_name="MIGM Outpaint",
            category="MIGM",
            search_aliases=["outpaint", "inpaint", "extend", "expand", "uncrop", "pad image", "fill", "generative fill", "zoom out"],
            description="Extend a picture beyond its borders, generate a masked part of it anew, or both. All other pixels stay as they are. "
            "Without an extension, a picture is first scaled to whole tokens.",
            inputs=[
                model_link(),
                io.Image.Input("image", tooltip="What to extend. Its transparent parts are generated too, where it has such and no mask is connected."),
                io.Mask.Input("mask", optional=True, tooltip="What to generate in the picture, for inpainting. Of another size it is scaled."),
                *(
                    io.Int.Input(side, default=0, min=0, max=MAX_REACH, step=8, tooltip="Pixels to add on this side. An extension fills up the picture to whole tokens, too.")
                    for side in SIDES
                ),
                optional(joining.pop("feather")),
                *map(optional, map(advanced, joining.values())),
            ],
            outputs=[
                CANVAS.Output("canvas", display_name="canvas", tooltip="For MIGM KSampler (Shortcut), with a MIGM Prompt of the whole picture, and MIGM Compare Methods."),
                io.Image.Output("seen", display_name="image", tooltip="The picture as the model sees it: extended or scaled, its sides whole tokens."),
                io.Mask.Output("area", display_name="mask", tooltip="What is generated: all of each token that the mask takes."),
            ],
        )

    @classmethod
    def execute(cls, model, image, left, top, right, bottom, mask=None, **joining) -> io.NodeOutput:
        expect(LoadedModel, LOADER, model=model)
        expect_family(model, TaskPrompt)
        image = picture_batch("image", image)
        extend = (left, top, right, bottom)
        for side, pixels in zip(SIDES, extend):
            arguments.whole(side, pixels, 0, MAX_REACH)
        pictures.check_size(image.shape[2] + left + right, image.shape[1] + top + bottom, model.downscale_factor, "Add less, or scale it down first.")
        masks = _masks(mask, len(image), extends=any(extend))
        encode, options = pictures.encode_pixels(model), {**joining, "extend": extend}
        requests = [TaskRequest("paint", pictures=[each], mask=of_each, options=options) for each, of_each in zip(image, masks)]
        inputs = tuple(FAMILY.task_inputs(model.checkpoint, request, encode) for request in requests)
        notes = tuple(dict.fromkeys(note for each in inputs for note in each.notes))
        canvas = Canvas.stacked([each.canvas.to("cpu") for each in inputs])
        side = model.downscale_factor
        area = canvas.masked.repeat_interleave(side, 1).repeat_interleave(side, 2).float()
        return io.NodeOutput(ModelCanvas(canvas, model, tuple(each.finish for each in inputs), notes), as_images(inputs, 0), pictures.placed(area))


def _masks(mask: Tensor | None, images: int, *, extends: bool) -> list[Tensor | None]:
    """A mask (h, w) for each image of a MASK (B, h, w) or (h, w); None where an extension alone decides.

    Load Image gives pictures without transparency a small empty mask: beside an extension that says nothing.
    """
    if mask is None:
        return [None] * images
    return [None if extends and not torch.count_nonzero(each) else each for each in mask_batch(mask, images).expand(images, -1, -1)]
