// The loops that read rows of a latent cache, compiled once per instruction set. All of them give the same bits.
#pragma once

#include <cstdint>

namespace kompakt {

struct LatentWiden {
  void (*bf16_to_f32)(const uint8_t* values, int64_t n, float* out);
  // out[i] = codes[i] * scales[i / 32], n codes; scales in bf16.
  void (*int8_to_f32)(const uint8_t* codes, const uint8_t* scales, int64_t n, float* out);
  // The same rounded to bf16.
  void (*int8_to_bf16)(const uint8_t* codes, const uint8_t* scales, int64_t n, uint16_t* out);
};

// The widest that this machine runs.
const LatentWiden& BestLatentWiden();

}  // namespace kompakt
