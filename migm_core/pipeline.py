"""Load once, generate many: what the command line and a Python user call.

    from migm_core import Pipeline
    pipeline = Pipeline.load()
    result = pipeline.generate("a large red heart on a navy background")
    result.images[0].save("heart.png")
"""

import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import arguments, hub
from .canvas import Canvas
from .checkpoints import Checkpoint, CheckpointError, load_checkpoint, load_head
from .checkpoints.fill import copy_to_memory
from .devices import resolve_device
from .families.request import TaskRequest
from .images import to_images
from .modules.streaming import StreamedBlocks, fits
from .result import Result
from .sampling.backbone import Branch, Head
from .sampling.cost import PROMPT
from .sampling.loop import Recorded, StepReport, sample
from .sampling.memory import run_bytes
from .sampling.methods import METHODS, Method
from .sampling.methods.method import unknown_setting
from .sampling.noise import SeededNoise
from .sampling.probe import Probed
from .sampling.schedules import SKIPPED
from .sampling.timing import StepTimer
from .settings import MAX_STEPS, Settings
from .switches import Switches
from .threads import suited_threads
from .trained import cautions

DEMO = Path(__file__).parent / "demo"
DEMO_HEAD = DEMO / "shortcut.safetensors"


class Pipeline:
    """A checkpoint and, if there is one, its shortcut head, on one device.

    Args:
        head_path: where the head came from, for messages.
        device: compute device; defaults to that of the base model's weights, which may be offloaded.
        switches: what a run turns on; ``load`` has prepared the models for them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        head: Head | None,
        head_path: str | Path = "the head",
        device: torch.device | None = None,
        switches: Switches = Switches(),
    ):
        self.checkpoint = checkpoint
        self.head = head
        self.head_path = head_path
        self._device = device
        self.switches = switches
        self.streamed: StreamedBlocks | None = None

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
            model: "demo" for the bundled model, a folder or file, or a repository of Hugging Face, such as "Alpha-VLLM/Lumina-DiMOO", which is
                fetched where it is not here yet; see ``hub``.
            head: a file, also one of a repository, None for none, or "auto": the bundled head with the bundled model, else none.
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
        for name, value in (("model", model), ("head", head)):
            if not isinstance(value, (str, Path)) and (name == "model" or value is not None):
                raise ValueError(f"{name} is {arguments.shown(value)}, but must be a path or a name.")
        arguments.instance("switches", switches, Switches)
        if revision is not None:
            arguments.text("revision", revision)
        if stream is not None:
            arguments.switch("stream", stream)
        arguments.switch("mmap", mmap)
        device = resolve_device(device)
        switches.check(device)
        if head == "auto":
            head = DEMO_HEAD if str(model) == "demo" else None
        elif head is not None:
            head = hub.resolve(head)
        path = DEMO if str(model) == "demo" else hub.resolve(model, revision=revision)
        # On CUDA through main memory, where files are mapped: only then it is known whether there is room.
        first = torch.device("cpu") if device.type == "cuda" or stream else device
        checkpoint = load_checkpoint(path, dtype=dtype, device=first, for_device=device)
        loaded = load_head(head, checkpoint.base.config, dtype=checkpoint.base.dtype, device=device) if head is not None else None
        if not mmap:
            for part in filter(None, (checkpoint.base, checkpoint.image_tokenizer, loaded)):
                copy_to_memory(part)
        switches.prepare(checkpoint)
        streamed = None
        if first != device or stream:
            checkpoint.image_tokenizer.to(device)
            if stream or stream is None and not fits(checkpoint.base, device, _usual_bytes(checkpoint)):
                streamed = StreamedBlocks(checkpoint.base, device)
            else:
                checkpoint.base.to(device)
        pipeline = cls(checkpoint, loaded, head or "", switches=switches)
        pipeline.streamed = streamed
        return pipeline

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
        family, own = self.checkpoint.family, self.checkpoint.settings
        asked = {name: value.item() if isinstance(value, np.generic) else value for name, value in asked.items() if value is not None}
        of_methods = {name for method in METHODS.values() for name in method.settings()}
        of_run = {"width", "height", "steps", "guidance_scale", "image_guidance_scale", "task", "method", "seed", "batch"}
        known = [*of_run, *of_methods, *family.rule_settings()]
        for name in asked:
            if name not in known:
                raise unknown_setting(name, known)
        if "task" in asked:
            family.task(asked["task"])  # raises for one that there is not
            own = {**own, **family.task_settings(self.checkpoint, asked["task"])}
        own_method = asked["method"] if isinstance(asked.get("method"), Method) else None
        if own_method is not None:
            asked["method"] = "vanilla"  # checks what all methods share
        arguments.whole("steps", asked.get("steps", own["steps"]))
        single = asked.get("steps", own["steps"]) == 1  # leaves no step to a head
        asked.setdefault("method", "vanilla" if self.head is None or single else "shortcut")
        asked.setdefault("budget", self._budget(asked.get("steps")))
        values = {**own, **asked}
        settings = Settings(
            **{name: values[name] for name in of_run if name in values},
            rule=family.sampling(values),
            method_settings={name: values[name] for name in of_methods if name in values},
        )
        settings.check(self.checkpoint.image_tokenizer.config.downscale_factor)
        method = own_method or METHODS[settings.method]
        if method.needs_head and getattr(own_method, "head", self.head) is None:
            raise ValueError(f"The {method.name} method needs a shortcut head, and none is loaded. Give one, or choose the vanilla method.")
        if self.switches.compile and not method.compiles:
            raise ValueError(f"The {method.name} method does not run compiled. Leave compile out, or choose another method.")
        if own_method is not None:
            own_method.kinds(settings.steps)
            return replace(settings, method=method.name, method_settings={name: getattr(own_method, name) for name in method.settings()})
        return settings

    def _budget(self, steps: object) -> int:
        own = self.checkpoint.settings
        if isinstance(steps, int) and steps > 1:
            return min(steps, max(2, round(min(steps, MAX_STEPS) * own["budget"] / own["steps"])))
        return own["budget"]

    def cautions(self, settings: Settings, prompt: Any = "", negative: str = "") -> list[str]:
        """What a run will do badly or ignore, one sentence each: see ``trained.cautions``; and the words that the model does not know."""
        said = cautions(self.checkpoint.trained, settings, negative)
        prompts = prompt if isinstance(prompt, (list, tuple)) else [prompt]
        unknown = self.checkpoint.family.unknown_words(self.checkpoint, [*prompts, *([negative] if settings.guidance_scale > 0 else [])])
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
            probe: measure at each full step how far the shortcut head's prediction was off; None does so for tasks with pictures.
            more: other settings of methods, of the model's family and of the task, such as ``interval``, ``choice_temperature`` or ``feather``.

        Raises:
            ValueError: a setting out of its range, or a prompt that the model does not take.
            CheckpointError: the weights give no finite numbers.
        """
        if not isinstance(prompt, (list, tuple)):
            prompt = self.checkpoint.family.split(self.checkpoint, prompt)
        several = isinstance(prompt, (list, tuple))
        prompts = list(prompt) if several else [prompt]
        if not prompts:
            raise ValueError("The list of prompts is empty, expected at least one.")
        if several and batch not in (1, len(prompts)):
            raise ValueError(f"batch is {batch!r}, but there are {len(prompts)} prompts, one for each image. Leave batch out.")
        if several:
            batch = len(prompts)
        arguments.text("negative", negative)
        if callback is not None:
            arguments.function("callback", callback)
        if seeds is not None:
            seeds = _seeds(seeds, prompts if several else None)
        request, inputs = self._task_inputs(task, prompts[0], negative, kind, images, mask, more)
        if inputs is not None and inputs.canvas is not None:
            if width or height or canvas is not None:
                raise ValueError(f"The task {task} takes its size from the picture. Leave width, height and canvas out, or use extend.")
            canvas = inputs.canvas
        elif inputs is not None and inputs.size and canvas is None:
            width, height = width or inputs.size[0], height or inputs.size[1]
        if canvas is not None:
            self._check_canvas(canvas, batch)
            width, height = self._size_of(canvas, width, height)
        settings = self.settings(
            width=width, height=height, steps=steps, budget=budget, method=method, guidance_scale=guidance_scale, temperature=temperature,
            seed=seed, batch=batch, task=task, image_guidance_scale=image_guidance_scale, **more,
        )  # fmt: skip
        chosen = method if isinstance(method, Method) else self.method(settings)
        if probe or probe is None and inputs is not None and inputs.pictures:
            chosen = chosen.probed()
        family = self.checkpoint.family
        if request is None:
            branches = [family.branches(self.checkpoint, each, negative, settings.guidance_scale, 1 if several else batch) for each in prompts]
        else:
            scales = settings.guidance_scale, settings.image_guidance_scale or 0
            branches = [family.task_branches(self.checkpoint, replace(request, prompt=each), inputs, *scales) for each in prompts]
        result = self.run(
            branches if several else branches[0],
            settings,
            canvas,
            callback,
            method=chosen,
            seeds=seeds,
            record=record,
        )
        if inputs is None:
            return result
        notes = inputs.notes
        if result.head_fits == "poor":
            notes += (f"The shortcut head does not predict this task well ({result.head_report}). Raise the budget, or choose another method.",)
        return replace(result, images=[inputs.finish(image) for image in result.images], pictures=inputs.pictures, notes=notes)

    def _task_inputs(self, task: str | None, prompt: str, negative: str, kind: str, images: Any, mask: Any, more: dict) -> tuple[TaskRequest | None, Any]:
        """A task's request and its pictures, ready for the model; its own settings leave ``more``. Without a task there is neither."""
        family = self.checkpoint.family
        if task is None:
            if kind or mask is not None or (images is not None and not (isinstance(images, (list, tuple)) and not images)):
                raise ValueError(f"Pictures, a mask or a kind are given, but no task. Choose one: {', '.join(family.tasks) or 'this model has none'}.")
            return None, None
        options = {name: more.pop(name) for name in family.task(task).setting_names if name in more}
        request = TaskRequest(task, prompt, negative, kind, images, mask, options)
        return request, family.task_inputs(self.checkpoint, request, self._encode_one)

    def _encode_one(self, pixels: Tensor) -> Tensor:
        return self.encode(pixels).codes

    def understand(
        self, question: str | list[str], images: Any = (), *, callback: Callable[[Any], None] | None = None, **settings
    ) -> Any:
        """Answer a question on pictures, or on none.

        Args:
            question: a text, or a list of them on the same pictures, which are encoded once.
            images: PIL images, paths or pixels, one or a list.
            callback: called after each pass with the answer so far; what it raises ends the run.
            settings: of the family's text sampler, see ``families.lumina_dimoo.understanding.TextSettings``.

        Returns:
            A ``families.lumina_dimoo.reading.Reply``, or a list of them for a list of questions.

        Raises:
            ValueError: a question, a picture or a setting that cannot be.
            CheckpointError: the weights give no finite numbers.
        """
        if isinstance(question, list) and not question:
            raise ValueError("The list of questions is empty, expected at least one.")
        if callback is not None:
            arguments.function("callback", callback)
        questions = question if isinstance(question, list) else [question]
        with self._during_reading():
            replies = self.checkpoint.family.understand(self.checkpoint, questions, images, self._encode_one, settings, callback)
        return replies if isinstance(question, list) else replies[0]

    def choose(self, question: str, options: list[str], images: Any = ()) -> Any:
        """Which of some answers is the likeliest, in one pass: a ``families.lumina_dimoo.reading.Choice``.

        Raises:
            ValueError: a question, an option or a picture that cannot be.
            CheckpointError: the weights give no finite numbers.
        """
        with self._during_reading():
            return self.checkpoint.family.choose(self.checkpoint, question, options, images, self._encode_one)

    def run(
        self,
        branches: list[Branch] | list[list[Branch]],
        settings: Settings,
        canvas: Canvas | None = None,
        callback: Callable[[StepReport], None] | None = None,
        **options,
    ) -> Result:
        """Generate with guidance branches of one's own, for all images or a list for each; otherwise as ``generate``."""
        began = time.perf_counter()
        sampled = self.sample(branches, settings, canvas, callback, **options)
        pixels = self.decode(sampled.canvas)
        if not pixels.isfinite().all():
            raise CheckpointError(f"{self._culprit('decode')} Nothing was generated.")
        return replace(sampled, images=to_images(pixels), seconds=time.perf_counter() - began)

    def sample(
        self,
        branches: list[Branch] | list[list[Branch]],
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
        factor = self.checkpoint.image_tokenizer.config.downscale_factor
        if canvas is None:
            canvas = Canvas.empty(1, settings.height // factor, settings.width // factor)
        self._check_canvas(canvas, settings.batch)
        if canvas.shape[0] == 1:
            canvas = canvas.repeat(settings.batch)
        branches = [_of_image(branches, image) for image in range(settings.batch)]
        seeds = seeds or list(range(settings.seed, settings.seed + settings.batch))
        method = method or self.method(settings)
        codes, masked = canvas.codes.clone(), canvas.masked
        likelihood, steps, passes, recorded, probed = torch.zeros(settings.batch), [], 0, [], []
        began = time.perf_counter()
        groups = [[image] for image in range(settings.batch)] if settings.rule.one_by_one else _groups(branches, masked)
        for images in groups:
            rows = torch.tensor(images)
            part = Canvas(canvas.codes[rows], masked[rows]).to(self.device)
            stacked = [_stacked([branches[image][k] for image in images]) for k in range(len(branches[images[0]]))]
            finished, sum_, times, unmasking, kept, measured = self._sample_group(stacked, settings, part, method, [seeds[image] for image in images], callback, record)
            codes[rows] = finished.codes.to(codes.device)
            likelihood[rows] = sum_
            steps, passes = steps + times, passes + unmasking
            recorded.append(kept)
            probed += measured
        canvas = Canvas(codes, torch.zeros_like(masked)).to(self.device)
        kept = recorded if record else None
        return Result(canvas, [], settings, time.perf_counter() - began, steps, passes, likelihood, tuple(seeds), kept, tuple(probed))

    def _sample_group(
        self,
        branches: list[Branch],
        settings: Settings,
        canvas: Canvas,
        method: Method,
        seeds: list[int],
        callback: Callable[[StepReport], None] | None,
        record: bool,
    ) -> tuple[Canvas, Tensor, list[tuple[str, float]], int, list[Recorded], list[Probed]]:
        timer = StepTimer(self.device)
        seen = {SKIPPED}  # kinds of step; what is wrong with a model shows the first time that it runs
        passes, kept, measured = 0, [], []
        likelihood = torch.zeros(canvas.shape[0], device=self.device)

        def after_step(report: StepReport) -> None:
            nonlocal passes
            timer.lap(report)
            passes += report.unmasked > 0
            likelihood.add_(report.log_probability.float().sum(1))
            if report.kind not in seen and not report.finite:
                raise CheckpointError(f"{self._culprit(report.kind)} Nothing was generated.")
            seen.add(report.kind)
            if record and report.recorded is not None:
                kept.append(report.recorded)
            if report.measured:
                measured.append((report.step, report.measured))
            if callback is not None:
                callback(report)
            timer.start()

        timer.start()
        with self._during_run():
            finished = sample(
                self.checkpoint.base,
                branches,
                canvas,
                method,
                settings.rule,
                steps=settings.steps,
                noise=SeededNoise.of_seeds(seeds, self.device),
                callback=after_step,
                record=record,
            )
        times = timer.seconds()  # on CUDA this waits for the last one
        probed = [Probed(step, **{name: float(value) for name, value in values.items()}) for step, values in measured]
        return finished, likelihood.cpu(), times, passes, kept, probed

    def _check_canvas(self, canvas: Canvas, batch: int) -> None:
        arguments.instance("canvas", canvas, Canvas)
        if canvas.shape[0] not in (1, batch):
            raise ValueError(f"The canvas holds {canvas.shape[0]} images; expected one, or {batch}, as many as are generated.")
        canvas.check_codes(self.checkpoint.base.config.codebook_size)

    def _size_of(self, canvas: Canvas, width: int | None, height: int | None) -> tuple[int, int]:
        """Width and height of a canvas in pixels; a ValueError where others are asked for."""
        factor = self.checkpoint.image_tokenizer.config.downscale_factor
        own = canvas.shape[2] * factor, canvas.shape[1] * factor
        for name, asked, size in zip(("width", "height"), (width, height), own):
            if asked not in (None, size):
                raise ValueError(f"{name} is {asked!r}, but the canvas has {size} pixels there. Leave {name} out.")
        return own

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
        with self._during_run():
            return torch.cat([decode(codes, tile).float() for codes in known.to(self.device).split(1)])

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Canvas:
        """Pixels in 0..1, (B, 3, h, w), to a canvas with nothing masked.

        Raises:
            ValueError: they have another shape, hold something else, or have sides that are not whole tokens.
        """
        arguments.images("images", images)
        with self._during_run():
            codes = self.checkpoint.image_tokenizer.encode(images.to(self.device, torch.float32))
        return Canvas(codes, torch.zeros_like(codes, dtype=torch.bool))

    @contextmanager
    def _during_run(self) -> Iterator[None]:
        with suited_threads(self.checkpoint.base.config, self.device), self.switches.during_run():
            yield

    @contextmanager
    def _during_reading(self) -> Iterator[None]:
        try:
            with self._during_run():
                yield
        except FloatingPointError:
            raise CheckpointError(self._culprit("full")) from None

    def _culprit(self, kind: str) -> str:
        """What is to blame when a step of some kind, or "decode", gives numbers that are not finite."""
        path, what, model = {
            "shortcut": (self.head_path, "shortcut head", self.head),
            "decode": (self.checkpoint.path, "image tokenizer", self.checkpoint.image_tokenizer),
        }.get(kind, (self.checkpoint.path, "base model", self.checkpoint.base))
        for name, tensor in model.state_dict().items():
            if not tensor.float().isfinite().all():  # float8 cannot tell by itself
                name = self.checkpoint.family.base_prefix + name if model is self.checkpoint.base else name
                return f"{path}: the {what}'s tensor {name} holds values that are not finite. The file may be damaged: download it again."
        return f"{path}: the {what} gives values that are not finite, computed in {self.dtype}; try dtype fp32."


def _seeds(seeds: SequenceOf[int], prompts: list | None) -> list[int]:
    """One seed for each of several prompts, checked."""
    seeds = list(seeds) if isinstance(seeds, Iterable) else [seeds]
    if prompts is None or len(seeds) != len(prompts):
        count = "one prompt" if prompts is None else f"{len(prompts)} prompts"
        raise ValueError(f"There are {len(seeds)} seeds for {count}. Give a list of prompts, and one seed for each.")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**64:
            raise ValueError(f"seeds holds {seed!r}, but each must be a whole number from 0 to 2**64 - 1.")
    return [int(seed) for seed in seeds]


def _usual_bytes(checkpoint: Checkpoint) -> int:
    """Bytes that a vanilla run with the checkpoint's own settings needs beside the weights."""
    config, own = checkpoint.base.config, checkpoint.settings
    factor = checkpoint.image_tokenizer.config.downscale_factor
    rows, columns = own["height"] // factor, own["width"] // factor
    lengths = [config.sequence_length(PROMPT, rows, columns)] * (2 if own["guidance_scale"] > 0 else 1)
    return run_bytes(config, checkpoint.base.dtype, lengths, rows * columns, METHODS["vanilla"]())


def _groups(branches: list[list[Branch]], masked: Tensor) -> Iterator[list[int]]:
    """Images that one batch can hold: prompts of one length in every branch, and equally many masked tokens."""
    groups: dict[tuple, list[int]] = {}
    for image, (of_image, count) in enumerate(zip(branches, masked.flatten(1).sum(1).tolist())):
        groups.setdefault((count, *(branch.prompt.shape[-1] for branch in of_image)), []).append(image)
    yield from groups.values()


def _of_image(branches: list[Branch] | list[list[Branch]], image: int) -> list[Branch]:
    """The branches of one image."""
    if not isinstance(branches[0], Branch):
        return branches[image]
    return [branch if branch.prompt.dim() == 1 else replace(branch, prompt=branch.prompt[image]) for branch in branches]


def _stacked(branches: list[Branch]) -> Branch:
    """One branch of several images as a branch of their batch."""
    first = branches[0]
    if all(branch.prompt is first.prompt for branch in branches):
        return first
    return replace(first, prompt=torch.stack([branch.prompt for branch in branches]))
