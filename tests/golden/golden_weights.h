/* Constants of golden; see golden_weights.c. */
#ifndef QKD_GOLDEN_WEIGHTS_H
#define QKD_GOLDEN_WEIGHTS_H

#include <stdint.h>

extern const int8_t golden_layer0_weight[216];
extern const int32_t golden_layer0_multiplier[8];
extern const int32_t golden_layer0_offset[8];
extern const uint8_t golden_layer1_weight[288];
extern const int32_t golden_layer1_multiplier[8];
extern const int32_t golden_layer1_offset[8];
extern const uint8_t golden_layer3_weight[360];
extern const int32_t golden_layer3_multiplier[10];
extern const int32_t golden_layer3_offset[10];
extern const uint8_t golden_layer4_weight[50];
extern const int32_t golden_layer4_multiplier[10];
extern const int32_t golden_layer4_offset[10];
extern const uint8_t golden_layer5_weight[60];
extern const int32_t golden_layer5_multiplier[12];
extern const int32_t golden_layer5_offset[12];
extern const int32_t golden_layer7_multiplier[1];
extern const int32_t golden_layer7_offset[1];
extern const int8_t golden_layer8_weight[60];
extern const int32_t golden_layer8_offset[5];

#endif
