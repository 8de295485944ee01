"""The commands that make and judge a model: `migm train-tokenizer`, `train-base`, `collect`, `train-head`, `evaluate`.

All share one working folder: codebook.safetensors, tokenizer/, base/, checkpoint/ (the finished model), trajectories/, head/.
Each resumes where it stopped. Under `torchrun --nproc-per-node N -m migm_core ...` the training commands share their work.
"""

from dataclasses import replace
from pathlib import Path

# What suits the bundled model; a checkpoint's generation_config.json carries it from here on.
DEMO_SETTINGS = {
    **{"width": 64, "height": 64, "steps": 64, "budget": 9, "guidance": 0.0, "temperature": 0.2},
    "trained": {"sizes": [[64, 64]], "guidance": False},
}


def add_commands(commands) -> None:
    """Add the five commands to an argparse subparsers object."""
    tokenizer = _add(commands, "train-tokenizer", _train_tokenizer, "fit the codebook and train the image tokenizer, on the CPU")
    tokenizer.add_argument("--steps", metavar="N", type=int, default=2000, help="default: 2000")
    tokenizer.add_argument("--batch", metavar="K", type=int, default=16, help="images a step, over all processes (default: 16)")

    _add_start(tokenizer)

    base = _add(commands, "train-base", _train_base, "train the base model on the CPU and write FOLDER/checkpoint")
    base.add_argument("--steps", metavar="N", type=int, default=3000, help="default: 3000")
    base.add_argument("--lr", metavar="R", type=float, default=0.01, help="peak learning rate (default: 0.01; 0.005 to go on from a trained model)")
    base.add_argument("--layers", metavar="N", type=int, help="more than --init-from has: added as blocks that change nothing at first (default: as --init-from, or 16)")
    base.add_argument("--own-runs", action="store_true", help="take half of the images from the model's own runs, for one that draws some scenes right already")
    base.add_argument("--compile", action="store_true", help="fuse the blocks: a third faster, after a minute of compiling")

    _add_start(base)

    collect = _add(commands, "collect", _collect, "record features of full runs, to train a head on")
    _add_model(collect)
    collect.add_argument("--prompts", metavar="PATH", type=Path, help="a text file, one prompt a line (default: scenes of the synthetic domain)")
    collect.add_argument("--count", metavar="K", type=int, default=2000, help="scenes to draw without --prompts (default: 2000)")
    collect.add_argument("--batch", metavar="K", type=int, default=1, help="prompts of one length run together (default: 1)")
    collect.add_argument("--no-features", action="store_true", help="store tokens only; train-head then computes features anew")
    for name, kind in (("steps", int), ("guidance", float), ("temperature", float)):
        collect.add_argument(f"--{name}", metavar=name[0].upper(), type=kind, help="default: the model's own")

    head = _add(commands, "train-head", _train_head, "train a shortcut head on recorded features")
    _add_model(head)
    head.add_argument("--steps", metavar="N", type=int, default=20000, help="default: 20000")
    head.add_argument("--batch", metavar="K", type=int, default=1, help="trajectories a step and process (default: 1)")
    head.add_argument("--lr", metavar="R", type=float, default=1e-3, help="learning rate, a tenth of it in the end (default: 0.001)")
    head.add_argument("--ratio", metavar="R", type=float, help="how many times narrower than the base (default: 2, as published, or as --init-from)")
    head.add_argument("--muon", metavar="R", type=float, default=0.0, help="train the blocks' matrices with Muon at this peak rate (default: 0, AdamW as published)")
    head.add_argument("--rollout", metavar="N", type=int, default=1, help="steps predicted in turn from the head's own features (default: 1, as published)")
    head.add_argument("--kl", metavar="W", type=float, default=0.0, help="weight of the codes' KL divergence in the loss (default: 0, as published)")
    head.add_argument("--unconditional-every", metavar="N", type=int, default=1, help="learn the unconditional branch at every N-th step (default: 1)")
    head.add_argument("--focus", metavar="S", type=float, default=0.0, help="share of the steps that favour transitions by how far the base's expectations move (default: 0, as published)")
    head.add_argument("--redraw-every", metavar="N", type=int, default=0, help="draw recorded runs on anew at every N-th step, and learn these (default: 0, never, as published)")
    head.add_argument("--clip", metavar="N", type=float, default=0.0, help="largest norm of the gradients (default: 0, none, as published)")
    head.add_argument("--init-from", metavar="PATH", help="begin with a head's weights, made wider where --ratio says so (demo: the bundled head)")
    head.add_argument("--low-from", metavar="N", type=int, default=1000, help="step from which the learning rate is a tenth (default: 1000)")
    head.add_argument("--ema", metavar="D", type=float, default=0.9999, help="decay of the weights' average (default: 0.9999)")

    evaluate = _add(commands, "evaluate", _evaluate, "compare methods on one set of prompts and seeds")
    _add_model(evaluate)
    evaluate.add_argument("--head", metavar="PATH", help="default: head/shortcut.safetensors in FOLDER, or the bundled one")
    evaluate.add_argument("--prompts", metavar="K", type=int, default=500, help="how many (default: 500)")
    evaluate.add_argument("--split", choices=("train", "dev", "test"), default="test", help="default: test, scenes that training never shows")
    evaluate.add_argument("--steps", metavar="N", type=int, help="default: the model's own")
    evaluate.add_argument("--budgets", metavar="B", type=int, nargs="*", help="of the shortcut method (default: the model's own)")
    evaluate.add_argument("--few", metavar="N", type=int, nargs="*", default=[], help="vanilla with so few steps, to compare at equal time")
    evaluate.add_argument("--guidance", metavar="G", type=float, help="default: the model's own")
    evaluate.add_argument("--temperature", metavar="T", type=float, help="default: the model's own")
    evaluate.add_argument("--out", metavar="PATH", type=Path, help="a .json file for the numbers")


