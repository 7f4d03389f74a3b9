// Binds every tensor of a ModelSchema to what the files of a checkpoint hold.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "converters/quantization_config.h"
#include "converters/shard_set.h"
#include "converters/stored_tensor.h"
#include "format/model_schema.h"

namespace kompakt {

// A tensor of an MTP layer that is a copy of a tensor of the main model.
struct TensorCopy {
  FoundTensor tensor;
  FoundTensor original;
  size_t of = 0;  // index of the original into ModelSchema::tensors()
};

struct BoundTensors {
  std::vector<std::unique_ptr<const StoredTensor>> tensors;  // parallel to ModelSchema::tensors()
  std::vector<TensorCopy> copies;                            // of MTP layers that are kept
  int64_t mtp_parameters = 0;                                // as SourceInventory counts them
  bool quantized = false;                                    // some tensor has companions
  std::vector<FoundTensor> short_biases;                     // correction biases that are not F32
  std::vector<std::string> notices;                          // skipped MTP layers and the like
};

// kFailedPrecondition: tensors missing or surplus (the first ten of each and the counts), a shape that is not the
// schema's, a scale without weight or a weight without scale. kUnimplemented: a dtype or companion that is not read.
absl::StatusOr<BoundTensors> BindTensors(const ModelSchema& schema, const SourceQuantization& quantization,
                                         const ShardSet& shards, const std::string& folder);

}  // namespace kompakt
