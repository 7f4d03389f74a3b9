// The nonlinear formats: what table_search.h needs to know of them.
#include "quant/encode_table.h"

#include "format/block_q2_g16.h"
#include "format/block_q2_g32.h"
#include "format/block_q3_g16.h"
#include "format/block_q3_g32.h"
#include "format/block_q4_g16.h"
#include "format/block_q4_g32.h"
#include "format/block_q5_g32.h"
#include "format/block_q6_g32.h"
#include "format/table_format.h"

namespace kompakt {
namespace {

template <const TableSpec& kSpec>
constexpr CodeTable kCodes = MakeCodeTable(kSpec);

template <const TableSpec& kSpec>
constexpr TableFormat RowOf() {
  static_assert(IsSearchable(kSpec));
  return {.spec = &kSpec, .table = &kCodes<kSpec>, .write_codes = PackTableCodes<kSpec>};
}

constexpr TableFormat kFormats[] = {RowOf<kQ2G32>(), RowOf<kQ2G16>(), RowOf<kQ3G32>(), RowOf<kQ3G16>(),
                                    RowOf<kQ4G32>(), RowOf<kQ4G16>(), RowOf<kQ5G32>(), RowOf<kQ6G32>()};

}  // namespace

const TableFormat* FindTableFormat(FormatId format) {
  for (const TableFormat& row : kFormats) {
    if (row.spec->id == format) return &row;
  }
  return nullptr;
}

}  // namespace kompakt
