#include "runtime/model.h"

#include <utility>

#include "format/status.h"

namespace kompakt {

Model::Model(std::shared_ptr<const WeightStore> weights, ModelBinding binding, const ModelOptions& options)
    : weights_(std::move(weights)), binding_(std::move(binding)), options_(options) {}

absl::StatusOr<std::shared_ptr<const Model>> Model::Load(std::shared_ptr<const WeightStore> weights,
                                                         const ModelOptions& options) {
  if (options.threads < 1) return UsageError("threads: expected at least 1, found ", options.threads);
  ModelOptions resolved = options;
  if (resolved.kernels == nullptr) {
    KOMPAKT_ASSIGN_OR_RETURN(resolved.kernels, BestKernelSet());
  }
  KOMPAKT_ASSIGN_OR_RETURN(ModelBinding binding, BindModel(*weights));
  return std::shared_ptr<const Model>(new Model(std::move(weights), std::move(binding), resolved));
}

}  // namespace kompakt
