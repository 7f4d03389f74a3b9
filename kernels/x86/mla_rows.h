// Rows of a latent cache as the units of an AttentionIsa.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/latent_cache.h"
#include "kernels/x86/attention_isa.h"

namespace kompakt::x86 {

struct CacheUnits {
  const uint32_t* units = nullptr;
  int64_t row_units = 0;
  bool in_place = false;  // the rows after these follow at the same distance
};

// scratch: [rows][width + 1] floats.
inline CacheUnits ReadUnits(const AttentionIsa& isa, const LatentCache& cache, int64_t begin, int64_t end,
                            float* scratch) {
  if (isa.unit_values == 1) {
    const float* const rows = LatentRows(cache, begin, end, scratch);
    return {reinterpret_cast<const uint32_t*>(rows), cache.width(), rows != scratch};
  }
  auto* const values = reinterpret_cast<uint16_t*>(scratch);
  const Bf16Rows rows = LatentRowsBf16(cache, begin, end, values);
  return {reinterpret_cast<const uint32_t*>(rows.values), rows.stride / 2, rows.values != values};
}

// The first `rank` values of each row, and zeros up to rank_pad. out: [n][rank_pad] values.
inline void PadLatent(const AttentionIsa& isa, const CacheUnits& rows, int64_t n, int64_t rank, int64_t rank_pad,
                      float* out) {
  const auto value_bytes = static_cast<size_t>(4 / isa.unit_values);
  auto* const bytes = reinterpret_cast<uint8_t*>(out);
  for (int64_t j = 0; j < n; ++j) {
    uint8_t* const row = bytes + static_cast<size_t>(j * rank_pad) * value_bytes;
    std::memcpy(row, rows.units + j * rows.row_units, static_cast<size_t>(rank) * value_bytes);
    std::memset(row + static_cast<size_t>(rank) * value_bytes, 0, static_cast<size_t>(rank_pad - rank) * value_bytes);
  }
}

}  // namespace kompakt::x86
