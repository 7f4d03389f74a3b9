// Encoders of f32, f16 and bf16: each value rounded to nearest, ties to even. f32 loses nothing.
#pragma once

#include "quant/encoder_set.h"

namespace kompakt {

bool EncodeF32(const EncoderSet& set, SearchEffort effort, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles,
               float* row_scales, TileError* error);
// A magnitude past the largest finite f16 (65504) becomes that value, not infinity: no encoder makes a non-finite
// weight of a finite one.
bool EncodeF16(const EncoderSet& set, SearchEffort effort, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles,
               float* row_scales, TileError* error);
bool EncodeBf16(const EncoderSet& set, SearchEffort effort, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles,
                float* row_scales, TileError* error);

}  // namespace kompakt
