"""The stage evaluation."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from itertools import chain

from ....families.lumina_dimoo.head import ShortcutHead
from ....families.maskgit.head import MaskGitHead
from ....tokenizers.amused_vq import ImageTokenizer
from ..evaluation import ClassEvaluator, Evaluator, Row, Sampler, Way, read_report, table
from ..figure import save_curve
from ..sheets import save_sheet
from ..sizes import Sizes
from ..task import Task, base_model, base_name, class_base_model, digest, image_tokenizer, trained_if_there
from ..task_evaluation import AnswerEvaluator, AnswerWay, TaskEvaluator, task_ways
from ..tasks import TASKS

CLASS_GUIDANCE = 2.8  # as published
TASK_COST = 3.0  # of a picture of a task, by that of text to image: three branches in place of two, over sequences nearly twice as long
# What evaluates, made when its turn comes; the list of its row; a way; the share of the prompts that it gets.
Try = tuple[Callable[[], Sampler | AnswerEvaluator], str, Way | AnswerWay, float]


def ways(sizes: Sizes) -> list[tuple[Way, float]]:
    """What the evaluation tries, the most important first, each with the share of the prompts that it gets."""
    steps, budgets = sizes.steps, sorted(sizes.budgets, reverse=True)
    found = [(Way(steps=steps), 1.0), *((Way(budget, steps), 1.0) for budget in budgets)]
    found += [(Way(steps=few), 1.0) for few in sizes.few]
    found += [(Way(steps=steps, guidance_scale=g), 1.0 if g == 0 else 0.5) for g in (0.0, 2.0, 6.0, 1.0, 3.0, 5.0)]
    found += [(Way(steps=steps, temperature=t), 0.5) for t in (0.5, 0.8)]
    return found + [(Way(sizes.budget, steps, guidance_scale=2.0), 0.5), (Way(sizes.budget, steps, temperature=0.5), 0.5)]


def class_ways(sizes: Sizes) -> list[Way]:
    """What the evaluation tries with the model of classes: for each number of steps vanilla, the shortcut, and vanilla with as few steps as cost the same."""
    kinds, found = sizes.classes, []
    for steps, budget, few in zip(kinds.steps, kinds.budgets, kinds.few):
        found += [Way(steps=s, budget=b, guidance_scale=CLASS_GUIDANCE) for s, b in ((steps, 0), (steps, budget), (few, 0))]
    return found


def evaluation(task: Task) -> None:
    """Hold the models against the judge: the image tokenizer, then ways to sample until the time is over; ways that an earlier piece has tried are not tried again.

    Writes evaluation.json, evaluation.md, curve.png and pictures.jpg.
    """
    if not task.world.first:
        return
    folder, sizes, device = task.folder, task.sizes, task.device
    until = min(task.until, time.monotonic() + task.seconds)
    report = _earlier_report(task)
    rows = {name: [Row(**row) for row in report[name]] for name in ("rows", "classes", "tasks")}
    images = image_tokenizer(folder, sizes, device)
    look = Evaluator(sizes, images, base_model(folder, sizes, device), trained_if_there(folder, "head", ShortcutHead, sizes.head(), device), task.prompts, task.split, task.seed)
    if task.compile:
        look.compile()
    looks: list[Try] = [(lambda: look, "rows", way, share) for way, share in ways(sizes) if look.head or not way.budget]
    if (folder / "classes.safetensors").exists():
        head_of_classes = trained_if_there(folder, "class-head", MaskGitHead, sizes.class_head(), device)
        look_at_classes = ClassEvaluator(sizes, images, class_base_model(folder, sizes, device), head_of_classes, min(task.prompts, 500), task.seed)
        of_classes = [way for way in class_ways(sizes) if head_of_classes or not way.budget]
        looks[2:2] = [(lambda: look_at_classes, "classes", way, 1.0) for way in of_classes]  # after what matters most
        look_at_classes.first = _verdicts(rows["classes"])
    look.first = _verdicts(rows["rows"])
    report["tokenizer"], sheet = look.tokenizers(min(1000, task.prompts))
    print(json.dumps(report["tokenizer"]), flush=True)
    report["prompts"] = look.texts[:16]
    # Seconds a prompt, of the slowest way; of a task's first, what text to image lets expect. Answers stop by themselves.
    pace = {name: max((row.seconds / row.prompts for row in found if "steps" in row.settings), default=0.0) for name, found in rows.items()}
    to_show = 0 if any(rows.values()) else 4  # the sheet is of the first ways: who goes on leaves it as it is
    for number, (evaluator, name, way, share) in enumerate(chain(looks, _of_tasks(task, images, look, rows["tasks"], until))):
        if any(row.way == str(way) for row in rows[name]):
            continue
        expected = pace[name] or pace["rows"] * (TASK_COST if name == "tasks" else 1.0)
        if number and time.monotonic() + (0.0 if isinstance(way, AnswerWay) else expected * share * task.prompts) > until:
            print(f"No time for {way}.", flush=True)
            continue
        began, each = time.monotonic(), evaluator()
        rows[name].append(each.of(way, max(1, int(share * len(each.prompts)))))
        if isinstance(each, Sampler):
            pace[name] = max(pace[name], (time.monotonic() - began) / rows[name][-1].prompts)
        if to_show and isinstance(each, Sampler):
            sheet += each.pictures[:16].split(8)
            to_show -= 1
            save_sheet(folder / "pictures.jpg", sheet)
        report |= {name: [vars(row) for row in found] for name, found in rows.items()}
        (folder / "evaluation.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        (folder / "evaluation.md").write_text("\n\n".join(map(table, rows.values())) + "\n", encoding="utf-8")
        save_curve(folder / "curve.png", rows["rows"])
    print(*map(table, rows.values()), sep="\n\n", flush=True)
    task.keep()


def _of_tasks(task: Task, images: ImageTokenizer, look: Evaluator, rows: list[Row], until: float) -> Iterator[Try]:
    """What is tried of each task that the base has learned; first, what was found before is kept.

    Args:
        until: when no more answers are begun.
    """
    if base_name(task.folder) != "tasks":
        return
    task.keep()
    options = (task.prompts, task.split, task.seed)
    for name in task.sizes.tasks:
        of_task = [way for way in task_ways(name, task.sizes) if look.head or not way.budget]

        @cache
        def evaluator() -> TaskEvaluator | AnswerEvaluator:
            if TASKS[name].words:
                return AnswerEvaluator(name, task.sizes, images, look.model.base, *options, until)
            found = TaskEvaluator(name, task.sizes, images, look.model.base, look.head, *options)
            found.first = _verdicts([row for row in rows if row.way == str(of_task[0])])
            return found

        yield from ((evaluator, "tasks", way, 0.5) for way in of_task)


def _earlier_report(task: Task) -> dict:
    """What an evaluation of the same models on the same prompts has written; else an empty one."""
    files = [task.folder / f"{name}.safetensors" for name in ("reader", "tokenizer", base_name(task.folder), "head", "classes", "class-head")]
    models = {path.stem: digest(path) for path in files if path.exists()}
    of_classes = {name: models.pop(name) for name in ("classes", "class-head") if name in models}
    sizes = json.loads(json.dumps({name: getattr(task.sizes, name) for name in ("pixels", "steps", "tasks")} | {"variety": asdict(task.sizes.variety)}))  # as it is read
    about = {"split": task.split, "count": task.prompts, "seed": task.seed, "sizes": sizes, "models": models}
    path = task.folder / "evaluation.json"
    earlier = read_report(path) if path.exists() else {}
    same = all(earlier.get(name) == value for name, value in about.items())
    about |= {"rows": earlier["rows"] if same else [], "tasks": earlier.get("tasks", []) if same else [], "models_of_classes": of_classes}
    return about | {"classes": earlier["classes"] if same and earlier["models_of_classes"] == of_classes else []}


def _verdicts(rows: list[Row]) -> list[bool] | None:
    """Of the first row."""
    return [each == "1" for each in rows[0].verdicts] if rows and rows[0].verdicts else None
