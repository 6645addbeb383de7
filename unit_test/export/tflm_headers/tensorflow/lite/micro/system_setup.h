// See micro_interpreter.h.
#pragma once
namespace tflite {
inline void InitializeTarget() {}
}  // namespace tflite
