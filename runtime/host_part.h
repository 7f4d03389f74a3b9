// HostPart: what the CPU computes of a forward pass whose other part runs on a device: the embedding, perhaps the first
// layers with their cache, and routed experts that the device has no copies of.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/layer.h"
#include "runtime/session.h"

namespace kompakt {

class HostPart {
 public:
  // For the first `layers` layers, a timeline of max_tokens, and up to `tokens` tokens at a time. kResourceExhausted.
  static absl::StatusOr<std::unique_ptr<HostPart>> Create(std::shared_ptr<const Model> model, int64_t layers,
                                                          int64_t max_tokens, int64_t tokens);

  int64_t layers() const { return std::ssize(caches_); }
  uint64_t cache_bytes() const { return latent_.bytes() + keys_.bytes(); }
  uint64_t working_bytes() const { return a_.bytes() + workspace_.bytes(); }
  // Of the last call: a.x is the residual stream, and what RunLayer leaves.
  const Activations& activations() const { return a_; }

  // a.x <- the rows of the embedding; kDataLoss where they are not finite.
  absl::Status Embed(absl::Span<const int32_t> ids, int64_t position);
  // One of the first layers on a.x; kDataLoss where the result is not finite.
  absl::Status RunOwnLayer(int64_t layer, int64_t position, int64_t tokens, const FrozenRouting& frozen);
  // Rows of random values in the caches of those layers.
  void AppendRandomRows(int64_t position, int64_t tokens);
  // y <- the routed experts ids[T, k] with weights[T, k], over the RMSNorm of the residual stream `x` [T, h].
  absl::Status Experts(int64_t layer, const float* x, int64_t tokens, const int32_t* ids, const float* weights,
                       int64_t k, float* y);
  // x [T, h] <- its final norm.
  absl::Status FinalNorm(int64_t tokens, float* x);

 private:
  explicit HostPart(std::shared_ptr<const Model> model)
      : model_(std::move(model)),
        team_(model_->options().threads),
        context_{.team = &team_, .workspace = &workspace_} {}
  absl::Status Norm(const float* x, const std::vector<float>& weight, int64_t tokens, float* y);

  std::shared_ptr<const Model> model_;
  AlignedBuffer latent_, keys_;
  std::vector<LayerCache> caches_;
  Activations a_;
  Workspace workspace_;
  ThreadTeam team_;
  KernelContext context_;
};

}  // namespace kompakt
