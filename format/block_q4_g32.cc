#include "format/block_q4_g32.h"

#include "format/table_format.h"

namespace kompakt {

constinit const BlockFormat kQ4G32Format = TableFormatRow<kQ4G32>("q4_g32", 0);

}  // namespace kompakt
