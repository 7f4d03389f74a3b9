#include "format/block_q4_g16.h"

#include "format/table_format.h"

namespace kompakt {

constinit const BlockFormat kQ4G16Format = TableFormatRow<kQ4G16>("q4_g16", 0);

}  // namespace kompakt
