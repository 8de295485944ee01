"""The soak itself: rounds of one to three runs of two clients, each round with one disturbance or none."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client import Client, Outcome, Refused

from .disturbances import DISTURBANCES, HOOKS
from .figures import Mark, Timed, of_process, processor_seconds
from .files import Files
from .references import References
from .requests import Request, long_request
from .results import ENDS, Seen, combinations, difference, problems_of_messages

MARK = 50  # runs between two marks
REPLACED = "was replaced after the model was loaded"  # said where a file was swapped between two of its parts that a run needs


class _Left(Exception):
    """The page was closed."""


@dataclass
class Job:
    """A run that was queued.

    Attributes:
        variants: of the files that decide its result, by name: which of the two it may have met.
        left: its page was closed, and heard no more of it.
    """

    client: int
    request: Request
    prompt: str
    variants: dict[str, set[int]]
    outcome: Outcome | None = None
    ended: str = ""
    left: bool = False


@dataclass
class Soak:
    """A host under random work.

    Attributes:
        clients: two; process: the host's.
        counts: how often what has happened.
        wrong: what must not be, one sentence each; the first ``told`` of them have been printed.
        seen: results that are not compared yet.
        last: the last request, with its salt.
    """

    clients: list[Client]
    process: int
    files: Files
    requests: Sequence[Request]
    references: References
    rng: random.Random
    say: Callable[[str], None] = print
    record: Path | None = None
    counts: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    timed: list[Timed] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    salts: int = 0
    last: tuple[Request, int] | None = None
    told: int = 0

    @property
    def runs(self) -> int:
        """That were begun, cancelled ones included."""
        return sum(self.counts[end] for end in (*ENDS.values(), "refused"))

    def go_on(self, runs: int, mark_every: int = MARK) -> None:
        """So many more runs, with a mark after every few. What was seen is compared at marks, when the host rests."""
        end, next_mark = self.runs + runs, self.runs + mark_every
        while self.runs < end:
            self.round()
            if self.runs >= next_mark:
                next_mark += mark_every
                self.mark()
        self.compare()

    # A round

    def round(self, what: str | None = None) -> None:
        """One to three runs, and a disturbance: a random one where none is named."""
        what = what or self.rng.choices(list(DISTURBANCES), list(DISTURBANCES.values()))[0]
        self.counts[what] += 1
        if what in ("cancel at a step", "withdraw"):
            return self._stop_a_long_run(withdraws=what == "withdraw")
        if what == "unload":
            self.free()
        elif what == "swap":
            self.swap(self.rng.choice(list(self.files.now)))
        jobs = [self._queue(self.rng.randrange(2), self.rng.choice(self.requests)) for _ in range(self.rng.choices((1, 2, 3), (70, 22, 8))[0])]
        began, victim, hook = processor_seconds(self.process), self.rng.choice(jobs), None
        if what in HOOKS:
            hook = HOOKS[what](self, victim, jobs[jobs.index(victim) + 1 :])
        left = False
        for job in jobs:
            if left and job.client == victim.client:
                self._look_up(job)
            elif what == "leave" and job is victim:
                left = self._leave(job)
            else:
                job.outcome = self.clients[job.client].wait(job.prompt, on_message=hook if job is victim else None)
        taken = processor_seconds(self.process) - began
        for job in jobs:
            self._count(job, may_stop=what == "cancel at a moment", processor=taken if len(jobs) == 1 and what in ("none", "unload", "swap") else None)

    def run(self, request: Request) -> float:
        """One run by itself; the host's seconds on the processor."""
        self.last = None
        began, job = processor_seconds(self.process), self._queue(0, request)
        job.outcome = self.clients[0].wait(job.prompt)
        taken = processor_seconds(self.process) - began
        self._count(job, may_stop=False, processor=taken)
        return taken

    def _queue(self, client: int, request: Request) -> Job:
        """Queue a request; one in ten times the last one again as it was, which the host may answer from its cache."""
        self.salts += 1
        salt = self.salts
        if self.last and self.rng.random() < 1 / 10:
            request, salt = self.last
        self.last = request, salt
        variants = {name: {now} for name, now in self.files.variants(request.uses).items()}
        return Job(client, request, self.clients[client].queue(request.salted(salt)), variants)

    def swap(self, name: str) -> None:
        self.files.swap(name)
        self.counts["files swapped"] += 1

    def free(self, **what: bool) -> None:
        """Ask the host to unload its models, to forget what it has cached, or both."""
        asked = what or self.rng.choice(({"unload_models": True}, {"free_memory": True}, {"unload_models": True, "free_memory": True}))
        self.clients[0]._open("/free", json.dumps(asked).encode())

    def _stop_a_long_run(self, withdraws: bool) -> None:
        """Stop a long run at a random step; where it withdraws, another run that waits behind it is taken out of the queue, and must never begin."""
        first, second = self.rng.sample((0, 1), 2)
        at = self.rng.randrange(6)
        graph = long_request()
        graph["sampler"]["inputs"]["seed"] = self.rng.randrange(2**60)
        prompt = self.clients[first].queue(graph)
        waiting = self._queue(second, self.rng.choice(self.requests)) if withdraws else None

        def stop(kind: str, data: dict) -> None:
            if kind == "migm.step" and data["step"] == at:
                if waiting:
                    self.clients[second]._open("/queue", json.dumps({"delete": [waiting.prompt]}).encode())
                self.clients[first].post("/interrupt")

        outcome = self.clients[first].wait(prompt, on_message=stop)
        self._note_problems("A long run", problems_of_messages(outcome, None))
        self.counts["previews"] += len(outcome.previews)
        if outcome.messages[-1][0] != "execution_interrupted":
            self.wrong.append(f"A long run that was stopped at step {at} ended with {outcome.messages[-1]}."[:500])
        self.counts["cancelled"] += 1
        if waiting and waiting.prompt in self.clients[second].get(f"/history/{waiting.prompt}"):
            self.wrong.append(f"{waiting.request} was taken out of the queue, and ran.")

    def _leave(self, job: Job) -> bool:
        """Close the page in the middle of a run and open another: the run, and those that it has queued, go on. False where the run ends before."""

        def leave(kind: str, data: dict) -> None:
            if kind in ("migm.step", "progress"):
                raise _Left

        client = self.clients[job.client]
        try:
            job.outcome = client.wait(job.prompt, on_message=leave)
            return False
        except _Left:
            client.socket.close()
            self.clients[job.client] = Client(int(client.url.rpartition(":")[2]))
            self._look_up(job)
            return True

    def _look_up(self, job: Job) -> None:
        """What came of a run whose page was closed."""
        client, deadline = self.clients[job.client], time.monotonic() + 300
        while not (found := client.get(f"/history/{job.prompt}")) and time.monotonic() < deadline:
            time.sleep(0.05)
        messages = [tuple(message) for message in found[job.prompt]["status"]["messages"]]
        job.outcome, job.left = Outcome(messages=messages, outputs=found[job.prompt]["outputs"]), True

    # What came of it

    def _count(self, job: Job, may_stop: bool, processor: float | None) -> None:
        outcome, request = job.outcome, job.request
        job.ended = ENDS[outcome.messages[-1][0]]
        if job.ended == "failed" and REPLACED in outcome.messages[-1][1]["exception_message"] and any(len(each) > 1 for each in job.variants.values()):
            job.ended = "refused"
        self.counts[job.ended] += 1
        if job.ended == "failed" or job.ended == "cancelled" and not may_stop:
            self.wrong.append(f"{request} ended with {outcome.messages[-1]}"[:1500])
            return
        if job.ended in ("cancelled", "refused"):
            return
        client = self.clients[job.client]
        result = outcome.outputs["answer"]["text"][0] if request.shows == "answer" else client.images(outcome, request.shows)
        self.seen.append(Seen(self.runs, request, job.variants, result))
        worked = request.works in outcome.executed_nodes
        if not job.left:
            pictures = None if request.shows == "answer" or request.kind == "paint" else result
            self._note_problems(str(request), problems_of_messages(outcome, request.steps if worked else 0, pictures))
            self.counts["previews"] += len(outcome.previews)
        starts, ends = (next((data["timestamp"] for kind, data in outcome.messages if kind == end), None) for end in ("execution_start", "execution_success"))
        seconds = (ends - starts) / 1000
        if worked and not job.left:
            self.timed.append(Timed(self.runs, request.kind, seconds, processor))
        self.counts["from the cache"] += not worked and not job.left
        if self.record:
            with self.record.open("a") as file:
                line = {"run": self.runs, "kind": request.kind, "number": request.number, "seconds": seconds, "processor": processor, "worked": worked}
                file.write(json.dumps(line) + "\n")

    def _note_problems(self, what: str, problems: list[str]) -> None:
        self.wrong += [f"{what}: {problem}" for problem in problems]

    def compare(self) -> None:
        """Hold what was seen since the last time against what the engine alone gives."""
        for each in self.seen:
            differences = []
            for variants in combinations(each.variants):
                differences.append(difference(each.result, self.references.of(each.request, variants)))
            if None in differences:
                self.counts["equal"] += 1
            else:
                self.counts["different"] += 1
                self.wrong.append(f"Run {each.run}, {each.request}, files {each.variants}: {'; or '.join(differences)}"[:1500])
        self.seen.clear()

    # Marks

    def mark(self) -> None:
        """Unload all and measure, then run one request of each kind and measure again."""
        self.compare()
        self.clients[0]._open("/history", b'{"clear": true}')  # the host's own list of runs
        self.free(unload_models=True, free_memory=True)
        state = self._settled()
        rest = {**of_process(self.process), **{name: value for name, value in state.items() if name != "loaded"}}
        before, pace = self.runs, {}
        for kind in dict.fromkeys(request.kind for request in self.requests):
            request = next(request for request in self.requests if request.kind == kind)
            taken = self.run(request)
            pace[kind] = (taken, self.references.processor_seconds(request))
        work = of_process(self.process)
        if state:
            work |= {"loaded models": len(self._state()["loaded"])}
        self.compare()
        self.marks.append(Mark(before, rest, work, state.get("loaded", []), pace))
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        self.say(f"{time.strftime('%H:%M:%S')} {self.runs} runs: {counts}\n    unloaded: {listed(rest)}\n    at work: {listed(work)}")
        for problem in self.wrong[self.told :]:
            self.say(f"    WRONG: {problem}")
        self.told = len(self.wrong)

    def _state(self) -> dict:
        return self.clients[0].get("/soak/state")

    def _settled(self) -> dict:
        """What the host's probe says when it has unloaded, which it does when it is next idle; {} where it has no probe."""
        try:
            state = self._state()
        except Refused:
            time.sleep(2)
            return {}
        deadline = time.monotonic() + 20
        while (state["loaded"] or state["models"]) and time.monotonic() < deadline:
            time.sleep(0.3)
            self.free(unload_models=True, free_memory=True)  # where the host wakes at the first of the two, it may sleep through the second
            state = self._state()
        return state


def listed(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.0f}" for name, value in figures.items())
