"""Three stages, alternating steps, packed networks and pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from examples.draw_cells import draw_cells
from nasopt import NASB
from nasopt.methods.nasb import AlternatingSearch, binarize, fine_tune_optimizer, full_precision, pack
from nasopt.nn import BinaryActivation, BinaryConv2d, TwinActivation, TwinConv2d
from nasopt.nn.packed import PackedBinaryConv2d
from unit_test.methods.nasb_seeds import SHAPE, Short


def kinds(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(type(module) is kind for module in model.modules())


def test_three_stages() -> None:
    model = NASB(Short(), SHAPE, cells=["stage1", "stage2"])
    steps = AlternatingSearch(model, F.cross_entropy, strength=1e-6)
    batch = (torch.randn(8, *SHAPE), torch.randint(0, 5, (8,)))
    logits = model.choice_logits.detach().clone()
    weights = {n: p.detach().clone() for n, p in model.named_net_parameters()}
    steps.arch_step(batch)
    assert not torch.equal(logits, model.choice_logits)
    assert all(torch.equal(weights[n], p) for n, p in model.named_net_parameters())
    logits = model.choice_logits.detach().clone()
    steps.weight_step(batch)
    assert torch.equal(logits, model.choice_logits)
    assert any(not torch.equal(weights[n], p) for n, p in model.named_net_parameters())
    assert all(p.requires_grad for p in model.parameters())

    twin = full_precision(model.arch_export())
    assert kinds(twin, BinaryConv2d) == kinds(twin, BinaryActivation) == 0
    assert kinds(twin, TwinConv2d) == kinds(twin, TwinActivation) >= 4
    F.cross_entropy(twin.train()(batch[0]), batch[1]).backward()
    binary = binarize(twin)
    assert kinds(binary, TwinConv2d) == kinds(binary, TwinActivation) == 0
    # First convolution and down-sampling stay in full precision.
    assert isinstance(binary.get_submodule("stem.0"), nn.Conv2d)
    optimizer = fine_tune_optimizer(binary)
    before = [p.detach().clone() for p in binary.parameters()]
    F.cross_entropy(binary.train()(batch[0]), batch[1]).backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, binary.parameters()))
    again = full_precision(binary)
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in binary.named_parameters()]


def test_only_drawn_operations_run() -> None:
    model = NASB(Short(), SHAPE, cells=["stage1", "stage2"], active="edges")
    ran: list[str] = []
    for name, module in model.named_modules():
        if ".into." in name and isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda m, i, o, name=name: ran.append(name.rpartition(".")[0]))
    model.freeze_arch()
    model(torch.randn(2, *SHAPE))
    edges = [(name.partition(".branches.")[0], int(name.rpartition(".")[2]) // 10) for name in ran]
    assert len(edges) == len(set(edges)) <= 6
    model.unfreeze_arch()
    ran.clear()
    model(torch.randn(2, *SHAPE))
    assert len(ran) <= 12


def test_a_packed_network_computes_the_same() -> None:
    model = NASB(Short(), SHAPE, cells=["stage1", "stage2"], preset="V4")
    network = model.arch_export(verify=False)
    packed = pack(network)
    assert kinds(packed, BinaryConv2d) == kinds(packed, BinaryActivation) == 0
    assert kinds(packed, PackedBinaryConv2d) == kinds(network, BinaryConv2d)
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), network.eval()(x), rtol=1e-4, atol=1e-4)


def test_the_picture_is_written(tmp_path: Path) -> None:
    model = NASB(Short(), SHAPE, cells=["stage1", "stage2"], branches=2, candidates=["max_pool_3x3", "identity"])
    figure = draw_cells(model.cell_summary(), tmp_path / "cells.png")
    assert (tmp_path / "cells.png").stat().st_size > 10_000
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["stage1, branch 0", "stage1, branch 1", "stage2, branch 0", "stage2, branch 1"]
