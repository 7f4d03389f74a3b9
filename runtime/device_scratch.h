// DeviceScratch: the memory on a device that one forward pass works in, for up to `tokens` tokens (T) at a time. One
// piece of memory; nothing in it outlives a call but what a comment says.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "format/arch_spec.pb.h"
#include "kernels/cuda/cuda_kernels.h"
#include "runtime/device_memory.h"

namespace kompakt {

// Tokens whose logits are computed together.
inline constexpr int64_t kLogitsTokens = 16;

class DeviceScratch {
 public:
  // For a cache of `context` tokens. A DeviceError when the memory cannot be had.
  static absl::StatusOr<DeviceScratch> Create(Device& device, const ArchSpec& arch, int64_t context, int64_t tokens);
  // What Create asks for.
  static uint64_t BytesFor(const ArchSpec& arch, int64_t context, int64_t tokens);

  int64_t tokens() const { return tokens_; }
  uint64_t bytes() const { return memory_.bytes(); }

  // What the host gives to a call, in one piece so that one copy brings it: input_bytes(T) from `input` on, in the
  // order position, cos_sin, x.
  uint8_t* input = nullptr;
  struct Input {
    int32_t* position = nullptr;  // [1], row of the first token
    float* cos_sin = nullptr;     // [T, dr / 2, 2]
    float* x = nullptr;           // [T, h]: the embedding, or the output of the last layer of the host
  };
  // Where the parts lie for T tokens, in a block that begins at `base`, here or in host memory.
  static Input InputAt(uint8_t* base, const ArchSpec& arch, int64_t tokens);
  static uint64_t InputBytes(const ArchSpec& arch, int64_t tokens);

  float* residual = nullptr;     // [T, h]
  float* q = nullptr;            // [T, H (dn + dr)]
  float* kv_a = nullptr;         // [T, rank + rope]
  float* attended = nullptr;     // [T, H dv]
  uint16_t* latent_q = nullptr;  // [min(T, kDecodeTokens), H, padded rank + rope]
  float* mean = nullptr;         // partial results of MlaDecode
  float* log_sum = nullptr;
  uint16_t* kv = nullptr;  // of MlaDecompress, for head_group() heads at a time
  // Activations on their way into a product (cuda::ActivationLayout).
  void* attention_x = nullptr;  // [T] rows of h, also those of the head
  void* q_latent = nullptr;     // [T] of rq
  void* attended_x = nullptr;   // [T] of H dv
  void* ffn_x = nullptr;        // [T] of h
  void* inner = nullptr;        // [T K] of the routed experts, or [T] of a dense FFN
  void* shared_inner = nullptr;
  // [layers + 1, T, Groups(h)]: sums of squares of what enters each layer, then of what leaves the last. Shows where a
  // value was not finite.
  float* squares = nullptr;
  float* router_parts = nullptr;    // of RouteParams
  float* router_logits = nullptr;   // [T, E]
  float* router_scores = nullptr;   // [T, E]
  float* router_weights = nullptr;  // [T, K]
  int32_t* router_ids = nullptr;    // [T, K]
  float* host_part = nullptr;       // [T, h]: what experts on the host add
  void* expert_scratch = nullptr;
  // Of indexers, where the context is beyond index_topk.
  float* index_q = nullptr;        // [T, Hi di], not rotated
  float* index_k = nullptr;        // [T, di]
  float* index_weights = nullptr;  // [T, Hi]
  float* index_scores = nullptr;   // [SelectGroup, context]
  int32_t* index_order = nullptr;  // likewise
  // [T, index_topk]: rows that tokens attend to. A layer without an indexer uses what the last layer with one left.
  int32_t* selected = nullptr;
  float* logits = nullptr;          // [min(T, kLogitsTokens), vocab]
  int32_t* best = nullptr;          // of the same tokens
  uint32_t* router_done = nullptr;  // zero between calls
  // [layers]: 1 where a score of the layer's indexer was not finite; zero between calls that went well.
  uint32_t* index_not_finite = nullptr;
  uint32_t* expert_done = nullptr;  // [T, Groups(h)] likewise
  uint32_t* query_done = nullptr;   // [min(T, kDecodeTokens), H] likewise
  void* head_scratch = nullptr;     // likewise

  // Tokens whose rows are selected at a time.
  static int64_t SelectGroup(int64_t context, int64_t tokens);
  // Heads that MlaDecompress takes at a time for `rows` rows.
  static int HeadGroup(const ArchSpec& arch, int64_t rows);

 private:
  // Points the members at pieces from `base` on; returns the bytes.
  uint64_t Place(const ArchSpec& arch, int64_t context, int64_t tokens, uint8_t* base);

  DeviceBuffer memory_;
  int64_t tokens_ = 0;
};

}  // namespace kompakt
