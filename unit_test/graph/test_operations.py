"""Operations between two convolutions: how many channels stay searchable, and that every export is exact.

The table says for every operation how many of the 8 channels of convolution `a` (and of `c`, where it is called) can be
searched. Derived from what the operation does: rearranging and elementwise work frees all, pairing halves, mixing fixes all.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from settings import largest_difference, scramble
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT
from nasopt.errors import NoEffectWarning

Body = Callable[[Any, Tensor], Tensor]


class Between(nn.Module):
    """Convolution `a` (3 to 8 channels), an operation, convolution `b`; `c` keeps 8 channels and may be used on the way."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b, self.head = nn.LazyConv2d(5, 1), nn.Linear(5, 3)
        self.p = nn.Parameter(torch.randn(8))
        self.register_buffer("k", torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])).repeat(8, 1, 1, 1))
        self.register_buffer("mask", torch.ones(40, 40).tril())
        self.body = [body]

    def forward(self, x: Tensor) -> Tensor:
        y = self.body[0](self, self.a(x))
        while y.dim() < 4:
            y = y.unsqueeze(-1)
        return self.head(self.b(y).sigmoid().mean((2, 3)))


def assign(x: Tensor, *index: Any, value: Any) -> Tensor:
    x[index] = value
    return x


def two_halves(x: Tensor, y: Tensor) -> Tensor:
    """An empty tensor that is filled in two halves."""
    result = torch.zeros(x.shape[0], 16, 6, 6, dtype=x.dtype)
    result[:, :8] = x
    result[:, 8:] = y
    return result


def attended(x: Tensor, mask: Tensor) -> Tensor:
    """Attention with a table of what is seen, by hand."""
    steps = x.size(1)
    scores = (x @ x.transpose(1, 2) / math.sqrt(x.size(-1))).masked_fill(mask[:steps, :steps] == 0, -math.inf)
    return scores.softmax(-1) @ x


def changed(x: Tensor, _result: Any) -> Tensor:
    """`x`, after something was done in place."""
    return x


every = slice(None)

