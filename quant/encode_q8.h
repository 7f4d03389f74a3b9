// Encoder of q8_g32. The method and its written rules: docs/quantization.md, "How a tile is encoded".
#pragma once

#include "quant/encoder.h"
#include "quant/lanes.h"

namespace kompakt {

void EncodeQ8G32(const RowTile& in, EncoderScratch& scratch, uint8_t* tiles, float* row_scales, TileError* error);

// The same with the register width given: for the test that every width gives the same bytes.
void EncodeQ8(LaneWidth width, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles, float* row_scales,
              TileError* error);

}  // namespace kompakt
