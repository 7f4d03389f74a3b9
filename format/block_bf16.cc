#include "format/block_bf16.h"

#include "format/block_format.h"
#include "format/float_formats.h"
#include "format/half_tile.h"
#include "format/word_transpose.h"

namespace kompakt {

using Ops = HalfTileOps<Bf16ToF32>;

const BlockFormat kBf16Format = {
    .id = FormatId::kBf16,
    .name = "bf16",
    .bits_per_weight = 16,
    .exact = true,
    .vector_ok = true,
    .group_cols = 0,
    .tile_bytes = sizeof(HalfTile),
    .side = SideKind::kNone,
    .stored_element_bytes = 2,
    .decode_tile = Ops::DecodeTile,
    .pack_tile = PackWords<2>,
    .unpack_tile = UnpackWords<2>,
    .decode_elements = Ops::DecodeElements,
};

}  // namespace kompakt
