// One decoder layer in terms of kernel ops, and the activations it works on.
//     x <- x + Attn(RMSNorm(x)),  x <- x + FFN(RMSNorm(x))
// Attention is MLA (DeepSeek-V2 report, section 2.1), the FFN dense or a mixture of experts (section 2.2).
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/kernel_set.h"
#include "runtime/binding.h"

namespace kompakt {

// Buffers for up to `capacity` tokens, all F32 (ids int32).
class Activations {
 public:
  // kResourceExhausted when the memory cannot be had.
  static absl::StatusOr<Activations> Create(const ArchSpec& arch, int64_t capacity);
  // What Create asks for.
  static uint64_t BytesFor(const ArchSpec& arch, int64_t capacity);

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
  int32_t* router_ids = nullptr;    // [T, K]

 private:
  // Points the members at consecutive pieces from `base` on; returns the number of floats.
  int64_t Place(const ArchSpec& arch, int64_t capacity, float* base);

  AlignedBuffer buffer_;
  int64_t capacity_ = 0;
};

// Runs layer `index` on a.x in place, for T tokens from `position` on; a.cos_sin is filled. Afterwards a.router_ids and
// a.router_weights hold the choice of a MoE layer.
absl::Status RunLayer(const ModelBinding& model, int64_t index, const KernelSet& kernels, KernelContext& context,
                      const LatentCache& cache, int64_t position, int64_t tokens, Activations& a);

}  // namespace kompakt
