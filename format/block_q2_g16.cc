#include "format/block_q2_g16.h"

#include "format/table_format.h"

namespace kompakt {

constinit const BlockFormat kQ2G16Format = TableFormatRow<kQ2G16>("q2_g16", 3);

}  // namespace kompakt
