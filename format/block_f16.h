// f16: plain IEEE binary16, 16 bits per weight, in the tile of half_tile.h. Exact for F16 sources.
#pragma once

#include "format/format_id.h"

namespace kompakt {

extern const BlockFormat kF16Format;

}  // namespace kompakt
