"""Canvases: empty, from an image, and back to an image."""

from comfy_api.latest import io
from torch import Tensor

from ..migm_core import arguments
from ..migm_core.canvas import Canvas, read_as_white, scaled_mask, touched_tokens
from ..migm_core.settings import MAX_BATCH, Settings
from ..migm_core.tokenizers.tiled_decoding import SMALLEST_TILE
from .host import pictures
from .host.weights import LoadedModel
from .sockets import CANVAS, MODEL, ModelCanvas, advanced, expect, schema

MAX_SIDE = 16384


class EmptyCanvas(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        own_size = "In pixels. 0 takes the model's own size."
        return schema(
            node_id="MIGMEmptyCanvas",
            display_name="MIGM Empty Canvas",
            category="MIGM",
            search_aliases=["empty latent image", "size", "resolution", "batch", "migm canvas"],
            description="A canvas with every token masked, for a size or a batch that differs from the model's own.",
            inputs=[
                MODEL.Input("model", tooltip="From MIGM Load Lumina-DiMOO or MIGM Load MaskGIT."),
                io.Int.Input("width", default=0, min=0, max=MAX_SIDE, step=16, tooltip=own_size),
                io.Int.Input("height", default=0, min=0, max=MAX_SIDE, step=16, tooltip=own_size),
                io.Int.Input("batch", default=1, min=1, max=MAX_BATCH, tooltip="How many images; image i has the seed of the sampler plus i."),
            ],
            outputs=[CANVAS.Output("canvas", display_name="canvas", tooltip="For MIGM KSampler (Shortcut), MIGM MaskGIT Sampler and MIGM Compare Methods.")],
        )

    @classmethod
    def execute(cls, model, width, height, batch) -> io.NodeOutput:
        expect(LoadedModel, model=model)
        for name, side in (("width", width), ("height", height)):
            arguments.whole(name, side, 0)
        own = model.checkpoint.settings
        size = {"width": width or own["width"], "height": height or own["height"]}
        Settings(**size, steps=own["steps"], guidance_scale=0, rule=model.checkpoint.family.sampling({}), batch=batch).check(model.downscale_factor)
        empty = Canvas.empty(batch, size["height"] // model.downscale_factor, size["width"] // model.downscale_factor)
        return io.NodeOutput(ModelCanvas(empty, model))


class EncodeImageToCanvas(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MIGMEncodeImage",
            display_name="MIGM Encode Image to Canvas",
            category="MIGM",
            search_aliases=["vae encode", "inpaint", "outpaint", "image to image", "img2img", "variation", "denoise"],
            description="Turn an image into tokens and mask some of them, for the sampler to regenerate: an area, a random share, or both. "
            "For outpainting, put Pad Image for Outpainting before it.",
            inputs=[
                MODEL.Input("model", tooltip="From MIGM Load Lumina-DiMOO or MIGM Load MaskGIT."),
                io.Image.Input("image", tooltip="Cropped around its centre to whole tokens, 16x16 pixels each in Lumina-DiMOO and MaskGIT."),
                io.Mask.Input("mask", optional=True, tooltip="What to regenerate. A token is masked if the mask touches it."),
                io.Float.Input(
                    "variation",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the other tokens to regenerate too, at random: 0 keeps all, 1 keeps none. What denoise is elsewhere.",
                ),
                advanced(io.Int.Input("variation_seed", default=0, min=0, max=2**63, tooltip="Chooses which tokens the variation masks.")),
            ],
            outputs=[CANVAS.Output("canvas", display_name="canvas", tooltip="For MIGM KSampler (Shortcut), MIGM MaskGIT Sampler, MIGM Compare Methods and MIGM Decode Canvas.")],
        )

    @classmethod
    def execute(cls, model, image, variation, variation_seed, mask=None) -> io.NodeOutput:
        expect(LoadedModel, model=model)
        arguments.share("variation", variation)
        arguments.whole("variation_seed", variation_seed, 0, 2**64 - 1)
        image, notes = _opaque(pictures.picture_batch("image", image))
        height, width = image.shape[1:3]
        rows, columns = height // model.downscale_factor, width // model.downscale_factor
        if not rows or not columns:
            raise ValueError(f"The image has {width}x{height} pixels; a single token of this model covers {model.downscale_factor}x{model.downscale_factor}. Use a larger image.")
        pictures.check_size(width, height, model.downscale_factor, "Scale it down first.")
        codes = pictures.encode(model, _whole_tokens(image, model.downscale_factor))
        canvas = Canvas(codes, codes < 0)
        if mask is not None:
            mask = pictures.mask_batch(mask, len(image))
            touched = _touched(mask, image, model.downscale_factor)
            canvas = canvas.masked_with(touched)
            if mask.shape[-2:] != image.shape[1:3] and touched.any():  # an empty one of another size is what Load Image gives beside an opaque picture
                notes += (scaled_mask((mask.shape[-1], mask.shape[-2]), (width, height)),)
        return io.NodeOutput(ModelCanvas(canvas.varied(variation, variation_seed), model, notes=notes))


def _opaque(image: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """An IMAGE (B, h, w, 3 or 4) without transparency, (B, h, w, 3), and what is to be said of that."""
    alpha = image[..., 3:].clamp(0, 1)
    if (alpha == 1).all():  # and where there is none
        return image[..., :3], ()
    return image[..., :3] * alpha + 1 - alpha, (read_as_white("The picture"),)


def _whole_tokens(pixels, downscale_factor: int):
    """The centre of (B, h, w, ...) whose sides are multiples of the factor."""
    height, width = pixels.shape[1] // downscale_factor * downscale_factor, pixels.shape[2] // downscale_factor * downscale_factor
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


def _touched(mask, image, downscale_factor: int):
    """The tokens that a MASK (B, h, w) of any size touches, laid over the whole image."""
    on_pixels = touched_tokens(mask, *image.shape[1:3])
    cropped = _whole_tokens(on_pixels, downscale_factor)
    return touched_tokens(cropped, cropped.shape[1] // downscale_factor, cropped.shape[2] // downscale_factor)


class DecodeCanvas(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MIGMDecodeCanvas",
            display_name="MIGM Decode Canvas",
            category="MIGM",
            search_aliases=["vae decode", "vae decode tiled", "canvas to image", "migm decode"],
            description="Turn a canvas into an image. Tokens that are still masked are shown as a grey chequerboard.",
            inputs=[
                CANVAS.Input("canvas", tooltip="From a sampler, MIGM Encode Image to Canvas or MIGM Empty Canvas."),
                advanced(
                    io.Int.Input(
                        "tile_size",
                        default=0,
                        min=0,
                        max=4096,
                        step=64,
                        optional=True,
                        tooltip="Pixels a side of the parts that a larger image is decoded in: a third of the memory, more time, the same image. "
                        "0 decodes it whole, and in tiles only where memory does not suffice.",
                    )
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="One image for each on the canvas.")],
        )

    @classmethod
    def execute(cls, canvas, tile_size=0) -> io.NodeOutput:
        expect(ModelCanvas, canvas=canvas)
        if arguments.whole("tile_size", tile_size, 0) and tile_size < SMALLEST_TILE:
            raise ValueError(f"tile_size is {tile_size}, but must be 0, to decode an image whole, or at least {SMALLEST_TILE} pixels.")
        return io.NodeOutput(pictures.placed(pictures.canvas_image(canvas.model, canvas.canvas, tile_size, canvas.finish)))
