#include "runtime/device_scratch.h"

#include <algorithm>

#include "format/status.h"
#include "runtime/device_footprint.h"

namespace kompakt {
namespace {

constexpr uint64_t kDeviceAlign = 256;
// Keys and values of cached rows that a chunk of a prompt decompresses at a time.
constexpr int64_t kDecompressedBytes = int64_t{64} << 20;
// Scores of an indexer, and their order, of the tokens whose rows are selected at a time.
constexpr int64_t kSelectBytes = int64_t{64} << 20;
// As many blocks as the largest device runs at once, and as many splits as MlaSplits gives at most.
constexpr int64_t kMostMultiprocessors = 256;
constexpr int64_t kMostSplits = cuda::kMaxMlaSplits;

uint64_t Aligned(uint64_t bytes) { return (bytes + kDeviceAlign - 1) / kDeviceAlign * kDeviceAlign; }

int64_t Padded16(int64_t n) { return (n + 15) / 16 * 16; }

// Room for any choice of planes: two of them, and the values.
uint64_t ActivationBytes(int64_t rows, int64_t cols) {
  const cuda::ActivationLayout layout{
      .cols = static_cast<int32_t>(cols), .planes = 2, .with_x = true, .with_squares = true};
  return rows > 0 && cols > 0 ? layout.bytes(rows) : 0;
}

}  // namespace

int DeviceScratch::HeadGroup(const ArchSpec& arch, int64_t rows) {
  const MlaSpec& mla = arch.mla();
  const int64_t one = cuda::MlaDecompressedElements(1, static_cast<int>(rows), static_cast<int>(mla.qk_nope_head_dim()),
                                                    static_cast<int>(mla.v_head_dim())) *
                      2;
  return static_cast<int>(std::clamp<int64_t>(kDecompressedBytes / one, 1, mla.num_attention_heads()));
}

int64_t DeviceScratch::SelectGroup(int64_t context, int64_t tokens) {
  const int64_t one = context * static_cast<int64_t>(sizeof(float) + sizeof(int32_t));
  return std::clamp<int64_t>(kSelectBytes / one, 1, tokens);
}

DeviceScratch::Input DeviceScratch::InputAt(uint8_t* base, const ArchSpec& arch, int64_t tokens) {
  Input input;
  input.position = reinterpret_cast<int32_t*>(base);
  base += kDeviceAlign;
  input.cos_sin = reinterpret_cast<float*>(base);
  base += Aligned(static_cast<uint64_t>(tokens * arch.mla().qk_rope_head_dim()) * sizeof(float));
  input.x = reinterpret_cast<float*>(base);
  return input;
}

uint64_t DeviceScratch::InputBytes(const ArchSpec& arch, int64_t tokens) {
  return kDeviceAlign + Aligned(static_cast<uint64_t>(tokens * arch.mla().qk_rope_head_dim()) * sizeof(float)) +
         Aligned(static_cast<uint64_t>(tokens * arch.hidden_size()) * sizeof(float));
}

uint64_t DeviceScratch::Place(const ArchSpec& arch, int64_t context, int64_t tokens, uint8_t* base) {
  const MlaSpec& mla = arch.mla();
  const MoeSpec& moe = arch.moe();
  const int64_t h = arch.hidden_size();
  const int64_t heads = mla.num_attention_heads();
  const int64_t k = moe.num_experts_per_tok();
  const int64_t experts = moe.n_routed_experts();
  uint64_t total = 0;
  const auto take = [&](auto** pointer, uint64_t bytes) {
    using Pointer = std::remove_reference_t<decltype(*pointer)>;
    if (base != nullptr) *pointer = reinterpret_cast<Pointer>(base + total);
    total += Aligned(bytes);
  };
  const auto values = [&](auto** pointer, int64_t n) { take(pointer, static_cast<uint64_t>(n) * sizeof(**pointer)); };
  take(&input, InputBytes(arch, tokens));
  values(&residual, tokens * h);
  values(&q, tokens * heads * (mla.qk_nope_head_dim() + mla.qk_rope_head_dim()));
  values(&kv_a, tokens * (mla.kv_lora_rank() + mla.qk_rope_head_dim()));
  values(&attended, tokens * heads * mla.v_head_dim());
  const int64_t few = std::min(tokens, cuda::kDecodeTokens);
  values(&latent_q, few * heads * (Padded16(mla.kv_lora_rank()) + Padded16(mla.qk_rope_head_dim())));
  // T * splits * H: the splits times the blocks of 16 heads are the device's blocks, rounded up.
  const int64_t head_blocks = (heads + 15) / 16;
  const int64_t splits = std::min({(kMostMultiprocessors + head_blocks - 1) / head_blocks, kMostSplits,
                                   std::max<int64_t>(1, context / cuda::kMinMlaSplitRows)});
  const int64_t partials = std::max(splits, few) * heads + kMostMultiprocessors * 16;
  values(&mean, partials * mla.kv_lora_rank());
  values(&log_sum, partials);
  const int64_t decompressed =
      cuda::MlaDecompressedElements(HeadGroup(arch, context), static_cast<int>(context),
                                    static_cast<int>(mla.qk_nope_head_dim()), static_cast<int>(mla.v_head_dim()));
  values(&kv, tokens > cuda::kDecodeTokens ? decompressed : 0);
  take(&attention_x, ActivationBytes(tokens, h));
  take(&q_latent, ActivationBytes(tokens, mla.q_lora_rank()));
  take(&attended_x, ActivationBytes(tokens, heads * mla.v_head_dim()));
  take(&ffn_x, ActivationBytes(tokens, h));
  take(&inner, std::max(ActivationBytes(tokens * k, moe.moe_intermediate_size()),
                        ActivationBytes(tokens, arch.intermediate_size())));
  take(&shared_inner, ActivationBytes(tokens, moe.n_shared_experts() * moe.moe_intermediate_size()));
  values(&squares, (arch.num_hidden_layers() + 1) * tokens * cuda::Groups(h));
  values(&router_parts, cuda::kMaxRouteParts * few * experts);
  values(&router_logits, tokens * experts);
  values(&router_scores, tokens * experts);
  values(&router_weights, tokens * k);
  values(&router_ids, tokens * k);
  values(&host_part, tokens * h);
  take(&expert_scratch, cuda::ExpertScratchBytes(experts, k, tokens, h));
  const IndexerSpec& indexer = arch.indexer();
  const int64_t indexed = DeviceIndexCacheOf(arch, context).capacity > 0 ? tokens : 0;
  const int64_t group = indexed > 0 ? SelectGroup(context, tokens) : 0;
  values(&index_q, indexed * indexer.index_n_heads() * indexer.index_head_dim());
  values(&index_k, indexed * indexer.index_head_dim());
  values(&index_weights, indexed * indexer.index_n_heads());
  values(&index_scores, group * context);
  values(&index_order, group * context);
  values(&selected, indexed * indexer.index_topk());
  const int64_t rows = std::min(tokens, kLogitsTokens);
  values(&logits, rows * arch.vocab_size());
  values(&best, rows);
  values(&router_done, 1);
  values(&index_not_finite, arch.num_hidden_layers());
  values(&expert_done, tokens * cuda::Groups(h));
  values(&query_done, few * heads);
  take(&head_scratch, cuda::HeadScratchBytes(arch.vocab_size(), rows));
  return total;
}

uint64_t DeviceScratch::BytesFor(const ArchSpec& arch, int64_t context, int64_t tokens) {
  return DeviceScratch().Place(arch, context, tokens, nullptr);
}

absl::StatusOr<DeviceScratch> DeviceScratch::Create(Device& device, const ArchSpec& arch, int64_t context,
                                                    int64_t tokens) {
  DeviceScratch scratch;
  scratch.tokens_ = tokens;
  KOMPAKT_ASSIGN_OR_RETURN(scratch.memory_,
                           DeviceBuffer::Create(device, BytesFor(arch, context, tokens), "activations of the session"));
  scratch.Place(arch, context, tokens, scratch.memory_.as<uint8_t>());
  // The counters lie at the end, one after the other.
  const auto* const counters = reinterpret_cast<const uint8_t*>(scratch.router_done);
  const uint64_t before = static_cast<uint64_t>(counters - scratch.memory_.as<uint8_t>());
  KOMPAKT_RETURN_IF_ERROR(device.Fill(scratch.router_done, 0, scratch.bytes() - before, nullptr));
  KOMPAKT_RETURN_IF_ERROR(device.Synchronize(nullptr));
  return scratch;
}

}  // namespace kompakt
