"""Trajectories of a MaskGIT in the published tar form, and what a head learns from them.

Runs on every directory in the environment variable MIGM_MASKGIT_REFERENCE_DIR (separated like a PATH), and without it on the one
kept as test data.
"""

import io
import itertools
import json
import os
import tarfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from migm_core.checkpoints import tar_shards
from migm_core.checkpoints.errors import CheckpointError
from migm_core.checkpoints.tar_shards import TarShard, TarWriter
from migm_core.families.maskgit.rule import MaskGitRule
from migm_core.families.maskgit.trajectories import CODES, FEATURES, ORDER, TarShards, mask_ratios, open_shards
from migm_core.training.head import Objective
from migm_core.training.losses import divergence, squared_error
from migm_core.training.transitions import Transitions

DIRECTORIES = [Path(d) for d in os.environ.get("MIGM_MASKGIT_REFERENCE_DIR", str(Path(__file__).parent / "data" / "maskgit")).split(os.pathsep) if d]


@dataclass(frozen=True)
class Reference:
    folder: Path

    @cached_property
    def meta(self) -> dict:
        return json.loads((self.folder / "meta.json").read_text())

    @property
    def training(self) -> dict:
        return self.meta["training"]

    @property
    def shard(self) -> Path:
        return self.folder / "shard" / "000000.tar"

    def open(self, path: Path):
        return open_shards([path], self.meta["config"]["codebook_size"], self.meta["config"]["n_classes"])

    def counts(self, schedule: dict) -> list[int] | None:
        """The tokens that the steps of a schedule unmask, where the directory lists them."""
        names = ("mode", "steps", "grid")
        return next((s["counts"] for s in self.meta["token_schedules"] if all(s[name] == schedule[name] for name in names)), None)

    def record(self, key: str):
        """The run of a record, and the number of its branch."""
        image, _, branch = key.rpartition("_")
        return next(t for t in self.open(self.shard) if t.key == image), ("cond", "uncond").index(branch)


@pytest.fixture(scope="module", params=DIRECTORIES, ids=lambda folder: folder.name)
def reference(request):
    return Reference(request.param)


def with_member(shard: Path, target: Path, name: str, content: bytes | None) -> Path:
    """A copy of a shard in which one member has other bytes, or is missing."""
    with tarfile.open(shard) as old, tarfile.open(target, "w") as new:
        for info in old:
            data = old.extractfile(info).read() if info.name != name else content
            if data is not None:
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
    return target


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_shard_holds_the_published_records(reference):
    assert sorted(TarShard(reference.shard).members) == sorted(reference.training["keys"])
    ids, trajectories = reference.meta["ids"], reference.open(reference.shard)
    assert len(trajectories) == len(reference.training["labels"])
    for t, label in zip(trajectories, reference.training["labels"]):
        assert t.steps == reference.training["steps"] and t.branches == ("cond", "uncond")
        assert [int(prompt) for prompt in t.prompts] == [ids["first_class"] + label, ids["dropped_class"]]
        assert t.codes.shape == (reference.meta["config"]["grid"],) * 2


def test_mask_ratios_are_the_published_ones(reference):
    for t in reference.open(reference.shard):
        assert mask_ratios(t.unmasked_at, t.steps) == pytest.approx(reference.training["mask_ratios"], abs=1e-6)
    schedules = [s for s in reference.meta["training_mask_ratios"] if reference.counts(s)]
    assert schedules
    for schedule in schedules:
        counts = reference.counts(schedule)
        unmasked_at = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        assert mask_ratios(unmasked_at, len(counts)) == pytest.approx(schedule["ratios"], abs=1e-6)


