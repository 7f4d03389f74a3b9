#include "format/block_q6_g32.h"

#include "format/table_format.h"

namespace kompakt {

constinit const BlockFormat kQ6G32Format = TableFormatRow<kQ6G32>("q6_g32", 2);

}  // namespace kompakt
