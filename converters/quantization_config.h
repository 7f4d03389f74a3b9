// What quantization_config of config.json says about the files. It only guides: how a tensor is stored is decided by
// the dtypes and companions that the files hold.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "converters/json_fields.h"

namespace kompakt {

struct SourceQuantization {
  // FP8: rows and columns that share one scale.
  int64_t block_rows = 128;
  int64_t block_cols = 128;
  // scale_fmt "ue8m0": every scale is a power of two.
  bool power_of_two_scales = false;
  // Packed INT4: the group sizes in columns that occur, 0 for one scale per row. Empty: not said, so it follows from
  // the shapes.
  std::vector<int64_t> int4_groups;
};

// kUnimplemented naming the value for a method, format or strategy that is not read; kDataLoss for a malformed one.
absl::StatusOr<SourceQuantization> ParseQuantization(const JsonFields& config);

}  // namespace kompakt
