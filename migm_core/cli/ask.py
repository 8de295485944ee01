"""The command that answers questions: `migm ask`."""

import sys
from pathlib import Path

from ..command import Parser
from ..writing import one_line


def add_commands(commands) -> None:
    summary = "answer questions on pictures, or on none"
    parser = commands.add_parser("ask", help=summary, description=f"{summary.capitalize()}. The answer is printed while it is written.", fill=_fill)
    parser.set_defaults(run=_ask)


def _fill(parser: Parser) -> None:
    from ..families import FAMILIES
    from ..sampling.setting import settings_of
    from .options import add_model, add_setting

    parser.add_argument("questions", metavar="QUESTION", nargs="+", help="what to ask; several are asked of the same pictures, one after the other")
    parser.add_argument("--image", metavar="PIC", action="append", type=Path, help="a picture; give it once for each, in their order")
    parser.add_argument("--options", metavar="TEXT", nargs="+", help="choose the likeliest of these answers instead of writing one")
    parser.add_argument("--report", metavar="PATH", type=Path, help="write answers, settings and times to a .json file")
    group = parser.add_argument_group("settings of a written answer")
    for family in FAMILIES:
        if family.text_settings is not None:
            for name, field in settings_of(family.text_settings).items():
                add_setting(group, name, field)
    group.add_argument("--seed", metavar="S", type=int, help="of the random numbers, with a temperature or random remasking (default: 0)")
    add_model(parser, head=False)


def _ask(args) -> None:
    import torch

    from .. import outputs
    from .options import load_pipeline, option
    from .tasks import check_picture

    if args.report:
        outputs.check_writable(args.report, ".json")
    args.image = args.image or []
    for path in args.image:
        check_picture("--image", path)
    settings = _settings(args)
    if args.options and settings:
        raise ValueError(f"{option(next(iter(settings)))} counts for a written answer only. Leave it out, or leave --options out.")
    pipeline = load_pipeline(args)
    try:
        answers = _choose(pipeline, args) if args.options else _write(pipeline, args, settings)
    except torch.OutOfMemoryError:
        raise ValueError(f"{pipeline.device} has not enough memory for this question. Give fewer or smaller pictures, a shorter --length, or dtype bf16.") from None
    if args.report:
        about = {"version": outputs.__version__, "family": pipeline.checkpoint.family.name, "model": args.model}
        run = {"pictures": [str(path) for path in args.image], "answers": answers, "device": str(pipeline.device), "dtype": str(pipeline.dtype).removeprefix("torch.")}
        outputs.write_report(args.report, {**about, **run, "peak_memory_bytes": outputs.peak_memory(pipeline.device)})


def _settings(args) -> dict:
    """The settings of a written answer that were given."""
    from ..families import FAMILIES
    from ..sampling.setting import settings_of

    names = [name for family in FAMILIES if family.text_settings for name in (*settings_of(family.text_settings), "seed")]
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _write(pipeline, args, settings: dict) -> list[dict]:
    """Have answers written, and print them meanwhile."""
    from dataclasses import asdict

    from .options import named_as_options

    stream = Stream(args.questions)
    with named_as_options():
        replies = pipeline.understand(args.questions, args.image, callback=stream.show, **settings)
    stream.finish([reply.text for reply in replies])
    for note in dict.fromkeys(note for reply in replies for note in reply.notes):
        print("migm:", note, file=sys.stderr)
    return [
        {
            "question": question,
            "answer": reply.text,
            **asdict(reply.settings),
            "passes": reply.settings.model_passes(reply.answer.passes),
            "finished": reply.answer.end is not None,
            "cache_errors": [asdict(error) for error in reply.answer.cache_errors],
            "notes": list(reply.notes),
            "seconds": reply.seconds,
        }
        for question, reply in zip(args.questions, replies)
    ]


class Stream:
    """Prints answers while they are written: of several, each below its question.

    Only what is certain to stand is printed: the text before the first masked token.
    """

    def __init__(self, questions: list[str]):
        self.questions = questions
        self.shown: list[str] = []  # of each question so far

    def show(self, report) -> None:
        """The callback of a run: see ``understanding.TextReport``."""
        if report.question == len(self.shown):
            self._next()
        text = report.text.removesuffix("\ufffd")  # the first bytes of a character whose others are masked
        if text.startswith(self.shown[-1]):
            self._print(text[len(self.shown[-1]) :])
            self.shown[-1] = text

    def finish(self, answers: list[str]) -> None:
        """Print what was not, now that all is known. An answer that has masks left says more behind them."""
        for index, (shown, answer) in enumerate(zip(self.shown, answers)):
            if index == len(answers) - 1 and answer.startswith(shown):
                self._print(answer[len(shown) :])
            elif shown != answer:
                self._print(f"\n\n{self.questions[index]}\n{answer}")
        self._print("\n")

    def _next(self) -> None:
        if len(self.questions) > 1:
            self._print(("\n\n" if self.shown else "") + self.questions[len(self.shown)] + "\n")
        self.shown.append("")

    def _print(self, text: str) -> None:
        print("\n".join(map(one_line, text.split("\n"))), end="", flush=True)  # a model may write what would move the cursor


def _choose(pipeline, args) -> list[dict]:
    """Print the options of each question, the likeliest first."""
    answers = []
    for question, choice in zip(args.questions, pipeline.choose(args.questions, args.options, args.image)):
        if len(args.questions) > 1:
            print(question)
        for probability, option in sorted(zip(choice.probabilities, args.options), key=lambda each: -each[0]):
            print(f"{probability:6.1%}  {option}")
        for note in choice.notes if not answers else ():
            print("migm:", note, file=sys.stderr)
        options = [
            {"option": option, "probability": probability, "log_likelihood": likelihood}
            for option, probability, likelihood in zip(args.options, choice.probabilities, choice.log_likelihoods)
        ]
        answers.append({"question": question, "answer": choice.option, "options": options, "notes": list(choice.notes)})
    return answers
