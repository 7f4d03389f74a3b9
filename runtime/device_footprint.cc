#include "runtime/device_footprint.h"

#include <algorithm>

namespace kompakt {
namespace {

// Keys and values of cached rows that a chunk of a prompt decompresses at a time, and partial results of attention.
constexpr uint64_t kScratchBytes = uint64_t{96} << 20;

}  // namespace

DeviceFootprint DeviceFootprintOf(const ArchSpec& arch, int64_t context) {
  const MlaSpec& mla = arch.mla();
  const MoeSpec& moe = arch.moe();
  const int64_t width = mla.kv_lora_rank() + mla.qk_rope_head_dim();
  const int64_t head = mla.qk_nope_head_dim() + mla.qk_rope_head_dim() + 3 * mla.v_head_dim();
  const int64_t routed = moe.num_experts_per_tok() * (moe.moe_intermediate_size() + arch.hidden_size());
  const int64_t inter =
      std::max(arch.intermediate_size(), routed + moe.n_shared_experts() * moe.moe_intermediate_size());
  const int64_t floats = 8 * arch.hidden_size() + 2 * mla.q_lora_rank() + 2 * width + mla.num_attention_heads() * head +
                         2 * inter + 2 * moe.n_routed_experts();
  DeviceFootprint footprint;
  footprint.cache_token_bytes = static_cast<uint64_t>(width) * 2;  // BF16
  const int64_t tokens = std::min(context, kDeviceChunkTokens);
  footprint.working_bytes =
      static_cast<uint64_t>(tokens * floats + 16 * arch.vocab_size()) * sizeof(float) + kScratchBytes;
  return footprint;
}

uint64_t UsableDeviceBytes(uint64_t free) {
  const uint64_t reserve = std::max<uint64_t>(free / 32, uint64_t{256} << 20);
  return free > reserve ? free - reserve : 0;
}

}  // namespace kompakt
