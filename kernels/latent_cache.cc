#include "kernels/latent_cache.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/strings/str_join.h"
#include "format/float_formats.h"
#include "format/near_names.h"
#include "format/status.h"
#include "kernels/latent_widen.h"

namespace kompakt {
namespace {

struct NamedFormat {
  CacheFormat format;
  absl::string_view name;
};
constexpr std::array<NamedFormat, 3> kNames = {
    {{CacheFormat::kF32, "f32"}, {CacheFormat::kBf16, "bf16"}, {CacheFormat::kInt8, "int8"}}};

constexpr uint64_t RoundUp(uint64_t bytes) { return (bytes + 3) / 4 * 4; }

int64_t Groups(int64_t rank) { return (rank + kInt8CacheGroup - 1) / kInt8CacheGroup; }

uint64_t PlainRowBytes(int64_t width, CacheFormat format) {
  return RoundUp(static_cast<uint64_t>(width) * (format == CacheFormat::kF32 ? sizeof(float) : sizeof(uint16_t)));
}

// The parts of a row of int8.
struct Int8Row {
  uint64_t scales;  // offsets in bytes
  uint64_t rope;

  explicit Int8Row(int64_t rank)
      : scales(static_cast<uint64_t>(rank + rank % 2)), rope(scales + static_cast<uint64_t>(Groups(rank)) * 2) {}
};

void StoreBf16(const float* values, int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t bits = F32ToBf16(values[i]);
    std::memcpy(out + 2 * i, &bits, sizeof(bits));
  }
}

// The least bf16 that is not below x, for x >= 0.
uint16_t Bf16Above(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0xffffu) >> 16);
}

// Codes of one group; returns its scale. A group with a value that is not finite gets the scale NaN.
uint16_t QuantizeGroup(const float* x, int64_t n, int8_t* codes) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    finite = finite && std::isfinite(x[i]);
    largest = std::max(largest, std::fabs(x[i]));
  }
  const uint16_t bits = finite ? Bf16Above(largest / 127.0f) : F32ToBf16(std::numeric_limits<float>::quiet_NaN());
  // Zero: of zeros, and of denormal numbers without a 127th part.
  if (!finite || bits == 0) {
    std::memset(codes, 0, static_cast<size_t>(n));
    return bits;
  }
  const float scale = Bf16ToF32(bits);
  // A scale below the least normal number has no inverse in F32; divisions are few.
  for (int64_t i = 0; i < n; ++i)
    codes[i] = static_cast<int8_t>(std::clamp(std::nearbyint(x[i] / scale), -127.0f, 127.0f));
  return bits;
}

void StoreInt8(const LatentCache& cache, const float* values, uint8_t* out) {
  const Int8Row row(cache.rank);
  std::memset(out, 0, row.scales);
  for (int64_t begin = 0; begin < cache.rank; begin += kInt8CacheGroup) {
    const int64_t n = std::min(kInt8CacheGroup, cache.rank - begin);
    int8_t codes[kInt8CacheGroup];
    const uint16_t scale = QuantizeGroup(values + begin, n, codes);
    std::memcpy(out + begin, codes, static_cast<size_t>(n));
    std::memcpy(out + row.scales + begin / kInt8CacheGroup * 2, &scale, sizeof(scale));
  }
  StoreBf16(values + cache.rank, cache.rope, out + row.rope);
}

