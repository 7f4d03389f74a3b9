// Matrices of a loaded model as a lossy format would hold them, to see what that alone does to it (runtime/
// overlay_store.h).
#pragma once

#include <atomic>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/encoder.h"
#include "runtime/overlay_store.h"

namespace kompakt {

struct TrialWeights {
  std::vector<MatrixReplacement> matrices;
  ErrorStats error;  // of all of them
};

// `tensors`: matrices of the store's schema. Memory: their bytes in `format`, and one row tile per thread. Errors are
// the store's or the encoder's; kCancelled when `interrupted` is set meanwhile.
absl::StatusOr<TrialWeights> EncodeTrial(const WeightStore& weights, absl::Span<const TensorInfo> tensors,
                                         FormatId format, int threads, const std::atomic<bool>& interrupted);

}  // namespace kompakt
