"""Parts of generated C programs that are the same for every network."""

KERNELS = r"""/* Written by nasopt: integer arithmetic. */
#ifndef NASOPT_KERNELS_H
#define NASOPT_KERNELS_H
#include <stdint.h>

#if (-1 >> 1) != -1
#error "right shifts of negative integers must be arithmetic"
#endif

#if defined(__GNUC__)
#define NASOPT_MAYBE_UNUSED __attribute__((unused))
#else
#define NASOPT_MAYBE_UNUSED
#endif

/* value * mult * 2^-shift, rounded once, ties up. */
NASOPT_MAYBE_UNUSED static inline int32_t nasopt_rescale(int32_t value, int32_t mult, int32_t shift) {
  return (int32_t)((((int64_t)value * mult >> (shift - 1)) + 1) >> 1);
}

NASOPT_MAYBE_UNUSED static inline int32_t nasopt_clip(int32_t value, int32_t low, int32_t high) {
  return value < low ? low : value > high ? high : value;
}

NASOPT_MAYBE_UNUSED static inline int32_t nasopt_positive(int32_t value) { return value < 0 ? 0 : value; }

/* The nearest integer in a range, ties up. */
NASOPT_MAYBE_UNUSED static inline int32_t nasopt_nearest(double value, int32_t low, int32_t high) {
  if (!(value > low)) return low;
  if (value >= high) return high;
  const double up = value + 0.5 + 1.0 / 1073741824;
  const int32_t cut = (int32_t)up;
  return cut > up ? cut - 1 : cut;
}

/* Weights of a packed row, low bits first. */
NASOPT_MAYBE_UNUSED static inline int32_t nasopt_weight_1(const uint8_t *row, int32_t i) {
  return (row[i >> 3] >> (i & 7) & 1) * 2 - 1;
}
NASOPT_MAYBE_UNUSED static inline int32_t nasopt_weight_2(const uint8_t *row, int32_t i) {
  return (int32_t)((row[i >> 2] >> ((i & 3) * 2) & 3) ^ 2) - 2;
}
NASOPT_MAYBE_UNUSED static inline int32_t nasopt_weight_4(const uint8_t *row, int32_t i) {
  return (int32_t)((row[i >> 1] >> ((i & 1) * 4) & 15) ^ 8) - 8;
}
NASOPT_MAYBE_UNUSED static inline int32_t nasopt_weight_8(const uint8_t *row, int32_t i) { return (int8_t)row[i]; }

NASOPT_MAYBE_UNUSED static inline int32_t nasopt_bits(const uint8_t *row, int32_t i, int32_t bits) {
  const int32_t at = i * bits;
  const uint32_t two = (uint32_t)row[at >> 3] | (uint32_t)row[(at >> 3) + 1] << 8;
  const uint32_t sign = 1u << (bits - 1);
  return (int32_t)((two >> (at & 7) & (2 * sign - 1)) ^ sign) - (int32_t)sign;
}
#define nasopt_weight_3(row, i) nasopt_bits(row, i, 3)
#define nasopt_weight_5(row, i) nasopt_bits(row, i, 5)
#define nasopt_weight_6(row, i) nasopt_bits(row, i, 6)
#define nasopt_weight_7(row, i) nasopt_bits(row, i, 7)

/* With -DNASOPT_CMSIS_NN convolutions and linear layers of 8 bits are calls of CMSIS-NN, whose headers and sources the build
   then needs. Its default rounding would give other integers. */
#if defined(NASOPT_CMSIS_NN)
#if !defined(CMSIS_NN_USE_SINGLE_ROUNDING)
#error "compile this and CMSIS-NN with -DCMSIS_NN_USE_SINGLE_ROUNDING"
#endif
#include <stdlib.h>
#include "arm_nnfunctions.h"
#if !defined(NASOPT_CMSIS_NN_FAILED)
#define NASOPT_CMSIS_NN_FAILED abort()
#endif
#endif

#endif /* NASOPT_KERNELS_H */
"""

COUNTER = """#if defined(__arm__) && defined(__thumb__)
/* The system timer of Cortex-M counts down from 2^24. In QEMU (25 MHz, -icount shift=0) a tick is 40 instructions. */
#define SYSTICK ((volatile uint32_t *)0xE000E010)
static void start_counter(void) {
  SYSTICK[1] = 0xFFFFFF;
  SYSTICK[2] = 0;
  SYSTICK[0] = 5;
}
static unsigned long read_counter(void) { return 0xFFFFFF - SYSTICK[2]; }
#else
static void start_counter(void) {}
static unsigned long read_counter(void) { return 0; }
#endif"""

