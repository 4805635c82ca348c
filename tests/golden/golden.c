/* golden in portable C, made by qkd 0.1.0: the same integers as the static library, element for element.
 * Padding is written top bottom left right (tblr), shapes height x width x channels.
 */
#include "golden.h"

#include <stddef.h>

#include "golden_kernels.h"
#include "golden_weights.h"

static const golden_window layer0_window = {
    .in_h = 9, .in_w = 7, .in_c = 3,
    .out_h = 9, .out_w = 7, .out_c = 8,
    .kernel_h = 3, .kernel_w = 3, .stride_h = 1, .stride_w = 1,
    .pad_top = 1, .pad_left = 1, .pad_code = 0,
};

static const golden_requantize layer0_requantize = {
    .multiplier = golden_layer0_multiplier, .offset = golden_layer0_offset,
    .pre_shift = 10, .shift = 16, .qmin = -128, .qmax = 127,
};

static const golden_window layer1_window = {
    .in_h = 9, .in_w = 7, .in_c = 8,
    .out_h = 9, .out_w = 7, .out_c = 8,
    .kernel_h = 3, .kernel_w = 3, .stride_h = 1, .stride_w = 1,
    .pad_top = 1, .pad_left = 1, .pad_code = -128,
};

static const golden_requantize layer1_requantize = {
    .multiplier = golden_layer1_multiplier, .offset = golden_layer1_offset,
    .pre_shift = 13, .shift = 16, .qmin = -128, .qmax = 127,
};

static const golden_rescale layer2_rescale = {
    .multiplier_a = 712474, .multiplier_b = 994510, .offset = -42496768,
    .shift = 20, .qmin = -128, .qmax = 127,
};

static const golden_window layer3_window = {
    .in_h = 9, .in_w = 7, .in_c = 8,
    .out_h = 4, .out_w = 3, .out_c = 10,
    .kernel_h = 3, .kernel_w = 3, .stride_h = 2, .stride_w = 2,
    .pad_top = 0, .pad_left = 0, .pad_code = -128,
};

static const golden_requantize layer3_requantize = {
    .multiplier = golden_layer3_multiplier, .offset = golden_layer3_offset,
    .pre_shift = 14, .shift = 16, .qmin = -128, .qmax = 127,
};

static const golden_window layer4_window = {
    .in_h = 4, .in_w = 3, .in_c = 10,
    .out_h = 4, .out_w = 3, .out_c = 10,
    .kernel_h = 3, .kernel_w = 3, .stride_h = 1, .stride_w = 1,
    .pad_top = 1, .pad_left = 1, .pad_code = -128,
};

static const golden_requantize layer4_requantize = {
    .multiplier = golden_layer4_multiplier, .offset = golden_layer4_offset,
    .pre_shift = 15, .shift = 16, .qmin = -128, .qmax = 127,
};

static const golden_window layer5_window = {
    .in_h = 4, .in_w = 3, .in_c = 10,
    .out_h = 4, .out_w = 3, .out_c = 12,
    .kernel_h = 1, .kernel_w = 1, .stride_h = 1, .stride_w = 1,
    .pad_top = 0, .pad_left = 0, .pad_code = -128,
};

static const golden_requantize layer5_requantize = {
    .multiplier = golden_layer5_multiplier, .offset = golden_layer5_offset,
    .pre_shift = 15, .shift = 16, .qmin = -128, .qmax = 127,
};

static const golden_window layer6_window = {
    .in_h = 4, .in_w = 3, .in_c = 12,
    .out_h = 3, .out_w = 2, .out_c = 12,
    .kernel_h = 2, .kernel_w = 2, .stride_h = 1, .stride_w = 1,
    .pad_top = 0, .pad_left = 0, .pad_code = -128,
};

static const golden_window layer7_window = {
    .in_h = 3, .in_w = 2, .in_c = 12,
    .out_h = 1, .out_w = 1, .out_c = 12,
    .kernel_h = 3, .kernel_w = 2, .stride_h = 3, .stride_w = 2,
    .pad_top = 0, .pad_left = 0, .pad_code = -128,
};

static const golden_requantize layer7_requantize = {
    .multiplier = golden_layer7_multiplier, .offset = golden_layer7_offset,
    .pre_shift = 15, .shift = 16, .qmin = -128, .qmax = 127,
};

static const golden_information information = {
    .name = "golden",
    .version = "0.1.0",
    .graph_sha256 = "4c10c69a36a53c1d55e30186d346677b2cefd137c7d520f63dff2e2f9006d317",
    .arena_bytes = GOLDEN_ARENA_BYTES,
    .macs = GOLDEN_MACS,
    .layers = GOLDEN_LAYERS,
    .input_bytes = GOLDEN_INPUT_BYTES,
    .output_bytes = GOLDEN_OUTPUT_BYTES,
    .input_zero_point = GOLDEN_INPUT_ZERO_POINT,
    .output_zero_point = GOLDEN_OUTPUT_ZERO_POINT,
};

