// The weights of another store, some of its matrices in other bytes: a model with part of it quantized, without a file.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/weights.h"

namespace kompakt {

// A matrix of the store's schema, as a packed file would hold it (format/block_format.h).
struct MatrixReplacement {
  TensorInfo tensor;
  FormatId format = FormatId::kF32;
  std::vector<uint8_t> blob;
};

// Owns the replacements and shares `base`. kInvalidArgument for a tensor that is no matrix of the schema or stands
// twice, or whose bytes are not as many as its shape and format take.
absl::StatusOr<std::shared_ptr<const WeightStore>> OverlayWeights(std::shared_ptr<const WeightStore> base,
                                                                  std::vector<MatrixReplacement> replacements);

}  // namespace kompakt
