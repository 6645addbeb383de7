"""Training on spheres: an optimizer's step for weights whose groups keep unit length."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from nasopt.checked import checked
from nasopt.errors import ConfigError


class SphereConstrained:
    """Wraps an optimizer so that groups of some parameters stay on the unit sphere.

    Each step projects the gradient onto the tangent plane, `g - w <w, g>`, lets the optimizer step, takes the tangential part
    d of what it has moved, and retracts: `(w + d) / |w + d|`, which turns by `atan |d|`, or along the geodesic,
    `w cos |d| + d / |d| sin |d|`, which turns by `|d|`. Momentum and Adam work as they are. The printed algorithm of the
    source steps twice; one step is right.

    ```python
    optimizer = SphereConstrained(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), [conv.weight])
    ```

    Source: Guerra, dissertation, ch. 7; Absil et al., "Optimization algorithms on matrix manifolds", 2008.

    Args:
        optimizer: which holds these parameters; set their weight decay to 0, since it only fights the retraction.
        parameters: those to constrain; they are brought to unit length at once.
        dim: dimensions that one group extends over: None: all but the first, one group per output channel.
        retraction: `"normalise"` or `"geodesic"`.

    Raises:
        ConfigError: an unknown retraction, no parameter, one that the optimizer does not hold, or a group of zeros.
    """

    @checked
    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Iterable[Tensor],
        dim: int | tuple[int, ...] | None = None,
        retraction: Literal["normalise", "geodesic"] = "normalise",
    ) -> None:
        if retraction not in ("normalise", "geodesic"):
            raise ConfigError(f"SphereConstrained: retraction must be 'normalise' or 'geodesic', got {retraction!r}")
        self.optimizer, self.retraction, self.parameters = optimizer, retraction, list(parameters)
        if not self.parameters:
            raise ConfigError("SphereConstrained: there is no parameter to constrain")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._dims: list[tuple[int, ...]] = []
        for index, parameter in enumerate(self.parameters):
            if id(parameter) not in held:
                raise ConfigError(
                    f"SphereConstrained: the optimizer does not hold parameter {index} of shape {tuple(parameter.shape)}"
                )
            every = tuple(range(1, parameter.dim())) or (0,)
            self._dims.append(every if dim is None else (dim,) if isinstance(dim, int) else tuple(dim))
        with torch.no_grad():
            for parameter, dims in zip(self.parameters, self._dims):
                length = _length(parameter, dims)
                if bool((length == 0).any()):
                    raise ConfigError("SphereConstrained: a group of zeros has no direction: initialise it")
                parameter.div_(length)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the optimizer, on the spheres; `closure` as for the optimizer, its gradients are projected, too."""

        def evaluate() -> Any:
            assert closure is not None
            with torch.enable_grad():
                loss = closure()
            self._project()
            return loss

        before = [parameter.detach().clone() for parameter in self.parameters]
        if closure is None:
            self._project()
        loss = self.optimizer.step() if closure is None else self.optimizer.step(evaluate)
        for parameter, old, dims in zip(self.parameters, before, self._dims):
            parameter.copy_(self._retract(old, tangent(old, parameter - old, dims), dims))
        return loss

    def _project(self) -> None:
        for parameter, dims in zip(self.parameters, self._dims):
            if parameter.grad is not None:
                parameter.grad.copy_(tangent(parameter, parameter.grad, dims))

    def _retract(self, w: Tensor, d: Tensor, dims: tuple[int, ...]) -> Tensor:
        if self.retraction == "normalise":
            moved = w + d
        else:
            length = _length(d, dims)
            moved = w * length.cos() + d * torch.sinc(length / torch.pi)  # sin |d| / |d|, 1 at 0
        return moved / _length(moved, dims)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As of the optimizer."""
        self.optimizer.zero_grad(set_to_none)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of the optimizer: what learning-rate schedules change (give them the optimizer itself)."""
        return self.optimizer.param_groups

    def state_dict(self) -> dict[str, Any]:
        """Of the optimizer."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Into the optimizer."""
        self.optimizer.load_state_dict(state)


def tangent(w: Tensor, g: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The part of g that is orthogonal to the unit vectors w, groups over `dims`."""
    return g - w * (w * g).sum(dim=dims, keepdim=True)


def _length(w: Tensor, dims: tuple[int, ...]) -> Tensor:
    return w.square().sum(dim=dims, keepdim=True).sqrt()
