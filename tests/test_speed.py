"""The times of steps at published sizes: what is run, what is counted, and how layers that are not built are added."""

from dataclasses import replace

import pytest
import torch
from small_model import small_config

from migm_core.bench import reading_speed, speed
from migm_core.families import FAMILIES, family_named
from migm_core.sampling.cost import PlannedRun
from migm_core.sampling.methods import METHODS

SIDE, STEPS, BUDGET = 4, 8, 3


@pytest.fixture
def lumina():
    family, config = family_named("lumina-dimoo"), small_config(n_layers=6)
    torch.manual_seed(0)
    return family, config, speed.filled(family.backbone(replace(config, n_layers=2))), speed.filled(family.new_head(config, 2))


def measure(parts, batch=2, **changed):
    return speed.measure(*parts, batch, **{"steps": STEPS, "budget": BUDGET, "repeats": 1, "side": SIDE, **changed})


def test_a_full_step_runs_the_base_and_a_shortcut_step_the_head_in_both_branches(lumina):
    _, _, backbone, head = lumina
    half_way = speed.HalfWay(*lumina[:1], backbone, head, 2, STEPS, BUDGET, SIDE)
    seen = []
    for index, block in enumerate(backbone.blocks):
        block.register_forward_hook(lambda *_, index=index: seen.append(index))
    head.blocks[0].cross_attn.register_forward_hook(lambda *_: seen.append("head"))
    with torch.inference_mode():
        half_way.full()
        assert seen == [0, 1, 0, 1]
        half_way.shortcut()
        assert seen == [0, 1, 0, 1, "head", "head"]
        half_way.full_without_layers()
    assert len(seen) == 6 and len(backbone.blocks) == 2


