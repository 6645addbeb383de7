"""Boards whose timings the shipped CPU targets are fitted to: one row each, with the networks that were timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.targets import measurements as data
from benchmarks.targets.measurements import Published


@dataclass(frozen=True)
class Board:
    """One chip with one software stack.

    Attributes:
        target: name of the shipped target.
        core, chip, stack: in words.
        clock_mhz, ram_bytes, flash_bytes: of the chip as it was timed.
        timings: network -> cycles.
        power: mean active power [mW], 0 where none was published.
        source: where the timings were published.
    """

    target: str
    core: str
    chip: str
    stack: str
    clock_mhz: float
    ram_bytes: int
    flash_bytes: int
    timings: Callable[[], dict[str, float]]
    power: Callable[[], float]
    source: str


_L4R5 = ("Cortex-M4", "STM32L4R5", 120, 655_360, 2_097_152)
_H7A3 = ("Cortex-M7", "STM32H7A3", 280, 1_441_792, 2_097_152)
_U575 = ("Cortex-M33", "STM32U575", 160, 804_864, 2_097_152)
_ST, _FULL = "STMicroelectronics", ("ic", "kws", "vww", "ad")
# Figures of vww without its dead filters, which X-CUBE-AI drops from 8.1 on, are those of another network.
# The streaming benchmark (sww) computes its features on the board, too: it takes 31 to 33 % longer than a law that fits the
# three others of the same board within 1 % says.
_ALIVE = ("ic", "kws", "ad")


def _mlperf(
    target: str,
    chip: tuple[str, str, float, int, int],
    stack: str,
    published: tuple[str, str, str, str],
    networks: tuple[str, ...] = _FULL,
) -> Board:
    core, name, clock, ram, flash = chip
    rows = Published(*published, clock_mhz=clock, networks=networks)
    return Board(
        target,
        core,
        name,
        stack,
        clock,
        ram,
        flash,
        rows.cycles,
        rows.power,
        f"MLPerf Tiny {rows.round}, {rows.submitter}",
    )


def _zoo(target: str, file: str, board: str, chip: tuple[str, str, float, int, int], stack: str) -> Board:
    core, name, clock, ram, flash = chip
    source = "STMicroelectronics/stm32ai-modelzoo"
    timings = lambda: data.zoo_cycles(file, board, clock)  # noqa: E731
    return Board(target, core, name, stack, clock, ram, flash, timings, lambda: 0.0, source)


BOARDS = (
    _mlperf("cortex_m4", _L4R5, "X-CUBE-AI 7.3", ("v1.0", _ST, "NUCLEO_L4R5ZI", "X-CUBE-AI v7.3.0")),
    _mlperf("cortex_m7", _H7A3, "X-CUBE-AI 7.3", ("v1.0", _ST, "NUCLEO-H7A3ZI-Q", "X-CUBE-AI v7.3.0")),
    _mlperf("cortex_m33", _U575, "X-CUBE-AI 7.3", ("v1.0", _ST, "NUCLEO-U575ZI-Q", "X-CUBE-AI v7.3.0")),
    _mlperf(
        "cortex_m4_xcube8", _L4R5, "X-CUBE-AI 8.0", ("v1.1", "Krai", "NUCLEO-L4R5ZI_X-CUBE-AI-8.0", "X-CUBE-AI v8.0")
    ),
    _mlperf(
        "cortex_m7_xcube8", _H7A3, "X-CUBE-AI 8.0", ("v1.1", "Krai", "NUCLEO-H7A3ZI-Q_X-CUBE-AI-8.0", "X-CUBE-AI v8.0")
    ),
    _mlperf("cortex_m33_xcube8", _U575, "X-CUBE-AI 8.1", ("v1.1", _ST, "NUCLEO_U575ZI_Q", "X-CUBE-AI v8.1"), _ALIVE),
    _mlperf("cortex_m4_xcube9", _L4R5, "X-CUBE-AI 9.0", ("v1.2", _ST, "NUCLEO_L4R5ZI", "X-CUBE-AI v9.0"), _ALIVE),
    _mlperf("cortex_m7_xcube9", _H7A3, "X-CUBE-AI 9.0", ("v1.2", _ST, "NUCLEO_H7A3ZI_Q", "X-CUBE-AI v9.0"), _ALIVE),
    _mlperf("cortex_m33_xcube9", _U575, "X-CUBE-AI 9.0", ("v1.2", _ST, "NUCLEO_U575ZI_Q", "X-CUBE-AI v9.0"), _ALIVE),
    _mlperf("cortex_m4_xcube10", _L4R5, "X-CUBE-AI 10.2", ("v1.3", _ST, "NUCLEO_L4R5ZI-P", "X-CUBE-AI v10.2"), _ALIVE),
    _mlperf("cortex_m33_xcube10", _U575, "X-CUBE-AI 10.2", ("v1.3", _ST, "NUCLEO_U575ZI_Q", "X-CUBE-AI v10.2"), _ALIVE),
    _zoo(
        "cortex_m7_xcube10",
        "st_modelzoo_h747.csv",
        "STM32H747I-DISCO",
        ("Cortex-M7", "STM32H747", 400, 1_048_576, 2_097_152),
        "X-CUBE-AI 10.0",
    ),
    _mlperf(
        "cortex_m4_cmsis_nn",
        _L4R5,
        "microTVM with CMSIS-NN",
        ("v1.0", "OctoML", "microtvm_cmsis_nn/NUCLEO_L4R5ZI", "microTVM"),
    ),
    _mlperf(
        "cortex_m33_cmsis_nn",
        ("Cortex-M33", "nRF5340", 128, 524_288, 1_048_576),
        "microTVM with CMSIS-NN",
        ("v1.0", "OctoML", "microtvm_cmsis_nn/NRF5340-DK", "microTVM"),
    ),
    _mlperf("cortex_m4_hale", _L4R5, "Bosch HALE 1.0", ("v1.2", "bosch", "NUCLEO_L4R5ZI_int8", "Bosch")),
    _mlperf("cortex_m7_hale", _H7A3, "Bosch HALE 1.0", ("v1.2", "bosch", "NUCLEO_H7A3ZI_int8", "Bosch")),
    _mlperf("cortex_m33_hale", _U575, "Bosch HALE 1.0", ("v1.2", "bosch", "NUCLEO_U575ZI_int8", "Bosch")),
    _mlperf(
        "cortex_m0plus",
        ("Cortex-M0+", "STM32G0B1", 64, 147_456, 524_288),
        "Bosch HALE 1.0",
        ("v1.2", "bosch", "NUCLEO_G0B1RE_int8", "Bosch"),
    ),
    _mlperf(
        "cortex_m85",
        ("Cortex-M85", "Renesas RA8D1", 480, 1_048_576, 2_097_152),
        "TFLite Micro",
        ("v1.2", "Renesas", "EK-RA8D1", "TensorFlow Lite"),
    ),
    _zoo(
        "cortex_a7_litert",
        "st_modelzoo_npu_mpu.csv",
        "STM32MP135F-DK2",
        ("Cortex-A7", "STM32MP135F", 1000, 536_870_912, 0),
        "TFLite 2.11 to 2.18",
    ),
)
