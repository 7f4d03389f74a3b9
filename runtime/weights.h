// WeightStore: where a Model finds its weights. Implemented over a packed file (PackedWeights) and over an upstream
// checkpoint held in memory in its exact form (exact_store.h); over a packed file larger than memory (paged_weights.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/block_format.h"
#include "format/model_schema.h"
#include "format/packed_reader.h"

namespace kompakt {

class ExpertCache;

class WeightStore {
 public:
  virtual ~WeightStore() = default;

  // File or folder, for messages.
  virtual const std::string& origin() const = 0;
  virtual const ModelSchema& schema() const = 0;
  // A matrix of schema(); its bytes live as long as the store.
  virtual absl::StatusOr<MatrixView> Matrix(const TensorInfo& tensor) const = 0;
  // A norm or bias as F32.
  virtual absl::StatusOr<std::vector<float>> Vector(const TensorInfo& tensor) const = 0;
  // Where routed experts come from when they are not all in memory; Matrix then gives them without data. Else null.
  virtual ExpertCache* experts() const { return nullptr; }
};

// The weights of a packed file, straight from the mapping.
std::shared_ptr<const WeightStore> PackedWeights(std::shared_ptr<const PackedReader> file);

}  // namespace kompakt
