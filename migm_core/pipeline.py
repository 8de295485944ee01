"""Load once, generate many: what the command line and a Python user call.

    from migm_core import Pipeline
    pipeline = Pipeline.load()
    result = pipeline.generate("a red house left of a yellow tree at sunset")
    result.images[0].save("house.png")
"""

import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import arguments, questions
from .canvas import Canvas, check_canvas
from .checkpoints import Checkpoint
from .checkpoints.fingerprint import other_base
from .diagnosis import named_culprit
from .images import to_images
from .loading import load_models
from .modules.streaming import StreamedBlocks
from .request import Request, take_task_options
from .requested_settings import resolve_settings
from .result import Result
from .sampling.backbone import Head
from .sampling.groups import Branches, sample_groups
from .sampling.loop import StepReport
from .sampling.methods import METHODS, Method
from .sampling.not_finite import NotFinite
from .settings import Settings
from .switches import Switches
from .threads import suited_threads
from .tokenizers.tiled_decoding import decode_in_room
from .trained import cautions


class Pipeline:
    """A checkpoint and, if there is one, its shortcut head, on one device.

    Args:
        head_path: where the head came from, for messages.
        device: compute device; defaults to that of the base model's weights, which may be offloaded.
        switches: what a run turns on; ``load`` has prepared the models for them.
        streamed: what moves the base's blocks to the device, where they stay in main memory.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        head: Head | None,
        head_path: str | Path = "the head",
        device: torch.device | None = None,
        switches: Switches = Switches(),
        streamed: StreamedBlocks | None = None,
    ):
        self.checkpoint = checkpoint
        self.head = head
        self.head_path = head_path
        self._device = device
        self.switches = switches
        self.streamed = streamed

    @classmethod
    def load(
        cls,
        model: str | Path = "demo",
        head: str | Path | None = "auto",
        *,
        dtype="auto",
        device: str | None = None,
        revision: str | None = None,
        stream: bool | None = None,
        mmap: bool = True,
        switches: Switches = Switches(),
    ) -> "Pipeline":
        """Load a checkpoint and a head.

        Args:
            model: "demo" or "demo-classes" for a bundled model, a folder or file, or a repository of Hugging Face, such as "Alpha-VLLM/Lumina-DiMOO", which is
                fetched where it is not here yet; see ``hub``.
            head: a file, also one of a repository, None for none, or "auto": the bundled head with a bundled model, else none.
            device: None takes CUDA where there is one.
            revision: of the model's repository.
            stream: keep the base's blocks in main memory and move each to the device when it computes; None does so where the whole base has no
                room on a CUDA device.
            mmap: leave weights in the files, mapped, where they need no conversion. Without it they are copied to memory: then it does no harm
                if a file is cut short while the process lives, which otherwise ends it (SIGBUS).
            switches: for speed or memory; all off by default.

        Raises:
            CheckpointError: a file is bad; it names the file and the key.
            ValueError: a device or dtype that there is not, or a repository that cannot be fetched.
        """
        options = {"dtype": dtype, "device": device, "revision": revision, "stream": stream, "mmap": mmap}
        checkpoint, loaded, head_path, streamed = load_models(model, head, **options, switches=switches)
        return cls(checkpoint, loaded, head_path, switches=switches, streamed=streamed)

    @property
    def device(self) -> torch.device:
        return self._device or self.checkpoint.base.device

    @property
    def dtype(self) -> torch.dtype:
        return self.checkpoint.base.dtype

    def settings(self, **asked) -> Settings:
        """The checkpoint's own settings, with those given (None counts as not given), checked.

        A budget that was not asked for follows the steps that were, in the checkpoint's own proportion. ``method`` may also be a ``Method`` of
        one's own.

        Raises:
            ValueError: a setting is out of its range, or nobody has one of that name.
        """
        return resolve_settings(self.checkpoint, self.head, self.switches, asked)

    def cautions(self, settings: Settings, prompt: Any = "", negative: str = "") -> list[str]:
        """What a run will do badly or ignore, one sentence each: see ``trained.cautions``; a head of another base; and the words that the model does not know."""
        said = cautions(self.checkpoint.trained, settings, negative)
        if self.head is not None and settings.method in METHODS and METHODS[settings.method].needs_head:
            recorded = getattr(self.head, "recorded_base", None)
            said += filter(None, [other_base(str(self.head_path), recorded, self.checkpoint.base, str(self.checkpoint.path))])
        prompts = prompt if isinstance(prompt, (list, tuple)) else [prompt]
        unknown = self.checkpoint.family.unknown_words(self.checkpoint, prompts, negative if settings.guidance_scale > 0 else "")
        if unknown:
            said.append(f"The model does not know {'this word' if len(unknown) == 1 else 'these words'}: {', '.join(unknown)}.")
        return said

    def method(self, settings: Settings) -> Method:
        return settings.build_method(self.head, self.checkpoint.family.method_fields)

    def generate(
        self,
        prompt: str | int | list[str | int] = "",
        negative: str = "",
        *,
        task: str | None = None,
        images: Any = (),
        mask: Any = None,
        kind: str = "",
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        budget: int | None = None,
        method: str | Method | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        temperature: float | None = None,
        seed: int = 0,
        seeds: SequenceOf[int] | None = None,
        batch: int = 1,
        canvas: Canvas | None = None,
        callback: Callable[[StepReport], None] | None = None,
        record: bool = False,
        probe: bool | None = None,
        **more,
    ) -> Result:
        """Generate images of a prompt, or of several.

        What is not given comes from the checkpoint, see ``settings``.

        Args:
            prompt: a text, or a class by its name or number, as the model takes; a list has one for each image, and
                so has a text of classes separated by commas.
            negative: what to steer away from; replaces the unconditional prompt.
            task: by its name in the family's ``tasks``, such as "edit" or "paint"; None for what a bare prompt or class asks for.
            images: the task's input pictures: PIL images, paths or pixels, one or a list.
            mask: what to generate in the picture, for a task that paints: a picture, or (h, w) in 0..1; by default its transparent parts.
            kind: of the map or the view, for a task that has kinds.
            width, height: in pixels.
            budget: how many of the steps are full, with the shortcut method.
            method: a name, see ``sampling.methods.METHODS``, or a method of one's own.
            guidance_scale: how closely to follow the prompt; 0 turns guidance off and halves the work.
            image_guidance_scale: how closely to follow the input pictures.
            temperature: how varied the images are, where the model has one.
            seed: of the first image; image i has seed + i.
            seeds: one for each prompt of a list, instead.
            batch: how many images of one prompt.
            canvas: what to start from, of one image or of as many as there will be, and of its own size; None for an empty one of the asked size.
            callback: called after each step; what it raises ends the run.
            record: have the result hold each step's features and logits.
            probe: measure at each full step how far the shortcut head's prediction was off; None does so in every run of a named task.
            more: other settings of methods, of the model's family and of the task, such as ``interval``, ``choice_temperature`` or ``feather``.

        Raises:
            ValueError: a setting out of its range, or a prompt that the model does not take.
            CheckpointError: the weights give no finite numbers.
        """
        if callback is not None:
            arguments.function("callback", callback)
        of_task = take_task_options(self.checkpoint.family, task, more)
        request = Request.of_words(self.checkpoint, prompt, negative, batch, seeds)
        request = request.with_task(task, kind, images, mask, of_task, self._encode_one).on_canvas(canvas, width, height)
        settings = self.settings(
            width=request.width, height=request.height, steps=steps, budget=budget, method=method, guidance_scale=guidance_scale,
            temperature=temperature, seed=seed, batch=request.batch, task=task, image_guidance_scale=image_guidance_scale, **more,
        )  # fmt: skip
        chosen = method if isinstance(method, Method) else self.method(settings)
        if probe or probe is None and task is not None:
            chosen = chosen.probed()
        result = self.run(request.branches(settings), settings, request.canvas, callback, method=chosen, seeds=request.seeds, record=record)
        return request.finish(result)

    def understand(self, question: str | list[str], images: Any = (), *, callback: Callable[[Any], None] | None = None, **settings) -> Any:
        """Answer a question on pictures, or on none.

        Args:
            question: a text, or a list of them on the same pictures, which are encoded once.
            images: PIL images, paths or pixels, one or a list.
            callback: called after each pass with the answer so far; what it raises ends the run.
            settings: of the family's text sampler, see ``families.lumina_dimoo.text_settings.TextSettings``.

        Returns:
            A ``families.lumina_dimoo.reading.Reply``, or a list of them for a list of questions.

        Raises:
            ValueError: a question, a picture or a setting that cannot be.
            CheckpointError: the weights give no finite numbers.
        """
        with self._computing():
            return questions.answer(self.checkpoint, self._encode_one, question, images, settings, callback)

    def choose(self, question: str | list[str], options: list[str], images: Any = ()) -> Any:
        """Which of some answers is the likeliest, in one pass.

        Args:
            question, images: as ``understand``.

        Returns:
            A ``families.lumina_dimoo.reading.Choice``, or a list of them for a list of questions.

        Raises:
            ValueError: a question, an option or a picture that cannot be.
            CheckpointError: the weights give no finite numbers.
        """
        with self._computing():
            return questions.choose(self.checkpoint, self._encode_one, question, options, images)

    def run(
        self,
        branches: Branches,
        settings: Settings,
        canvas: Canvas | None = None,
        callback: Callable[[StepReport], None] | None = None,
        **options,
    ) -> Result:
        """Generate with guidance branches of one's own, for all images or a list for each; otherwise as ``generate``."""
        began = time.perf_counter()
        sampled = self.sample(branches, settings, canvas, callback, **options)
        pixels = self.decode(sampled.canvas)
        with named_culprit(self.checkpoint):
            if not pixels.isfinite().all():
                raise NotFinite("decode")
        return replace(sampled, images=to_images(pixels), seconds=time.perf_counter() - began)

    def sample(
        self,
        branches: Branches,
        settings: Settings,
        canvas: Canvas | None = None,
        callback: Callable[[StepReport], None] | None = None,
        *,
        method: Method | None = None,
        seeds: list[int] | None = None,
        record: bool = False,
    ) -> Result:
        """Sample a canvas without decoding it: the result has no images.

        Images whose prompts have one length and whose canvases have equally many masked tokens share a batch; others follow in another.

        Args:
            branches: of all images, or a list for each in the same order of weights.
            canvas: of one image or of ``settings.batch``; None for an empty one.
            method: instead of the one that the settings name.
            seeds: one for each image; by default ``settings.seed`` counted up.
        """
        base, factor = self.checkpoint.base, self.checkpoint.image_tokenizer.config.downscale_factor
        if canvas is None:
            canvas = Canvas.empty(1, settings.height // factor, settings.width // factor)
        check_canvas(canvas, settings.batch, base.config.codebook_size)
        if canvas.shape[0] == 1:
            canvas = canvas.repeat(settings.batch)
        seeds = seeds or list(range(settings.seed, settings.seed + settings.batch))
        method, options = method or self.method(settings), {"callback": callback, "record": record}
        began = time.perf_counter()
        with self._computing(method):
            sampled = sample_groups(base, branches, canvas, method, settings.rule, steps=settings.steps, seeds=seeds, device=self.device, **options)
        return Result(images=[], settings=settings, seconds=time.perf_counter() - began, seeds=tuple(seeds), **vars(sampled))

    @torch.inference_mode()
    def decode(self, canvas: Canvas) -> Tensor:
        """Pixels in 0..1, float32 (B, 3, h, w); masked tokens are shown as code 0.

        One by one: the decoder's memory would grow with the batch, and an image would differ a little with its company.

        Raises:
            ValueError: it is no canvas, or holds a code that the model does not have.
        """
        arguments.instance("canvas", canvas, Canvas).check_codes(self.checkpoint.base.config.codebook_size)
        decode, tile = self.checkpoint.image_tokenizer.decode, self.switches.tile
        known = canvas.codes.masked_fill(canvas.masked, 0)  # what is masked may hold anything
        with self._computing():
            return torch.cat([decode_in_room(decode, codes, tile).float() for codes in known.to(self.device).split(1)])

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Canvas:
        """Pixels in 0..1, (B, 3, h, w), to a canvas with nothing masked.

        Raises:
            ValueError: they have another shape, hold something else, or have sides that are not whole tokens.
        """
        arguments.images("images", images)
        with self._computing():
            codes = self.checkpoint.image_tokenizer.encode(images.to(self.device, torch.float32))
        return Canvas(codes, torch.zeros_like(codes, dtype=torch.bool))

    def _encode_one(self, pixels: Tensor) -> Tensor:
        return self.encode(pixels).codes

    @contextmanager
    def _computing(self, method: Method | None = None) -> Iterator[None]:
        """The threads and switches of a run. Numbers that are not finite become an error that names what to blame."""
        head = getattr(method, "head", None)
        head_path = self.head_path if head is self.head else "The method's own head"
        with named_culprit(self.checkpoint, head, head_path), suited_threads(self.checkpoint.base.config, self.device), self.switches.during_run():
            yield
