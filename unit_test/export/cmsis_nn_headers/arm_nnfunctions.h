/* A stand-in for CMSIS-NN's header: the declarations that generated programs use, as its documentation has them, and what they
   compute, as plain loops. Rounds as the library does with CMSIS_NN_USE_SINGLE_ROUNDING. */
#ifndef ARM_NNFUNCTIONS_H
#define ARM_NNFUNCTIONS_H
#include <stdint.h>

typedef enum { ARM_CMSIS_NN_SUCCESS = 0, ARM_CMSIS_NN_ARG_ERROR = -1 } arm_cmsis_nn_status;
typedef struct { int32_t w, h; } cmsis_nn_tile;
typedef struct { void *buf; int32_t size; } cmsis_nn_context;
typedef struct { int32_t n, h, w, c; } cmsis_nn_dims;
typedef struct { int32_t *multiplier, *shift; } cmsis_nn_per_channel_quant_params;
typedef struct { int32_t min, max; } cmsis_nn_activation;
typedef struct {
  int32_t input_offset, output_offset;
  cmsis_nn_tile stride, padding, dilation;
  cmsis_nn_activation activation;
} cmsis_nn_conv_params;
typedef struct {
  int32_t input_offset, output_offset, ch_mult;
  cmsis_nn_tile stride, padding, dilation;
  cmsis_nn_activation activation;
} cmsis_nn_dw_conv_params;

#if !defined(STANDIN_ADDS)
#define STANDIN_ADDS 0 /* another number makes every result wrong */
#endif

/* For a left shift, or a right one where it is negative: value * multiplier * 2^(shift - 31), rounded once. */
static inline int32_t standin_requantize(int32_t value, int32_t multiplier, int32_t shift) {
  const int64_t product = (int64_t)value * multiplier;
  const int32_t total = 31 - shift;
  return (int32_t)(((product >> (total - 1)) + 1) >> 1);
}

static inline int8_t standin_finish(int32_t total, int32_t multiplier, int32_t shift, int32_t offset,
                                    cmsis_nn_activation bounds) {
  int32_t value = standin_requantize(total, multiplier, shift) + offset + STANDIN_ADDS;
  value = value < bounds.min ? bounds.min : value;
  return (int8_t)(value > bounds.max ? bounds.max : value);
}

static inline int32_t arm_convolve_wrapper_s8_get_buffer_size(const cmsis_nn_conv_params *params,
                                                              const cmsis_nn_dims *given, const cmsis_nn_dims *filter,
                                                              const cmsis_nn_dims *made) {
  (void)params, (void)made;
  return 4 * ((filter->w * filter->h * given->c + 3) / 4 * 4); /* two columns of 16 bits */
}

/* Input and output (n, h, w, c), filter (out, h, w, in). */
static inline arm_cmsis_nn_status arm_convolve_wrapper_s8(
    const cmsis_nn_context *context, const cmsis_nn_conv_params *params, const cmsis_nn_per_channel_quant_params *scales,
    const cmsis_nn_dims *given, const int8_t *input, const cmsis_nn_dims *filter, const int8_t *weight,
    const cmsis_nn_dims *bias_dims, const int32_t *bias, const cmsis_nn_dims *made, int8_t *output) {
  if (!context->buf || filter->c != given->c || filter->n != made->c || bias_dims->c != made->c) return ARM_CMSIS_NN_ARG_ERROR;
  for (int32_t n = 0; n < made->n; ++n)
    for (int32_t y = 0; y < made->h; ++y)
      for (int32_t x = 0; x < made->w; ++x)
        for (int32_t o = 0; o < made->c; ++o) {
          int32_t total = bias[o];
          for (int32_t ky = 0; ky < filter->h; ++ky)
            for (int32_t kx = 0; kx < filter->w; ++kx) {
              const int32_t iy = y * params->stride.h - params->padding.h + ky * params->dilation.h;
              const int32_t ix = x * params->stride.w - params->padding.w + kx * params->dilation.w;
              if (iy < 0 || iy >= given->h || ix < 0 || ix >= given->w) continue;
              for (int32_t i = 0; i < given->c; ++i)
                total += (input[((n * given->h + iy) * given->w + ix) * given->c + i] + params->input_offset) *
                         weight[((o * filter->h + ky) * filter->w + kx) * filter->c + i];
            }
          output[((n * made->h + y) * made->w + x) * made->c + o] =
              standin_finish(total, scales->multiplier[o], scales->shift[o], params->output_offset, params->activation);
        }
  return ARM_CMSIS_NN_SUCCESS;
}

static inline int32_t arm_depthwise_conv_wrapper_s8_get_buffer_size(const cmsis_nn_dw_conv_params *params,
                                                                    const cmsis_nn_dims *given, const cmsis_nn_dims *filter,
                                                                    const cmsis_nn_dims *made) {
  (void)params, (void)made;
  return 2 * given->c * filter->w * filter->h;
}

/* Filter (1, h, w, out). */
static inline arm_cmsis_nn_status arm_depthwise_conv_wrapper_s8(
    const cmsis_nn_context *context, const cmsis_nn_dw_conv_params *params, const cmsis_nn_per_channel_quant_params *scales,
    const cmsis_nn_dims *given, const int8_t *input, const cmsis_nn_dims *filter, const int8_t *weight,
    const cmsis_nn_dims *bias_dims, const int32_t *bias, const cmsis_nn_dims *made, int8_t *output) {
  if (!context->buf || filter->c != made->c || params->ch_mult * given->c != made->c || bias_dims->c != made->c)
    return ARM_CMSIS_NN_ARG_ERROR;
  for (int32_t n = 0; n < made->n; ++n)
    for (int32_t y = 0; y < made->h; ++y)
      for (int32_t x = 0; x < made->w; ++x)
        for (int32_t o = 0; o < made->c; ++o) {
          int32_t total = bias[o];
          for (int32_t ky = 0; ky < filter->h; ++ky)
            for (int32_t kx = 0; kx < filter->w; ++kx) {
              const int32_t iy = y * params->stride.h - params->padding.h + ky * params->dilation.h;
              const int32_t ix = x * params->stride.w - params->padding.w + kx * params->dilation.w;
              if (iy < 0 || iy >= given->h || ix < 0 || ix >= given->w) continue;
              total += (input[((n * given->h + iy) * given->w + ix) * given->c + o / params->ch_mult] + params->input_offset) *
                       weight[(ky * filter->w + kx) * filter->c + o];
            }
          output[((n * made->h + y) * made->w + x) * made->c + o] =
              standin_finish(total, scales->multiplier[o], scales->shift[o], params->output_offset, params->activation);
        }
  return ARM_CMSIS_NN_SUCCESS;
}

#endif
