"""Adder layers: forward and training rule, bad input, cost, what learns and what does not."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nasopt
from nasopt.cost import cost_report, network_cost
from nasopt.errors import ConfigError, LayerWarning, UnpricedError
from nasopt.nn import AdderConv2d, adder_norm, adder_separable


def patches_of(layer: AdderConv2d, x: Tensor) -> Tensor:
    """Patches as `(B, 1, G, K, L)`."""
    columns = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return columns.unflatten(1, (1, layer.groups, -1))


def differences(layer: AdderConv2d, x: Tensor) -> Tensor:
    """`x - w` of every filter, patch and tap: `(B, T, G, K, L)`, the broadcast form."""
    filters = layer.weight.detach().flatten(1).unflatten(0, (layer.groups, -1)).transpose(0, 1)
    return patches_of(layer, x) - filters[None, ..., None]


SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 1), "stride": (2, 1), "padding": (0, 2)},
    {"kernel_size": 3, "groups": 4, "dilation": 2},
    {"kernel_size": 3, "groups": 2, "stride": 2},
    {"kernel_size": 1},
]


@pytest.mark.parametrize("options", SHAPES)
def test_forward_is_minus_the_l1_distance(options: dict[str, int]) -> None:
    layer = AdderConv2d(4, 8, **options).double()  # type: ignore[arg-type]
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    y = layer(x)
    assert y.shape == nn.Conv2d(4, 8, **options).double()(x).shape  # type: ignore[arg-type]
    wanted = -differences(layer, x).abs().sum(3).transpose(1, 2).flatten(1, 2).unflatten(2, y.shape[2:])
    torch.testing.assert_close(y, wanted)
    assert bool((y <= 0).all())


@pytest.mark.parametrize("options", SHAPES)
def test_training_rule(options: dict[str, int]) -> None:
    # dy/dw := x - w, then scaled to the length eta sqrt(k); dy/dx := clip(w - x, -1, 1)
    layer = AdderConv2d(4, 8, **options, eta=0.3).double()  # type: ignore[arg-type]
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    arriving = torch.randn_like(y)
    y.backward(arriving)
    per_filter = arriving.flatten(2).unflatten(1, (layer.groups, -1)).transpose(1, 2).unsqueeze(3)  # (B, T, G, 1, L)
    difference = differences(layer, x.detach())
    natural = (difference * per_filter).sum((0, 4)).transpose(0, 1).reshape(layer.weight.shape)
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, 0.3 * math.sqrt(natural.numel()) * natural / natural.norm())
    columns = (-difference.clamp(-1, 1) * per_filter).sum(1).flatten(1, 2)
    sizes = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    torch.testing.assert_close(x.grad, F.fold(columns, (7, 6), *sizes))


@pytest.mark.parametrize("options", SHAPES)
def test_compiled_loops_agree_with_torch(options: dict[str, int]) -> None:
    # float32 in few threads is compiled, float64 is not.
    layer, x = AdderConv2d(4, 8, **options), torch.randn(2, 4, 7, 6)  # type: ignore[arg-type]
    mask = torch.tensor([1.0, 0.5, 0, 1])[: layer.weight.shape[1]].view(-1, 1, 1)
    found = []
    for dtype in (torch.float32, torch.float64):
        twin = copy.deepcopy(layer).to(dtype)
        leaves = [x.detach().to(dtype).requires_grad_(), mask.to(dtype).requires_grad_(), twin.weight]
        y = twin.distances(leaves[0], leaves[1])
        torch.manual_seed(1)
        arriving = torch.randn(y.shape, dtype=torch.float64)
        found.append([y, *torch.autograd.grad(y, leaves, arriving.to(dtype))])
    for quick, exact in zip(*found):
        torch.testing.assert_close(quick.double(), exact, rtol=1e-4, atol=1e-4)
    x[0, 0, 3, 3] = math.nan
    assert bool(layer(x).isnan().any())


def test_a_zero_gradient_stays_zero() -> None:
    layer = AdderConv2d(2, 3, 3)
    (layer(torch.randn(1, 2, 5, 5)) * 0).sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


def test_mask_leaves_taps_out_and_its_gradient_is_what_they_cost() -> None:
    layer = AdderConv2d(3, 4, 3, padding=1).double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    mask = torch.tensor([1.0, 0, 1], dtype=torch.float64).view(3, 1, 1).requires_grad_()
    y = layer.distances(x, mask)
    small = AdderConv2d(2, 4, 3, padding=1).double()
    small.weight = nn.Parameter(layer.weight.detach()[:, [0, 2]])
    torch.testing.assert_close(y, small(x[:, [0, 2]]))
    arriving = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, mask, arriving)
    for channel in range(3):
        one = AdderConv2d(1, 4, 3, padding=1).double()
        one.weight = nn.Parameter(layer.weight.detach()[:, channel : channel + 1])
        torch.testing.assert_close(gradient[channel].sum(), (one(x[:, channel : channel + 1]) * arriving).sum())


def test_moments_at_the_start() -> None:
    # |x - w| of two unit normals: mean 2 / sqrt(pi), variance 2 (1 - 2 / pi); 400 taps, so within a few per cent
    layer = AdderConv2d(400, 400, 1)
    y = layer(torch.randn(1, 400, 20, 20))
    mean, variance = layer.moments
    assert float(y.mean().detach()) == pytest.approx(mean, rel=0.01)
    # Outputs at one position share their patch: the variance over filters and positions together is that of the law.
    assert float(y.var().detach()) == pytest.approx(variance, rel=0.1)
    norm = adder_norm(layer).eval()
    assert float(norm(y).mean().abs().detach()) < 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_computes_in_float(dtype: torch.dtype) -> None:
    layer, x = AdderConv2d(4, 5, 3).to(dtype), torch.randn(1, 4, 5, 5, dtype=dtype, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.dtype == dtype
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="groups=3: choose a common divisor"):
        AdderConv2d(4, 6, 3, groups=3)
    with pytest.raises(ConfigError, match="kernel_size must be at least 1"):
        AdderConv2d(4, 6, 0)
    for eta in (-0.1, math.inf, math.nan, "fast"):
        with pytest.raises(ConfigError, match="eta must be a finite number"):
            AdderConv2d(4, 6, 3, eta=eta)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="padding must be an int or a tuple"):
        AdderConv2d(4, 6, 3, padding="same")  # type: ignore[arg-type]


def test_an_adder_without_a_norm_is_warned_of() -> None:
    for reader in (nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Sequential(nn.Dropout(), nn.GELU())):
        with pytest.warns(LayerWarning, match="0: the outputs of an adder layer are never positive"):
            network_cost(nn.Sequential(AdderConv2d(3, 4, 3), reader, nn.Conv2d(4, 2, 1)), "size", (3, 6, 6))
    network_cost(nn.Sequential(AdderConv2d(3, 4, 3), nn.Identity(), nn.BatchNorm2d(4)), "size", (3, 6, 6))
    network_cost(nn.Sequential(nn.Conv2d(3, 3, 1), AdderConv2d(3, 4, 3)), "size", (3, 6, 6))


def test_cost_says_additions_apart() -> None:
    # 16 positions; dense 3 * 4 * 9 taps, depthwise 4 * 9; classifier 4 * 2; norms of adders stay: scale and shift
    layers = [AdderConv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), AdderConv2d(4, 4, 3, 1, 1, groups=4)]
    model = nn.Sequential(*layers, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False))
    taps, products = 16 * (108 + 36), 16 * 8
    cost = {
        name: network_cost(model, name, (3, 4, 4)) for name in ("macs", "multiplications", "additions", "ops", "size")
    }
    assert cost == {
        "macs": products,
        "multiplications": products,
        "additions": 2 * taps + products,
        "ops": taps + products,
        "size": 108 + 36 + 8 + 2 * 8,
    }
    with pytest.raises(UnpricedError, match="adder"):
        network_cost(model, "latency:cortex_m4", (3, 4, 4))
    report = cost_report(model, (3, 4, 4), targets=["cortex_m4"])
    assert report.totals()["without_law"]["cortex_m4"] == ["0", "3"]
    assert (report.totals()["macs"], report.totals()["additions"]) == (products, 2 * taps + products)
    assert [(row["macs"], row["additions"]) for row in report.rows() if row["kind"] == "adder"] == [
        (0, 2 * 16 * 108),
        (0, 2 * 16 * 36),
    ]


def gratings(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Stripes of five orientations with a random phase and noise: `(count, 1, 12, 12)`, classes `(count,)`."""
    classes = torch.randint(5, (count,), generator=generator)
    phase = torch.rand(count, 1, 1, generator=generator) * 2 * math.pi
    angle = (classes * math.pi / 5).view(-1, 1, 1)
    at = torch.arange(12.0)
    wave = torch.sin(1.2 * (at.view(1, 1, -1) * angle.cos() + at.view(1, -1, 1) * angle.sin()) + phase)
    return (wave + 0.3 * torch.randn(wave.shape, generator=generator)).unsqueeze(1), classes


