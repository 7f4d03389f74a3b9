#include "runtime/footprint.h"

#include <algorithm>

#include "format/arch_spec.h"
#include "runtime/layer.h"

namespace kompakt {
namespace {

// Scratch of the kernels in floats. The shapes are those of kernels/portable; the tests hold the sum to what a Session
// takes.
constexpr int64_t kTasksTokens = 8;         // of one pass of the absorbed form
constexpr int64_t kPartRows = 512;          // of the cache, per partial result of the absorbed form
constexpr int64_t kShortParts = 16;         // more of them where parts begin short
constexpr int64_t kPartsFloats = 1 << 24;   // of partial results that are wanted at once
constexpr int64_t kBlockRows = 64;          // of the cache, per block of either form
constexpr int64_t kThreadFloats = 1 << 18;  // panels of decoded weights and small results of one thread

// Activations as 16-bit codes with their scales and sums: 80 bytes for 32 values (kernels/quantized/integer_isa.h).
int64_t CodeFloats(int64_t values) { return values * 5 / 8; }

// A row of F32 as products with floats take it (kernels/quantized/float_isa.h).
int64_t RowFloats(int64_t values) { return values + 48; }

int64_t FfnFloats(const ArchSpec& arch, int64_t tokens) {
  const MoeSpec& moe = arch.moe();
  const int64_t h = arch.hidden_size();
  const int64_t k = moe.num_experts_per_tok();
  const int64_t dense = std::max(arch.intermediate_size(), moe.n_shared_experts() * moe.moe_intermediate_size());
  const int64_t routed = k * moe.moe_intermediate_size();
  // Every token has its codes once, and once more for each of its experts.
  const int64_t dense_all = dense + RowFloats(std::max(h, dense));
  const int64_t routed_all =
      routed + std::max({CodeFloats((k + 1) * h), RowFloats(h), k * RowFloats(moe.moe_intermediate_size())});
  return tokens * std::max(dense_all, routed_all);
}

// Kernels of x86 take shorter parts at the beginning of a timeline, and fewer tokens at once where that would take more
// than kPartsFloats.
int64_t AbsorbedFloats(const MlaSpec& mla, int64_t context) {
  const int64_t heads = mla.num_attention_heads() + 15;
  const int64_t rank = mla.kv_lora_rank() + 34;
  const int64_t width = rank + mla.qk_rope_head_dim();
  const int64_t parts = (context + kPartRows - 1) / kPartRows;
  const int64_t short_parts = std::min<int64_t>((context + 63) / 64, parts + kShortParts);
  const int64_t of_token = short_parts * heads * rank;
  const int64_t of_x86 = std::clamp<int64_t>(kPartsFloats / of_token, 1, kTasksTokens) * of_token;
  return kTasksTokens * heads * width + std::max(kTasksTokens * parts * heads * rank, of_x86);
}

// Scores and their order in an indexer; or the selected rows of the cache and attention over them.
int64_t IndexedFloats(const ArchSpec& arch, int64_t context, int threads) {
  if (arch.attention() != ATTENTION_MLA_INDEXED || arch.indexer().index_topk() >= context) return 0;
  const int64_t select = std::max<int64_t>(kTasksTokens, threads) * 2 * (context + kBlockRows) +
                         threads * kBlockRows * (2 * arch.indexer().index_head_dim() + 16);
  const int64_t width = arch.mla().kv_lora_rank() + arch.mla().qk_rope_head_dim();
  const int64_t top_k = arch.indexer().index_topk();
  return std::max(select, kTasksTokens * top_k * (width + 1) + AbsorbedFloats(arch.mla(), top_k));
}

int64_t PerThreadFloats(const MlaSpec& mla, int64_t tokens) {
  const int64_t width = mla.kv_lora_rank() + mla.qk_rope_head_dim();
  const int64_t head = mla.qk_nope_head_dim() + mla.v_head_dim() + 32;
  return kThreadFloats + 2 * head * (mla.kv_lora_rank() + 32) + kBlockRows * (3 * width + 2 * head) +
         tokens * (head + 2 * kBlockRows);
}

}  // namespace

uint64_t CacheBytesPerToken(const ArchSpec& arch, CacheFormat format) {
  const MlaSpec& mla = arch.mla();
  uint64_t bytes = 0;
  for (int64_t layer = 0; layer < arch.num_hidden_layers(); ++layer) {
    bytes += LatentCache::LatentRowBytes(mla.kv_lora_rank(), mla.qk_rope_head_dim(), format);
    if (HasIndexer(arch, layer)) bytes += IndexCache::IndexRowBytes(arch.indexer().index_head_dim(), format);
  }
  return bytes;
}

Footprint FootprintOf(const ArchSpec& arch, int64_t context, int threads, CacheFormat format) {
  const MlaSpec& mla = arch.mla();
  const int64_t tokens = std::min(context, kChunkTokens);
  Footprint footprint;
  footprint.cache_bytes = CacheBytesPerToken(arch, format) * static_cast<uint64_t>(context);
  const int64_t scratch =
      std::max({FfnFloats(arch, tokens), AbsorbedFloats(mla, context), IndexedFloats(arch, context, threads)}) +
      threads * PerThreadFloats(mla, tokens) + tokens * arch.moe().n_routed_experts() + arch.vocab_size();
  // A workspace that had to grow holds the smaller block and the larger one until the pass ends.
  footprint.working_bytes =
      Activations::BytesFor(arch, context, tokens) + 2 * static_cast<uint64_t>(scratch) * sizeof(float);
  return footprint;
}

}  // namespace kompakt