def test_tokens_are_those_of_the_schedule_half_way(lumina):
    family, _, backbone, head = lumina
    keep = family.rule().keep(SIDE**2, SIDE**2, STEPS)
    half_way = speed.HalfWay(family, backbone, head, 3, STEPS, BUDGET, SIDE)
    assert half_way.masked.shape == (3, keep[STEPS // 2 - 1]) and half_way.new.shape == (3, keep[STEPS // 2 - 2] - keep[STEPS // 2 - 1])
    assert not set(half_way.masked[0].tolist()) & set(half_way.new[0].tolist())


def test_layers_that_are_not_built_take_as_long_as_the_others(lumina, monkeypatch):
    _, _, backbone, head = lumina

    def clocked(do, device):
        """Each block takes a second, and so does all that is beside them."""
        took = [1.0]
        hooks = [block.register_forward_hook(lambda *_: took.append(1.0)) for block in (*backbone.blocks, *head.blocks)]
        do()
        for hook in hooks:
            hook.remove()
        return sum(took)

    monkeypatch.setattr(speed, "clocked", clocked)
    assert measure(lumina).full == 1 + 6 * speed.BRANCHES
    whole = (lumina[0], replace(lumina[1], n_layers=2), *lumina[2:])
    assert measure(whole).full == 1 + 2 * speed.BRANCHES
    assert measure(lumina).rate == (48 + 4 + SIDE * (SIDE + 1)) * 32 * 64  # a product in one second


def test_what_is_counted_is_what_the_cost_of_a_run_counts(lumina):
    family, config, _, head = lumina
    found = measure(lumina)
    method, rule = METHODS["shortcut"].build({"budget": BUDGET}, head), family.rule()
    costs = PlannedRun(method, rule, ["full", *["shortcut"] * (STEPS - 1)], SIDE, SIDE).costs(config, head.config)
    logits = lambda step: [SIDE**2, *rule.keep(SIDE**2, SIDE**2, STEPS)][step] * config.width * config.codebook_size  # noqa: E731
    half = STEPS // 2
    assert found.shortcut_macs == 2 * 2 * costs[half]
    assert found.full_macs == 2 * 2 * (costs[0] - logits(0) + logits(half))
    counted = PlannedRun(method, rule, method.kinds(STEPS), SIDE, SIDE).largest_speed_up(config, head.config)
    assert found.counted_speed_up == pytest.approx(counted, rel=0.1)  # which has each step's own logits


def test_the_speed_up_of_a_run():
    assert speed.speed_up(64, 64, 0.1) == 1
    assert speed.speed_up(64, 11, 0) == 64 / 11
    found = speed.Speed(full=4.0, shortcut=1.0, full_macs=800, shortcut_macs=100, rate=400.0, steps=10, budget=2)
    assert (found.full_share, found.shortcut_share) == (0.5, 0.25)
    assert (found.speed_up, found.counted_speed_up) == (10 / (2 + 8 / 4), 10 / (2 + 8 / 8))


def test_the_command_prints_its_machine_and_a_row_for_each_batch(lumina, monkeypatch, capsys):
    family = lumina[0]
    monkeypatch.setattr(type(family), "config", lambda _=None: lumina[1])
    monkeypatch.setattr(speed, "ROOM", lumina[1].block_weights / 6 * 4 * 2.5)
    speed.main(["--family", "lumina-dimoo", "--batch", "1", "3", "--repeats", "1", "--device", "cpu", "--dtype", "fp32"])
    printed = capsys.readouterr().out
    assert f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32" in printed
    assert "N = 64, b = 11; 2 of 6 layers timed, the others added" in printed
    assert [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")][1:] == ["| 1", "| 3"]


def test_a_task_with_pictures_has_three_branches_of_which_two_read_them(lumina):
    family, config, backbone, head = lumina
    published = family.config()
    work = speed.work_of(family, published, "edit")
    assert work == speed.Work((1106, 1106, 48), 1058) and work.in_words(published) == "3 branches of 2,166 + 2,166 + 1,108 tokens"
    assert speed.work_of(family, published, "style").read == 2 * 1058
    assert speed.work_of(family, published, "text-to-image") == speed.work_of(family, published, None) == speed.Work((48, 48))
    assert speed.work_of(family, published, "paint").in_words(published) == "2 branches of 1,108 + 1,108 tokens, 50% generated"
    work = speed.work_of(family, config, "edit", SIDE)
    half_way = speed.HalfWay(family, backbone, head, 2, STEPS, BUDGET, SIDE, work)
    picture = SIDE * (SIDE + 1) + 2
    assert [sequence.length for sequence in half_way.sequences] == [48 + picture + 24, 48 + picture + 24, 48 + 24]
    assert [context.shape[1] for context in half_way.run.contexts] == [48 + picture, 0, 0], "what the head reads beside new tokens"
    found = measure(lumina, work=work)
    logits = half_way.masked.shape[1] * config.width * config.codebook_size
    lengths = [sequence.length for sequence in half_way.sequences]
    assert found.full_macs == 2 * sum(config.pass_macs(length, length) + logits for length in lengths)
    assert found.shortcut_macs == 2 * sum(head.config.step_macs(length, read) + logits for length, read in zip(lengths, (picture, 0, 0)))
    painting = speed.HalfWay(family, backbone, head, 1, STEPS, BUDGET, SIDE, speed.work_of(family, config, "paint", SIDE))
    assert painting.masked.shape[1] == family.rule().keep(SIDE**2 // 2, SIDE**2, STEPS)[STEPS // 2 - 1]


def test_an_answer_runs_whole_passes_and_passes_over_itself_alone(lumina, monkeypatch):
    _, config, backbone, _ = lumina
    calls = []
    for name in ("features", "features_at"):
        method = getattr(backbone, name)
        monkeypatch.setattr(backbone, name, lambda *args, name=name, method=method: calls.append((name, *args)) or method(*args), raising=False)

    def clocked(do, device):
        """Each block takes two seconds in a whole pass and one in another, and so does all that is beside them."""
        before = len(calls)
        do()
        ((name, *_),) = calls[before:]
        return (1 + len(backbone.blocks)) * (2.0 if name == "features" else 1.0)

    monkeypatch.setattr(reading_speed, "clocked", clocked)
    found = reading_speed.measure_reading(config, backbone, length=8, block=4, repeats=1, side=SIDE)
    assert (found.full, found.cached, found.speed_up) == (2 * 7, 7, 4 / (1 + 3 / 2)), "6 layers, of which 2 are there"
    picture = SIDE * (SIDE + 1) + 2
    total = 48 + picture + 1 + 8 + 1
    assert found.picture == picture and {call[1].length for call in calls} == {total}
    cached = [call for call in calls if call[0] == "features_at"]
    assert all(positions.tolist() == [[*range(total - 9, total)]] for _, _, positions, _ in cached), "the answer and the eoa behind it"
    logits = 2 * config.width * config.vocab_size
    assert (found.full_macs, found.cached_macs) == (config.pass_macs(total, total) + logits, config.pass_macs(9, total) + logits)
    assert found.counted_speed_up == pytest.approx(4 / (1 + 3 * found.cached_macs / found.full_macs))
    assert len(backbone.blocks) == 2


def test_a_large_picture_has_the_published_number_of_tokens():
    config = family_named("lumina-dimoo").config()
    assert reading_speed.picture_tokens(config, reading_speed.PICTURE_SIDE) == 4162 and reading_speed.picture_tokens(config, speed.SIDE) == 1058


def test_the_command_measures_tasks(lumina, monkeypatch, capsys):
    family = lumina[0]
    monkeypatch.setattr(type(family), "config", lambda _=None: lumina[1])
    monkeypatch.setattr(speed, "SIDE", SIDE), monkeypatch.setattr(reading_speed, "PICTURE_SIDE", SIDE)
    speed.main(["--task", "edit", "paint", "understanding", "--batch", "1", "--repeats", "1", "--layers", "2", "--device", "cpu", "--dtype", "fp32"])
    printed = capsys.readouterr().out
    assert "MaskGIT" not in printed, "which has no tasks"
    for heading in (", edit, 3 branches of ", ", paint, 2 branches of ", ", understanding: a picture of "):
        assert heading in printed
    assert printed.count("2 of 6 layers timed, the others added") == 3 and "an answer of 128 in blocks of 32, a token a pass" in printed
    assert [line.count("|") for line in printed.splitlines() if line.startswith("| ")] == [10, 10, 10, 10, 6, 6]


def test_a_task_that_no_chosen_family_has_is_refused():
    with pytest.raises(ValueError, match="No model of maskgit has the task edit or understanding"):
        speed.main(["--family", "maskgit", "--task", "edit", "understanding"])


@pytest.mark.parametrize("words", [["--batch", "0"], ["--repeats", "x"], ["--family", "none"]])
def test_bad_options_are_refused(words):
    with pytest.raises(ValueError, match=f"{words[0]}: .*{words[1]}.* See python -m migm_core.bench.speed --help"):
        speed.main(words)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_can_be_measured(family):
    config = replace(family.config(), n_layers=1)
    assert isinstance(family.backbone(config, device="meta"), torch.nn.Module)
    assert family.new_head(config, speed.HEAD_RATIO).config.step_macs(10) > 0
