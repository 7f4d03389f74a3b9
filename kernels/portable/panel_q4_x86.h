// The nonlinear 4-bit formats as panels: a code is an index into 16 values, which one register holds.
#pragma once

#if defined(__x86_64__)

#include <cstdint>

namespace kompakt::portable {

void DecodeQ4G32Avx512(const uint8_t* tile, const float* side, float* panel);
void DecodeQ4G16Avx512(const uint8_t* tile, const float* side, float* panel);
void DecodeQ4G32Avx2(const uint8_t* tile, const float* side, float* panel);
void DecodeQ4G16Avx2(const uint8_t* tile, const float* side, float* panel);

}  // namespace kompakt::portable

#endif
