// LatentCache: the key-value cache of one layer as MLA keeps it. A row belongs to one token and holds the latent after
// its norm (rank values), then the shared key after RoPE (rope values); DeepSeek-V2 report, section 2.1.1.
//
// How a value is stored is known here and nowhere else: kernels write rows with StoreLatentRow and read them as F32
// with LatentRows.
#pragma once

#include <cstdint>

namespace kompakt {

// Does not own its memory.
struct LatentCache {
  int64_t rank = 0;
  int64_t rope = 0;
  int64_t capacity = 0;     // rows
  uint8_t* data = nullptr;  // capacity * row_bytes(), 64-byte aligned

  int64_t width() const { return rank + rope; }
  uint64_t row_bytes() const { return LatentRowBytes(rank, rope); }
  static uint64_t LatentRowBytes(int64_t rank, int64_t rope) {
    return static_cast<uint64_t>(rank + rope) * sizeof(float);
  }
};

// Writes row `row` from values[width].
void StoreLatentRow(const LatentCache& cache, int64_t row, const float* values);

// Rows [begin, end) as F32, [end - begin][width]. Returns a pointer into the cache where it is stored that way, else
// into `scratch`, which holds (end - begin) * width floats.
const float* LatentRows(const LatentCache& cache, int64_t begin, int64_t end, float* scratch);

}  // namespace kompakt
