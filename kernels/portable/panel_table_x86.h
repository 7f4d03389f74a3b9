// The nonlinear formats as panels: a code is an index into a table that one to eight registers hold.
#pragma once

#if defined(__x86_64__)

#include <cstdint>

namespace kompakt::portable {

#define KOMPAKT_TABLE_DECODERS(ISA)                                            \
  void DecodeQ2G32##ISA(const uint8_t* tile, const float* side, float* panel); \
  void DecodeQ2G16##ISA(const uint8_t* tile, const float* side, float* panel); \
  void DecodeQ3G32##ISA(const uint8_t* tile, const float* side, float* panel); \
  void DecodeQ3G16##ISA(const uint8_t* tile, const float* side, float* panel); \
  void DecodeQ4G32##ISA(const uint8_t* tile, const float* side, float* panel); \
  void DecodeQ4G16##ISA(const uint8_t* tile, const float* side, float* panel); \
  void DecodeQ5G32##ISA(const uint8_t* tile, const float* side, float* panel); \
  void DecodeQ6G32##ISA(const uint8_t* tile, const float* side, float* panel);
KOMPAKT_TABLE_DECODERS(Avx2)
KOMPAKT_TABLE_DECODERS(Avx512)
#undef KOMPAKT_TABLE_DECODERS

}  // namespace kompakt::portable

#endif
