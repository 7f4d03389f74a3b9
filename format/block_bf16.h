// bf16: plain bfloat16, 16 bits per weight, in the tile of half_tile.h. Exact for BF16 sources.
#pragma once

#include "format/format_id.h"

namespace kompakt {

extern const BlockFormat kBf16Format;

}  // namespace kompakt
