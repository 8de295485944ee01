"""The commands that make a head: `migm collect`, `train-head`.

Both share one working folder: trajectories/, head/. Each resumes where it stopped. Under `torchrun --nproc-per-node N -m migm_core ...` processes share
their work.
"""

import argparse
from pathlib import Path

from ..command import Parser, number, whole

SMALLEST = 1e-12  # of what is divided by
COUNT = 2000  # of runs, where no file names any


def add_commands(commands) -> None:
    """Add both commands to an argparse subparsers object."""
    collect = _add(commands, "collect", _collect, "record runs of a base model, to train a head on", _fill_collect)
    add_model(collect)

    head = _add(commands, "train-head", _train_head, "train a shortcut head on recorded runs")
    add_model(head)
    head.add_argument("--steps", metavar="N", type=whole(0), default=20000, help="default: 20000")
    head.add_argument("--init-from", metavar="PATH", help="begin with a head's weights, made wider where --ratio says so (demo or demo-classes: a bundled head)")
    head.add_argument("--batch", metavar="K", type=whole(1), default=1, help="trajectories a step and process (default: 1)")
    head.add_argument("--lr", metavar="R", type=number(SMALLEST), help="learning rate (default: as published for this kind of model)")
    head.add_argument("--min-lr", metavar="R", type=number(), help="learning rate after --decay-steps (default: a tenth of --lr)")
    head.add_argument("--decay-steps", metavar="N", type=whole(0), default=1000, help="step from which the learning rate is --min-lr (default: 1000)")
    head.add_argument("--ratio", metavar="R", type=number(SMALLEST), help="how many times narrower than the base (default: 2, as published, or as --init-from)")
    head.add_argument("--muon-lr", metavar="R", type=number(), default=0.0, help="train the blocks' matrices with Muon at this peak rate (default: 0, AdamW as published)")
    head.add_argument("--rollout", metavar="N", type=whole(1, 1023), default=1, help="steps predicted in turn from the head's own features (default: 1, as published)")
    head.add_argument("--sample-rollout", action="store_true", help="sample the tokens within a rollout from the head, and learn its last step (default: follow the recorded tokens)")
    head.add_argument("--kl", metavar="W", type=number(), default=0.0, help="weight of the codes' KL divergence in the loss (default: 0, as published)")
    head.add_argument("--unconditional-every", metavar="N", type=whole(1), default=1, help="learn the unconditional branch at every N-th step (default: 1)")
    head.add_argument("--focus", metavar="S", type=number(0, 1), default=0.0, help="share of the steps that favour transitions with a large feature drift (default: 0, as published)")
    head.add_argument("--resample-every", metavar="N", type=whole(0), default=0, help="sample recorded runs on at every N-th step, and learn these (default: 0, never, as published)")
    head.add_argument("--clip", metavar="N", type=number(), default=0.0, help="largest norm of the gradients (default: 0, none, as published)")
    head.add_argument("--ema", metavar="D", type=number(0, 1), default=0.9999, help="decay of the weights' average (default: 0.9999)")


def _fill_collect(parser: Parser) -> None:
    from .options import add_settings

    parser.add_argument(
        "--prompt-file",
        metavar="FILE",
        type=Path,
        help="a prompt or class from each line, or of a .jsonl file a task's request (default: scenes of the bundled models' world, or random classes)",
    )
    parser.add_argument("--count", metavar="K", type=whole(1), help="how many; lines are taken in turn, with other seeds (default: each line once, or 2000)")
    parser.add_argument("--task", metavar="NAME=SHARE", type=_share, action="append", help="record so large a share of this task; once for each task of the .jsonl file")
    parser.add_argument("--batch", metavar="K", type=whole(1), default=1, help="prompts of one length run together (default: 1)")
    parser.add_argument("--no-features", action="store_true", help="store tokens only, a few kB a run; train-head then computes features again")
    parser.add_argument("--published", action="store_true", help="write tar shards as published, for a model whose trajectories have such a form")
    parser.add_argument("--dry-run", action="store_true", help="say what it takes, and record nothing")
    add_settings(parser, method=False, of_methods=False)
    parser.add_argument("--image-cfg", dest="image_guidance_scale", metavar="G", type=float, help="how closely to follow the pictures, in tasks whose prompt shows some")


def _share(text: str) -> tuple[str, float]:
    """The type of --task: a task and its share."""
    name, _, share = text.partition("=")
    try:
        return name, number(SMALLEST)(share)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no NAME=SHARE, for example edit=0.5") from None


def _add(commands, name: str, run, summary: str, fill=None) -> Parser:
    parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", fill=fill)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the working folder of both commands")
    parser.add_argument("--seed", metavar="S", type=whole(0, 2**63 - 1), default=0, help="default: 0")
    parser.set_defaults(run=run)
    return parser


def add_model(parser) -> None:
    """Add the options of ``load_model``."""
    parser.add_argument("--model", metavar="PATH", default="demo", help="a checkpoint, by its path or name as in migm generate (default: demo, the bundled model)")
    parser.add_argument("--device", metavar="D", help="default: cuda where there is one")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="that the model computes in (default: auto)")


