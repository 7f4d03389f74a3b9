// Encoders of the nonlinear formats. The method and its written rules: docs/quantization.md, "How a tile is encoded".
#pragma once

#include "quant/encoder_set.h"

namespace kompakt {

// Null for formats of another family. The result lives for ever.
const TableFormat* FindTableFormat(FormatId format);

// As Encoder::encode.
template <FormatId kFormat>
bool EncodeNonlinear(const EncoderSet& set, SearchEffort effort, const RowTile& in, EncoderScratch& scratch,
                     uint8_t* tiles, float* row_scales, TileError* error) {
  return set.table(*FindTableFormat(kFormat), effort, in, scratch, tiles, row_scales, error);
}

}  // namespace kompakt
