// See micro_interpreter.h.
#pragma once
#include <cstdio>
#define MicroPrintf(...) std::printf(__VA_ARGS__)