def _collect(args) -> None:
    from ..training.collect import Collection
    from ..training.distributed import joined_world
    from ..training.progress import say
    from .options import asked, named_as_options

    with joined_world(args.device) as world:
        pipeline = load_model(args, world.device)
        conditions = _conditions(args, pipeline)
        given = {**asked(args, pipeline.checkpoint.family), "method": "vanilla", "seed": args.seed, "batch": args.batch}
        of_pictures = given.pop("image_guidance_scale", None)
        with named_as_options():
            settings, of_tasks = pipeline.settings(**given), _of_tasks(pipeline, conditions, given, of_pictures)
        collection = Collection(
            pipeline,
            conditions,
            args.folder / "trajectories",
            settings,
            of_tasks=of_tasks,
            keep_features=not args.no_features,
            published=args.published,
            world=world,
        )
        if world.first and collection.missing:
            cost = collection.cost()
            say(f"{cost}.")
            collection.check_disk(cost)
        world.wait()
        if not args.dry_run:
            collection.record()


def _conditions(args, pipeline) -> list:
    """What to record runs of: the lines of a file, mixed by share where that is asked for; or something random that the model knows."""
    import numpy as np

    from ..training.requests import mixed, read_requests
    from ..worlds.prompts import prompts_of_scenes
    from .options import lines_of

    family, shares = pipeline.checkpoint.family, dict(args.task or [])
    if len(shares) < len(args.task or []):
        raise ValueError("--task names a task twice. Give each its share once.")
    for name in shares:
        family.task(name)
    if args.prompt_file is None:
        if shares:
            raise ValueError("--task needs requests to choose from: give them by --prompt-file FILE.jsonl.")
        count = args.count or COUNT
        if family.takes == "classes":
            return np.random.default_rng((args.seed, 3)).integers(pipeline.checkpoint.base.config.n_classes, size=count).tolist()
        return prompts_of_scenes(pipeline.checkpoint, count, "train", args.seed, "Give prompts of its own by --prompt-file FILE.")[1]
    requests = read_requests(args.prompt_file, family) if args.prompt_file.suffix == ".jsonl" else list(lines_of(args.prompt_file).values())
    if shares:
        return mixed(requests, shares, args.count or len(requests))
    return [requests[index % len(requests)] for index in range(args.count or len(requests))]


def _of_tasks(pipeline, conditions: list, given: dict, image_guidance_scale: float | None) -> dict:
    """The settings of each task's runs; of those with pictures without a size, which these decide."""
    from ..families.request import TaskRequest

    found = {}
    for name in sorted({each.task for each in conditions if isinstance(each, TaskRequest)}):
        task = pipeline.checkpoint.family.task(name)
        of_task = {key: value for key, value in given.items() if not task.pictures or key not in ("width", "height")}
        if task.guides_by_pictures:
            of_task["image_guidance_scale"] = image_guidance_scale
        found[name] = pipeline.settings(**of_task, task=name)
    if image_guidance_scale is not None and not any(settings.image_guidance_scale is not None for settings in found.values()):
        raise ValueError("--image-cfg counts only for tasks whose prompt shows pictures, and none of the requests is of one. Leave it out.")
    return found


def _train_head(args) -> None:
    import torch

    from ..checkpoints import save_head
    from ..checkpoints.fingerprint import KEY, fingerprint
    from ..training.distributed import joined_world
    from ..training.head import Objective, train_head
    from ..training.progress import say_written
    from ..training.trajectories import check_alike, open_folder

    with joined_world(args.device) as world:
        checkpoint = load_model(args, world.device).checkpoint
        base, family = checkpoint.base, checkpoint.family
        trajectories = open_folder(args.folder / "trajectories", family, base.config)
        if not trajectories:
            raise ValueError(f"{args.folder / 'trajectories'} holds no trajectories. Run `migm collect {args.folder}` first.")
        check_alike(trajectories, fingerprint(base), base.config)
        torch.manual_seed(args.seed)
        published = family.head_training
        lr = published.lr if args.lr is None else args.lr
        head = train_head(
            args.folder / "head",
            trajectories,
            base,
            _first_head(args, family, base.config),
            family.sampling({**checkpoint.settings, **trajectories[0].run.get("settings", {})}),
            objective=Objective(
                masked_only=published.masked_only,
                one_branch=published.one_branch,
                kl=args.kl,
                horizon=args.rollout,
                sampled=args.sample_rollout,
                unconditional_every=args.unconditional_every,
            ),
            steps=args.steps,
            batch=args.batch,
            lr=lr,
            min_lr=lr * published.min_lr / published.lr if args.min_lr is None else args.min_lr,
            decay_steps=args.decay_steps,
            muon_lr=args.muon_lr,
            focus=args.focus,
            resample_every=args.resample_every,
            clip=args.clip,
            ema=args.ema,
            seed=args.seed,
            world=world,
        )
        if world.first:
            path = args.folder / "head" / "shortcut.safetensors"
            save_head(path, head, dtype=torch.float16, extra={KEY: fingerprint(base)})
            say_written(path)


def _first_head(args, family, base):
    """The head to begin with: new, or that of --init-from, made wider where --ratio says so."""
    import torch

    from ..checkpoints import load_head
    from ..loading import BUNDLED_HEADS
    from ..training.head import zero_init

    if args.init_from is None:
        head = family.new_head(base, 2 if args.ratio is None else args.ratio)
        zero_init(head)
        return head
    head = load_head(BUNDLED_HEADS.get(args.init_from, args.init_from), base, dtype=torch.float32)
    if args.ratio is not None and round(base.width / args.ratio) != head.config.width:
        head = family.widened_head(head, args.ratio)
    return head


def load_model(args, device):
    """The pipeline of a model without its head."""
    from ..pipeline import Pipeline

    return Pipeline.load(args.model, None, dtype=args.dtype, device=str(device))
