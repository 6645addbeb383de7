"""Predicted against published and measured latencies of every target:

    NASOPT_DATA=path/to/data python -m benchmarks.targets.validate [--plot errors.png] [--csv pairs.csv]

prints one table row per target and class of figures: mean, median and largest absolute relative error with the shipped
constants, and of predictions for figures that the fit had not seen. Left out are, for the CPU boards, one network at a
time (prices from the board's other networks, and ratios of other boards with the same stack, which do include that network,
or the shipped prior where there is none); for the EFR32 one profile (model) at a time. GAP9 and Ethos have no fit that could
be repeated: their constants were chosen with the figures in view, so their left-out columns are empty. `--constants` prints
the fitted constants, `--write` writes the files of the CPU targets with them.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.targets import fits
from benchmarks.targets import measurements as data
from benchmarks.targets.boards import BOARDS
from nasopt.cost.latency import evaluate
from nasopt.cost.targets import get_target, shipped


@dataclass(frozen=True)
class Pair:
    """A predicted and a published or measured figure [cycles].

    `fitted`: with the shipped constants; `left_out`: by a fit that had not seen it, None where there is no such fit.
    """

    target: str
    group: str
    name: str
    measured: float
    fitted: float
    left_out: float | None = None


def cpu_pairs() -> Iterable[Pair]:
    """Whole networks on the CPU boards, and the older X-CUBE-AI as figures that no fit has seen."""
    for board in BOARDS:
        timings = board.timings()
        unseen = fits.left_out(board)
        target = get_target(board.target)
        for network, cycles in timings.items():
            yield Pair(board.target, "networks", network, cycles, fits.predict(target, network), unseen[network])
    for name, rows in data.OLDER_STACK.items():
        target = get_target(name)
        for network, cycles in rows.cycles().items():
            yield Pair(name, f"networks, {rows.framework}", network, cycles, fits.predict(target, network))


def n6_pairs() -> Iterable[Pair]:
    """Whole networks on the STM32N6."""
    timings, target = fits.n6_timings(), get_target("stm32n6")
    for network, cycles in timings.items():
        law = fits.fit_n6({name: count for name, count in timings.items() if name != network})
        unseen = fits.predict(replace(target, law=law), network)
        yield Pair("stm32n6", "networks", network, cycles, fits.predict(target, network), unseen)


def efr32_pairs() -> Iterable[Pair]:
    """Layers of the EFR32: accelerator cycles and time by class; whole networks, on which nothing was fitted."""
    layers = data.efr32_layers()
    law = get_target("efr32_mvp").law
    without = {
        source: fits.fit_efr32([layer for layer in layers if layer.source != source])
        for source in sorted({layer.source for layer in layers})
    }
    for kind in fits.CLASSES:
        for layer in (layer for layer in layers if layer.kind == kind):
            rest = without[layer.source]
            if layer.engine_cycles >= fits.ENGINE_FLOOR:
                predicted = [float(fits.efr32_engine(constants, [layer])[0]) for constants in (law, rest)]
                yield Pair("efr32_mvp", f"{kind}, accelerator", layer.source, layer.engine_cycles, *predicted)
            if layer.time_cycles >= fits.TIME_FLOOR:
                predicted = [float(fits.efr32_time(constants, [layer])[0]) for constants in (law, rest)]
                yield Pair("efr32_mvp", f"{kind}, time", layer.source, layer.time_cycles, *predicted)
    yield from board_pairs("efr32_mvp", data.EFR32)


def board_pairs(name: str, rows: data.Published) -> Iterable[Pair]:
    """Whole networks on one board."""
    target = get_target(name)
    for network, cycles in rows.cycles().items():
        yield Pair(name, "networks", network, cycles, fits.predict(target, network))


def ethos_pairs() -> Iterable[Pair]:
    """Layers of six networks in Vela's model of the Ethos-U55-128."""
    for network, row, cycles in data.vela_layers():
        predicted = float(evaluate("ethos_u55_128", np.asarray(row)))
        yield Pair("ethos_u55_128", "layers, Vela", network, cycles, predicted)


def all_pairs() -> list[Pair]:
    """Everything there is data for."""
    return [*cpu_pairs(), *n6_pairs(), *efr32_pairs(), *board_pairs("gap9_ne16", data.GAP9), *ethos_pairs()]


def errors(measured: Sequence[float], predicted: Sequence[float]) -> np.ndarray:
    """Absolute relative errors [%]."""
    return 100 * np.abs(np.asarray(predicted) / np.asarray(measured) - 1)


