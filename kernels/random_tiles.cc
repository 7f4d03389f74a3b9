#include "kernels/random_tiles.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "format/float_formats.h"

namespace kompakt {
namespace {

// Prime, so that runs of neighbouring row tiles do not fall on each other.
constexpr uint64_t kPoolTiles = 61;

// SplitMix64 (Steele, Lea, Flood 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // Variance 1.
  float Normal() {
    const uint64_t bits = Bits();
    float sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(bits >> (16 * i) & 0xffff) / 65536.0f - 0.5f;
    return 1.7320508f * sum;
  }

 private:
  uint64_t state_;
};

// Of 4-bit codes drawn uniformly: values of int4_g32 (-8 to 7) and of E2M1.
constexpr float kInt4Rms = 4.64f;
constexpr float kE2m1Rms = 2.92f;
constexpr uint16_t kE4m3One = 0x38;

// One row's group scale, such that codes drawn uniformly have about this rms where the scale can say so.
uint16_t GroupScale(FormatId format, float rms, Random& random) {
  if (format == FormatId::kInt4G32) return F32ToBf16(rms / kInt4Rms);
  if (format == FormatId::kMxfp4) return static_cast<uint16_t>(std::lround(127 + std::log2(rms / kE2m1Rms)));
  // nvfp4: two scales between 1 and 2; the multiplier of the tensor does the rest.
  const uint64_t bits = random.Bits();
  return static_cast<uint16_t>((kE4m3One + bits % 8) | (kE4m3One + bits / 8 % 8) << 8);
}

void DrawElement(FormatId format, float rms, Random& random, uint8_t* element) {
  switch (format) {
    case FormatId::kF32: {
      const float x = rms * random.Normal();
      std::memcpy(element, &x, sizeof(x));
      return;
    }
    case FormatId::kBf16:
    case FormatId::kF16: {
      const float x = rms * random.Normal();
      const uint16_t bits = format == FormatId::kBf16 ? F32ToBf16(x) : F32ToF16(x);
      std::memcpy(element, &bits, sizeof(bits));
      return;
    }
    case FormatId::kFp8B128: {
      const auto code = static_cast<uint8_t>(random.Bits());
      *element = (code & 0x7f) == 0x7f ? 0 : code;  // 0x7f and 0xff are NaN
      return;
    }
    default:
      *element = static_cast<uint8_t>(random.Bits() % 16);
  }
}

}  // namespace

RandomTiles::RandomTiles(FormatId format, float rms, uint64_t seed) : format_(FormatOf(format)) {
  Random random(seed);
  pool_.resize(kPoolTiles * format_.tile_bytes);
  for (uint64_t i = 0; i < kPoolTiles; ++i) {
    uint8_t* const tile = pool_.data() + i * format_.tile_bytes;
    if (!format_.exact) {
      for (uint64_t b = 0; b < format_.tile_bytes; ++b) tile[b] = static_cast<uint8_t>(random.Bits());
      continue;
    }
    StoredTile stored{};
    for (uint64_t e = 0; e < kTileElements; ++e) {
      DrawElement(format, rms, random, stored.elements + e * format_.stored_element_bytes);
    }
    for (uint16_t& scale : stored.group_scales) scale = GroupScale(format, rms, random);
    format_.pack_tile(stored, tile);
  }
  if (format_.side == SideKind::kNone) return;
  constexpr float kOnes[kTileRows] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  double squares = 0;
  for (uint64_t i = 0; i < kPoolTiles; ++i) {
    DecodedTile decoded;
    format_.decode_tile(pool_.data() + i * format_.tile_bytes, kOnes, &decoded);
    for (const auto& row : decoded.w) {
      for (const float w : row) squares += static_cast<double>(w) * static_cast<double>(w);
    }
  }
  side_ = rms / static_cast<float>(std::sqrt(squares / static_cast<double>(kPoolTiles * kTileElements)));
}

void RandomTiles::FillTiles(const BlobLayout& layout, uint64_t key, int64_t row_tile_begin, int64_t row_tile_end,
                            uint8_t* blob) const {
  const auto tiles = static_cast<uint64_t>(layout.col_tiles);
  for (int64_t row_tile = row_tile_begin; row_tile < row_tile_end; ++row_tile) {
    uint8_t* out = blob + static_cast<uint64_t>(row_tile) * layout.row_tile_bytes(format_);
    uint64_t at = Random(key * 0x2545f4914f6cdd1du + static_cast<uint64_t>(row_tile)).Bits() % kPoolTiles;
    for (uint64_t done = 0; done < tiles;) {
      const uint64_t run = std::min(tiles - done, kPoolTiles - at);
      std::memcpy(out, pool_.data() + at * format_.tile_bytes, run * format_.tile_bytes);
      out += run * format_.tile_bytes;
      done += run;
      at = 0;
    }
  }
}

void RandomTiles::FillSide(const BlobLayout& layout, uint8_t* blob) const {
  auto* const side = reinterpret_cast<float*>(blob + layout.side_offset);
  std::fill_n(side, layout.side_bytes / sizeof(float), side_);
  // Multiplier and divisor.
  if (format_.side == SideKind::kTensorScale) side[1] = 1;
}

void FillNormal(uint64_t seed, float magnitude, absl::Span<float> out) {
  Random random(seed);
  for (float& x : out) x = magnitude * random.Normal();
}

}  // namespace kompakt
