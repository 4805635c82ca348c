/* Portable kernels of golden; see golden_kernels.h. */
#include "golden_kernels.h"

#include <stddef.h>

/* C99 lets the compiler choose what `>>` of a negative number is; these kernels need the arithmetic shift. */
typedef char golden_needs_arithmetic_shift[(-1 >> 1) == -1 ? 1 : -1];

static int8_t clamp(int32_t value, int32_t low, int32_t high) {
  return (int8_t)(value < low ? low : value > high ? high : value);
}

static int8_t requantized(int32_t acc, const golden_requantize *requantize, int32_t channel) {
  /* A product in place of `acc << pre_shift`: shifting a negative number to the left is undefined in C. */
  const int32_t shifted = acc * ((int32_t)1 << requantize->pre_shift);
  const int32_t high_word = (int32_t)(((int64_t)shifted * requantize->multiplier[channel]) >> 32);
  return clamp((high_word + requantize->offset[channel]) >> requantize->shift, requantize->qmin, requantize->qmax);
}

/* The channels of one input position, or NULL outside of the input. */
static const int8_t *pixel_at(const int8_t *input, const golden_window *window, int32_t y, int32_t x) {
  const int inside = y >= 0 && y < window->in_h && x >= 0 && x < window->in_w;
  return inside ? input + (y * window->in_w + x) * window->in_c : NULL;
}

/* 2 weights in a byte, the first in the lowest bits, two's complement. */
static int32_t weight_w4(const uint8_t *row, int32_t index) {
  const int32_t code = (row[index / 2] >> (4 * (index % 2))) & 15;
  return code < 8 ? code : code - 16;
}

/* Every row of weights starts on a byte. */
static int32_t row_bytes_w4(int32_t count) { return (count + 1) / 2; }

static int32_t weight_w8(const int8_t *row, int32_t index) { return row[index]; }

/* Every row of weights starts on a byte. */
static int32_t row_bytes_w8(int32_t count) { return count; }

static int32_t conv2d_sum_w4(const int8_t *input, const uint8_t *row, const golden_window *window, int32_t top,
    int32_t left) {
  int32_t sum = 0;
  int32_t tap = 0;
  for (int32_t ky = 0; ky < window->kernel_h; ky++) {
    for (int32_t kx = 0; kx < window->kernel_w; kx++) {
      const int8_t *pixel = pixel_at(input, window, top + ky, left + kx);
      for (int32_t c = 0; c < window->in_c; c++) {
        sum += (pixel != NULL ? pixel[c] : window->pad_code) * weight_w4(row, tap++);
      }
    }
  }
  return sum;
}

void golden_conv2d_w4(const int8_t *input, const uint8_t *weight, const golden_window *window,
    const golden_requantize *requantize, int8_t *output) {
  const int32_t row_bytes = row_bytes_w4(window->kernel_h * window->kernel_w * window->in_c);
  for (int32_t y = 0; y < window->out_h; y++) {
    for (int32_t x = 0; x < window->out_w; x++) {
      const int32_t top = y * window->stride_h - window->pad_top;
      const int32_t left = x * window->stride_w - window->pad_left;
      for (int32_t o = 0; o < window->out_c; o++) {
        const int32_t sum = conv2d_sum_w4(input, weight + o * row_bytes, window, top, left);
        *output++ = requantized(sum, requantize, o);
      }
    }
  }
}

static int32_t conv2d_sum_w8(const int8_t *input, const int8_t *row, const golden_window *window, int32_t top,
    int32_t left) {
  int32_t sum = 0;
  int32_t tap = 0;
  for (int32_t ky = 0; ky < window->kernel_h; ky++) {
    for (int32_t kx = 0; kx < window->kernel_w; kx++) {
      const int8_t *pixel = pixel_at(input, window, top + ky, left + kx);
      for (int32_t c = 0; c < window->in_c; c++) {
        sum += (pixel != NULL ? pixel[c] : window->pad_code) * weight_w8(row, tap++);
      }
    }
  }
  return sum;
}