def test_a_sample_is_what_the_published_training_made_of_it(reference):
    cases, mask = load_file(reference.folder / "cases.safetensors"), reference.meta["ids"]["mask"]
    for j, sample in enumerate(reference.training["samples"]):
        (t, _), step = reference.record(sample["key"]), sample["step"]
        new = (t.unmasked_at == step).nonzero()[:, 0]
        assert torch.equal(new, cases[f"train.{j}.new_token_map"].nonzero()[:, 0])
        assert torch.equal(t.codes.flatten()[new], cases[f"train.{j}.new_token_codes"].long())
        masked, last = t.unmasked_at > step, cases[f"train.{j}.current_ids"][-1:].long()
        assert torch.equal(torch.cat([t.codes.flatten().where(~masked, torch.tensor(mask)), last]), cases[f"train.{j}.current_ids"].long())
        assert torch.equal(masked, cases[f"train.{j}.target_codes"][:-1] >= 0)
        assert mask_ratios(t.unmasked_at, t.steps)[step] == pytest.approx(sample["mask_ratio"], abs=1e-6)


def test_losses_are_the_published_ones(reference):
    cases, base = (load_file(reference.folder / name) for name in ("cases.safetensors", "base.safetensors"))
    codes = reference.meta["config"]["codebook_size"]
    for j, sample in enumerate(reference.training["samples"]):
        t, branch = reference.record(sample["key"])
        masked = (t.unmasked_at > sample["step"]).nonzero()[:, 0]
        features = [cases[f"train.{j}.estimate"][None], t.features(branch, sample["step"] + 1)[None]]
        assert squared_error(*features, masked[None]).item() == pytest.approx(sample["mse"], rel=1e-5)
        logits = [(f[0, masked] @ base["tok_emb.weight"].T + base["bias"][masked])[:, :codes] for f in features]
        assert divergence(*logits).item() == pytest.approx(sample["kl"], rel=1e-5)


def test_one_row_of_a_member_is_that_of_the_whole(reference):
    shard, key = TarShard(reference.shard), reference.training["keys"][-1]
    whole = shard.tensor(key, FEATURES)
    assert shard.shape(key, FEATURES) == tuple(whole.shape)
    assert all(torch.equal(shard.row(key, FEATURES, step), row) for step, row in enumerate(whole))
    with pytest.raises(CheckpointError, match=rf"{key}\.feat\.pth has the shape .* expected a row {len(whole)}"):
        shard.row(key, FEATURES, len(whole))


@pytest.mark.parametrize("odd", [lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), lambda x: torch.cat([x[:1], x])[1:]], ids=["strided", "offset"])
def test_rows_of_an_oddly_stored_member_are_right_too(reference, tmp_path, odd):
    key = reference.training["keys"][0]
    whole = TarShard(reference.shard).tensor(key, FEATURES)
    shard = TarShard(with_member(reference.shard, tmp_path / "odd.tar", f"{key}.{FEATURES}.pth", saved(odd(whole))))
    assert all(torch.equal(shard.row(key, FEATURES, step), row) for step, row in enumerate(whole))


def test_a_row_is_read_without_the_rest_of_its_member(tmp_path, monkeypatch):
    with TarWriter(tmp_path) as writer:
        writer.add("a", {FEATURES: torch.randn(20, 100, 100)})
    read = []
    readinto = tar_shards._Part.readinto
    monkeypatch.setattr(tar_shards._Part, "readinto", lambda part, buffer: read.append(readinto(part, buffer)) or read[-1])
    assert TarShard(tmp_path / "000000.tar").row("a", FEATURES, 3).shape == (100, 100)
    assert 40_000 < sum(read) < 200_000  # of 800,000 bytes


def test_samples_are_of_all_runs_branches_and_steps(reference):
    """Without a model: a recorded run needs none."""
    transitions = Transitions(reference.open(reference.shard), None, MaskGitRule())
    objective, seen = Objective(masked_only=True, one_branch=True), set()
    for step in range(400):
        rng = np.random.default_rng(step)
        (t,), start = transitions.sample(rng, 1)
        (branch,) = objective.branches(step, rng)
        seen.add((t.key, branch, start))
    assert len(seen) == len(reference.training["keys"]) * (reference.training["steps"] - 1)
    assert transitions.sample(np.random.default_rng(3), 1) == transitions.sample(np.random.default_rng(3), 1)