def _add(commands, name: str, run, summary: str):
    parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the working folder of all training commands")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="default: 0")
    parser.set_defaults(run=run)
    return parser


def _add_start(parser) -> None:
    parser.add_argument("--init-from", metavar="PATH", help="begin with a checkpoint's weights and codebook (demo: the bundled model)")


def _add_model(parser) -> None:
    parser.add_argument("--model", metavar="PATH", help="a checkpoint (default: checkpoint/ in FOLDER); demo is the bundled model")
    parser.add_argument("--device", metavar="D", help="default: cuda where there is one")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="that the model computes in (default: auto)")


def _train_tokenizer(args) -> None:
    from .distributed import joined_world
    from .patches import PatchCodebook
    from .scenes import CELL
    from ..writing import locked
    from .tokenizer import train_tokenizer

    path = args.folder / "codebook.safetensors"
    start = _start(args)
    with joined_world("cpu") as world:
        if world.first:
            with locked(args.folder):
                if not path.exists():
                    codebook = PatchCodebook.fit(CELL, args.seed) if start is None else PatchCodebook.load(start.path / path.name)
                    codebook.save(path)
        world.wait()
        train_tokenizer(
            args.folder / "tokenizer",
            PatchCodebook.load(path),
            steps=args.steps,
            batch=args.batch,
            seed=args.seed,
            start=start and start.image_tokenizer,
            world=world,
        )


def _train_base(args) -> None:
    import torch

    from .assemble import assemble, trained_image_tokenizer
    from .base import LAYERS, deepened, demo_config, train_base
    from .distributed import joined_world
    from .patches import PatchCodebook

    start = _start(args)
    trained = (args.folder / "tokenizer" / "checkpoint.pt").exists()
    if not trained and start is None:
        raise ValueError(f"{args.folder / 'tokenizer/checkpoint.pt'} does not exist. Run `migm train-tokenizer {args.folder}` first, or give --init-from.")
    codebook = PatchCodebook.load((args.folder if trained else start.path) / "codebook.safetensors")
    if start is not None and not torch.equal(PatchCodebook.load(start.path / "codebook.safetensors").centres, codebook.centres):
        raise ValueError(
            f"{args.folder / 'codebook.safetensors'} is not the codebook that {start.path} was trained with. Begin the tokenizer too with "
            f"--init-from {args.init_from}, in a folder of its own."
        )
    base = start and start.base
    if base is not None and args.layers is not None:
        if args.layers < base.config.n_layers:
            raise ValueError(f"--layers is {args.layers}, but {start.path} has {base.config.n_layers}, and layers can only be added.")
        base = deepened(base, args.layers)
    with joined_world("cpu") as world:
        train_base(
            args.folder / "base",
            codebook,
            steps=args.steps,
            lr=args.lr,
            seed=args.seed,
            start=base,
            config=demo_config(len(codebook.centres), args.layers or LAYERS),
            own_runs=args.own_runs,
            compile=args.compile,
            world=world,
        )
        if world.first:
            image_tokenizer = trained_image_tokenizer(args.folder, len(codebook.centres)) if trained else start.image_tokenizer
            assemble(args.folder, image_tokenizer, codebook, DEMO_SETTINGS)