void golden_conv2d_w8(const int8_t *input, const int8_t *weight, const golden_window *window,
    const golden_requantize *requantize, int8_t *output) {
  const int32_t row_bytes = row_bytes_w8(window->kernel_h * window->kernel_w * window->in_c);
  for (int32_t y = 0; y < window->out_h; y++) {
    for (int32_t x = 0; x < window->out_w; x++) {
      const int32_t top = y * window->stride_h - window->pad_top;
      const int32_t left = x * window->stride_w - window->pad_left;
      for (int32_t o = 0; o < window->out_c; o++) {
        const int32_t sum = conv2d_sum_w8(input, weight + o * row_bytes, window, top, left);
        *output++ = requantized(sum, requantize, o);
      }
    }
  }
}

static int32_t depthwise_sum_w4(const int8_t *input, const uint8_t *row, const golden_window *window,
    int32_t top, int32_t left, int32_t channel) {
  int32_t sum = 0;
  int32_t tap = 0;
  for (int32_t ky = 0; ky < window->kernel_h; ky++) {
    for (int32_t kx = 0; kx < window->kernel_w; kx++) {
      const int8_t *pixel = pixel_at(input, window, top + ky, left + kx);
      sum += (pixel != NULL ? pixel[channel] : window->pad_code) * weight_w4(row, tap++);
    }
  }
  return sum;
}

void golden_depthwise_w4(const int8_t *input, const uint8_t *weight, const golden_window *window,
    const golden_requantize *requantize, int8_t *output) {
  const int32_t row_bytes = row_bytes_w4(window->kernel_h * window->kernel_w);
  for (int32_t y = 0; y < window->out_h; y++) {
    for (int32_t x = 0; x < window->out_w; x++) {
      const int32_t top = y * window->stride_h - window->pad_top;
      const int32_t left = x * window->stride_w - window->pad_left;
      for (int32_t c = 0; c < window->out_c; c++) {
        const int32_t sum = depthwise_sum_w4(input, weight + c * row_bytes, window, top, left, c);
        *output++ = requantized(sum, requantize, c);
      }
    }
  }
}

static int32_t dot_w8(const int8_t *input, const int8_t *row, int32_t count) {
  int32_t sum = 0;
  for (int32_t i = 0; i < count; i++) {
    sum += input[i] * weight_w8(row, i);
  }
  return sum;
}

void golden_logits_w8(const int8_t *input, const int8_t *weight, int32_t in_count,
    int32_t out_count, const int32_t *offset, int32_t pre_shift, int32_t *output) {
  for (int32_t o = 0; o < out_count; o++) {
    const int32_t sum = dot_w8(input, weight + o * row_bytes_w8(in_count), in_count);
    output[o] = sum * ((int32_t)1 << pre_shift) + offset[o];
  }
}

void golden_add(const int8_t *a, const int8_t *b, int32_t count, const golden_rescale *rescale, int8_t *output) {
  for (int32_t i = 0; i < count; i++) {
    const int32_t sum = a[i] * rescale->multiplier_a + b[i] * rescale->multiplier_b + rescale->offset;
    output[i] = clamp(sum >> rescale->shift, rescale->qmin, rescale->qmax);
  }
}

void golden_average_pool(const int8_t *input, const golden_window *window,
    const golden_requantize *requantize, int8_t *output) {
  for (int32_t y = 0; y < window->out_h; y++) {
    for (int32_t x = 0; x < window->out_w; x++) {
      for (int32_t c = 0; c < window->out_c; c++) {
        int32_t result = 0;
        for (int32_t ky = 0; ky < window->kernel_h; ky++) {
          for (int32_t kx = 0; kx < window->kernel_w; kx++) {
            const int32_t position = (y * window->stride_h + ky) * window->in_w + x * window->stride_w + kx;
            const int32_t code = input[position * window->in_c + c];
            result += code;
          }
        }
        *output++ = requantized(result, requantize, 0);
      }
    }
  }
}

void golden_max_pool(const int8_t *input, const golden_window *window, int8_t *output) {
  for (int32_t y = 0; y < window->out_h; y++) {
    for (int32_t x = 0; x < window->out_w; x++) {
      for (int32_t c = 0; c < window->out_c; c++) {
        int32_t result = INT8_MIN;
        for (int32_t ky = 0; ky < window->kernel_h; ky++) {
          for (int32_t kx = 0; kx < window->kernel_w; kx++) {
            const int32_t position = (y * window->stride_h + ky) * window->in_w + x * window->stride_w + kx;
            const int32_t code = input[position * window->in_c + c];
            result = code > result ? code : result;
          }
        }
        *output++ = (int8_t)result;
      }
    }
  }
}