def test_what_is_written_reads_as_published(reference, tmp_path):
    config = SimpleNamespace(codebook_size=reference.meta["config"]["codebook_size"], n_classes=reference.meta["config"]["n_classes"])
    run = {"base": "b", "prompt": "2", "seed": 1, "settings": {"steps": 6}}
    old = reference.open(reference.shard)
    with TarShards(tmp_path, config) as shards:
        assert shards.find(0) is None
        for index, t in enumerate(old):
            features = [torch.stack([t.features(branch, step) for step in range(t.steps)]) for branch in range(2)]
            shards.write(index, t.codes, t.unmasked_at, t.prompts, features, run)
    published, ours = TarShard(reference.shard), TarShard(tmp_path / "000000.tar")
    assert list(ours.members) == list(published.members) == reference.training["keys"]
    for key in ours.members:
        for name in (FEATURES, ORDER, CODES):
            found, expected = ours.tensor(key, name), published.tensor(key, name)
            assert torch.equal(found, expected) and found.dtype == expected.dtype
    again = TarShards(tmp_path, config)
    assert again.find(1).key == old[1].key and again.find(1).run == run and again.find(2) is None
    assert old[0].run == {} and [t.key for t in TarShards.open(tmp_path, config)] == [t.key for t in old]


def test_a_full_shard_is_followed_by_the_next(tmp_path):
    for _ in range(2):  # the second time beside what the first has left
        with TarWriter(tmp_path, most_records=2) as writer:
            for key in "abcde":
                writer.add(key, {"x": torch.ones(3)})
    assert [sorted(TarShard(tmp_path / f"{number:06d}.tar").members) for number in range(6)] == [["a", "b"], ["c", "d"], ["e"]] * 2
    with TarWriter(tmp_path / "small", itertools.count(1, 2), most_bytes=5000) as writer:
        for key in "abc":
            writer.add(key, {"x": torch.ones(500)})  # some 3,000 bytes
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["000001.tar", "000003.tar", "000005.tar"]


def test_a_stop_keeps_whole_records_and_a_failing_disk_no_half_ones(tmp_path):
    for folder, error in (("stopped", KeyboardInterrupt()), ("full", OSError(28, "No space left on device"))):
        with pytest.raises(type(error)), TarWriter(tmp_path / folder) as writer:
            writer.add("a", {"x": torch.ones(3)})
            raise error
    assert list(TarShard(tmp_path / "stopped" / "000000.tar").members) == ["a"]
    assert not (tmp_path / "full").exists()


