"""Chips by name: which shipped law their core follows, and their clock, RAM and flash."""

from __future__ import annotations

from typing import NamedTuple


class Chip(NamedTuple):
    """A chip as an alias of a target.

    Attributes:
        target: whose law it follows: its core, with the software that is usual for its vendor.
        clock_mhz: its highest clock [MHz].
        ram_kib, flash_kib: on the chip; 0 where flash is a part beside it [KiB].
        source: of these figures.
    """

    target: str
    clock_mhz: float
    ram_kib: int
    flash_kib: int
    source: str


_NORDIC, _ST, _NXP = "Nordic product specification", "ST data sheet", "NXP data sheet"
_M4, _M7, _M33 = "cortex_m4_xcube10", "cortex_m7_xcube10", "cortex_m33_xcube10"
_M4_ARM, _M7_ARM, _M33_ARM = "cortex_m4_cmsis_nn", "cortex_m7_cmsis_nn", "cortex_m33_cmsis_nn"

CHIPS: dict[str, Chip] = {
    "nrf52832": Chip(_M4_ARM, 64, 64, 512, _NORDIC),
    "nrf52833": Chip(_M4_ARM, 64, 128, 512, _NORDIC),
    "nrf52840": Chip(_M4_ARM, 64, 256, 1024, _NORDIC),
    "nrf5340": Chip(_M33_ARM, 128, 512, 1024, f"{_NORDIC}, application core"),
    "nrf9160": Chip(_M33_ARM, 64, 256, 1024, _NORDIC),
    "stm32l432": Chip(_M4, 80, 64, 256, _ST),
    "stm32l476": Chip(_M4, 80, 128, 1024, _ST),
    "stm32l496": Chip(_M4, 80, 320, 1024, _ST),
    "stm32l4r5": Chip(_M4, 120, 640, 2048, _ST),
    "stm32f401": Chip(_M4, 84, 96, 512, _ST),
    "stm32f407": Chip(_M4, 168, 192, 1024, _ST),
    "stm32f411": Chip(_M4, 100, 128, 512, _ST),
    "stm32f429": Chip(_M4, 180, 256, 2048, _ST),
    "stm32f446": Chip(_M4, 180, 128, 512, _ST),
    "stm32g474": Chip(_M4, 170, 128, 512, _ST),
    "stm32wb55": Chip(_M4, 64, 256, 1024, _ST),
    "stm32f746": Chip(_M7, 216, 320, 1024, _ST),
    "stm32f767": Chip(_M7, 216, 512, 2048, _ST),
    "stm32h743": Chip(_M7, 480, 1024, 2048, _ST),
    "stm32h747": Chip(_M7, 480, 1024, 2048, f"{_ST}, Cortex-M7 core"),
    "stm32h750": Chip(_M7, 480, 1024, 128, _ST),
    "stm32h7a3": Chip(_M7, 280, 1408, 2048, _ST),
    "stm32l552": Chip(_M33, 110, 256, 512, _ST),
    "stm32u385": Chip(_M33, 96, 256, 1024, _ST),
    "stm32u575": Chip(_M33, 160, 786, 2048, _ST),
    "stm32u585": Chip(_M33, 160, 786, 2048, _ST),
    "stm32h563": Chip(_M33, 250, 640, 2048, _ST),
    "stm32g071": Chip("cortex_m0plus", 64, 36, 128, _ST),
    "stm32g0b1": Chip("cortex_m0plus", 64, 144, 512, _ST),
    "stm32mp135": Chip("cortex_a7_litert", 1000, 524_288, 0, f"{_ST}; 512 MiB beside it on the discovery board"),
    "rp2040": Chip("cortex_m0plus", 133, 264, 0, "Raspberry Pi data sheet"),
    "rp2350": Chip(_M33_ARM, 150, 520, 0, "Raspberry Pi data sheet, Arm cores"),
    "samd21": Chip("cortex_m0plus", 48, 32, 256, "Microchip data sheet"),
    "samd51": Chip(_M4_ARM, 120, 256, 1024, "Microchip data sheet"),
    "apollo3": Chip(_M4_ARM, 48, 384, 1024, "Ambiq data sheet, without burst mode"),
    "apollo4": Chip(_M4_ARM, 192, 1843, 2048, "Ambiq data sheet"),
    "psoc62": Chip(_M4_ARM, 150, 1024, 2048, "Infineon CY8C624A data sheet"),
    "mimxrt1062": Chip(_M7_ARM, 600, 1024, 0, _NXP),
    "lpc55s69": Chip(_M33_ARM, 150, 320, 640, _NXP),
    "ra6m4": Chip(_M33_ARM, 200, 256, 1024, "Renesas data sheet"),
    "ra8d1": Chip("cortex_m85", 480, 1024, 2048, "Renesas data sheet"),
    "efr32mg24": Chip("efr32_mvp", 78, 256, 1536, "Silicon Labs data sheet"),
    "stm32n657": Chip("stm32n6", 1000, 4300, 0, f"{_ST}, accelerator"),
}
"""Name in lower case -> chip."""

WITHOUT_LAW: dict[str, str] = {
    "esp32": "the Xtensa LX6 core has no law here",
    "esp32s3": "its vector instructions follow no law that is known here: kernels differ by a factor of 20 to 30 with size",
    "esp32c3": "its RISC-V core has no law here",
    "esp32p4": "its vector instructions follow no law that is known here",
    "max78000": "its convolution engine has no law here",
    "k210": "its convolution engine has no law here",
}
"""Chips that people ask for, and why there is no target."""
