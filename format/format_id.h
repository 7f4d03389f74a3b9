// FormatId: the number formats by name, and the geometry that all of them share. What device sources read of the packed
// file (kernels/cuda/): no Abseil here. What a format is: format/block_format.h.
#pragma once

#include <cstdint>

namespace kompakt {

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kTileCols = 32;
inline constexpr int64_t kTileElements = kTileRows * kTileCols;
inline constexpr int64_t kFp8Block = 128;  // rows and columns that share one scale in fp8_b128

// Numbers are part of the file format through the names; they may be renumbered, the names may not.
enum class FormatId : uint8_t {
  kF32,
  kF16,
  kBf16,
  kFp8B128,  // upstream FP8 E4M3 with one F32 scale per 128 x 128 block, codes kept bit for bit
  kInt4G32,  // upstream symmetric INT4 with one BF16 scale per 32 columns, codes kept bit for bit
  kQ8G32,    // int8 codes; row scale F32 x group scale 8 bit
  kQ4G32,    // nonlinear 4-bit codes; row scale F32; per 32 columns a 7-bit scale and a shift bit
  kQ4G16,    // nonlinear 4-bit codes; row scale F32; per 16 columns a 6-bit scale and a shift bit
  kMxfp4,    // upstream MXFP4: E2M1 codes with one E8M0 scale per 32 columns, kept bit for bit
  kNvfp4,    // upstream NVFP4: E2M1 codes, one E4M3 scale per 16 columns, one F32 scale, kept bit for bit
  kQ6G32,    // as kQ4G32 with 6-bit codes
  kQ5G32,    // as kQ4G32 with 5-bit codes
  kQ3G32,    // as kQ4G32 with 3-bit codes
  kQ3G16,    // as kQ4G16 with 3-bit codes
  kQ2G32,    // as kQ4G32 with 2-bit codes
  kQ2G16,    // as kQ4G16 with 2-bit codes
};
inline constexpr int kFormatCount = 16;

// The scales beside the tiles of a matrix.
enum class SideKind : uint8_t {
  kNone,
  kRowScale,     // F32 [row tiles * 16]: one per row, zero for padding rows
  kBlockScale,   // F32 [cdiv(rows, 128)][cdiv(cols, 128)]
  kTensorScale,  // F32 [2]: a multiplier and a divisor of every weight, one of them 1
};

// One tile as F32, row-major. Elements outside the matrix are unspecified.
struct DecodedTile {
  float w[kTileRows][kTileCols];
};

// One tile of an exact format as the source stores it: elements of stored_element_bytes each, row-major [16][32].
struct StoredTile {
  uint8_t elements[kTileElements * 4];
  uint16_t group_scales[kTileRows];  // as in StoredRows, one per row
};

struct BlockFormat;  // format/block_format.h

}  // namespace kompakt
