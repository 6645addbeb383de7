"""Random models in few bits, each of which must equal its integer program at every point, or be refused by name.

    export PYTHONPATH=.:unit_test/export
    python proofs/random_quantised_models.py --first 0 --count 100     # prints every seed that fails, and why others are refused

A seed decides over the generator (`random_models`, `blocks_people_write`, `code_people_write`, `more_random_models`), the model,
the method and the widths. The model is searched for two steps, exported with random masks, and made an integer program.
"""

from __future__ import annotations

import argparse
import random
import re
import warnings
from collections import Counter

import torch
from blocks_people_write import BLOCKS
from code_people_write import CODE
from integers import check as check_program
from more_random_models import KINDS
from random_models import PARTS, RandomModel, activation, convolution, norm, residual

from nasopt import PIT, MixedPrecision, Precision
from nasopt.errors import ExportError, NasoptError
from nasopt.export import integer_program

USUAL = [convolution, norm, activation, residual]
GENERATORS = [PARTS, [*BLOCKS, *USUAL], [*CODE, *USUAL], KINDS, USUAL]
WIDTHS = (8, Precision(4, 8), Precision((2, 4, 8), 8), Precision((2, 8), (4, 8)), Precision(2, 4))


def make(seed: int) -> RandomModel:
    torch.manual_seed(seed)
    return RandomModel(seed, parts=4, kinds=GENERATORS[seed % len(GENERATORS)])


def check(seed: int) -> str:
    """Wrap, search, export and compare the model of one seed; why it was refused, or nothing.

    Raises:
        AssertionError: the program is not the network.
    """
    model, chance, x = make(seed), random.Random(seed), torch.randn(4, 3, 8, 8)
    method = chance.choice([PIT, PIT, MixedPrecision])
    try:
        search = method(model, (3, 8, 8), precision=chance.choice(WIDTHS), unpriced="ignore")
    except NasoptError as error:
        return f"wrapping: {error}"
    search.calibrate([x, torch.randn(4, 3, 8, 8)])
    optimizer = torch.optim.Adam(search.param_groups(lr=1e-3, arch_lr=1e-2))
    for _ in range(2):
        optimizer.zero_grad()
        (search.train()(x).square().mean() + 1e-6 * search.get_regularization_loss()).backward()
        optimizer.step()
    with torch.no_grad():
        for parameter in search.arch_parameters():
            parameter.copy_(torch.rand_like(parameter) * 1.2)
    network = search.arch_export()
    try:
        program = integer_program(network, torch.randn(1, 3, 8, 8))
    except ExportError as error:
        return str(error)
    check_program(network, (x,), program)
    return ""


def main() -> None:
    """Check seed after seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    failed, reasons = 0, Counter[str]()
    for seed in range(options.first, options.first + options.count):
        try:
            refused = check(seed)
        except Exception as error:
            failed += 1
            print(seed, make(seed).names, f"{type(error).__name__}: {str(error)[:200]}", flush=True)
            continue
        reason = re.search(r"\((.*?)\)", refused)
        reasons[(reason[1] if reason else refused[:100]) if refused else "equal"] += 1
    for reason, count in reasons.most_common():
        print(f"{count:5} {reason}")
    print(f"{failed} of {options.count} random models failed")


if __name__ == "__main__":
    main()
