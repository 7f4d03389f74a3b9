#include "format/block_q3_g32.h"

#include "format/table_format.h"

namespace kompakt {

constinit const BlockFormat kQ3G32Format = TableFormatRow<kQ3G32>("q3_g32", 2);

}  // namespace kompakt
