// One decoder layer in terms of kernel ops, and the activations it works on.
//     x <- x + Attn(RMSNorm(x)),  x <- x + FFN(RMSNorm(x))
// Attention is MLA (DeepSeek-V2 report, section 2.1), with an indexer over the tokens that it selects once there are
// more than index_topk (DeepSeek-V3.2 report, section 2.1; its Hadamard rotation cancels in the dot product, and its
// FP8 rounding of queries and keys is not imitated). The FFN is dense or a mixture of experts (DeepSeek-V2 report,
// section 2.2).
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/kernel_set.h"
#include "runtime/activation_policy.h"
#include "runtime/binding.h"
#include "runtime/linear_observer.h"

namespace kompakt {

// Buffers for up to `capacity` tokens, all F32 (ids int32).
class Activations {
 public:
  // For a timeline of up to `max_tokens`. kResourceExhausted when the memory cannot be had.
  static absl::StatusOr<Activations> Create(const ArchSpec& arch, int64_t max_tokens, int64_t capacity);
  // What Create asks for.
  static uint64_t BytesFor(const ArchSpec& arch, int64_t max_tokens, int64_t capacity);

  int64_t capacity() const { return capacity_; }
  uint64_t bytes() const { return buffer_.bytes(); }

  float* x = nullptr;               // [T, h]: the residual stream
  float* normed = nullptr;          // [T, h]
  float* out = nullptr;             // [T, h]: output of attention or FFN
  float* q_latent = nullptr;        // [T, rq]
  float* q = nullptr;               // [T, H (dn + dr)]
  float* kv_a = nullptr;            // [T, rkv + dr]
  float* attended = nullptr;        // [T, H dv]
  float* cos_sin = nullptr;         // [T, dr / 2, 2]
  float* router_weights = nullptr;  // [T, K]
  float* router_scores = nullptr;   // [T, E]
  int32_t* router_ids = nullptr;    // [T, K]
  float* index_q = nullptr;         // [T, Hi di]: the indexer's queries
  float* index_k = nullptr;         // [T, di]: its keys before their norm
  float* index_weights = nullptr;   // [T, Hi]
  // [T, index_topk]: rows that tokens beyond index_topk attend to. A layer without an indexer uses what the last layer
  // with one left here.
  int32_t* selected = nullptr;

 private:
  // Points the members at consecutive pieces from `base` on; returns the number of floats.
  int64_t Place(const ArchSpec& arch, int64_t max_tokens, int64_t capacity, float* base);

  AlignedBuffer buffer_;
  int64_t capacity_ = 0;
};

// What one layer remembers of every token.
struct LayerCache {
  LatentCache latent;
  IndexCache index;  // only where the layer has an indexer
};

// Which experts the tokens of a call take, in place of the router's own choice. Null pointers: the router's.
struct FrozenRouting {
  const int32_t* ids = nullptr;    // [T, K] ascending
  const float* weights = nullptr;  // [T, K] of those experts
};

// Runs a layer on a.x in place, for T tokens from `position` on; a.cos_sin is filled. Afterwards a.router_ids and
// a.router_weights hold the choice of a MoE layer, that of `frozen` where it has one. kDataLoss when a score of the
// indexer is not finite. An `observer` sees the input of every matrix but the router; its errors are passed on. `act`:
// ModelOptions::act.
absl::Status RunLayer(const ModelBinding& model, const LayerBinding& layer, const KernelSet& kernels,
                      KernelContext& context, const LayerCache& cache, int64_t position, int64_t tokens, Activations& a,
                      const FrozenRouting& frozen = {}, LinearObserver* observer = nullptr, ActivationPolicy act = {});

}  // namespace kompakt
