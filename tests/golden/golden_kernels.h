/* Portable kernels of golden: what the model computes, in the plainest C99 that is exact.
 * Only the kernels that the model uses are here. Tensors are height x width x channels, channels contiguous.
 */
#ifndef QKD_GOLDEN_KERNELS_H
#define QKD_GOLDEN_KERNELS_H

#include <stdint.h>

/* A window that slides over an input; a position outside the input reads as `pad_code`. */
typedef struct {
  int32_t in_h, in_w, in_c;
  int32_t out_h, out_w, out_c;
  int32_t kernel_h, kernel_w;
  int32_t stride_h, stride_w;
  int32_t pad_top, pad_left;
  int32_t pad_code;
} golden_window;

/* int32 accumulator -> int8 code, with one multiplier and one offset for each output channel:
 *     code = clamp((high_word((acc << pre_shift) * multiplier) + offset) >> shift, qmin, qmax)
 * qkd has proved for every input that nothing here leaves int32: |acc| << pre_shift < 2^31, |offset| < 2^30.
 */
typedef struct {
  const int32_t *multiplier;
  const int32_t *offset;
  int32_t pre_shift;
  int32_t shift;
  int32_t qmin;
  int32_t qmax;
} golden_requantize;

/* Two int8 codes -> int8 code: clamp((a * multiplier_a + b * multiplier_b + offset) >> shift, qmin, qmax) */
typedef struct {
  int32_t multiplier_a;
  int32_t multiplier_b;
  int32_t offset;
  int32_t shift;
  int32_t qmin;
  int32_t qmax;
} golden_rescale;

/* Convolution with 4-bit weights of shape out_c x kernel_h x kernel_w x in_c. */
void golden_conv2d_w4(const int8_t *input, const uint8_t *weight, const golden_window *window,
    const golden_requantize *requantize, int8_t *output);

/* Convolution with 8-bit weights of shape out_c x kernel_h x kernel_w x in_c. */
void golden_conv2d_w8(const int8_t *input, const int8_t *weight, const golden_window *window,
    const golden_requantize *requantize, int8_t *output);

/* Convolution of each channel on its own with 4-bit weights of shape out_c x kernel_h x kernel_w. */
void golden_depthwise_w4(const int8_t *input, const uint8_t *weight, const golden_window *window,
    const golden_requantize *requantize, int8_t *output);

/* Matrix product with 8-bit weights of shape out_count x in_count: logits = (acc << pre_shift) + offset. */
void golden_logits_w8(const int8_t *input, const int8_t *weight, int32_t in_count,
    int32_t out_count, const int32_t *offset, int32_t pre_shift, int32_t *output);

/* Sum of two tensors of one shape; the output may be the same bytes as an input. */
void golden_add(const int8_t *a, const int8_t *b, int32_t count, const golden_rescale *rescale, int8_t *output);

/* Sum over each window, requantized by one multiplier and one offset; the division is in the multiplier. */
void golden_average_pool(const int8_t *input, const golden_window *window,
    const golden_requantize *requantize, int8_t *output);

/* Largest code in each window. */
void golden_max_pool(const int8_t *input, const golden_window *window, int8_t *output);

#endif
