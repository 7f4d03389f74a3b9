// An upstream checkpoint as weights of a Model, without a packed file: every tensor in the exact format that its source
// keeps, in memory.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "format/tensor_source.h"
#include "runtime/weights.h"

namespace kompakt {

// Reads every tensor of `source`, which is not needed afterwards. `origin` names it in messages.
// kResourceExhausted when the weights do not fit into memory; what reading the source fails with.
absl::StatusOr<std::shared_ptr<const WeightStore>> LoadExactWeights(const TensorSource& source,
                                                                    const std::string& origin, int threads);

}  // namespace kompakt
