// A stand-in with the declarations that a program for TFLM uses: same names and types, no network inside.
// Its "inference" writes STANDIN_ANSWER, so that a program's comparison can be tried.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tensorflow/lite/schema/schema_generated.h"

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };

namespace tflite {

class MicroOpResolver {
 public:
  virtual ~MicroOpResolver() = default;
};

class MicroInterpreter {
 public:
  MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t*, size_t arena_bytes) : arena_bytes_(arena_bytes) {}
  TfLiteStatus AllocateTensors() { return arena_bytes_ > 0 ? kTfLiteOk : kTfLiteError; }
  TfLiteStatus Invoke() {
    std::memcpy(output_, STANDIN_ANSWER, sizeof(STANDIN_ANSWER));
    return kTfLiteOk;
  }
  template <typename T>
  T* typed_input_tensor(int) {
    return reinterpret_cast<T*>(input_);
  }
  template <typename T>
  T* typed_output_tensor(int) {
    return reinterpret_cast<T*>(output_);
  }
  size_t arena_used_bytes() const { return arena_bytes_; }

 private:
  size_t arena_bytes_;
  alignas(16) uint8_t input_[1 << 16];
  alignas(16) uint8_t output_[1 << 16];
};

}  // namespace tflite
