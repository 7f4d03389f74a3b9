// Encoders of q4_g32 and q4_g16. The method and its written rules: docs/quantization.md, "How a tile is encoded".
#pragma once

#include "quant/encoder.h"
#include "quant/lanes.h"

namespace kompakt {

void EncodeQ4G32(const RowTile& in, EncoderScratch& scratch, uint8_t* tiles, float* row_scales, TileError* error);
void EncodeQ4G16(const RowTile& in, EncoderScratch& scratch, uint8_t* tiles, float* row_scales, TileError* error);

// The same with the register width given: for the test that every width gives the same bytes. `width` must be one that
// this machine has.
void EncodeQ4(FormatId format, LaneWidth width, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles,
              float* row_scales, TileError* error);

}  // namespace kompakt
