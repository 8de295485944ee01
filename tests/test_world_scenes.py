"""The lakeside world's scenes and pictures: what is drawn is what the tensors say, and no two are alike."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from migm_core.worlds.lakeside import Variety, depth_maps, edge_maps, render, render_layers, render_subjects, sample_scenes
from migm_core.worlds.lakeside.landscape import Grid, paint_backdrop, paint_water
from migm_core.worlds.lakeside.light import light_of
from migm_core.worlds.lakeside.scene import COLOURS, GROUNDS, KIND_FINISHES, KIND_NAMES, NONE, OPPOSITE, TIMES, WEATHERS


def scenes_of(count: int, seed: int = 0, **options):
    return sample_scenes(count, torch.Generator().manual_seed(seed), **options)


def same(first, second) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in first.__dataclass_fields__)


def test_a_seed_gives_the_same_scenes_and_another_seed_others():
    assert same(scenes_of(20, 1), scenes_of(20, 1))
    assert not torch.equal(scenes_of(20, 1).variation, scenes_of(20, 2).variation)


def test_scenes_may_be_of_less_variety():
    scenes = scenes_of(200, variety=Variety(count_shares=(0.5, 0.5, 0.0, 0.0), sizes=("large",)), split="dev")
    assert set(scenes.present.sum(1).tolist()) == {1, 2} and (scenes.size == 1).all() and (scenes.split() == 1).all()
    assert set(scenes_of(200).present.sum(1).tolist()) == {1, 2, 3, 4} and set(scenes_of(200).size.flatten().tolist()) == {0, 1}


def test_objects_that_are_centred_stand_in_the_middle_or_at_both_sides():
    scenes = sample_scenes(2000, torch.Generator().manual_seed(0), "train", Variety(centred=True))
    counts, first, second = scenes.present.sum(1), scenes.column[:, 0], scenes.column[:, 1]
    assert (first[counts == 1] == 1).all()
    shared = scenes.zone[:, 0] == scenes.zone[:, 1]
    pairs = lambda rows: {tuple(pair) for pair in torch.stack([first, second], 1)[rows].tolist()}  # noqa: E731
    assert pairs((counts == 2) & shared) == {(0, 2), (2, 0)} and pairs((counts == 2) & ~shared) == {(0, 2), (2, 0), (1, 1)}
    for row in (counts > 2).nonzero()[:, 0].tolist():
        there = [tuple(pair) for pair in torch.stack([scenes.zone[row], scenes.column[row]], 1)[scenes.present[row]].tolist()]
        assert len(set(there)) == len(there)


def test_landscapes_and_poses_may_be_few_and_are_the_same_for_all_seeds():
    few = Variety(landscapes=3, poses=2)
    seen = [scenes_of(200, seed, variety=few) for seed in (0, 1)]
    landscapes = torch.cat([torch.cat([scenes.variation, scenes.texture.flatten(1)], 1) for scenes in seen])
    assert len(landscapes.unique(dim=0)) == 3, "outline and texture belong together"
    assert len(torch.cat([scenes.object_variation for scenes in seen]).flatten(0, 1).unique(dim=0)) == 2
    assert len(scenes_of(200).variation.unique(dim=0)) == 200
    assert all(len(getattr(seen[0], name).unique()) > 2 for name in ("time", "ground", "kind", "colour", "column")), "all else is as various as ever"


def test_no_scene_gives_no_picture():
    none = scenes_of(4)[:0]
    assert render(none, 128).shape == render_layers(none, 128).image.shape == render_subjects(none, none.time, 128).shape == (0, 3, 128, 128)


def test_no_two_objects_share_a_kind_or_a_place():
    scenes = scenes_of(2000)
    place = scenes.zone * 3 + scenes.column
    for values in (scenes.kind, place):
        alike = (values[:, :, None] == values[:, None]) & scenes.present[:, :, None] & scenes.present[:, None]
        assert (alike.sum((1, 2)) == scenes.present.sum(1)).all()
    counts = scenes.present.sum(1)
    assert counts.min() == 1 and counts.max() == 4
    assert (scenes.present.int().diff(dim=1) <= 0).all(), "free slots come last"


def test_every_finish_is_one_of_its_kind():
    scenes = scenes_of(500)
    allowed = KIND_FINISHES[scenes.kind.clamp(0)]
    assert ((scenes.finish[..., None] == allowed).any(-1) | ~scenes.present).all()


def test_a_relation_read_the_other_way_round_is_its_opposite():
    relation = scenes_of(500).relation
    backwards = relation.transpose(1, 2)
    known = relation != NONE
    assert torch.equal(backwards[known], OPPOSITE[relation[known]])
    assert set(relation[known].tolist()) == set(range(6))


def test_splits_share_no_scene_and_every_split_can_be_sampled():
    for number, split in enumerate(("test", "dev", "train")):
        assert (scenes_of(300, 3, split=split).split() == number).all()
    scenes = scenes_of(300, 4)
    moved = replace(scenes, column=2 - scenes.column, variation=1 - scenes.variation)
    assert torch.equal(scenes.split(), moved.split()), "the split depends on what is said, not on the arrangement"
    with pytest.raises(ValueError, match="'valid'"):
        scenes_of(1, split="valid")


def test_equal_scenes_render_equal_pictures_whatever_is_rendered_beside_them():
    scenes = scenes_of(11)
    pictures = render(scenes, 128)
    assert pictures.shape == (11, 3, 128, 128) and pictures.min() >= 0 and pictures.max() <= 1
    assert torch.allclose(render(scenes[7:9], 128), pictures[7:9], atol=1e-5)


def test_what_no_prompt_names_still_makes_pictures_differ():
    scenes = scenes_of(6)
    alike = scenes[torch.zeros(6, dtype=torch.int64)]  # six times the same, but for chance
    alike = replace(alike, variation=scenes.variation, object_variation=scenes.object_variation, texture=scenes.texture)
    pictures = render(alike, 128)
    difference = (pictures[:, None] - pictures[None]).abs().mean((2, 3, 4))
    assert difference[~torch.eye(6, dtype=torch.bool)].min() > 0.01


@pytest.mark.parametrize("size", [100, 64, 200])
def test_sizes_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match=str(size)):
        render(scenes_of(1), size)


def test_the_picture_is_the_same_at_192_and_at_256_pixels():
    scenes = scenes_of(4)
    small = F.interpolate(render(scenes, 256), (192, 192), mode="bilinear", antialias=True)
    assert (render(scenes, 192) - small).abs().mean() < 0.01


def test_objects_hide_little_of_each_other():
    """Half of each object shows, even where a large boat lies in front of a small house."""
    scenes = scenes_of(80, 5)
    visible = render_layers(scenes, 128).masks.sum((2, 3))
    for slot in range(4):
        alone = replace(scenes, kind=scenes.kind.where(torch.arange(4) == slot, NONE))
        whole = render_layers(alone, 128).masks[:, slot].sum((1, 2))
        there = scenes.present[:, slot]
        assert (visible[there, slot] > 0.5 * whole[there]).all()
        assert (whole[there] > 80).all()
    assert not visible[~scenes.present].any()


def test_removing_an_object_changes_only_its_surroundings():
    scenes = scenes_of(30, 6)
    chosen = scenes.present[:, 1] & (scenes.zone[:, 1] == 0)
    scenes = scenes[chosen]
    without = replace(scenes, kind=scenes.kind.where(torch.arange(4) != 1, NONE))
    changed = (render(scenes, 128) - render(without, 128)).abs().amax(1) > 0.02
    sky = changed[:, :72]
    masks = render_layers(scenes, 128).masks[:, 1]
    assert not (sky & ~F.max_pool2d(masks.float(), 9, 1, 4).bool()[:, :72]).any()


def test_colours_stay_apart_at_every_time_and_in_every_weather():
    one = scenes_of(1)
    settings = torch.cartesian_prod(torch.arange(len(TIMES)), torch.arange(len(WEATHERS)), torch.arange(len(COLOURS)))
    scenes = one[torch.zeros(len(settings), dtype=torch.int64)]
    kind = torch.full_like(scenes.kind, NONE)
    kind[:, 0] = KIND_NAMES.index("duck")
    colour = settings[:, 2:].expand(-1, 4)
    scenes = replace(scenes, time=settings[:, 0], weather=settings[:, 1], kind=kind, colour=colour, size=torch.ones_like(kind))
    layers = render_layers(scenes, 128)
    mask = layers.masks[:, :1].float()
    mean = ((layers.image * mask).sum((2, 3)) / mask.sum((2, 3))).reshape(-1, len(COLOURS), 3)
    apart = (mean[:, :, None] - mean[:, None]).abs().amax(-1)
    assert apart[:, ~torch.eye(len(COLOURS), dtype=torch.bool)].min() > 0.10


def test_grounds_stay_apart_at_every_time_and_in_every_weather():
    settings = torch.cartesian_prod(torch.arange(len(TIMES)), torch.arange(len(WEATHERS)), torch.arange(len(GROUNDS)))
    scenes = scenes_of(1)[torch.zeros(len(settings), dtype=torch.int64)]
    nothing = torch.full_like(scenes.kind, NONE)
    scenes = replace(scenes, time=settings[:, 0], weather=settings[:, 1], ground=settings[:, 2], kind=nothing)
    mean = render(scenes, 128)[:, :, 78:94].mean((2, 3)).reshape(-1, len(GROUNDS), 3)
    apart = (mean[:, :, None] - mean[:, None]).abs().amax(-1)
    assert apart[:, ~torch.eye(len(GROUNDS), dtype=torch.bool)].min() > 0.04


def test_depth_grows_towards_the_viewer_and_objects_stand_out():
    scenes = scenes_of(8, 7)
    layers = render_layers(scenes, 128)
    empty = replace(scenes, kind=torch.full_like(scenes.kind, NONE))
    ground = render_layers(empty, 128).depth
    assert (ground.diff(dim=2) >= 0).all() and ground.min() == 0 and ground.max() > 0.97
    upper_half = layers.masks.any(1, keepdim=True) & (torch.arange(128)[:, None] < 80)
    assert (layers.depth[upper_half] > ground[upper_half]).all()


def test_maps_are_pictures():
    scenes = scenes_of(3)
    slots = torch.zeros(3, dtype=torch.int64)
    for pictures in (depth_maps(scenes, 128), edge_maps(render(scenes, 128)), render_subjects(scenes, slots, 128)):
        assert pictures.shape == (3, 3, 128, 128) and pictures.min() >= 0 and pictures.max() <= 1
        assert pictures.std() > 0.01


def test_edges_lie_on_outlines():
    scenes = scenes_of(8, 8)
    masks = render_layers(scenes, 256).masks.any(1, keepdim=True).float()
    outline = F.max_pool2d(masks, 5, 1, 2) - (1 - F.max_pool2d(1 - masks, 5, 1, 2))
    edges = edge_maps(render(scenes, 256))[:, :1]
    assert edges[outline > 0].mean() > 5 * edges[outline == 0].mean()


def test_the_landscape_compiles_without_graph_breaks():
    scenes = scenes_of(2)

    def landscape(some):
        light, grid = light_of(some), Grid(128, some.device)
        return paint_water(paint_backdrop(some, light, grid), some, light, grid)

    compiled = torch.compile(landscape, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(scenes), landscape(scenes))
