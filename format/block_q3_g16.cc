#include "format/block_q3_g16.h"

#include "format/table_format.h"

namespace kompakt {

constinit const BlockFormat kQ3G16Format = TableFormatRow<kQ3G16>("q3_g16", 2);

}  // namespace kompakt
