"""Parameters of a search model: those of the network and those of its architecture; freezing, copying, loading."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.arguments import check_count, check_flag, check_items, check_number
from nasopt.errors import ArchitectureError, ConfigError
from nasopt.graph.example import Example
from nasopt.search.layer_choice import check_temperature
from nasopt.search.schedule import Schedule

MASKS = ("alpha", "beta", "gamma")
WAY = 0.5  # from where masks start to their threshold; a step of Adam is about its learning rate
# What is made again after copying and loading, in place of being saved.
_PREPARED = "_prepared"


# Entries of a state dict that are no parameters and no buffers.
NOTES = (IN_FLOATS, SHRUNK) = ("in_floats", "shrunk")


class ParameterHalves(nn.Module, ABC):
    """A module whose own parameters of the names `_arch_names` are architecture parameters, and all others the network's.

    Attributes:
        example: inputs that the seed takes; they move and change their dtype with the model.
        seed_names: key of the seed's state dict, which loads, too -> own key.
    """

    _arch_names: tuple[str, ...] = ("choice_logits", *MASKS)
    example: Example
    temperatures: Tensor
    temperature_schedule: Schedule | None = None
    # Masks wait until this epoch.
    _mask_epochs = 0.0
    seed_names: Mapping[str, str]
    # Whether the search is over, so that train mode runs what it has decided.
    _decided = False
    # Whether a state dict of the seed is being loaded.
    _has_loaded_seed = False
    # Whether the steps of all activations are known to be set.
    _has_steps = False
    # None: activations and weights are rounded. In a warm-up in floats: whether that has trained anything.
    _trained_in_floats: bool | None = None
    # Names of architecture parameters that take no gradient for now.
    held: frozenset[str] = frozenset()

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

    def param_groups(
        self, lr: float, arch_lr: float | None = None, weight_decay: float = 0.0, *, steps: int | None = None
    ) -> list[dict[str, Any]]:
        """Two groups for an optimizer: network and architecture parameters, the latter without weight decay.

        Steps of a quantised network's grids are a third group, at the network's rate and without weight decay.

        Args:
            lr: of the network.
            arch_lr: of the architecture. None: of masks that are set by importance (`Budget(steps=)`) `lr`, which moves branches
                alone; otherwise such that Adam can move a mask four times from its start to its threshold within `steps`.
            weight_decay: of the network.
            steps: length of the search, e.g. `epochs * len(loader)`; with it a search that is too short is refused.

        Raises:
            ConfigError: a rate or the decay is no finite number >= 0, neither `arch_lr` nor `steps` is there, or masks could not
                reach their threshold in that many steps.
        """
        walks = "importance" not in self._modules
        if steps is not None:
            check_count("param_groups: steps", steps, 1)
        if arch_lr is None:
            if steps is None and walks:
                raise ConfigError(
                    "param_groups: give arch_lr, or steps=epochs * len(loader) of the search, from which it follows"
                )
            arch_lr = 4 * WAY / steps if walks and steps is not None else lr
        for name, value in (("lr", lr), ("arch_lr", arch_lr), ("weight_decay", weight_decay)):
            check_number(f"param_groups: {name}", value, 0)
        has_masks = walks and any(name in MASKS for name, _ in self.named_arch_parameters())
        way = arch_lr * (steps or math.inf) if arch_lr else math.inf
        if has_masks and way < WAY:
            raise ConfigError(
                f"param_groups: {steps} steps of about arch_lr={arch_lr:g} move a mask by {way:g} at most, and its threshold is "
                f"{WAY:g} away, so nothing can be decided: search for {math.ceil(WAY / arch_lr)} steps or more, or leave "
                f"arch_lr out, which makes it {4 * WAY / (steps or 1):g}"
            )
        named = list(self.named_net_parameters())
        grids = [parameter for name, parameter in named if name.endswith("log_steps")]
        others = [parameter for name, parameter in named if not name.endswith("log_steps")]
        groups = [
            {"params": others, "lr": lr, "weight_decay": weight_decay},
            {"params": list(self.arch_parameters()), "lr": arch_lr, "weight_decay": 0.0},
        ]
        return [*groups, {"params": grids, "lr": lr, "weight_decay": 0.0}] if grids else groups

    def freeze_arch(self, decided: bool = False) -> None:
        """Stop the search: architecture parameters get no gradient, and one that they have is dropped.

        Args:
            decided: in train mode, too, run the network that `arch_export` would give, to fine-tune it in place.
        """
        self._decided = check_flag("freeze_arch: decided", decided)
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

    def hold(self, names: Iterable[str]) -> None:
        """Let architecture parameters of these names stay as they are for now, and all others take gradients.

        In contrast to `freeze_arch` they keep `requires_grad`, so `DistributedDataParallel` may be built before or after.

        Raises:
            ConfigError: no architecture parameter has such a name.
        """
        held = frozenset(check_items("hold: names", names, str, f"names out of {', '.join(self._arch_names)}"))
        if unknown := held - set(self._arch_names):
            raise ConfigError(f"hold: unknown {', '.join(sorted(unknown))}: known are {', '.join(self._arch_names)}")
        self.held = held
        for name, parameter in self.named_arch_parameters():
            if name in self.held:
                parameter.grad = None

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
        """After a backward pass: for every architecture parameter, how many of its values got no gradient (None or 0).

        Of masks that are set by importance: how many have got none in any step so far.
        """
        importance = self._modules.get("importance")
        ranked = {} if importance is None else dict(importance.named_buffers())
        found = {}
        for name, p in self.named_arch_parameters():
            seen = ranked.get(name, p.grad)
            found[name] = p.numel() if seen is None else int((seen == 0).sum())
        return found

    # --- schedules and temperature

    def set_epoch(self, epoch: float) -> None:
        """Follow the schedules: call it at the start of every epoch of the search, which counts from 0.

        Raises:
            ConfigError: the epoch is no finite number >= 0.
        """
        check_number("set_epoch: epoch", epoch, 0)
        if self._mask_epochs:
            self.hold(MASKS if epoch < self._mask_epochs else ())
        if self.temperature_schedule is not None:
            self.temperature = self.temperature_schedule(epoch)  # type: ignore[assignment]

    @property
    def temperature(self) -> float:
        """Of the softmax; setting it sets that of every choice. The mean where they differ, 1 where there are none."""
        return float(self.temperatures.mean()) if self._has_choices else 1.0

    @temperature.setter
    def temperature(self, value: float) -> None:
        if self._has_choices:
            self.temperatures.fill_(check_temperature(value))

    @property
    def _has_choices(self) -> bool:
        return self._buffers.get("temperatures") is not None and self.temperatures.numel() > 0

    def _architecture_parameters(self) -> dict[str, Tensor]:
        """Those of this model by name, and empty ones in the place of `alpha` and `choice_logits` where it has none."""
        own: dict[str, Any] = self._parameters
        found: dict[str, Tensor] = {name: own[name] for name in self._arch_names if name in own}
        like = next(iter(found.values()))
        found = {"alpha": like.new_zeros(0), "choice_logits": like.new_zeros(0), **found}
        return {name: p.detach() if name in self.held else p for name, p in found.items()} if self.held else found

    # --- moving, copying, loading

    @abstractmethod
    def _prepare(self) -> None:
        """Make what follows from the traced network and the settings."""

    @abstractmethod
    def _relate(self) -> None:
        """Make what follows from the prepared state and the parameters."""

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> ParameterHalves:
        # What moves or converts the network moves and converts the inputs that it is prepared and exported with.
        super()._apply(fn, *args, **kwargs)
        self.example = self.example.converted(fn)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != _PREPARED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._prepare()
        self._relate()

    def __deepcopy__(self, memo: dict[int, Any]) -> ParameterHalves:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Accept the seed's own state dict, too: its names are those of `net`, and it holds no architecture."""
        own = self.state_dict()
        given = {key[len(prefix) :] for key in state_dict if key.startswith(prefix)}
        if given and given <= set(self.seed_names) and not given & set(own):
            for name in given:
                tensor = state_dict.pop(prefix + name)
                if self.seed_names[name] in own:
                    state_dict[prefix + self.seed_names[name]] = tensor
            taken = {*self.seed_names.values(), *NOTES}
            state_dict.update({prefix + name: tensor for name, tensor in own.items() if name not in taken})
            self._has_loaded_seed = True
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
