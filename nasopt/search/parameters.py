"""The two halves of the parameters of a search model: those of the network, and those of its architecture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from nasopt.errors import ArchitectureError


class ParameterHalves(nn.Module):
    """A module whose own parameters of the names `_arch_names` are architecture parameters, and all others the network's."""

    _arch_names: tuple[str, ...] = ()
    # Whether the search is over, so that train mode runs what it has decided.
    _decided = False

    def named_arch_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and tensors of the architecture parameters."""
        own = dict(self.named_parameters(recurse=False))
        return iter([(name, own[name]) for name in self._arch_names if name in own])

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """The architecture parameters."""
        return (parameter for _, parameter in self.named_arch_parameters())

    def named_net_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and tensors of all other parameters."""
        arch = {id(parameter) for parameter in self.arch_parameters()}
        return ((name, p) for name, p in self.named_parameters() if id(p) not in arch)

    def net_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters that are not architecture parameters."""
        return (parameter for _, parameter in self.named_net_parameters())

    def param_groups(self, lr: float, arch_lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Two groups for an optimizer: network and architecture parameters, the latter without weight decay."""
        return [
            {"params": list(self.net_parameters()), "lr": lr, "weight_decay": weight_decay},
            {"params": list(self.arch_parameters()), "lr": arch_lr, "weight_decay": 0.0},
        ]

    def freeze_arch(self, decided: bool = False) -> None:
        """Stop the search: architecture parameters get no gradient, and one that they have is dropped.

        Args:
            decided: in train mode, too, run the network that `arch_export` would give, to fine-tune it in place.
        """
        self._decided = bool(decided)
        for parameter in self.arch_parameters():
            parameter.requires_grad_(False)
            parameter.grad = None  # an optimizer with momentum moves whatever has a gradient, even one of 0

    @property
    def _explores(self) -> bool:
        """Whether a forward pass may run what `arch_export` would not keep: in train mode, until it is decided."""
        return self.training and not self._decided

    def unfreeze_arch(self) -> None:
        """Let the search go on."""
        self._decided = False
        for parameter in self.arch_parameters():
            parameter.requires_grad_(True)

    def freeze_net(self) -> None:
        """Stop training the network's weights; norms in train mode still update their statistics."""
        trainable = self._trainable_names()
        if trainable:
            self._frozen_names = trainable
        for parameter in self.net_parameters():
            parameter.requires_grad_(False)

    def unfreeze_net(self) -> None:
        """Train those weights again that were trained before `freeze_net`."""
        parameters = dict(self.named_net_parameters())
        for name in getattr(self, "_frozen_names", ()):
            parameters[name].requires_grad_(True)

    def _trainable_names(self) -> tuple[str, ...]:
        return tuple(name for name, p in self.named_net_parameters() if p.requires_grad)

    def check_architecture(self) -> None:
        """Raise an `ArchitectureError` where an architecture parameter is NaN or infinite."""
        if torch.compiler.is_compiling():
            return
        for name, parameter in self.named_arch_parameters():
            if not math.isfinite(float(parameter.detach().sum())) and not bool(torch.isfinite(parameter).all()):
                bad = int((~torch.isfinite(parameter)).sum())
                raise ArchitectureError(
                    f"{bad} of {parameter.numel()} values of the architecture parameter {name!r} are NaN or infinite, so "
                    "they describe no network. Lower the learning rate of the architecture or the strength, clip "
                    "gradients, and go back to a checkpoint from before"
                )

    def check_gradients(self) -> dict[str, int]:
        """After a backward pass: for every architecture parameter, how many of its values got no gradient (None or 0)."""
        return {
            name: p.numel() if p.grad is None else int((p.grad == 0).sum()) for name, p in self.named_arch_parameters()
        }