void StorePlain(const float* values, int64_t n, CacheFormat format, uint8_t* out) {
  if (format == CacheFormat::kF32) {
    std::memcpy(out, values, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  StoreBf16(values, n, out);
  if (n % 2 != 0) std::memset(out + 2 * n, 0, 2);
}

}  // namespace

absl::string_view CacheFormatName(CacheFormat format) { return kNames[static_cast<size_t>(format)].name; }

absl::StatusOr<CacheFormat> CacheFormatFromName(absl::string_view name) {
  std::vector<absl::string_view> known;
  for (const NamedFormat& row : kNames) {
    if (row.name == name) return row.format;
    known.push_back(row.name);
  }
  return UsageError("expected one of ", absl::StrJoin(known, ", "), ", found \"", name, "\"", DidYouMean(name, known));
}

absl::Span<const CacheFormat> AllCacheFormats() {
  static constexpr std::array<CacheFormat, 3> kAll = {CacheFormat::kF32, CacheFormat::kBf16, CacheFormat::kInt8};
  return kAll;
}

uint64_t LatentCache::LatentRowBytes(int64_t rank, int64_t rope, CacheFormat format) {
  if (format != CacheFormat::kInt8) return PlainRowBytes(rank + rope, format);
  return RoundUp(Int8Row(rank).rope + static_cast<uint64_t>(rope) * 2);
}

void StoreLatentRow(const LatentCache& cache, int64_t row, const float* values) {
  uint8_t* const out = cache.data + static_cast<uint64_t>(row) * cache.row_bytes();
  if (cache.format == CacheFormat::kInt8) {
    StoreInt8(cache, values, out);
  } else {
    StorePlain(values, cache.width(), cache.format, out);
  }
}

void CopyLatentRow(const LatentCache& from, int64_t row, const LatentCache& to, int64_t to_row) {
  const uint64_t row_bytes = from.row_bytes();
  std::memcpy(to.data + static_cast<uint64_t>(to_row) * row_bytes, from.data + static_cast<uint64_t>(row) * row_bytes,
              row_bytes);
}

const float* LatentRows(const LatentCache& cache, int64_t begin, int64_t end, float* scratch) {
  const uint64_t row_bytes = cache.row_bytes();
  const uint8_t* const first = cache.data + static_cast<uint64_t>(begin) * row_bytes;
  if (cache.format == CacheFormat::kF32) return reinterpret_cast<const float*>(first);
  const LatentWiden& widen = BestLatentWiden();
  const Int8Row parts(cache.rank);
  for (int64_t j = 0; j < end - begin; ++j) {
    const uint8_t* const row = first + static_cast<uint64_t>(j) * row_bytes;
    float* const out = scratch + j * cache.width();
    if (cache.format == CacheFormat::kBf16) {
      widen.bf16_to_f32(row, cache.width(), out);
    } else {
      widen.int8_to_f32(row, row + parts.scales, cache.rank, out);
      widen.bf16_to_f32(row + parts.rope, cache.rope, out + cache.rank);
    }
  }
  return scratch;
}

Bf16Rows LatentRowsBf16(const LatentCache& cache, int64_t begin, int64_t end, uint16_t* scratch) {
  const uint64_t row_bytes = cache.row_bytes();
  const uint8_t* const first = cache.data + static_cast<uint64_t>(begin) * row_bytes;
  if (cache.format == CacheFormat::kBf16) {
    return {reinterpret_cast<const uint16_t*>(first), static_cast<int64_t>(row_bytes / sizeof(uint16_t))};
  }
  const LatentWiden& widen = BestLatentWiden();
  const Int8Row parts(cache.rank);
  const int64_t width = cache.width();
  const int64_t stride = width + width % 2;
  for (int64_t j = 0; j < end - begin; ++j) {
    const uint8_t* const row = first + static_cast<uint64_t>(j) * row_bytes;
    uint16_t* const out = scratch + j * stride;
    widen.int8_to_bf16(row, row + parts.scales, cache.rank, out);
    std::memcpy(out + cache.rank, row + parts.rope, static_cast<size_t>(cache.rope) * sizeof(uint16_t));
    if (width % 2 != 0) out[width] = 0;
  }
  return {scratch, stride};
}

uint64_t IndexCache::IndexRowBytes(int64_t dim, CacheFormat format) { return PlainRowBytes(dim, format); }

void StoreIndexKey(const IndexCache& cache, int64_t row, const float* values) {
  StorePlain(values, cache.dim, cache.format, cache.data + static_cast<uint64_t>(row) * cache.row_bytes());
}

const float* IndexKeys(const IndexCache& cache, int64_t begin, int64_t end, float* scratch) {
  const uint64_t row_bytes = cache.row_bytes();
  const uint8_t* const first = cache.data + static_cast<uint64_t>(begin) * row_bytes;
  if (cache.format == CacheFormat::kF32) return reinterpret_cast<const float*>(first);
  const LatentWiden& widen = BestLatentWiden();
  for (int64_t j = 0; j < end - begin; ++j) {
    widen.bf16_to_f32(first + static_cast<uint64_t>(j) * row_bytes, cache.dim, scratch + j * cache.dim);
  }
  return scratch;
}

}  // namespace kompakt