def accuracy_after_training(eta: float) -> float:
    """Only adder layers learn, so that it is their training rule that is judged."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    first, second = AdderConv2d(1, 12, 5, 2, 2, eta=eta), AdderConv2d(12, 24, 3, 2, 1, eta=eta)
    layers = [first, adder_norm(first), nn.ReLU(), second, adder_norm(second), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    last = AdderConv2d(24, 5, 1, eta=eta)
    model = nn.Sequential(*layers, last, nn.BatchNorm2d(5, affine=False), nn.Flatten())
    optimizer = torch.optim.SGD([m.weight for m in (first, second, last)], lr=0.1, momentum=0.9)
    for _ in range(120):
        x, y = gratings(64, generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    x, y = gratings(1000, generator)
    return float((model.eval()(x).argmax(1) == y).float().mean())


def test_a_positive_eta_learns_and_zero_does_not() -> None:
    # Five classes: chance is 20 %.
    assert accuracy_after_training(0.2) > 0.8
    assert accuracy_after_training(0.0) < 0.45


def test_a_branch_that_was_not_drawn_does_not_move() -> None:
    def branch() -> nn.Module:
        return nn.Sequential(AdderConv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))

    choice = nasopt.SuperNetModule([branch(), branch()], gumbel_softmax=True, hard_softmax=True)
    seed = nn.Sequential(nn.Conv2d(3, 4, 3), choice, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = nasopt.SuperNet(seed, (3, 6, 6), regularizer="ops")
    moved = set()
    for _ in range(8):
        model.zero_grad()
        model(torch.randn(2, 3, 6, 6)).sum().backward()
        grads = {name: p.grad for name, p in model.named_net_parameters() if ".branches." in name and p.dim() == 4}
        alive = [name for name, grad in grads.items() if grad is not None and bool((grad != 0).any())]
        assert len(alive) == 1
        moved.add(alive[0])
    assert len(moved) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it traces a Function
def test_torch_compile_takes_the_layer_whole() -> None:
    layer, x = AdderConv2d(3, 4, 3, padding=1), torch.randn(2, 3, 6, 6)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).sum().backward()
    assert layer.weight.grad is not None


def test_separable_block_and_copies() -> None:
    block = adder_separable(4, 6, 3, stride=2)
    assert block(torch.randn(2, 4, 9, 9)).shape == (2, 6, 5, 5)
    twin = copy.deepcopy(block)
    twin.load_state_dict(block.state_dict())
    assert torch.equal(block.eval()(torch.ones(1, 4, 5, 5)), twin.eval()(torch.ones(1, 4, 5, 5)))