def _collect(args) -> None:
    from .distributed import joined_world
    from .trajectories import collect

    prompts = args.prompts.read_text(encoding="utf-8").splitlines() if args.prompts else _scenes(args.count, args.seed)
    with joined_world(args.device) as world:
        pipeline = _pipeline(args, None, world.device)
        settings = pipeline.settings(steps=args.steps, guidance=args.guidance, temperature=args.temperature, method="vanilla")
        collect(
            pipeline,
            prompts,
            args.folder / "trajectories",
            steps=settings.steps,
            guidance=settings.guidance,
            temperature=settings.temperature,
            seed=args.seed,
            batch=args.batch,
            keep_features=not args.no_features,
            world=world,
        )


def _train_head(args) -> None:
    import torch

    from ..checkpoints import load_head, save_head
    from ..pipeline import DEMO_HEAD
    from .distributed import joined_world
    from .head import head_for, train_head
    from .trajectories import Trajectory
    from .widen import widened

    shards = sorted((args.folder / "trajectories").glob("*.safetensors"))
    if not shards:
        raise ValueError(f"{args.folder / 'trajectories'} holds no trajectories. Run `migm collect {args.folder}` first.")
    with joined_world(args.device) as world:
        base = _pipeline(args, None, world.device).checkpoint.base
        start = None if args.init_from is None else load_head(DEMO_HEAD if args.init_from == "demo" else args.init_from, base.config)
        config = start.config if start is not None and args.ratio is None else head_for(base.config, 2 if args.ratio is None else args.ratio)
        if start is not None and config.width != start.config.width:
            torch.manual_seed(args.seed)
            start = widened(start, replace(start.config, bottleneck_ratio=args.ratio))
        head = train_head(
            args.folder / "head",
            [Trajectory.open(path) for path in shards],
            base,
            config=config,
            start=start,
            steps=args.steps,
            batch=args.batch,
            lr=args.lr,
            low_lr=args.lr / 10,
            low_from=args.low_from,
            muon=args.muon,
            rollout=args.rollout,
            kl=args.kl,
            unconditional_every=args.unconditional_every,
            focus=args.focus,
            redraw_every=args.redraw_every,
            clip=args.clip,
            ema=args.ema,
            seed=args.seed,
            world=world,
        )
        if world.first:
            save_head(args.folder / "head" / "shortcut.safetensors", head, dtype=torch.float16)


def _evaluate(args) -> None:
    from ..evaluation.evaluate import evaluate, round_trip, save, table
    from ..outputs import check_writable

    if args.out:
        check_writable(args.out, ".json")
    own = args.folder / "head" / "shortcut.safetensors"
    pipeline = _pipeline(args, args.head or (own if own.exists() else "auto"), args.device)
    common = {"guidance": args.guidance, "temperature": args.temperature}
    ways = [{"method": "vanilla", "steps": args.steps, **common}]
    if pipeline.head is not None:
        budgets = args.budgets or [None]
        ways += [{"method": "shortcut", "steps": args.steps, "budget": budget, **common} for budget in budgets]
    ways += [{"method": "vanilla", "steps": steps, **common} for steps in args.few]
    rows = evaluate(pipeline, ways, prompts=args.prompts, split=args.split, seed=args.seed)
    print(table(rows, pipeline))
    tokenizer = round_trip(pipeline, args.prompts, args.split, args.seed)
    print(
        f"\nThe judge finds {tokenizer['rendered_right']:.1%} of the renderer's own images right, and {tokenizer['right']:.1%} of them "
        f"after the image tokenizer ({tokenizer['psnr']:.1f} dB)."
    )
    if args.out:
        save(rows, args.out)


def _start(args):
    """The checkpoint to begin with, or None: with the codebook beside it, which its codes are defined by."""
    from ..checkpoints import load_checkpoint
    from ..pipeline import DEMO

    if args.init_from is None:
        return None
    path = DEMO if args.init_from == "demo" else Path(args.init_from)
    checkpoint = load_checkpoint(path, dtype="fp32", output_rows="all")
    if not (path / "codebook.safetensors").exists():
        raise ValueError(f"{path / 'codebook.safetensors'} does not exist. Expected the codebook that {path} was trained with beside it.")
    return checkpoint


def _pipeline(args, head, device):
    from ..pipeline import Pipeline

    return Pipeline.load(args.model or args.folder / "checkpoint", head, dtype=args.dtype, device=None if device is None else str(device))


def _scenes(count: int, seed: int) -> list[str]:
    import numpy as np

    from .scenes import random_scene

    rng = np.random.default_rng((seed, 3))
    objects = rng.choice([1, 2, 3], count, p=[0.1, 0.45, 0.45])  # a single object leaves little to learn
    return [random_scene(rng, int(n), "train").caption for n in objects]
