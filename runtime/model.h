// Model: an immutable packed model, ready to run. Weights stay in the mapped file; only norms, biases, RoPE tables and
// the absorbed views of kv_b_proj are derived at load.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "format/packed_reader.h"
#include "kernels/kernel_set.h"

namespace kompakt {

struct ModelOptions {
  int threads = 1;
  // null: the best set this machine runs.
  const KernelSet* kernels = nullptr;
};

class Model {
 public:
  static absl::StatusOr<std::shared_ptr<const Model>> Load(std::shared_ptr<const PackedReader> file,
                                                           const ModelOptions& options);
  virtual ~Model() = default;

  virtual const ArchSpec& arch() const = 0;
  virtual const PackedReader& file() const = 0;
  virtual const ModelOptions& options() const = 0;
};

}  // namespace kompakt
