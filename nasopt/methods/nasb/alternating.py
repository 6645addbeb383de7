"""Alternating search steps: the architecture on validation batches, the weights on training batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from nasopt.arguments import check_number
from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.methods.nasb.nasb import NASB


class AlternatingSearch:
    """The first of three stages, a step at a time.

    ```python
    search = AlternatingSearch(model, F.cross_entropy, strength=1e-8)
    for training_batch, validation_batch in zip(training, validation):
        search.arch_step(validation_batch)
        search.weight_step(training_batch)
    ```

    The source gives no learning rates; the defaults are those that the project's trials use.

    Args:
        model: the search model, or `DistributedDataParallel` of it.
        criterion: `(output, target) -> scalar loss`.
        strength: of the regularizer in the architecture step; the source has none (0).
        arch_optimizer: over `model.arch_parameters()`; default Adam.
        weight_optimizer: over `model.net_parameters()`; default SGD with momentum 0.9.
        arch_lr, lr: learning rates of the default optimizers.

    Raises:
        ConfigError: an optimizer holds parameters of the other half.
    """

    @checked
    def __init__(
        self,
        model: NASB | DistributedDataParallel,
        criterion: Callable[[Any, Any], Tensor],
        *,
        strength: float = 0.0,
        arch_optimizer: torch.optim.Optimizer | None = None,
        weight_optimizer: torch.optim.Optimizer | None = None,
        arch_lr: float = 0.01,
        lr: float = 0.05,
    ) -> None:
        for name, number in (("strength", strength), ("arch_lr", arch_lr), ("lr", lr)):
            check_number(f"AlternatingSearch: {name}", number, 0)
        self.forward, self.criterion, self.strength = model, criterion, strength
        self.model: NASB = model.module if isinstance(model, DistributedDataParallel) else model
        arch, net = list(self.model.arch_parameters()), list(self.model.net_parameters())
        self.arch_optimizer = arch_optimizer or torch.optim.Adam(arch, lr=arch_lr, betas=(0.5, 0.999))
        self.weight_optimizer = weight_optimizer or torch.optim.SGD(net, lr=lr, momentum=0.9)
        _check_half(self.arch_optimizer, net, "arch_optimizer holds network parameters: give it arch_parameters()")
        _check_half(self.weight_optimizer, arch, "weight_optimizer holds choice_logits: give it net_parameters()")

    def arch_step(self, batch: tuple[Any, Any]) -> float:
        """One step of the architecture on a validation batch `(input, target)`, weights frozen; the loss without cost."""
        self.model.freeze_net()
        try:
            return self._step(batch, self.arch_optimizer, self.strength)
        finally:
            self.model.unfreeze_net()

    def weight_step(self, batch: tuple[Any, Any]) -> float:
        """One step of the weights on a training batch `(input, target)`, architecture frozen; the loss."""
        self.model.freeze_arch()
        try:
            return self._step(batch, self.weight_optimizer, 0.0)
        finally:
            self.model.unfreeze_arch()

    def _step(self, batch: tuple[Any, Any], optimizer: torch.optim.Optimizer, strength: float) -> float:
        self.model.train()
        optimizer.zero_grad(set_to_none=True)
        task = self.criterion(self.forward(batch[0]), batch[1])
        loss = task + strength * self.model.get_regularization_loss() if strength else task
        loss.backward()
        optimizer.step()
        return float(task.detach())


def _check_half(optimizer: torch.optim.Optimizer, forbidden: list[Any], message: str) -> None:
    ids = {id(parameter) for parameter in forbidden}
    if any(id(parameter) in ids for group in optimizer.param_groups for parameter in group["params"]):
        raise ConfigError(f"AlternatingSearch: {message}")
