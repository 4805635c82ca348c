/* golden: an integer neural network, made by qkd 0.1.0.
 *
 * C99. No heap, no floating point, no global state, nothing but <stdint.h>. Constants lie in flash (.rodata), all
 * state in the context and the arena that you provide: several contexts may run at once, each with its own arena.
 *
 *     static uint8_t arena[GOLDEN_ARENA_BYTES] __attribute__((aligned(GOLDEN_ARENA_ALIGN)));
 *     golden_context context;
 *     int8_t input[GOLDEN_INPUT_BYTES];
 *     int32_t output[GOLDEN_OUTPUT_COUNT];
 *
 *     if (golden_init(&context, arena, sizeof arena) != 0) {...}
 *     if (golden_run(&context, input, output) != 0) {...}
 *
 * Layers, as the hook counts them:
 *     0  conv_0                   Conv2d               13608 MAC   output 1 x 9 x 7 x 8
 *     1  conv_1                   Conv2d               36288 MAC   output 1 x 9 x 7 x 8
 *     2  add_2                    Add                      0 MAC   output 1 x 9 x 7 x 8
 *     3  conv_3                   Conv2d                8640 MAC   output 1 x 4 x 3 x 10
 *     4  dw_4                     DepthwiseConv2d       1080 MAC   output 1 x 4 x 3 x 10
 *     5  conv_5                   Conv2d                1440 MAC   output 1 x 4 x 3 x 12
 *     6  max_6                    MaxPool2d                0 MAC   output 1 x 3 x 2 x 12
 *     7  pool_7                   AveragePool2d            0 MAC   output 1 x 1 x 1 x 12
 *     8  fc_9                     FullyConnected          60 MAC   output 1 x 5
 */
#ifndef QKD_GOLDEN_H
#define QKD_GOLDEN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the model needs. The arena may be used for other things between two calls of golden_run. */
#define GOLDEN_ARENA_BYTES 1536
#define GOLDEN_ARENA_ALIGN 16
#define GOLDEN_STACK_BYTES 512 /* of golden_run in the static library, measured */
#define GOLDEN_FLASH_BYTES 9000 /* code and constants of the static library, from its ELF sections */
#define GOLDEN_MACS 61116
#define GOLDEN_LAYERS 9
#define GOLDEN_INPUT_BYTES 189
#define GOLDEN_OUTPUT_COUNT 5
#define GOLDEN_OUTPUT_BYTES 20

/* Input: int8 codes of shape 1 x 9 x 7 x 3 (batch, height, width, channels), channels contiguous.
 *     code = round(real / scale) + zero point, kept within [-128, 127]
 *     scale 0.02, zero point 0
 */
#define GOLDEN_INPUT_ZERO_POINT (0)
#define GOLDEN_INPUT_MIN (-128)
#define GOLDEN_INPUT_MAX (127)
#define GOLDEN_INPUT_SCALE_NUMERATOR 1 /* scale = numerator / denominator, exactly */
#define GOLDEN_INPUT_SCALE_DENOMINATOR 50

/* Output: int32_t of shape 1 x 5; real = scale * (value - zero point).
 *     scale 0.01, zero point 0
 * The class with the largest value wins; no scale is needed for that.
 */
#define GOLDEN_OUTPUT_ZERO_POINT (0)
#define GOLDEN_OUTPUT_SCALE_NUMERATOR 1 /* scale = numerator / denominator, exactly */
#define GOLDEN_OUTPUT_SCALE_DENOMINATOR 100

/* Returned by the functions below. */
#define GOLDEN_OK 0
#define GOLDEN_ERROR_INVALID (-1)   /* null pointer, unaligned arena, or context without an arena */
#define GOLDEN_ERROR_TOO_SMALL (-2) /* the arena has fewer than GOLDEN_ARENA_BYTES bytes */

typedef struct {
  uint8_t *arena;
  /* Called before (begin = 1) and after (begin = 0) each layer; NULL for none. Set it after golden_init. */
  void (*hook)(void *user, int32_t layer, int32_t begin);
  void *user; /* handed to the hook */
} golden_context;

typedef struct {
  const char *name;
  const char *version;      /* of qkd */
  const char *graph_sha256; /* of what the model computes; stands in manifest.json as well */
  uint32_t arena_bytes;
  uint32_t macs;
  uint32_t layers;
  uint32_t input_bytes;
  uint32_t output_bytes;
  int32_t input_zero_point;
  int32_t output_zero_point;
} golden_information;

/* Bind a context to an arena of at least GOLDEN_ARENA_BYTES bytes, aligned to GOLDEN_ARENA_ALIGN; clears the hook.
 * Returns GOLDEN_OK, GOLDEN_ERROR_INVALID or GOLDEN_ERROR_TOO_SMALL. */
int32_t golden_init(golden_context *context, void *arena, uint32_t arena_bytes);

/* Compute GOLDEN_OUTPUT_COUNT outputs from GOLDEN_INPUT_BYTES input codes. The input is not changed; input, output
 * and arena must not overlap. Returns GOLDEN_OK or GOLDEN_ERROR_INVALID. */
int32_t golden_run(golden_context *context, const int8_t *input, int32_t *output);

/* Facts about the model, in flash. */
const golden_information *golden_info(void);

#ifdef __cplusplus
}
#endif

#endif
