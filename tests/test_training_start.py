"""What a head starts with: its sizes, another head, no motion, a wider or deeper one."""

from dataclasses import replace

import pytest
import torch
from small_model import small_config
from training_runs import learned, same, trajectories

from migm_core.families.lumina_dimoo.backbone import Lumina
from migm_core.families.lumina_dimoo.head import ShortcutConfig, ShortcutHead, head_for
from migm_core.families.lumina_dimoo.initial import deepened, widened
from migm_core.families.lumina_dimoo.rule import LuminaRule
from migm_core.training.transitions import Transitions


def test_the_published_head_has_about_220_million_parameters():
    from migm_core.families.lumina_dimoo.config import LuminaConfig
    from migm_core.families.lumina_dimoo.head import ShortcutHead

    head = ShortcutHead(head_for(LuminaConfig()), device="meta")
    assert sum(p.numel() for p in head.parameters()) == pytest.approx(220e6, rel=0.05)


def test_added_layers_change_nothing_before_they_are_trained(recorded):
    base = recorded[1].checkpoint.base
    shallow = Lumina(base.config, output_rows="all")
    deep = deepened(shallow, base.config.n_layers + 3)
    assert len(deep.blocks) == deep.config.n_layers == base.config.n_layers + 3
    tokens = torch.arange(20).view(1, 20)
    rotary = shallow.rotary(20, tokens.device)
    assert torch.equal(deep(tokens, rotary), shallow(tokens, rotary))
    assert torch.equal(deep.ff_out.weight, shallow.ff_out.weight)


def test_a_head_goes_on_from_a_start(recorded, tmp_path):
    folder, pipeline = recorded
    kept, base = trajectories(folder / "trajectories"), pipeline.checkpoint.base
    first = learned(tmp_path / "first", kept, base, steps=2, ratio=4)
    assert same(first, learned(tmp_path / "none", kept, base, steps=0, head=first))
    further = learned(tmp_path / "further", kept, base, steps=2, head=first, clip=0.1, focus=0.5)
    assert further.config == first.config and not same(first, further)


@pytest.mark.parametrize("variant", [{}, {"time_embedding": False}, {"cross_attention": False}, {"n_blocks": 2}])
def test_a_widened_head_computes_what_it_did(variant):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "n_heads": 2, "mlp_hidden_size": 48, **variant}
    narrow = ShortcutHead(ShortcutConfig(bottleneck_ratio=4, **sizes))
    wide = widened(narrow, ShortcutConfig(bottleneck_ratio=2, **sizes))  # each rotary frequency is one of the wide head's, too
    features, tokens, positions, ratio = torch.randn(2, 12, 32), torch.randn(2, 3, 32), torch.tensor([[1, 4, 9], [0, 2, 11]]), torch.tensor([0.3, 0.7])
    before, after = (head(features, tokens, positions, ratio, head.tables(12, features.device)) for head in (narrow, wide))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
    after.square().sum().backward()
    new = torch.ones(wide.config.width, dtype=torch.bool)
    new[: narrow.config.width] = False
    assert wide.proj_in.weight.grad[new].abs().sum(1).all(), "the new part of the stream would not learn"
    for block in wide.blocks[-1].cross_attn, wide.blocks[-1].self_attn:
        for writer in (block.attn_out, block.ff_out):
            assert writer.weight.grad[new].abs().sum(1).all()
        for channels in (block.k_proj, block.v_proj):
            assert (channels.weight.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("ratio", [3, 0.5, 0, -1])
def test_a_ratio_must_suit_the_bases_heads(ratio):
    with pytest.raises(ValueError, match=rf"The ratio {ratio} gives a head of width .*multiple of 4.*Choose for example"):
        head_for(small_config(), ratio)


def test_a_head_is_widened_only_to_more():
    narrow, wide = (ShortcutConfig(d_model=32, n_heads=2, mlp_hidden_size=48, bottleneck_ratio=ratio) for ratio in (4, 2))
    for start, end in ((wide, narrow), (narrow, replace(narrow, bottleneck_ratio=1))):
        with pytest.raises(ValueError, match="expected a larger width"):
            widened(ShortcutHead(start), end)


@pytest.mark.parametrize("ratio", [2, 1])
def test_a_head_starts_with_features_that_do_not_move(recorded, tmp_path, ratio):
    folder, pipeline = recorded
    base = pipeline.checkpoint.base
    kept = trajectories(folder / "trajectories")
    head = learned(tmp_path, kept, base, steps=0, ratio=ratio)
    arguments, *_ = Transitions(kept, base, LuminaRule()).transition(kept[:1], 1, 0, head)
    assert torch.equal(head(*arguments), arguments[0])
