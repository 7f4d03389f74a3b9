#include "format/block_q2_g32.h"

#include "format/table_format.h"

namespace kompakt {

constinit const BlockFormat kQ2G32Format = TableFormatRow<kQ2G32>("q2_g32", 3);

}  // namespace kompakt
