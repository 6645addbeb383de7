"""What people write in `forward`, kind by kind: the same network when wrapped and exported, for other batches, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from same import Around, assert_same
from torch import Tensor, nn
from torch.ao.quantization import QuantStub
from torch.nn import functional as F

from nasopt import PIT
from nasopt.cost import network_cost
from nasopt.errors import ConfigError


def kernels_by_sample(m: Any, x: Tensor) -> Tensor:
    """A weight for every sample: the batch becomes groups."""
    b, c, h, w = x.shape
    mix = x.mean((2, 3))[:, :2].softmax(1)
    weight = torch.mm(mix, m.bank.view(2, -1)).view(b * c, c, 3, 3)
    return F.conv2d(x.reshape(1, b * c, h, w), weight, padding=1, groups=b).view(b, c, h, w)


def shifted_in_time(m: Any, x: Tensor) -> Tensor:
    """The temporal shift of video networks, here with parts of one channel."""
    out, fold = torch.zeros_like(x), x.size(1) // 8
    out[:, :fold, :-1] = x[:, :fold, 1:]
    out[:, fold : 2 * fold, 1:] = x[:, fold : 2 * fold, :-1]
    out[:, 2 * fold :] = x[:, 2 * fold :]
    return out


def renormalised(m: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, m.kernel.renorm(p=2, dim=0, maxnorm=0.1), padding=1)


def cached_by_size(m: Any, x: Tensor) -> Tensor:
    """Positions that are computed once for every size."""
    if x.shape[2] not in m.cache:
        m.cache[x.shape[2]] = torch.linspace(-1, 1, x.shape[2]).view(1, 1, -1, 1)
    return x + m.cache[x.shape[2]]


def normed_in_groups(m: Any, x: Tensor) -> Tensor:
    """Every channel by the deviation of its group, which is spread to the shape of the activation."""
    n, c, h, w = x.shape
    grouped = x.reshape(n, m.groups, c // m.groups, h, w)
    deviation = grouped.var((2, 3, 4), unbiased=False, keepdim=True).add(1e-5).sqrt()
    return x / deviation.expand(grouped.shape).reshape(n, c, h, w)


class Refuses:
    """A member that does not say whether it is empty."""

    def __bool__(self) -> bool:
        raise NotImplementedError


def largest_of_parts(m: Any, x: Tensor) -> Tensor:
    """Maxout: of every four rows the largest."""
    parts = m.wide(x).unflatten(1, (8, 4))
    return parts.max(2).values + parts.min(dim=2).values


FORWARDS: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[], dict[str, Any]]]] = {
    "the batch as groups": (kernels_by_sample, lambda: {"bank": nn.Parameter(torch.randn(2, 8, 8, 3, 3) * 0.1)}),
    "parts of one channel": (shifted_in_time, dict),
    "chunks of one channel": (lambda m, x: torch.cat(x.chunk(8, 1)[::-1], 1), dict),
    "values of a named tuple": (lambda m, x: x.topk(2, dim=2).values.sum(2, keepdim=True) * x, dict),
    "the largest of parts": (largest_of_parts, lambda: {"wide": nn.Conv2d(8, 32, 1)}),
    "members that are no numbers": (
        lambda m, x: x * float(m.table[1]),
        lambda: {"table": np.ones(3), "odd": Refuses()},
    ),
    "a method named as of a dict": (lambda m, x: x * x.sort(2).values.mean(2, keepdim=True), dict),
    "a weight that is renormalised": (renormalised, lambda: {"kernel": nn.Parameter(torch.randn(8, 8, 3, 3))}),
    "a cache by size": (cached_by_size, lambda: {"cache": {}}),
    "Python's types for dtypes": (lambda m, x: x * torch.ones(x.shape[2:], dtype=bool).to(float).to(x.dtype), dict),
    "rotations by a size": (lambda m, x: torch.roll(x, x.shape[2] // 2, 2).rot90(x.dim() - 3, (2, 3)), dict),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_forwards_that_people_write(name: str) -> None:
    forward, members = FORWARDS[name]
    model = assert_same(Around(forward, **members()))
    for size in [(1, 3, 8, 8), (3, 3, 8, 8)]:
        assert model.eval()(torch.randn(size)).shape == (size[0], 4, 8, 8)


# As many groups as channels: the number of channels of a group follows from that of all, and would be none.
@pytest.mark.parametrize(("groups", "free"), [(8, 8), (4, 4), (2, 4), (1, 8)])
def test_a_norm_by_groups_written_out(groups: int, free: int) -> None:
    model = assert_same(Around(normed_in_groups, groups=groups))
    assert sum(group.size for group in model.analysis.groups if group.searchable) == free


def test_fields_of_a_named_tuple_pass_channels_on() -> None:
    model = PIT(Around(largest_of_parts, wide=nn.Conv2d(8, 32, 1)), (3, 8, 8))
    assert [group.size for group in model.analysis.groups if group.searchable] == [8, 8]


def test_one_channel_named_by_a_slice_stays() -> None:
    # Two parts of one channel of eight; the other six may go.
    groups = PIT(Around(shifted_in_time), (3, 8, 8)).analysis.groups
    assert sum(group.size for group in groups if "named by its number" in group.reason) == 2
    assert [group.size for group in groups if group.searchable] == [6]


CHANNELS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "mean": lambda m, x: x * x.mean(1, keepdim=True).sigmoid(),
    "means of all": lambda m, x: x - x.mean((1, 2, 3), keepdim=True),
    "sum": lambda m, x: x * torch.sum(x, dim=1, keepdim=True).tanh(),
    "largest": lambda m, x: x * torch.max(x, 1)[0].unsqueeze(1).sigmoid(),
    "smallest": lambda m, x: x * x.amin(dim=1, keepdim=True).sigmoid(),
    "variance": lambda m, x: (x - x.mean(1, True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt(),
    "deviation": lambda m, x: x / (1 + x.std(dim=1, keepdim=True)),
    "norm": lambda m, x: x / (1 + x.norm(dim=1, keepdim=True)),
    "vector norm": lambda m, x: x / (1 + torch.linalg.vector_norm(x, dim=1, keepdim=True)),
    "log of sums": lambda m, x: x - torch.logsumexp(x, 1, keepdim=True),
    "product": lambda m, x: x * x.tanh().prod(1, keepdim=True),
    "softmax": lambda m, x: x.softmax(1) * 5,
    "log softmax": lambda m, x: F.log_softmax(x, dim=1),
    "normalised": lambda m, x: F.normalize(x, dim=1),
    "running": lambda m, x: x.cumsum(1),
    "fold": lambda m, x: F.fold(F.unfold(x, 3, padding=1), x.shape[-2:], 3, padding=1),
    "unpooled": lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "spectrum": lambda m, x: torch.fft.irfft2(torch.fft.rfft2(x) * (1 + 1j), s=x.shape[-2:]),
    "short-time spectrum": lambda m, x: torch.stft(
        x.flatten(0, 1).flatten(1), 16, 8, return_complex=True, window=torch.hann_window(16)
    ).abs().reshape(x.shape[0], x.shape[1], 9, -1),
    "complex": lambda m, x: torch.view_as_real(torch.complex(x, x * 2)).sum(-1),
    "gathered": lambda m, x: x.gather(2, x.argsort(2)) + torch.zeros_like(x).scatter_(2, x.argsort(2), x),
    "sampled": lambda m, x: F.grid_sample(x, torch.zeros(x.shape[0], 8, 8, 2) + 0.3, align_corners=False),
    "stubs": lambda m, x: QuantStub()(x),
    "differences": lambda m, x: x.diff(dim=2, prepend=x[:, :, :1]),
    "turned": lambda m, x: torch.rot90(x, 1, (2, 3)) + torch.flipud(x).fliplr().fliplr().flip(0),
    "messages": lambda m, x: torch.zeros_like(x).index_add_(2, torch.tensor([3, 1, 1]), x[:, :, torch.tensor([0, 2, 5])]),
    "aliases": lambda m, x: torch.arctan(x) + torch.special.expit(x).clone().arctan2_(x.exp()) * torch.less_equal(x, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANNELS)
def test_functions_over_living_channels(name: str) -> None:
    model = assert_same(Around(CHANNELS[name]))
    # Torch's variance of a single channel is no number.
    free = 6 if name in ("variance", "deviation") else 8
    assert [group.size for group in model.analysis.groups if group.searchable] == [free]
    # Their masks get gradients, also where one channel is dead.
    model.train()
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert bool(torch.isfinite(model.alpha.grad).all())
    assert bool(model.alpha.grad.any())


def test_positions_of_the_largest_channel_stay() -> None:
    model = PIT(Around(lambda m, x: x * x.max(1, keepdim=True)[1]), (3, 8, 8))
    assert [group.size for group in model.analysis.groups if group.searchable] == []


class TwoOfOne(nn.Module):
    """Two layers whose weights are halves of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1, bias=False), nn.Linear(4, 2)
        self.bank = nn.Parameter(torch.randn(2, 4, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(sum(F.conv2d(x, weight, padding=1) for weight in self.bank * 2).mean((2, 3)))  # type: ignore[union-attr]


def test_what_weights_are_cut_from_is_counted_once() -> None:
    # 12 of `first`, 2 * 4 * 4 * 9 = 288 of the bank, 8 + 2 of `last`.
    seed = TwoOfOne()
    assert network_cost(seed, "size", (3, 8, 8)) == 12 + 288 + 10
    model = PIT(seed, (3, 8, 8))
    assert model.get_cost("size", discrete=True) == sum(p.numel() for p in model.arch_export().parameters()) == 310


def test_images_along_the_batch_are_all_priced() -> None:
    # Two frames, each 4 * 3 * 9 MACs at 64 positions, as one image of 16 rows; 2 * 4 of the transposed one at 64 each.
    def frames(m: Any, x: Tensor) -> Tensor:
        y = m.up(m.conv(x.flatten(0, 1)))
        return y.unflatten(0, (-1, 2)).mean((1, 3, 4))

    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up = nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 2, 1)

        forward = frames

    assert network_cost(Frames(), "macs", (2, 3, 8, 8)) == 2 * 64 * (4 * 3 * 9 + 2 * 4)


class Replaced(nn.Module):
    """A layer whose `forward` is another function on this object, which means the layer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        before = self.first.forward
        self.first.forward = lambda x: before(x).tanh()  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


class Collected(nn.Module):
    """Features that a hook collects."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bag = nn.Conv2d(3, 4, 1), {}
        self.first.register_forward_hook(lambda module, inputs, output: self.bag.update(found=output))

    def forward(self, x: Tensor) -> Tensor:
        self.first(x)
        return self.bag.pop("found").relu()


@pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
def test_features_that_a_hook_collects_are_a_part_of_the_model() -> None:
    seed, x = Collected(), torch.randn(2, 3, 8, 8)
    model = PIT(seed, (3, 8, 8), verify=False)
    torch.testing.assert_close(model(x), seed(x))
    assert seed.bag == {}


def test_functions_on_objects_are_those_of_the_copy() -> None:
    seed = Replaced()
    model = PIT(seed, (3, 8, 8))
    assert [group.size for group in model.analysis.groups if group.searchable] == [4]
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert seed.first.weight.grad is None
    assert model.net.first.weight.grad is not None
    with torch.no_grad():
        model.net.first.weight.mul_(2)
    x, exported = torch.randn(2, 3, 8, 8), model.arch_export()
    torch.testing.assert_close(exported(x), model(x))
    assert not torch.equal(exported(x), seed(x))


class Tied(nn.Module):
    """A table that is also the weight of the last layer, of which some rows are not read."""

    def __init__(self, is_layer: bool) -> None:
        super().__init__()
        self.table, self.inner, self.last = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(12, 3)
        self.is_layer = is_layer

    def forward(self, x: Tensor) -> Tensor:
        x = x.abs().long().clamp(max=19)
        x = self.inner(self.table(x) if self.is_layer else F.embedding(x, self.table.weight)).mean(1)
        return self.last(F.linear(x, self.table.weight)[:, :12])


@pytest.mark.parametrize("is_layer", [True, False])
def test_rows_of_a_table_stay(is_layer: bool) -> None:
    model = assert_same(Tied(is_layer), (5,))
    assert sorted(group.size for group in model.analysis.groups if group.searchable) == [8]


def test_words_of_python_as_names_are_refused() -> None:
    seed = Around(lambda m, x: m.norms["in"](x), norms=nn.ModuleDict({"in": nn.InstanceNorm2d(8)}))  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"has 'norms.in', of which 'in' is a word of Python's syntax"):
        PIT(seed, (3, 8, 8))
