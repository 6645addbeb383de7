"""Penalties on directions of weights: the angle to their quantised copies, and how evenly filters spread over a sphere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from nasopt.checked import checked
from nasopt.errors import ConfigError

Granularity = Literal["channel", "kernel", "layer"]
Quantizer = Callable[[Tensor], Tensor]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class AngleRegularizer:
    """`beta (1 - mean cos(v, q(v)))`: pulls weights to the directions that their quantised copies have.

    Groups v are output channels, kernels of one input and one output channel, or whole layers; the quantised copy is a
    constant. The gradient `-(q / (|v||q|) - cos v / |v|^2)` is orthogonal to v: it turns weights and leaves their
    length. Of a 1-bit copy the value lies in [0, 1 - 1 / sqrt(n)]; Gaussian weights start at about 1 - sqrt(2 / pi) =
    0.20. After the best scale the relative squared error of a group is `1 - cos^2`.

    ```python
    angle = AngleRegularizer(model, ScaledLevels(bits=1))
    loss = criterion(model(x), y) + angle()      # after each epoch: angle.grow()
    ```

    Source: Guerra, dissertation, ch. 6, "APSQ". Its advantage over plain binary training is mostly one of norm
    statistics: re-estimate them in both before comparing.

    Args:
        model: whose convolutions and linear layers are meant; with `quantizer`.
        quantizer: `weight -> quantised copy` of the same shape, `ScaledLevels` for one, or a dict of one per layer name.
        granularity: of the groups. Kernels of one tap have no direction: such layers use channels.
        beta0, growth: weight of the penalty at first, and its factor per `grow()`.

    Raises:
        ConfigError: an unknown granularity, a model without such layers, weights of the penalty that are not positive.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer | Mapping[str, Quantizer],
        granularity: Granularity = "channel",
        beta0: float = 5.0,
        growth: float = 1.3,
    ) -> None:
        if granularity not in ("channel", "kernel", "layer"):
            raise ConfigError(f"AngleRegularizer: granularity must be channel, kernel or layer, got {granularity!r}")
        if not (math.isfinite(beta0) and beta0 > 0 and math.isfinite(growth) and growth > 0):
            raise ConfigError(f"AngleRegularizer: beta0 and growth must be positive, got {beta0!r} and {growth!r}")
        layers = {name: m for name, m in model.named_modules() if isinstance(m, _LAYERS)}
        if isinstance(quantizer, Mapping):
            if not quantizer.keys() <= layers.keys():
                unknown = ", ".join(sorted(quantizer.keys() - layers.keys()))
                raise ConfigError(f"AngleRegularizer: no convolution or linear layer is called {unknown}")
            layers = {name: layers[name] for name in quantizer}
        if not layers:
            raise ConfigError("AngleRegularizer: the model has no convolution and no linear layer")
        self.layers = layers
        self.granularity, self.beta, self.growth = granularity, float(beta0), float(growth)
        self._quantizer = quantizer

    def grow(self) -> None:
        """Multiply the weight of the penalty by `growth`: once per epoch."""
        self.beta *= self.growth

    def __call__(self) -> Tensor:
        """`beta` times the mean over all groups of all layers; a scalar. Groups of one element count as 0."""
        return self.beta * self.value()

    def value(self) -> Tensor:
        """The mean without its weight."""
        return torch.cat([self.angles(name) for name in self.layers]).mean()

    def angles(self, name: str) -> Tensor:
        """`1 - cos` of every group of one layer, shape `(groups,)`.

        Raises:
            ConfigError: the quantizer returns another shape than that of the weight.
        """
        weight = self.layers[name].weight
        assert isinstance(weight, Tensor)
        quantizer = self._quantizer[name] if isinstance(self._quantizer, Mapping) else self._quantizer
        with torch.no_grad():
            copy = quantizer(weight.detach())
        if copy.shape != weight.shape:
            raise ConfigError(
                f"AngleRegularizer: the quantised copy of {name!r} is {tuple(copy.shape)}, its weight {tuple(weight.shape)}: "
                "the quantizer must keep the shape"
            )
        return angle_loss(groups_of(weight, self.granularity), groups_of(copy, self.granularity))


def groups_of(weight: Tensor, granularity: Granularity) -> Tensor:
    """Groups as rows: `(groups, elements)`; kernels of one tap are taken as channels."""
    if granularity == "layer":
        return weight.reshape(1, -1)
    if granularity == "kernel" and weight.dim() > 2 and weight[0, 0].numel() > 1:
        return weight.flatten(0, 1).flatten(1)
    return weight.flatten(1)


def angle_loss(v: Tensor, q: Tensor) -> Tensor:
    """`1 - cos(v, q)` per row, `(groups,)`; q is a constant. 0 for rows of one element and rows of zeros."""
    if v.shape[1] < 2:
        return v.sum(1) * 0
    q = q.detach().to(v.dtype)
    lengths = v.norm(dim=1) * q.norm(dim=1)
    is_zero = lengths == 0
    cosine = (v * q).sum(1) / lengths.masked_fill(is_zero, 1)
    return (1 - cosine).masked_fill(is_zero, 0)


@checked
def hyperspherical_energy(filters: Tensor, half_space: bool = False) -> Tensor:
    """`1 / (N (N - 1)) sum over pairs of 1 / arccos(cos)`: low where N directions spread evenly; a scalar.

    Source: Liu et al., "Learning towards minimum hyperspherical energy", NeurIPS 2018.

    Args:
        filters: `(N, ...)`, N >= 2, flattened to directions.
        half_space: a filter and its negative are one direction: the energy of both together.

    Raises:
        ConfigError: fewer than two filters, or numbers in their place.
    """
    if filters.dim() < 2 or len(filters) < 2:
        raise ConfigError(
            f"hyperspherical_energy needs at least two filters (N, ...), got a tensor of shape {tuple(filters.shape)}"
        )
    v = filters.flatten(1)
    v = v / v.norm(dim=1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
    if half_space:
        v = torch.cat([v, -v])
    count = len(v)
    limit = 1 - 4 * torch.finfo(v.dtype).eps  # the derivative of arccos has poles at -1 and 1
    angles = (v @ v.mT).clamp(-limit, limit).arccos()
    others = ~torch.eye(count, dtype=torch.bool, device=v.device)
    return (1 / angles[others]).sum() / (count * (count - 1))
