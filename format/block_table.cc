// The table of number formats: one row each, in the order of FormatId.
#include <array>
#include <string>

#include "absl/strings/str_join.h"
#include "format/block_bf16.h"
#include "format/block_f16.h"
#include "format/block_f32.h"
#include "format/block_format.h"
#include "format/block_fp8_b128.h"
#include "format/block_int4_g32.h"
#include "format/block_mxfp4.h"
#include "format/block_nvfp4.h"
#include "format/block_q2_g16.h"
#include "format/block_q2_g32.h"
#include "format/block_q3_g16.h"
#include "format/block_q3_g32.h"
#include "format/block_q4_g16.h"
#include "format/block_q4_g32.h"
#include "format/block_q5_g32.h"
#include "format/block_q6_g32.h"
#include "format/block_q8_g32.h"
#include "format/status.h"

namespace kompakt {

absl::Span<const BlockFormat> AllFormats() {
  // The rows are constant-initialised in their own files, so the copy is good whenever it is made.
  static const std::array kTable = {
      kF32Format,   kF16Format,   kBf16Format,  kFp8B128Format, kInt4G32Format, kQ8G32Format,
      kQ4G32Format, kQ4G16Format, kMxfp4Format, kNvfp4Format,   kQ6G32Format,   kQ5G32Format,
      kQ3G32Format, kQ3G16Format, kQ2G32Format, kQ2G16Format,
  };
  static_assert(kTable.size() == kFormatCount);
  return kTable;
}

const BlockFormat& FormatOf(FormatId id) { return AllFormats()[static_cast<size_t>(id)]; }

absl::StatusOr<FormatId> FormatFromName(absl::string_view name) {
  for (const BlockFormat& format : AllFormats()) {
    if (format.name == name) return format.id;
  }
  const std::string known = absl::StrJoin(AllFormats(), ", ", [](std::string* out, const BlockFormat& format) {
    out->append(format.name.data(), format.name.size());
  });
  return UnsupportedError("unknown number format \"", name, "\"; known are ", known);
}

}  // namespace kompakt