# name -> (operation, searchable channels of a, of c)
MOVED: dict[str, tuple[Body, int, int]] = {
    "first_k": (lambda s, x: x[:, :5], 5, 0),
    "every_third": (lambda s, x: x[:, 1::3], 3, 0),
    "last_k": (lambda s, x: x[:, -3:], 3, 0),
    "list_of_channels": (lambda s, x: x[:, [0, 2, 5]], 3, 0),
    "halves_by_size_added": (lambda s, x: x[:, : x.shape[1] // 2] + x[:, x.shape[1] // 2 :], 4, 0),
    "narrow": (lambda s, x: x.narrow(1, 2, 4), 4, 0),
    "narrow_by_size": (lambda s, x: x.narrow(1, 2, x.size(1) // 2), 4, 0),
    "ellipsis": (lambda s, x: x[..., ::2, 1:], 8, 0),
    "new_dimension": (lambda s, x: x[:, None].squeeze(1), 8, 0),
    "flip": (lambda s, x: x.flip(1), 8, 0),
    "flip_added": (lambda s, x: x.flip(1) + x, 4, 0),
    "roll_space": (lambda s, x: x.roll((1, 2), (2, 3)), 8, 0),
    "cat_twice": (lambda s, x: torch.cat([x, x], 1), 8, 0),
    "cat_constant": (lambda s, x: torch.cat([x, torch.ones(x.shape[0], 2, 6, 6)], 1), 8, 0),
    "cat_zeros_like": (lambda s, x: torch.cat([x, torch.zeros_like(x)], 1), 8, 0),
    "stack_and_flatten": (lambda s, x: torch.stack([x, s.c(x)], 1).flatten(1, 2), 8, 8),
    "stack_and_sum": (lambda s, x: torch.stack([x, s.c(x)], 0).sum(0), 8, 8),
    "unflatten": (lambda s, x: x.unflatten(1, (2, 4)).sum(1), 4, 0),
    "unflatten_to_any": (lambda s, x: x.unflatten(1, (4, -1)).sum(2), 4, 0),
    "constructor_of_sizes": (lambda s, x: x + torch.zeros(x.size(0), x.size(1), 1, 1), 8, 0),
    "expand": (lambda s, x: x.mean((2, 3), keepdim=True).expand(-1, 8, 6, 6), 8, 0),
    "expand_as": (lambda s, x: s.c(x).mean((2, 3), keepdim=True).expand_as(x) + x, 8, 8),
    "permute": (lambda s, x: x.permute(0, 2, 3, 1).contiguous().movedim(-1, 1), 8, 0),
    "view_of_heads": (lambda s, x: x.reshape(2, 4, 2, 36).transpose(1, 2).reshape(2, 8, 6, 6), 4, 0),
    "channel_shuffle": (lambda s, x: F.channel_shuffle(x, 2), 4, 0),
    "pixel_unshuffle": (lambda s, x: F.pixel_unshuffle(x, 2), 8, 0),
    "repeat": (lambda s, x: x.repeat(1, 2, 1, 1), 8, 0),
    "chunks_reversed": (lambda s, x: torch.cat(x.chunk(3, 1)[::-1], 1), 8, 0),
    "tensor_split": (lambda s, x: x.tensor_split((2, 5), dim=1)[1], 3, 0),
    "split": (lambda s, x: x.split(3, 1)[1], 3, 0),
    "pad_channels": (lambda s, x: F.pad(x, (0, 0, 0, 0, 1, 2), value=1.0), 8, 0),
    "unfold": (lambda s, x: F.unfold(x, 3), 8, 0),
    "unbind_rows": (lambda s, x: torch.stack([row * 2 for row in x.unbind(2)], 2), 8, 0),
    "interpolate": (lambda s, x: F.interpolate(x, scale_factor=2), 8, 0),
    "pool_with_indices": (lambda s, x: F.max_pool2d(x, 2, return_indices=True)[0], 8, 0),
    "one_channel_by_number": (lambda s, x: x[:, 3:4] * x, 7, 0),
    "select_added": (lambda s, x: x.select(1, -2).unsqueeze(1) + x, 7, 0),
}
ELEMENTWISE: dict[str, tuple[Body, int, int]] = {
    "where": (lambda s, x: torch.where(x > 0, x, s.c(x)), 8, 8),
    "masked_fill": (lambda s, x: x.masked_fill(s.c(x) > 0, 0.5), 8, 8),
    "lerp": (lambda s, x: torch.lerp(x, s.c(x), 0.3), 8, 8),
    "maximum": (lambda s, x: torch.maximum(x, s.c(x)).clamp(-1, 1), 8, 8),
    "reversed_operators": (lambda s, x: 2 * x - 1 / (1 + x.abs()) + 2.0**x, 8, 0),
    "glu": (lambda s, x: F.glu(x, 1), 4, 0),
    "group_norm": (lambda s, x: F.group_norm(x, 4), 4, 0),
    "layer_norm": (lambda s, x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2), 8, 0),
    "group_norm_of_all": (lambda s, x: F.group_norm(x, 1), 8, 0),
    "instance_norm": (lambda s, x: F.instance_norm(x), 8, 0),
    "softmax_over_space": (lambda s, x: x.flatten(2).softmax(-1).view_as(x), 8, 0),
    "std_over_space": (lambda s, x: x / (x.std((2, 3), keepdim=True) + 1), 8, 0),
    "parameter_viewed": (lambda s, x: x * s.p.view(1, 8, 1, 1), 8, 0),
    "parameter_indexed": (lambda s, x: x * s.p[None, :, None, None], 8, 0),
    "parameter_sliced": (lambda s, x: x[:, :4] * s.p[:4].view(1, 4, 1, 1), 4, 0),
    "constant_tensor": (lambda s, x: x * torch.linspace(0.5, 1, 8).view(1, 8, 1, 1), 8, 0),
    "bias_of_a_layer": (lambda s, x: s.c(x) - s.c.bias.view(1, -1, 1, 1), 8, 8),
    "weight_of_a_layer_computed": (lambda s, x: F.conv2d(x, s.c.weight * 2, padding=1) + s.c(x), 8, 8),
    "assigned_constant": (lambda s, x: assign(x.clone(), every, slice(0, 2), value=0.5), 8, 0),
    "assigned_list": (lambda s, x: assign(x.clone(), every, [1, 4], value=0.5), 8, 0),
    "assigned_space": (lambda s, x: assign(x.clone(), every, every, 0, value=s.c(x)[:, :, 0]), 8, 8),
    "assigned_all": (lambda s, x: assign(x.clone(), Ellipsis, value=s.c(x)), 8, 8),
    # Channels 0-4 of c take the place of 2-6; its others are read by nobody.
    "assigned_slice": (lambda s, x: assign(x.clone(), every, slice(2, 7), value=s.c(x)[:, :5]), 8, 5),
    # 16 is a number, of channels of a tensor that is filled evenly.
    "assigned_halves": (lambda s, x: two_halves(x, s.c(x)), 8, 8),
    "assigned_where_mask": (lambda s, x: assign(x.clone(), s.c(x) > 0, value=0.5), 8, 8),
    "in_place_on_a_slice": (lambda s, x: changed(x, x[:, :2].mul_(2.0)), 8, 0),
    "in_place_on_one_channel": (lambda s, x: changed(x, x[:, 0].fill_(0.5)), 7, 0),
    "in_place_on_selected": (lambda s, x: changed(x, x.select(1, 3).fill_(0.5)), 7, 0),
    "copied_in_place": (lambda s, x: x.clone().copy_(s.c(x)), 8, 8),
}
# Exports go on with the seed's number of channels where it is a value, and with their own where it counts groups.
NUMBERS: dict[str, tuple[Body, int, int]] = {
    "size_as_value": (lambda s, x: x / math.sqrt(x.size(1)), 8, 0),
    "size_to_a_power": (lambda s, x: x / x.shape[1] ** 0.5 + x.shape[1] // 3, 8, 0),
    "size_in_a_tensor": (lambda s, x: x / torch.sqrt(torch.tensor(x.shape[1], dtype=x.dtype)), 8, 0),
    "size_as_bound": (lambda s, x: x.clamp(max=x.size(1) / 16), 8, 0),
    "size_as_groups": (lambda s, x: F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), s.k, groups=x.shape[1]), 8, 0),
    "size_as_groups_transposed": (lambda s, x: F.conv_transpose2d(x, s.k, None, 1, 1, 0, x.size(1)), 8, 0),
    "size_as_norm_groups": (lambda s, x: F.group_norm(x, x.shape[1]), 8, 0),
    "filter_of_size": (lambda s, x: F.conv2d(x, s.k[:1].expand(x.size(1), -1, -1, -1), None, 1, 1, 1, x.size(1)), 8, 0),
    "constructor_scaled": (lambda s, x: x + 0.5 * torch.zeros(x.size(0), x.size(1), 1, 1), 8, 0),
    "masked_attention": (lambda s, x: attended(x.flatten(2).transpose(1, 2), s.mask).transpose(1, 2).view_as(x), 8, 0),
    "filter_of_its_type": (
        lambda s, x: F.conv2d(x, s.k[:1].to(x).repeat(x.size(1), 1, 1, 1), padding=1, groups=x.size(1)),
        8,
        0,
    ),
    "filter_repeated": (
        lambda s, x: F.conv2d(x, s.k[:1].repeat(x.size(1), 1, 1, 1), padding=1, groups=x.size(1)),
        8,
        0,
    ),
}
FIXED: dict[str, tuple[Body, int, int]] = {
    "roll_channels": (lambda s, x: x.roll(1, 1), 0, 0),
    "mean_over_channels": (lambda s, x: x - x.mean(1, keepdim=True), 8, 0),
    "softmax_over_channels": (lambda s, x: x.softmax(1), 8, 0),
    "normalize": (lambda s, x: F.normalize(x, dim=1), 8, 0),
    "cumsum": (lambda s, x: x.cumsum(1), 8, 0),
    "topk": (lambda s, x: x.topk(3, dim=1)[0], 0, 0),
    "attention_by_matmul": (lambda s, x: x.flatten(2) @ x.flatten(2).transpose(1, 2), 0, 0),
    "einsum": (lambda s, x: torch.einsum("bchw,bdhw->bcd", x, x), 0, 0),
    "number_of_elements": (lambda s, x: x / x.numel(), 0, 0),
    "positions": (lambda s, x: x * torch.arange(x.shape[1]).view(1, -1, 1, 1), 0, 0),
    "index_by_tensor": (lambda s, x: x[:, torch.tensor([0, 2, 5])], 0, 0),
    "gather": (lambda s, x: x.gather(1, torch.zeros(2, 3, 6, 6, dtype=torch.long)), 0, 0),
    "unbind_channels": (lambda s, x: sum(x.unbind(1)).unsqueeze(1), 0, 0),  # type: ignore[union-attr]
    "outer_product": (lambda s, x: x.mean((2, 3))[:, :, None] * x.mean((2, 3))[:, None, :], 0, 0),
    "cropped_by_negative_padding": (lambda s, x: F.pad(x, (0, 0, 0, 0, -1, 0)), 0, 0),
    "without_a_rule": (lambda s, x: torch.cdist(x.flatten(2), x.flatten(2)), 0, 0),
    "weight_of_a_layer_reduced": (lambda s, x: s.c(x) / s.c.weight.norm(), 0, 0),
    "softmax_of_a_parameter": (lambda s, x: x * s.p.softmax(0).view(1, 8, 1, 1), 0, 0),
}
TABLE = MOVED | ELEMENTWISE | NUMBERS | FIXED


def searchable(model: PIT, layer: str) -> int:
    return sum(group.size for group in model.explain().groups if group.searchable and layer in group.writers)


@pytest.mark.parametrize("name", TABLE)
def test_operation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body, of_a, of_c = TABLE[name]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        seed, x = Between(body), torch.randn(2, 3, 6, 6)
        wanted = seed(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)
            model = PIT(seed, input_example=x)
        assert (searchable(model, "a"), searchable(model, "c")) == (of_a, of_c), str(model.explain())
        assert largest_difference(wanted, model(x)) < 1e-12
        for kind in ("uniform", "uniform", "all_zero"):
            scramble(model, kind)
            with torch.no_grad():
                assert largest_difference(model(x), model.arch_export(verify=False)(x)) < 1e-9
    finally:
        torch.set_default_dtype(default)


def test_convolution_called_as_layer_and_as_function_keeps_its_kernel() -> None:
    """Both calls must see one weight of one shape."""
    seed = Between(lambda s, x: F.conv2d(x, s.c.weight, s.c.bias, padding=1) + s.c(x))
    x = torch.randn(2, 3, 6, 6)
    seed(x)
    model = PIT(seed, input_example=x)
    assert searchable(model, "a") == searchable(model, "c") == 8
    scramble(model, "all_zero")
    network = model.arch_export()
    assert network.c.kernel_size == (3, 3)
    assert network.a.kernel_size == (1, 1)


def test_tensors_made_in_forward_are_made_at_every_call() -> None:
    """What is added to such a tensor in place is gone at the next call."""

    def accumulate(s: Any, x: Tensor) -> Tensor:
        total = torch.zeros(1, 8, 1, 1)
        total += x.mean((0, 2, 3), keepdim=True)
        total[:, :2] *= 2
        return x + total

    seed, x = Between(accumulate), torch.randn(2, 3, 6, 6)
    wanted = seed(x)
    model = PIT(seed, input_example=x)
    assert largest_difference(wanted, model(x)) == largest_difference(wanted, model(x)) < 1e-6
    scramble(model)
    network = model.arch_export()
    assert torch.equal(network(x), network(x))


class FiltersOfSamples(nn.Module):
    """Every sample has filters of its own, stacked along the channels of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.filters = nn.Conv2d(3, 4, 1), nn.Linear(4, 36)
        self.second, self.head = nn.Conv2d(4, 5, 1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, c, h, w = x.shape
        filters = self.filters(x.mean((2, 3))).view(-1, 1, 3, 3)
        y = F.conv2d(x.reshape(1, -1, h, w), filters, padding=1, groups=filters.shape[0])
        return self.head(self.second(y.view(b, c, h, w)).mean((2, 3)))


def test_filters_of_every_sample_are_those_of_any_batch() -> None:
    torch.manual_seed(0)
    model = PIT(FiltersOfSamples(), (3, 5, 5), unpriced="ignore").eval()
    scramble(model, "uniform")
    network = model.arch_export()
    for samples in (1, 2, 5):
        x = torch.randn(samples, 3, 5, 5)
        assert largest_difference(model(x), network(x)) < 1e-5
