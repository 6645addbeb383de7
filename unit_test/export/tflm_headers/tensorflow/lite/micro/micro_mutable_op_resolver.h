// See micro_interpreter.h. The methods of TFLM's class of that name which the tests need.
#pragma once
#include "tensorflow/lite/micro/micro_interpreter.h"

namespace tflite {

template <unsigned int tOpCount>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  TfLiteStatus AddAdd() { return Added(); }
  TfLiteStatus AddAveragePool2D() { return Added(); }
  TfLiteStatus AddConv2D() { return Added(); }
  TfLiteStatus AddDepthwiseConv2D() { return Added(); }
  TfLiteStatus AddFullyConnected() { return Added(); }
  TfLiteStatus AddLogistic() { return Added(); }
  TfLiteStatus AddMaxPool2D() { return Added(); }
  TfLiteStatus AddMean() { return Added(); }
  TfLiteStatus AddMul() { return Added(); }
  TfLiteStatus AddPad() { return Added(); }

 private:
  TfLiteStatus Added() { return added_++ < tOpCount ? kTfLiteOk : kTfLiteError; }
  unsigned int added_ = 0;
};

}  // namespace tflite