@contextmanager
def interrupted(error: BaseException, from_bytes: int = 0):
    """Members of so many bytes and more end half-way with an error."""
    copy = tarfile.copyfileobj

    def copy_half(source, target, length, **options):
        if length < from_bytes:
            return copy(source, target, length, **options)
        target.write(source.read(length // 2))
        raise error

    with pytest.MonkeyPatch.context() as patched, pytest.raises(type(error)):
        patched.setattr(tarfile, "copyfileobj", copy_half)
        yield


def test_a_stop_within_a_record_keeps_those_before_it(tmp_path):
    short, long = torch.randn(3000), torch.randn(5000)
    with interrupted(KeyboardInterrupt(), len(saved(long))), TarWriter(tmp_path / "later") as writer:
        writer.add("a", {"x": short, "y": short})
        writer.add("b", {"x": short, "y": long})
    shard = TarShard(tmp_path / "later" / "000000.tar")
    assert list(shard.members) == ["a"] and torch.equal(shard.tensor("a", "y"), short)
    with interrupted(KeyboardInterrupt()), TarWriter(tmp_path / "first") as writer:
        writer.add("a", {"x": short})
    assert not (tmp_path / "first").exists(), "a shard without records is none"


def test_a_record_that_fails_is_not_in_the_way_of_the_next(tmp_path):
    with TarWriter(tmp_path) as writer:
        with interrupted(MemoryError()):
            writer.add("a", {"x": torch.ones(3)})
        writer.add("b", {"x": torch.ones(3)})
    assert list(TarShard(tmp_path / "000000.tar").members) == ["b"]


class Opened:
    """Something that no shard may bring along."""


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (ORDER, lambda _: b"no archive", "cannot be read as a tensor"),
        (CODES, lambda _: saved({"a": torch.ones(1)}), "holds a dict, expected a tensor"),
        (CODES, lambda _: saved(Opened()), "cannot be read as a tensor"),
        (CODES, lambda _: None, "has no member"),
        (FEATURES, lambda _: saved(torch.ones(3, 2)), r"has the shape \(3, 2\); expected \(steps, tokens \+ 1, width\)"),
        (ORDER, lambda _: saved(torch.zeros(4, dtype=torch.int64)), r"has the shape \(4,\) beside features"),
        (ORDER, lambda length: saved(torch.full((length,), 99)), "holds values from 99 to 99; expected steps"),
        (CODES, lambda _: saved(torch.zeros(4, dtype=torch.int64)), r"has the shape \(4,\), expected"),
        (CODES, lambda length: saved(torch.full((length,), 5000)), "holds codes from 5000 to 5000"),
        (CODES, lambda length: saved(torch.tensor([0] * (length - 1) + [5000])), "has the label 5000"),
    ],
    ids=["garbage", "dict", "class", "missing", "features", "order-shape", "order-values", "codes-shape", "codes-values", "label"],
)
def test_a_damaged_member_is_named_with_its_file(tmp_path, name, content, expected):
    reference = Reference(DIRECTORIES[0])
    key = reference.training["keys"][0]
    made = content(reference.meta["config"]["grid"] ** 2 + 1)
    path = with_member(reference.shard, tmp_path / "bad.tar", f"{key}.{name}.pth", made)
    with pytest.raises(CheckpointError, match=expected) as error:
        t = reference.open(path)[0]
        t.prompts, t.codes, t.features(0, 1)
    message = str(error.value)
    assert message.startswith(str(path)) and f"{key}.{name}.pth" in message and "\n" not in message


def test_a_member_whose_tensors_unpack_to_more_than_it_takes_is_refused(tmp_path):
    """No record by itself is larger than the member; all together are."""
    content, packed = saved([torch.zeros(50_000) for _ in range(20)]), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        for name in archive.namelist():
            made.writestr(name, archive.read(name))
        made.writestr(zipfile.ZipInfo("archive/data/999"), bytes(200_000))
    reference = Reference(DIRECTORIES[0])
    key = reference.training["keys"][0]
    shard = TarShard(with_member(reference.shard, tmp_path / "packed.tar", f"{key}.{FEATURES}.pth", packed.getvalue()))
    for read in (shard.tensor, shard.shape, lambda *of: shard.row(*of, 0)):
        with pytest.raises(CheckpointError, match=rf"packed\.tar: the member {key}\.feat\.pth unpacks to .* of tensors, but a file like it has at most"):
            read(key, FEATURES)


def test_a_damaged_or_foreign_shard_is_named(reference, tmp_path):
    whole = reference.shard.read_bytes()
    for content in (whole[: len(whole) // 2], b"x" * 10240, b""):
        (tmp_path / "bad.tar").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"bad\.tar") as error:
            reference.open(tmp_path / "bad.tar")
        assert "\n" not in str(error.value)
    with TarWriter(tmp_path) as writer:
        writer.add("photo", {"x": torch.ones(1)})
    with pytest.raises(CheckpointError, match="000000.tar holds no trajectories"):
        reference.open(tmp_path / "000000.tar")
    with pytest.raises(CheckpointError, match="gone.tar cannot be read"):
        reference.open(tmp_path / "gone.tar")


def test_a_record_of_one_branch_only_is_a_run_too(reference, tmp_path):
    key = reference.training["keys"][0]
    with TarWriter(tmp_path) as writer:
        shard = TarShard(reference.shard)
        writer.add(key, {name: shard.tensor(key, name) for name in (FEATURES, ORDER, CODES)})
    (t,) = reference.open(tmp_path / "000000.tar")
    assert t.branches == ("cond",) and t.features(0, 1) is not None and t.features(1, 1) is None
