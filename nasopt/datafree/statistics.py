"""The statistics loss: how far the activations of a batch are from what the norms of a trained network remember."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nasopt.checked import checked
from nasopt.errors import ConfigError


class StatisticsLoss:
    """Runs a frozen model and compares the statistics of the batch at every batch norm with the stored ones.

    Per channel `(mean - mean')^2 / var + (var - var')^2 / var^2`, averaged over channels, then over norms; 0 where they match.
    Variances are unbiased, as batch norms store them.

    ```python
    statistics = StatisticsLoss(model)
    outputs, loss = statistics(images)      # gradients go to the images
    ```

    Source: Yin et al., "Dreaming to distill" (DeepInversion), CVPR 2020.

    Args:
        model: trained; it is run in eval mode, and its parameters take no gradient from here.

    Raises:
        ConfigError: it has no batch norm with statistics, so nothing is remembered.
    """

    @checked
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.norms = {
            name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats
        }
        if not any(norm.running_mean is not None for norm in self.norms.values()):
            raise ConfigError(
                f"StatisticsLoss: {type(model).__name__} has no batch norm with running statistics, which are all that a trained "
                "network remembers of its data: data-free compression needs some (norms that were folded are gone; layer and "
                "group norms store none)"
            )

    def __call__(self, *inputs: Tensor) -> tuple[Any, Tensor]:
        """Outputs of the model and the loss, a scalar.

        Raises:
            ConfigError: an empty batch, or one sample, of which a norm of vectors knows no variance.
        """
        if not inputs or not len(inputs[0]):
            raise ConfigError("StatisticsLoss: an empty batch has no statistics: generate at least one image")
        parts: list[Tensor] = []
        handles = [
            norm.register_forward_pre_hook(lambda norm, args: parts.append(_distance(norm, args[0])))
            for norm in self.norms.values()
        ]
        modes = {module: module.training for module in self.model.modules()}
        wants = [(p, p.requires_grad) for p in self.model.parameters()]
        try:
            self.model.eval()
            for parameter, _ in wants:
                parameter.requires_grad_(False)
            outputs = self.model(*inputs)
        finally:
            for handle in handles:
                handle.remove()
            for parameter, wanted in wants:
                parameter.requires_grad_(wanted)
            for module, mode in modes.items():
                module.training = mode
        if not parts:
            raise ConfigError("StatisticsLoss: no batch norm of the model has run on this batch")
        return outputs, torch.stack(parts).mean()


def _distance(norm: Any, x: Tensor) -> Tensor:
    values = x.transpose(0, 1).flatten(1)
    if values.shape[1] < 2:
        raise ConfigError("StatisticsLoss: one value per channel has no variance: take larger batches")
    mean, var = values.mean(1), values.var(1)
    stored = norm.running_var + norm.eps
    return ((mean - norm.running_mean).square() / stored + (var - norm.running_var).square() / stored.square()).mean()
