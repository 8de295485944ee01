"""Run by the host's own Python, without the host: generates what requests ask for with the engine alone, each in a process of its own.

Each line that comes in is a JSON object: ``calls``, see ``requests.Request.alone``; ``files``, the paths of model and head by family; ``pictures``, the
folder of input pictures; ``to``, a .npz file to write: an array for each picture as the host's node would save it, or ``text``. A line goes out when
it is written: an object with ``said``, "done" or what went wrong, and ``processor``, the seconds that the process has spent on the processor.
"""

import json
import os
import resource
import sys
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np
import torch
from PIL import Image

from migm_core.canvas import touched_tokens
from migm_core.pipeline import Pipeline

torch.set_num_threads(1)


def answer(asked: dict) -> dict:
    """The arrays of all calls."""
    made = {}
    for call in asked["calls"]:
        model, head = asked["files"][call.get("family", "lumina")]
        pipeline = Pipeline.load(model, head, dtype="fp32", device="cpu")
        images = [Image.open(Path(asked["pictures"]) / name).convert("RGB") for name in call.get("images", ())]
        masked = Image.open(Path(asked["pictures"]) / call["mask"]).convert("L") if call.get("mask") else None
        if call["do"] == "understand":
            made["text"] = np.array(pipeline.understand(call["question"], images, **call["with"]).text)
        elif call["do"] == "choose":
            made["text"] = np.array(pipeline.choose(call["question"], call["options"], images).option)
        else:
            for picture in generated(pipeline, call, images, masked):
                made[str(len(made))] = picture
    return made


def generated(pipeline: Pipeline, call: dict, images: list[Image.Image], masked: Image.Image | None) -> list[np.ndarray]:
    """Pictures as the host saves them, uint8 (h, w, 3)."""
    settings = dict(call["with"])
    if call["do"] == "canvas":
        settings["canvas"] = canvas_of(pipeline, images[0], masked, *call["variation"])
    elif images:
        settings |= {"images": images, **({"mask": masked} if masked is not None else {})}
    if "extend" in settings:
        settings["extend"] = tuple(settings["extend"])
    result = pipeline.generate(settings.pop("prompt", ""), **settings)
    if settings.get("task") == "paint":  # joined with the picture as images
        pixels = np.stack([np.asarray(image) for image in result.images]).astype(np.float32) / np.float32(255)
    else:
        pixels = pipeline.decode(result.canvas).permute(0, 2, 3, 1).numpy()
    return list(np.clip(255.0 * pixels, 0, 255).astype(np.uint8))  # cut off, not rounded


def canvas_of(pipeline: Pipeline, image: Image.Image, masked: Image.Image | None, variation: float, seed: int):
    """What MIGM Encode Image to Canvas makes of a picture: its middle, in whole tokens."""
    factor = pipeline.checkpoint.image_tokenizer.config.downscale_factor
    width, height = (side // factor * factor for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    canvas = pipeline.encode(pixels[:, :, top : top + height, left : left + width])
    if masked is not None:
        on_pixels = touched_tokens(torch.from_numpy(np.array(masked))[None].float() / 255, image.height, image.width)
        canvas = canvas.masked_with(touched_tokens(on_pixels[:, top : top + height, left : left + width], height // factor, width // factor))
    return canvas.varied(variation, seed)


def in_a_process(asked: dict) -> str:
    """Answer in a forked process, which knows nothing of those before it; what to say of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            np.savez(asked["to"], **answer(asked))
            said = "done"
        except BaseException:
            said = traceback.format_exc()
        os.write(writing, said.encode()[-60000:])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said or "the process ended without a word"


if __name__ == "__main__":
    for line in sys.stdin:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        said = in_a_process(json.loads(line))
        print(json.dumps({"said": said, "processor": resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before}), flush=True)
