// Matrices of a loaded model as a lossy format would hold them, to see what that alone does to it (runtime/
// overlay_store.h).
#pragma once

#include <atomic>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/encoder.h"
#include "quant/feedback_plan.h"
#include "quant/importance.h"
#include "runtime/overlay_store.h"

namespace kompakt {

struct TrialWeights {
  std::vector<MatrixReplacement> matrices;
  ErrorStats error;  // of all of them
};

// `tensors`: matrices of the store's schema. `importance` (may be null): as a conversion with it would encode them,
// with error feedback where it has second moments. Memory: their bytes in `format`, and per thread one row tile and the
// factors of one input. Errors are the store's, the calibration's or the encoder's; kCancelled when `interrupted` is
// set meanwhile.
absl::StatusOr<TrialWeights> EncodeTrial(const WeightStore& weights, absl::Span<const TensorInfo> tensors,
                                         FormatId format, int threads, const std::atomic<bool>& interrupted,
                                         const Importance* importance = nullptr);

}  // namespace kompakt
