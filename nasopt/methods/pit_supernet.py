"""PITSuperNet: a joint search over alternative layers and their channels and kernels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from nasopt.arguments import check_flag, check_number
from nasopt.errors import ConfigError, nearest
from nasopt.search.choice_settings import ChoiceSettings, PathMode
from nasopt.search.masks import MaskSettings
from nasopt.search.model import SearchModel
from nasopt.search.schedule import Schedule
from nasopt.search.seed import excluded_layers

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nasopt.search.options import SearchOptions

BranchMasks = Literal["shared", "independent"]
_BRANCH_MASKS = ("shared", "independent")


class PITSuperNet(SearchModel):
    """A model in which the branches of every `SuperNetModule` and the channels and kernels of all layers are searched.

    Architecture parameters are those of both searches: `choice_logits`, and `alpha`, `beta`, `gamma` as in `PIT`. Outputs of
    branches meet in a sum. With `branch_masks="shared"` they therefore share one mask; with `"independent"` every branch
    has a mask of its own and what reads the choice follows the chosen branch, wherever no other layer (a residual sum, the
    network's output) ties these channels.

    Args:
        model, input_shape, gumbel_softmax, hard_softmax, temperature, paths: as in `SuperNet`.
        channel_block, kernel_search, exclude_names, exclude_types: as in `PIT`.
        branch_masks: `"shared"` or `"independent"`.
        freeze_masks_epochs: deprecated: `PhaseSchedule(freeze={"masks": epochs})` weighs branches first.
        autoconvert_layers: deprecated: False is what `SuperNet` does.
        options: `input_example`, `regularizer`, `relative`, `leaf_modules`, `strict`, `unpriced`, `verify`: see
            `nasopt.search.options.SearchOptions`.

    Raises:
        ConfigError: an argument is not usable, a branch does not fit, or the model fails on the example input.
        TraceError: the model's `forward` depends on data.
        UnknownOperationError: with `strict`.
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[Any] | None = None,
        *,
        gumbel_softmax: bool | None = None,
        hard_softmax: bool | None = None,
        temperature: float | Schedule | None = None,
        paths: PathMode = "all",
        channel_block: int = 1,
        kernel_search: bool = True,
        exclude_names: Sequence[str] | str = (),
        exclude_types: Sequence[type[nn.Module]] | type[nn.Module] = (),
        branch_masks: BranchMasks = "independent",
        freeze_masks_epochs: float | None = None,
        autoconvert_layers: bool | None = None,
        **options: Unpack[SearchOptions],
    ) -> None:
        if branch_masks not in _BRANCH_MASKS:
            hint = nearest(branch_masks, _BRANCH_MASKS) if isinstance(branch_masks, str) else ""
            raise ConfigError(f"unknown branch_masks {branch_masks!r}: known are {', '.join(_BRANCH_MASKS)}.{hint}")
        exclude = excluded_layers(exclude_names, exclude_types)
        masks = MaskSettings(channel_block, kernel_search, exclude, branch_masks == "independent")
        choices = ChoiceSettings(gumbel_softmax, hard_softmax, temperature, paths)
        if freeze_masks_epochs is not None:
            check_number("freeze_masks_epochs", freeze_masks_epochs, 0, unit="epochs")
        if autoconvert_layers is not None:
            check_flag("autoconvert_layers", autoconvert_layers)
            _deprecated("autoconvert_layers", "without masks this is nasopt.SuperNet")
        super().__init__(
            model, input_shape, masks=None if autoconvert_layers is False else masks, choices=choices, **options
        )
        if freeze_masks_epochs is not None:
            _deprecated("freeze_masks_epochs", "use nasopt.PhaseSchedule(model, ..., freeze={'masks': epochs})")
            self._mask_epochs = float(freeze_masks_epochs)
            self.set_epoch(0)


def _deprecated(argument: str, instead: str) -> None:
    warnings.warn(f"PITSuperNet: {argument} goes away in the next version: {instead}", DeprecationWarning, stacklevel=3)