def table(pairs: Sequence[Pair]) -> str:
    """Errors by target and group as a Markdown table."""
    lines = [
        "| target | figures | n | fitted: mean | median | max | left out: mean | max |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for target, group in dict.fromkeys((pair.target, pair.group) for pair in pairs):
        chosen = [pair for pair in pairs if (pair.target, pair.group) == (target, group)]
        measured = [pair.measured for pair in chosen]
        fitted = errors(measured, [pair.fitted for pair in chosen])
        seen_not = [pair.left_out for pair in chosen if pair.left_out is not None]
        unseen = "| |"
        if len(seen_not) == len(chosen):
            left_out = errors(measured, seen_not)
            unseen = f"{left_out.mean():.1f} % | {left_out.max():.1f} % |"
        lines.append(
            f"| {target} | {group} | {len(chosen)} | {fitted.mean():.1f} % | {np.median(fitted):.1f} % "
            f"| {fitted.max():.1f} % | {unseen}"
        )
    return "\n".join(lines)


def network_table(pairs: Sequence[Pair]) -> str:
    """Signed errors of whole networks, fitted / left out, as a Markdown table."""
    lines = ["| target | " + " | ".join(data.NETWORKS) + " |", "| --- |" + " ---: |" * len(data.NETWORKS)]
    for target in dict.fromkeys(pair.target for pair in pairs if pair.group == "networks"):
        cells = []
        for network in data.NETWORKS:
            pair = next((p for p in pairs if (p.target, p.group, p.name) == (target, "networks", network)), None)
            if pair is None:
                cells.append("")
                continue
            cell = f"{100 * (pair.fitted / pair.measured - 1):+.1f}"
            if pair.left_out is not None:
                cell += f" / {100 * (pair.left_out / pair.measured - 1):+.1f}"
            cells.append(f"{cell} %")
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(pairs: Sequence[Pair], path: Path) -> None:
    """Scatter of predicted against measured cycles, fitted and left out side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 5), sharex=True, sharey=True)
    for panel, title in zip(panels, ("shipped constants", "figure not seen by the fit"), strict=True):
        for target in dict.fromkeys(pair.target for pair in pairs):
            points = [
                (pair.measured, pair.fitted if panel is panels[0] else pair.left_out)
                for pair in pairs
                if pair.target == target and (panel is panels[0] or pair.left_out is not None)
            ]
            if points:
                panel.scatter(*zip(*points, strict=True), s=12, alpha=0.6, label=target)
        ends = [min(pair.measured for pair in pairs), max(pair.measured for pair in pairs)]
        panel.plot(ends, ends, "k-", linewidth=0.8)
        for factor in (0.9, 1.1):
            panel.plot(ends, [factor * end for end in ends], "k:", linewidth=0.8)
        panel.set(xscale="log", yscale="log", xlabel="measured [cycles]", ylabel="predicted [cycles]", title=title)
        panel.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def print_constants() -> None:
    """The fitted constants as they stand in the target files."""
    for board in BOARDS:
        print(f"{board.target}: {fits.board_prices(board)}, power {board.power():.1f} mW")
    print(f"stm32n6: {fits.fit_n6(fits.n6_timings())}")
    law = fits.fit_efr32(data.efr32_layers())
    for number, kind in enumerate(fits.CLASSES):
        print(f"efr32_mvp {kind}: {law[6 * number : 6 * number + 6]}")


def write_targets() -> None:
    """Files of the CPU targets, with the prices fitted now."""
    folder = Path(shipped.__path__[0])
    for board in BOARDS:
        timings = board.timings()
        prices = "\n".join(f'            "{name}": {price},' for name, price in fits.board_prices(board).items())
        power = round(board.power(), 1)
        text = _FILE.format(board=board, prices=prices, networks=len(timings), power=power)
        (folder / f"{board.target}.py").write_text(text)


_FILE = '''"""Arm {board.core} with {board.stack}, as on the {board.chip} at {board.clock_mhz:g} MHz.

Law: `cortex_law`. Prices fitted to {networks} networks by `python -m benchmarks.targets.validate --write`.
Source: {board.source}.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="{board.target}",
    summary="{board.core}, {board.chip}, {board.stack}",
    clock_mhz={board.clock_mhz:.1f},
    kernel=cycles,
    law=cortex_law(
        {{
{prices}
        }}
    ),
    priced=PRICED,
    ram_bytes={board.ram_bytes:_},
    flash_bytes={board.flash_bytes:_},
    active_power_mw={power},
    provenance="{board.source}; {networks} networks, fitted",
)
'''


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables; write the plot and the pairs where asked to."""
    parser = argparse.ArgumentParser(description="Predicted against published and measured latencies, per target.")
    parser.add_argument("--plot", type=Path, help="write a scatter plot (needs matplotlib)")
    parser.add_argument("--csv", type=Path, help="write every pair of figures")
    parser.add_argument("--constants", action="store_true", help="print the fitted constants instead")
    parser.add_argument(
        "--write", action="store_true", help="write the files of the CPU targets instead (then ruff format)"
    )
    options = parser.parse_args(arguments)
    if options.write:
        write_targets()
        return
    if options.constants:
        print_constants()
        return
    pairs = all_pairs()
    print(table(pairs), network_table(pairs), sep="\n\n")
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["target", "group", "name", "measured_cycles", "fitted_cycles", "left_out_cycles"])
            writer.writerows([p.target, p.group, p.name, p.measured, p.fitted, p.left_out] for p in pairs)
    if options.plot:
        plot(pairs, options.plot)


if __name__ == "__main__":
    main()
