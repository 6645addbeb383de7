// See micro_interpreter.h.
#pragma once
namespace tflite {
struct Model {
  unsigned version() const { return 3; }
};
inline const Model* GetModel(const void* buffer) { return static_cast<const Model*>(buffer); }
}  // namespace tflite
