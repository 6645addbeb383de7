"""What NASB refuses, and what the messages say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nasopt import NASB
from nasopt.errors import ConfigError, NoEffectWarning
from nasopt.methods.nasb import AlternatingSearch, binarize, fine_tune_optimizer, full_precision, pack
from nasopt.nn import BinaryActivation, BinaryConv2d
from unit_test.methods.nasb_seeds import SHAPE, Residual


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.stage = nn.Sequential(self.conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stage(self.stage(self.stem(x)))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * self.gate(x).sigmoid()


def valid_padding() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)))


@pytest.mark.parametrize(
    ("seed", "settings", "message"),
    [
        (Residual, {"cells": ["stage3"]}, "'stage3' is no module of Residual; its children are .*Did you mean 'stage"),
        (Residual, {"cells": ["stage1", "stage1.0"]}, "'stage1' and 'stage1.0' overlap"),
        (Residual, {"cells": ["stage1", "stage1"]}, "overlap"),
        (Residual, {"cells": []}, "cells is empty"),
        (Residual, {"cells": ["head"]}, "cell 'head' takes"),
        (Residual, {"cells": ["stem.1"]}, "holds no nn.Conv2d"),
        (Shared, {"cells": ["stage"]}, "is called 2 times"),
        (lambda: nn.Sequential(Gated()), {"cells": ["0"]}, r"cell '0': mul \(mul\) stands on its main path"),
        (valid_padding, {"cells": ["1"]}, r"node 0 has shape \(4, 12, 12\).* and node 1 \(4, 10, 10\)"),
        (Residual, {"candidates": ["conv_7x7"]}, "unknown candidate 'conv_7x7': known are zero, .*Did you mean 'conv_"),
        (Residual, {"candidates": []}, "candidates is empty"),
        (Residual, {"candidates": ["zero"]}, "at least one operation besides 'zero'"),
        (Residual, {"candidates": ["identity", "identity"]}, "a name twice"),
        (Residual, {"keep": 10}, "keep=10 operations per node, but .* only 9 candidates"),
        (Residual, {"keep": 0}, "keep must be an int >= 1"),
        (Residual, {"nodes": 1}, "nodes must be an int >= 2"),
        (Residual, {"branches": 0}, "branches must be an int >= 1"),
        (Residual, {"preset": "V6"}, "unknown preset 'V6': known are NASB, V1"),
        (Residual, {"active": "all"}, "active must be 'edges' or 'nodes'"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1)), {}, "has no stage that can become a cell"),
    ],
)
def test_refused(seed: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NASB(seed(), SHAPE, **settings)


def test_a_found_model_is_not_wrapped_again() -> None:
    model = NASB(Residual(), SHAPE, cells="stage1", candidates=["identity"])
    with pytest.raises(ConfigError, match="under search already"):
        NASB(model, SHAPE)
    with pytest.raises(ConfigError, match="no cell 'stage9'"):
        model.choose("stage9", 0, 1, "identity")
    with pytest.raises(ConfigError, match="nodes are 0 to 4"):
        model.choose("stage1", 3, 1, "identity")
    with pytest.raises(ConfigError, match="weight_optimizer holds choice_logits"):
        AlternatingSearch(model, nn.MSELoss(), weight_optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def test_stages_take_what_the_stage_before_gives() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 3, 1))
    for function in (binarize, full_precision, pack, fine_tune_optimizer):
        with pytest.raises(ConfigError, match=function.__name__):
            function(plain)


def test_fine_tuning_with_weight_decay_warns() -> None:
    binary = nn.Sequential(BinaryActivation(), BinaryConv2d(3, 3, 1))
    with pytest.warns(NoEffectWarning, match=r"weight_decay=0.1.*Leave it at 0"):
        optimizer = fine_tune_optimizer(binary, weight_decay=0.1)
    assert optimizer.defaults["weight_decay"] == 0.1
    assert fine_tune_optimizer(binary).defaults["weight_decay"] == 0