const golden_information *golden_info(void) { return &information; }

int32_t golden_init(golden_context *context, void *arena, uint32_t arena_bytes) {
  if (context == NULL || arena == NULL || (uintptr_t)arena % GOLDEN_ARENA_ALIGN != 0) {
    return GOLDEN_ERROR_INVALID;
  }
  if (arena_bytes < GOLDEN_ARENA_BYTES) {
    return GOLDEN_ERROR_TOO_SMALL;
  }
  context->arena = arena;
  context->hook = NULL;
  context->user = NULL;
  return GOLDEN_OK;
}

static void notify(const golden_context *context, int32_t layer, int32_t begin) {
  if (context->hook != NULL) {
    context->hook(context->user, layer, begin);
  }
}

int32_t golden_run(golden_context *context, const int8_t *input, int32_t *output) {
  if (context == NULL || context->arena == NULL || input == NULL || output == NULL) {
    return GOLDEN_ERROR_INVALID;
  }
  int8_t *const layer0_output = (int8_t *)(context->arena + 0); /* conv_0 */
  int8_t *const layer1_output = (int8_t *)(context->arena + 512); /* conv_1 */
  int8_t *const layer2_output = (int8_t *)(context->arena + 0); /* add_2 */
  int8_t *const layer3_output = (int8_t *)(context->arena + 512); /* conv_3 */
  int8_t *const layer4_output = (int8_t *)(context->arena + 144); /* dw_4 */
  int8_t *const layer5_output = (int8_t *)(context->arena + 0); /* conv_5 */
  int8_t *const layer6_output = (int8_t *)(context->arena + 144); /* max_6 */
  int8_t *const layer7_output = (int8_t *)(context->arena + 0); /* pool_7 */

  /* Layer 0, conv_0: Conv2d, 3x3, stride 1x1, padding 1 1 1 1 (tblr); 9 x 7 x 3 -> 9 x 7 x 8 */
  notify(context, 0, 1);
  golden_conv2d_w8(input, golden_layer0_weight, &layer0_window, &layer0_requantize, layer0_output);
  notify(context, 0, 0);

  /* Layer 1, conv_1: Conv2d, 3x3, stride 1x1, padding 1 1 1 1 (tblr); 9 x 7 x 8 -> 9 x 7 x 8 */
  notify(context, 1, 1);
  golden_conv2d_w4(layer0_output, golden_layer1_weight, &layer1_window, &layer1_requantize, layer1_output);
  notify(context, 1, 0);

  /* Layer 2, add_2: Add; 9 x 7 x 8 -> 9 x 7 x 8 */
  notify(context, 2, 1);
  golden_add(layer0_output, layer1_output, 504, &layer2_rescale, layer2_output);
  notify(context, 2, 0);

  /* Layer 3, conv_3: Conv2d, 3x3, stride 2x2, padding 0 1 0 1 (tblr); 9 x 7 x 8 -> 4 x 3 x 10 */
  notify(context, 3, 1);
  golden_conv2d_w4(layer2_output, golden_layer3_weight, &layer3_window, &layer3_requantize, layer3_output);
  notify(context, 3, 0);

  /* Layer 4, dw_4: DepthwiseConv2d, 3x3, stride 1x1, padding 1 1 1 1 (tblr); 4 x 3 x 10 -> 4 x 3 x 10 */
  notify(context, 4, 1);
  golden_depthwise_w4(layer3_output, golden_layer4_weight, &layer4_window, &layer4_requantize, layer4_output);
  notify(context, 4, 0);

  /* Layer 5, conv_5: Conv2d, 1x1, stride 1x1, padding 0 0 0 0 (tblr); 4 x 3 x 10 -> 4 x 3 x 12 */
  notify(context, 5, 1);
  golden_conv2d_w4(layer4_output, golden_layer5_weight, &layer5_window, &layer5_requantize, layer5_output);
  notify(context, 5, 0);

  /* Layer 6, max_6: MaxPool2d, 2x2, stride 1x1; 4 x 3 x 12 -> 3 x 2 x 12 */
  notify(context, 6, 1);
  golden_max_pool(layer5_output, &layer6_window, layer6_output);
  notify(context, 6, 0);

  /* Layer 7, pool_7: AveragePool2d, 3x2, stride 3x2; 3 x 2 x 12 -> 1 x 1 x 12 */
  notify(context, 7, 1);
  golden_average_pool(layer6_output, &layer7_window, &layer7_requantize, layer7_output);
  notify(context, 7, 0);

  /* Layer 8, fc_9: FullyConnected; 12 -> 5 */
  notify(context, 8, 1);
  golden_logits_w8(layer7_output, golden_layer8_weight, 12, 5, golden_layer8_offset, 8, output);
  notify(context, 8, 0);
  return GOLDEN_OK;
}
