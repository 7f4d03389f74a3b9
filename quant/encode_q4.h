// Encoders of q4_g32 and q4_g16. The method and its written rules: docs/quantization.md, "How a tile is encoded".
#pragma once

#include "quant/encoder_set.h"

namespace kompakt {

bool EncodeQ4G32(const EncoderSet& set, SearchEffort effort, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles,
                 float* row_scales, TileError* error);
bool EncodeQ4G16(const EncoderSet& set, SearchEffort effort, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles,
                 float* row_scales, TileError* error);

}  // namespace kompakt
