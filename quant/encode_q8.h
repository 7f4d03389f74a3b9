// Encoder of q8_g32. The method and its written rules: docs/quantization.md, "How a tile is encoded".
#pragma once

#include "quant/encoder_set.h"

namespace kompakt {

bool EncodeQ8G32(const EncoderSet& set, SearchEffort effort, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles,
                 float* row_scales, TileError* error);

}  // namespace kompakt
