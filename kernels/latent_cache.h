// What a session remembers of every token: LatentCache, the key-value cache of one layer as MLA keeps it, and
// IndexCache, the keys of an indexer.
//
// A row of a LatentCache belongs to one token and holds the latent after its norm (rank values), then the shared key
// after RoPE (rope values); DeepSeek-V2 report, section 2.1.1.
//
// How a value is stored is known here and nowhere else: kernels write rows with StoreLatentRow and read them as F32
// with LatentRows or as bf16 with LatentRowsBf16. Rounding is to nearest, ties to even. What is not finite stays so: a
// NaN is read back as NaN, and where one scale serves a group, the whole group is.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kompakt {

// Bytes of a row, then rounded up to a multiple of 4:
//     f32    (rank + rope) F32
//     bf16   (rank + rope) bf16
//     int8   rank codes of 8 bits, padded to an even number; ceil(rank / 32) scales in bf16; rope bf16. A value is
//            scale * code, exact in F32; scale = max |x| / 127 of its group of 32, rounded up so that no code passes
//            127. Keys of an indexer are bf16.
enum class CacheFormat : uint8_t { kF32, kBf16, kInt8 };

absl::string_view CacheFormatName(CacheFormat format);
// kInvalidArgument naming the known ones.
absl::StatusOr<CacheFormat> CacheFormatFromName(absl::string_view name);
absl::Span<const CacheFormat> AllCacheFormats();

inline constexpr int64_t kInt8CacheGroup = 32;

// Does not own its memory.
struct LatentCache {
  int64_t rank = 0;
  int64_t rope = 0;
  int64_t capacity = 0;     // rows
  uint8_t* data = nullptr;  // capacity * row_bytes(), 4-byte aligned
  CacheFormat format = CacheFormat::kF32;

  int64_t width() const { return rank + rope; }
  uint64_t row_bytes() const { return LatentRowBytes(rank, rope, format); }
  static uint64_t LatentRowBytes(int64_t rank, int64_t rope, CacheFormat format);
};

// Writes row `row` from values[width].
void StoreLatentRow(const LatentCache& cache, int64_t row, const float* values);

// Row `to_row` of `to` becomes row `row` of `from`, as it is stored; both have the same shape and format.
void CopyLatentRow(const LatentCache& from, int64_t row, const LatentCache& to, int64_t to_row);

// Rows [begin, end) as F32, [end - begin][width]. Returns a pointer into the cache where it is stored that way, else
// into `scratch`, which holds (end - begin) * width floats. The same bits on every machine.
const float* LatentRows(const LatentCache& cache, int64_t begin, int64_t end, float* scratch);

// Rows as bf16, `stride` values apart: an even number, and where width is odd a zero follows each row.
struct Bf16Rows {
  const uint16_t* values = nullptr;
  int64_t stride = 0;
};
// Rows [begin, end) of a cache that is not F32: in place where they are stored so, else each value of LatentRows
// rounded to bf16 (subnormal ones may become zero), in `scratch`, which holds (end - begin) * (width + 1) values.
Bf16Rows LatentRowsBf16(const LatentCache& cache, int64_t begin, int64_t end, uint16_t* scratch);

// The keys of an indexer, one row per token; does not own its memory.
struct IndexCache {
  int64_t dim = 0;
  int64_t capacity = 0;     // rows
  uint8_t* data = nullptr;  // capacity * row_bytes(), 4-byte aligned
  CacheFormat format = CacheFormat::kF32;

  uint64_t row_bytes() const { return IndexRowBytes(dim, format); }
  static uint64_t IndexRowBytes(int64_t dim, CacheFormat format);
};

// As StoreLatentRow and LatentRows, with dim values per row.
void StoreIndexKey(const IndexCache& cache, int64_t row, const float* values);
const float* IndexKeys(const IndexCache& cache, int64_t begin, int64_t end, float* scratch);

}  // namespace kompakt