MAKEFILE = """# Written by nasopt. `make run`: on this computer. `make run-m4`, `make run-m7`: on a Cortex-M in QEMU, which needs
# gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm.
CFLAGS ?= -O2
STRICT = -std=c99 -Wall -Wextra
ARM = arm-none-eabi-gcc
ARMFLAGS = -mthumb --specs=rdimon.specs -nostartfiles -ffunction-sections -Wl,--gc-sections -T cortex_m.ld
SOURCES = SYMBOL.c main.c
HEADERS = SYMBOL.h SYMBOL_test.h nasopt_kernels.h

SYMBOL: $(SOURCES) $(HEADERS)
\t$(CC) $(STRICT) $(CFLAGS) $(SOURCES) -o $@

SYMBOL_m4.elf: $(SOURCES) $(HEADERS) cortex_m.c cortex_m.ld
\t$(ARM) $(STRICT) $(CFLAGS) -mcpu=cortex-m4 $(ARMFLAGS) $(SOURCES) cortex_m.c -o $@

SYMBOL_m7.elf: $(SOURCES) $(HEADERS) cortex_m.c cortex_m.ld
\t$(ARM) $(STRICT) $(CFLAGS) -mcpu=cortex-m7 $(ARMFLAGS) $(SOURCES) cortex_m.c -o $@

# -icount: one instruction is one nanosecond of the machine's time, which main.c reads.
QEMU = qemu-system-arm -icount shift=0 -nographic -semihosting-config enable=on,target=native

.PHONY: run run-m4 run-m7 clean
run: SYMBOL
\t./SYMBOL
run-m4: SYMBOL_m4.elf
\t$(QEMU) -M mps2-an386 -cpu cortex-m4 -kernel $<
run-m7: SYMBOL_m7.elf
\t$(QEMU) -M mps2-an500 -cpu cortex-m7 -kernel $<
clean:
\trm -f SYMBOL SYMBOL_m4.elf SYMBOL_m7.elf
"""

CMAKE = """# Written by nasopt.
cmake_minimum_required(VERSION 3.10)
project(SYMBOL C)
set(CMAKE_C_STANDARD 99)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
add_library(SYMBOL STATIC SYMBOL.c)
target_include_directories(SYMBOL PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
add_executable(SYMBOL_test main.c)
target_link_libraries(SYMBOL_test SYMBOL)
enable_testing()
add_test(NAME known_answer COMMAND SYMBOL_test)
"""

CORTEX_M = r"""/* Written by nasopt: vector table and reset handler for Cortex-M in QEMU, output by semihosting. */
#include <stdint.h>
#include <stdlib.h>

extern uint32_t stack_top, data_start, data_end, data_source, bss_start, bss_end;
extern void initialise_monitor_handles(void);
int main(void);

void reset_handler(void) {
  uint32_t *from = &data_source;
  for (uint32_t *to = &data_start; to < &data_end; ++to) *to = *from++;
  for (uint32_t *to = &bss_start; to < &bss_end; ++to) *to = 0;
  initialise_monitor_handles();
  exit(main());
}

static void stop(void) {
  for (;;) {
  }
}

/* Needed by the C library where start files are left out. */
void _init(void) {}
void _fini(void) {}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
  &stack_top, (void *)reset_handler, (void *)stop, (void *)stop, (void *)stop, (void *)stop, (void *)stop, 0,
  0, 0, 0, (void *)stop, (void *)stop, 0, (void *)stop, (void *)stop,
};
"""

LINKER = """/* Written by nasopt: flash at 0, RAM at 0x20000000, as the boards of QEMU have it. */
ENTRY(reset_handler)
MEMORY {
  FLASH (rx) : ORIGIN = 0x00000000, LENGTH = 4M
  RAM (rwx) : ORIGIN = 0x20000000, LENGTH = 4M
}
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) KEEP(*(.init)) KEEP(*(.fini)) . = ALIGN(4); } > FLASH
  .ARM.exidx : { *(.ARM.exidx*) } > FLASH
  data_source = LOADADDR(.data);
  .data : { data_start = .; *(.data*) . = ALIGN(4); data_end = .; } > RAM AT > FLASH
  .bss (NOLOAD) : { bss_start = .; *(.bss*) *(COMMON) . = ALIGN(8); bss_end = .; } > RAM
  end = .;
  stack_top = ORIGIN(RAM) + LENGTH(RAM);
}
"""
