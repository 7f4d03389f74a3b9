#include "format/block_q5_g32.h"

#include "format/table_format.h"

namespace kompakt {

constinit const BlockFormat kQ5G32Format = TableFormatRow<kQ5G32>("q5_g32", 2);

}  // namespace kompakt
