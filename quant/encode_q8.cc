// The linear 8-bit format: what linear_search.h needs to know of it.
#include "quant/encode_q8.h"

#include <cstring>

#include "format/block_q8_g32.h"

namespace kompakt {
namespace {

constexpr LinearFormat kG32 = {
    .id = FormatId::kQ8G32,
    .group_cols = 32,
    .most_scale = 255,
    .code_bias = kQ8CodeBias,
    .code_bytes = sizeof(Q8G32Tile::codes),
    .tile_bytes = sizeof(Q8G32Tile),
    .write_codes = [](const uint8_t* codes, uint8_t* tile) { std::memcpy(tile, codes, sizeof(Q8G32Tile::codes)); },
};

}  // namespace

bool EncodeQ8G32(const EncoderSet& set, SearchEffort effort, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles,
                 float* row_scales, TileError* error) {
  return set.linear(kG32, effort, in, scratch, tiles, row_scales, error);
}

}  // namespace kompakt
