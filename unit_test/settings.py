"""Table of the laws: one row per method setting, the problems it is checked on, and the laws that it does not claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from toys import TOYS

from nasopt import NASB, PIT, MixedPrecision, PITSuperNet, Precision, SuperNet
from nasopt.testing import ARCHITECTURES, LAWS, check_method
from nasopt.testing.case import task_loss, tensors
from unit_test.methods.nasb_seeds import SEEDS, SHAPE
from unit_test.methods.supernet_toys import SUPER_TOYS

CELLS = {make.__name__: cells for make, cells in SEEDS.values()}
# Toys with a layer whose work torch's counter sees in part only: tests of their own count it.
UNCOUNTED = {"gru", "lstm", "attention", "weight_attention", "parametrized"}
# Quantised networks differ in how grids meet: toys that show one way each, under one row in turn.
QUANTISED = ("masks_and_widths", "eight_bits", "widths")
GRIDS = [
    "residual",
    "dense_block",
    "squeeze_excite",
    "gated_product",
    "channel_shuffle",
    "called_twice",
    "tied_weights",
    "transposed",
    "grouped",
    "causal",
    "depthwise_multiplier",
    "inputs_and_outputs",
    "concatenated_twice",
    "lstm",
    "attention",
    "prelu",
    "slices_of_channels",
    "assignment",
]
ALL = frozenset(LAWS)
# Laws that depend on how a method cuts; all others are about how it is built.
CUTTING = ALL & {
    "identity in eval mode",
    "identity in train mode",
    "faithful export",
    "true cost",
    "cost of what runs",
    "MACs as torch counts them",
    "nothing silent",
    "never empty",
}


@dataclass(frozen=True)
class Problem:
    """A seed, a batch for it, and whether it is a whole network."""

    seed: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    is_network: bool = False


@dataclass(frozen=True)
class Row:
    """A method setting: how it wraps a seed, names of its problems, the laws it keeps."""

    front: Callable[[nn.Module, Any], Any]
    problems: dict[str, Problem]
    laws: frozenset[str] = ALL


def _nasb(**settings: Any) -> Callable[[nn.Module, Any], Any]:
    return lambda seed, inputs: NASB(seed, input_example=inputs, cells=CELLS[type(seed).__name__], **settings)


MASKS = {name: Problem(toy.seed, toy.batch, toy.is_network) for name, toy in TOYS.items()}
BRANCHES = {name: Problem(toy.seed, lambda toy=toy: (toy.batch(),), toy.is_network) for name, toy in SUPER_TOYS.items()}
CELL_SEEDS = {
    name: Problem(
        lambda make=make: make().double(), lambda: (torch.randn(4, *SHAPE, dtype=torch.float64),), name == "residual"
    )
    for name, (make, _) in SEEDS.items()
}

_SAMPLED: dict[str, Any] = {"paths": "sampled", "hard_softmax": True, "gumbel_softmax": True}
_MIXED = ("zero", "avg_pool_3x3", "identity", "conv_3x3", "dilated_conv_5x5")
# Branches that are drawn are not the seed's mean of branches.
_DRAWN = ALL - {"identity in train mode"}
# A binary network is not its seed and has layers, whose weights are drawn, that the seed does not have. Costs are expected
# over the candidates in eval mode, too; two operations of few edges are drawn per step, not all in any number of steps.
_BINARY = ALL - {
    "identity in eval mode",
    "identity in train mode",
    "plain export",
    "global state",
    "cost of what runs",
    "gradient of the task",
}


def _quantised(front: Callable[..., Any], **settings: Any) -> Callable[[nn.Module, Any], Any]:
    """Wrap with the steps of activations set from the inputs."""

    def wrap(seed: nn.Module, inputs: Any) -> Any:
        model = front(seed, input_example=inputs, **settings)
        model.calibrate([model.example.inputs])
        return model

    return wrap


# A quantised network is not its seed, and its layers are those of `nasopt.nn`. No cost sees the width of what is written over
# another buffer and read by additions alone.
_ROUNDED = ALL - {"identity in eval mode", "identity in train mode", "plain export", "gradient of the costs"}
_WIDTHS = Precision(weights=(2, 4, 8), activations=(4, 8))

ROWS: dict[str, Row] = {
    "pit": Row(lambda s, i: PIT(s, input_example=i, regularizer="macs", unpriced="ignore"), MASKS),
    "pit_in_blocks": Row(
        lambda s, i: PIT(s, input_example=i, channel_block=2, kernel_search=False, relative=True, unpriced="ignore"),
        MASKS,
        CUTTING,
    ),
    "soft": Row(lambda s, i: SuperNet(s, input_example=i, regularizer="macs"), BRANCHES),
    "gumbel": Row(lambda s, i: SuperNet(s, input_example=i, gumbel_softmax=True, temperature=2.0), BRANCHES, _DRAWN),
    "hard": Row(
        lambda s, i: SuperNet(s, input_example=i, gumbel_softmax=True, hard_softmax=True, regularizer="macs"),
        BRANCHES,
        _DRAWN,
    ),
    "sampled": Row(lambda s, i: SuperNet(s, input_example=i, relative=True, **_SAMPLED), BRANCHES, _DRAWN),
    "two": Row(
        lambda s, i: SuperNet(s, input_example=i, paths="two", regularizer={"size": 1.0, "macs": 0.1}), BRANCHES, _DRAWN
    ),
    "shared": Row(lambda s, i: PITSuperNet(s, input_example=i, branch_masks="shared", regularizer="macs"), BRANCHES),
    "shared_sampled": Row(
        lambda s, i: PITSuperNet(s, input_example=i, branch_masks="shared", channel_block=2, **_SAMPLED),
        BRANCHES,
        _DRAWN,
    ),
    "independent": Row(lambda s, i: PITSuperNet(s, input_example=i, regularizer="macs"), BRANCHES),
    "independent_sampled": Row(lambda s, i: PITSuperNet(s, input_example=i, **_SAMPLED), BRANCHES, _DRAWN),
    "independent_two": Row(
        lambda s, i: PITSuperNet(s, input_example=i, paths="two", gumbel_softmax=True, kernel_search=False),
        BRANCHES,
        _DRAWN,
    ),
    "eight_bits": Row(_quantised(PIT, precision=8, regularizer="size_bits", unpriced="ignore"), MASKS, _ROUNDED),
    "widths": Row(_quantised(MixedPrecision, precision=_WIDTHS, unpriced="ignore"), MASKS, _ROUNDED),
    "masks_and_widths": Row(
        _quantised(PIT, precision=_WIDTHS, regularizer={"size_bits": 1.0, "macs": 1.0}, unpriced="ignore"),
        MASKS,
        _ROUNDED,
    ),
    "branches_and_widths": Row(_quantised(PITSuperNet, precision=_WIDTHS, regularizer="size_bits"), BRANCHES, _ROUNDED),
    "sampled_and_widths": Row(
        _quantised(SuperNet, precision=_WIDTHS, regularizer="size_bits", **_SAMPLED), BRANCHES, _ROUNDED
    ),
    "nasb": Row(_nasb(), CELL_SEEDS, _BINARY),
    "nasb_v1": Row(_nasb(preset="V1", candidates=_MIXED), CELL_SEEDS, _BINARY),
    "nasb_v4": Row(_nasb(preset="V4"), CELL_SEEDS, _BINARY),
    "nasb_v5": Row(_nasb(preset="V5"), CELL_SEEDS, _BINARY),
    "nasb_two_branches": Row(_nasb(branches=2, nodes=4, keep=2, candidates=_MIXED), CELL_SEEDS, _BINARY),
    "nasb_pools": Row(_nasb(candidates=("zero", "max_pool_3x3", "identity")), CELL_SEEDS, _BINARY),
}


def pairs() -> Iterator[tuple[str, str]]:
    """`(row, problem)`: every pair of the table; `is_quick` tells which of them belong to the tests."""
    return ((name, problem) for name, row in ROWS.items() for problem in row.problems)


# Large networks: what does not depend on the values of the architecture is proved in proofs/.
LARGE = ("mobilenet_v1", "ds_cnn", "tcn_causal", "autoencoder")
# Values of the architecture that every quick case has; one of the others comes in turn.
FEW = ("uniform", "all_zero")
# Laws that take long and tell toys of masks little apart: every quick case keeps two of them, in turn.
IN_TURN = ("copies", "state dict", "dtype", "another search", "reading is free of effects")


def is_quick(row: str, problem: str) -> bool:
    """Whether a pair belongs to the tests: small problems under one row of their kind each, so that every row is used."""
    names = list(ROWS[row].problems)
    if row in QUANTISED:
        return problem in GRIDS and QUANTISED[GRIDS.index(problem) % len(QUANTISED)] == row
    if ROWS[row].problems is MASKS:
        return row == "pit" or (not MASKS[problem].is_network and names.index(problem) % 3 == 0)
    if ROWS[row].problems is CELL_SEEDS:
        return problem in (("plain", "preactivation") if row == "nasb_v5" else ("short",))
    rows = [name for name, of in ROWS.items() if of.problems is BRANCHES]
    return rows[names.index(problem) % len(rows)] == row and not BRANCHES[problem].is_network


def quick_part(row: str, problem: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Laws, and values of the architecture, that the tests check a pair for; proofs/ check it for all."""
    of, place = ROWS[row], list(ROWS[row].problems).index(problem)
    if problem in LARGE or row in QUANTISED or (of.problems is CELL_SEEDS and row != "nasb_pools"):
        return of.laws & (CUTTING | {"structure"}), FEW
    left_out = {law for i, law in enumerate(IN_TURN) if (place + i) % 5 < 3} if of.problems is MASKS else set()
    others = [kind for kind in ARCHITECTURES if kind not in FEW]
    is_small = not of.problems[problem].is_network and of.problems is not CELL_SEEDS
    return of.laws - left_out, (*FEW, others[place % len(others)]) if is_small else FEW


