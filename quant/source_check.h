// Does a packed file really come from this source? Re-derives tensors from the source by the formats that the file
// names and compares bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/packed_reader.h"
#include "format/tensor_source.h"
#include "quant/importance.h"

namespace kompakt {

struct SourceCheck {
  bool lacks_calibration = false;  // lossy tensors were not derived again
  int64_t tensors_checked = 0;
  int64_t parameters_checked = 0;
  // One line per difference: a tensor whose bytes or source checksum differ, or a source file whose size or hash is not
  // the recorded one.
  std::vector<std::string> differences;
};

// Compares the list of source files with the provenance and the source bytes of every tensor with the checksums in the
// manifest (a file of version 1.0 has none), and re-derives `samples` tensors: the first of every role and format, then
// others spread evenly over the file; all when `samples` is 0. Every source byte is read once. `progress` (may be null)
// gets (tensors done, of). An error means that the source could not be read or describes another model.
//
// What was encoded with a calibration can only be derived again with it: `importance` must be of that calibration
// (kFailedPrecondition), and null for a file that was made without. A calibrated file without `importance` is compared
// by what was kept exactly and by source checksums.
absl::StatusOr<SourceCheck> CheckAgainstSource(const PackedReader& file, const TensorSource& source, int64_t samples,
                                               int threads, const std::function<void(int64_t, int64_t)>& progress,
                                               const Importance* importance = nullptr);

}  // namespace kompakt
