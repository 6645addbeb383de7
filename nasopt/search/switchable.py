"""Switchable precision: one set of weights that is trained to run at several widths, and switched between them afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.search.features import point_features
from nasopt.search.switches import Switch, decide, positions
from nasopt.train import kd_loss

if TYPE_CHECKING:
    from nasopt.search.model import SearchModel

Norms = Literal["private", "shared"]


class Switchable(nn.Module):
    """One set of weights for several switches, which differ in widths of weights and activations, and in channels.

    A step runs every switch and adds up the gradients. The largest switch learns from labels; the others from its answers,
    `KL(p_largest || p)`, and, where asked for, from its features. Norms are private to a switch, scales, shifts and statistics;
    or shared, and then statistics belong to no switch and have to be re-estimated before one is used.

    ```python
    model = MixedPrecision(seed, (3, 32, 32), precision=Precision(weights=(2, 4, 8), activations=(4, 8)))
    switchable = nasopt.Switchable(model, [(8, 8), (4, 4), (2, 4)])
    optimizer = torch.optim.SGD(switchable.param_groups(lr=0.01), momentum=0.9)
    for x, y in loader:
        optimizer.zero_grad()
        switchable.backward(x, y)
        optimizer.step()
    switchable.use((2, 4)).eval()                       # runs like any network
    found = switchable.export((4, 4))                   # a network of its own
    widths = nasopt.allocate_bits(switchable.model, batches, Budget(average_bits=3))
    found = switchable.export(Switch(widths, 4), recalibrate=loader)    # widths of every layer, without training
    ```

    Source: Guerra et al., "Switchable precision neural networks", 2020; the sandwich: Yu and Huang, ICCV 2019.

    Args:
        model: `MixedPrecision`, or `PIT` and others with `precision=`; it is used as it is and its architecture is frozen.
        switches: at least two, one of them the largest in every respect. Their widths are those that `precision` allows.
        norms: `"private"` or `"shared"`.
        distil: whether the largest switch teaches the others; else all learn from labels.
        features: weight of the squared difference of rounded activations, relative to their mean square; 0: none. Switches
            with fewer channels learn from answers alone.
        sandwich: a step runs the largest, the smallest and two others, drawn anew; else all.

    Attributes:
        switches: as resolved.
        active: position of the switch in use.

    Raises:
        ConfigError: no switch, one twice, no largest one, widths that the model does not have, or a model with a `Budget`.
    """

    @checked
    def __init__(
        self,
        model: SearchModel,
        switches: Sequence[Any],
        *,
        norms: Norms = "private",
        distil: bool = True,
        features: float = 0.0,
        sandwich: bool = False,
    ) -> None:
        super().__init__()
        if norms not in ("private", "shared"):
            raise ConfigError(f"Switchable: norms must be 'private' or 'shared', got {norms!r}")
        if getattr(model, "precision", None) is None:
            raise ConfigError("Switchable: the model has no precision: give MixedPrecision, or PIT(..., precision=...)")
        if model.budget is not None:
            raise ConfigError(
                "Switchable: a Budget would decide other widths than a switch does: wrap the model without one"
            )
        if not (math.isfinite(features) and features >= 0):
            raise ConfigError(f"Switchable: features is a weight >= 0, got {features!r}")
        self.switches = tuple(Switch.of(value) for value in switches)
        if len(self.switches) < 2 or any(one in self.switches[:i] for i, one in enumerate(self.switches)):
            raise ConfigError(
                f"Switchable needs at least two switches, each once; got {', '.join(map(str, self.switches))}"
            )
        self.model, self.norms, self.distil, self.features, self.sandwich = model, norms, distil, features, sandwich
        model.freeze_arch(decided=True)
        sizes = [(*positions(model, switch).values(), switch.channels) for switch in self.switches]
        largest = [i for i, own in enumerate(sizes) if all(a >= b for other in sizes for a, b in zip(own, other))]
        if not largest:
            raise ConfigError(
                f"Switchable: none of the switches {', '.join(map(str, self.switches))} is the largest in every respect, so none "
                "can teach the others: add one with the widest weights, the widest activations and all channels"
            )
        self.largest = largest[0]
        self.smallest = min(range(len(sizes)), key=lambda i: (sum(sizes[i][:-1]) * sizes[i][-1], i))
        self._names = {n: m for n, m in model.net.named_modules() if isinstance(m, _NormBase)}
        is_private = norms == "private"
        self.private = nn.ModuleList(self._copy_of_norms(first=i == 0) for i in range(len(sizes) * is_private))
        self.active = 0
        self.use(self.switches[self.largest])

    # --- switches

    def use(self, switch: Any) -> Switchable:
        """Run this switch from now on; one of those that were trained.

        Raises:
            ConfigError: it is another one (`export` takes any).
        """
        wanted = Switch.of(switch)
        if wanted not in self.switches:
            known = ", ".join(map(str, self.switches))
            raise ConfigError(f"Switchable: {wanted} is no switch of this model: known are {known}; export() takes any")
        self._use(self.switches.index(wanted))
        return self

    def _use(self, index: int) -> None:
        self.active = index
        if len(self.private):
            self._put_norms(index)
        decide(self.model, self.switches[index])

    # --- norms

    def _copy_of_norms(self, first: bool) -> nn.ModuleDict:
        """Tensors of all norms, to be put into them; of the first switch those that are there."""
        copies = nn.ModuleDict()
        for name, norm in self._names.items():
            state = nn.Module()
            for own, parameter in norm.named_parameters(recurse=False):
                copy = parameter if first else nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                state.register_parameter(own, copy)
            for own, buffer in norm.named_buffers(recurse=False):
                state.register_buffer(own, buffer if first else buffer.clone())
            copies[name.replace(".", "/")] = state
        return copies

    def _put_norms(self, index: int) -> None:
        for name, norm in self._names.items():
            state = self.private[index][name.replace(".", "/")]  # type: ignore[index]
            if any(tensor.shape != norm.state_dict()[own].shape for own, tensor in state.state_dict().items()):
                raise ConfigError(
                    f"Switchable: {name!r} has changed its channels: shrink the model before it is made switchable"
                )
            norm._parameters.update(state._parameters)
            norm._buffers.update(state._buffers)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Switchable:
        super()._apply(fn, *args, **kwargs)
        if len(self.private):  # buffers that were moved are other objects
            self._put_norms(self.active)
        return self

    # --- training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's, at the switch in use."""
        return self.model(*args, **kwargs)

    def backward(
        self, inputs: Any, targets: Any, criterion: Callable[[Any, Any], Tensor] = nn.functional.cross_entropy
    ) -> dict[int, float]:
        """The gradients of one step, summed over the switches; position of every switch that has run -> its loss."""
        found = {}
        for index, loss in self.losses(inputs, targets, criterion):
            loss.backward()
            found[index] = float(loss.detach())
        return found

    @checked
    def param_groups(self, *, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """For an optimizer: all weights and norms, and the steps of grids without weight decay."""
        arch = {id(p) for p in self.model.arch_parameters()}
        named = [(name, p) for name, p in self.named_parameters() if id(p) not in arch]
        grids = [p for name, p in named if name.endswith("log_steps")]
        others = [p for name, p in named if not name.endswith("log_steps")]
        return [
            {"params": others, "lr": lr, "weight_decay": weight_decay},
            {"params": grids, "lr": lr, "weight_decay": 0.0},
        ]

    def losses(
        self, inputs: Any, targets: Any, criterion: Callable[[Any, Any], Tensor] = nn.functional.cross_entropy
    ) -> Iterator[tuple[int, Tensor]]:
        """Position and loss of one switch after the other, for scalers of gradients: `backward` each before the next comes.

        Args:
            inputs: a tensor, or a tuple of the arguments of `forward`.
            targets: second argument of `criterion`.
            criterion: `(outputs, targets) -> scalar`.

        Raises:
            ConfigError: the outputs are not logits, which distillation needs.
        """
        arguments = inputs if isinstance(inputs, tuple) else (inputs,)
        before = self.active
        answers, seen = torch.empty(0), dict[str, Tensor]()
        try:
            for index in self._drawn():
                self._use(index)
                switch = self.switches[index]
                compares = self.distil and self.features > 0 and switch.channels == 1
                with point_features(self.model.net, compares) as own:
                    outputs = self.model(*arguments)
                if not self.distil or index == self.largest:
                    loss = criterion(outputs, targets)
                else:
                    loss = kd_loss(outputs, answers, None, temperature=1.0, share=1.0)
                    if compares:
                        loss = loss + self.features * _difference(own, seen)
                if self.distil and index == self.largest:
                    if not isinstance(outputs, Tensor) or outputs.dim() < 2:
                        raise ConfigError(
                            "Switchable: the outputs are no logits (N, classes), which the largest switch could teach: "
                            "distil=False lets every switch learn from the targets"
                        )
                    answers, seen = outputs.detach(), {name: value.detach() for name, value in own.items()}
                yield index, loss
        finally:
            self._use(before)

    def _drawn(self) -> list[int]:
        others = [i for i in range(len(self.switches)) if i not in (self.largest, self.smallest)]
        if self.sandwich and len(others) > 2:
            others = [others[i] for i in torch.randperm(len(others))[:2].tolist()]
        return [self.largest, *others, *([self.smallest] if self.smallest != self.largest else [])]

    # --- take

    def export(self, switch: Any = None, *, recalibrate: Iterable[Any] | None = None, verify: bool = True) -> nn.Module:
        """A network of its own, as `arch_export`.

        Args:
            switch: any widths of the model, e.g. `Switch(allocate_bits(...))`; None: the switch in use.
            recalibrate: batches from which the network's norm statistics are estimated. Shared norms need them, and so does
                a switch that was not trained, which takes the norms of the largest one.
            verify: as of `arch_export`.

        Raises:
            ConfigError: no batches where they are needed, or a switch that does not fit.
        """
        wanted = self.switches[self.active] if switch is None else Switch.of(switch)
        is_trained, before = wanted in self.switches, self.active
        tracks = any(norm.running_mean is not None for norm in self._names.values())
        if recalibrate is None and tracks and (self.norms == "shared" or not is_trained):
            why = "shared norms hold the statistics of all switches together" if is_trained else "it was not trained"
            raise ConfigError(f"export of switch {wanted}: {why}: give recalibrate=batches, a few hundred samples")
        try:
            self._use(self.switches.index(wanted) if is_trained else self.largest)
            decide(self.model, wanted)
            return self.model.arch_export(verify, recalibrate=recalibrate)
        finally:
            self._use(before)


def _difference(own: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
    """Mean over tensors of the mean squared difference, divided by the mean square of the wanted one."""
    tiny = torch.finfo(torch.float32).tiny
    parts = [
        (own[name] - wanted[name]).square().mean() / wanted[name].square().mean().clamp(min=tiny) for name in wanted
    ]
    return torch.stack(parts).mean()