def check(row: str, problem: str, quick: bool = True) -> None:
    """The laws of a row on one problem; with `quick` those of `quick_part`."""
    of, chosen = ROWS[row], ROWS[row].problems[problem]
    laws, kinds = quick_part(row, problem) if quick else (of.laws, tuple(ARCHITECTURES))
    torch.manual_seed(0)
    uncounted = {"MACs as torch counts them"} if problem in UNCOUNTED else set()
    check_method(of.front, chosen.seed(), chosen.inputs(), laws=laws - uncounted, architectures=kinds)


# --- for other tests


def scramble(model: Any, kind: str = "uniform") -> None:
    """Give every architecture parameter new values, in place."""
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(ARCHITECTURES[kind](parameter))


def largest_difference(left: Any, right: Any) -> float:
    """Between two outputs of one form, relative to the largest value."""
    lefts, rights = tensors(left), tensors(right)
    assert [x.shape for x in lefts] == [x.shape for x in rights]
    worst = 0.0
    for x, y in zip(lefts, rights):
        assert bool(torch.isfinite(x).all())
        scale = float(x.detach().abs().max()) or 1.0
        worst = max(worst, float((x.double() - y.double()).detach().abs().max()) / scale)
    return worst


def train_steps(model: Any, inputs: tuple[Any, ...], count: int = 2, strength: float = 1e-4) -> None:
    """A few steps of a search, in train mode."""
    model.train()
    optimizer = torch.optim.SGD(model.param_groups(lr=0.01, arch_lr=0.05))
    for _ in range(count):
        optimizer.zero_grad()
        loss: Tensor = task_loss(model(*inputs)) + strength * model.get_regularization_loss()
        loss.backward()
        optimizer.step()
