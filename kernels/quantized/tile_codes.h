// What the loops of every instruction set know of a format's tile, whatever they load it with.
#pragma once

#include <cstdint>

#include "format/block_int4_g32.h"
#include "format/block_mxfp4.h"
#include "format/block_nvfp4.h"
#include "format/block_q8_g32.h"
#include "format/table_spec.h"

namespace kompakt::quantized {

// kIntScales: group scales are integers, else F32. kShift: what the shift bit of a group adds to its values.
template <FormatId kFormat, uint64_t kBytes, int64_t kGroupCount, bool kHasIntScales, int kShiftValue = 0>
struct TileCodes {
  static constexpr FormatId kId = kFormat;
  static constexpr uint64_t kTileBytes = kBytes;
  static constexpr int kGroups = static_cast<int>(kGroupCount);
  static constexpr bool kIntScales = kHasIntScales;
  static constexpr int kShift = kShiftValue;
};

template <const TableSpec& kSpec>
using TableTileCodes = TileCodes<kSpec.id, kSpec.tile_bytes(), kSpec.groups(), true, kSpec.shift>;
using Q8TileCodes = TileCodes<FormatId::kQ8G32, sizeof(Q8G32Tile), 1, true>;
using Int4TileCodes = TileCodes<FormatId::kInt4G32, sizeof(Int4G32Tile), 1, false>;
using Mxfp4TileCodes = TileCodes<FormatId::kMxfp4, sizeof(Mxfp4Tile), 1, false>;
using Nvfp4TileCodes = TileCodes<FormatId::kNvfp4, sizeof(Nvfp4Tile), 2, false>;

// May scales be multiplied into the dot products before these become F32?
template <class Codes, int kPlanes>
inline constexpr bool kIntProduct = Codes::kIntScales&& kPlanes == 1;

}  // namespace kompakt::quantized
