#include "runtime/layer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "format/status.h"
#include "runtime/expert_cache.h"
#include "runtime/observed_ffn.h"
#include "runtime/paged_ffn.h"

namespace kompakt {
namespace {

// What multiplying a row of kv_b with one token costs, straight from its tiles, in multiplications of a blocked
// product; and what making blocks of its rows costs, once per call, in tokens. Measured with the shapes of V2-Lite on
// AVX-512 with bf16 products: 4 and 24 multiplications per cycle, and the time of 23 tokens.
constexpr double kAbsorbCost = 6;
constexpr double kUnpackTokens = 23;

// Which form of attention costs less, per head. The plain form decompresses every cached row; the absorbed form pays
// with longer dot products for every pair of token and row.
bool AbsorbedIsCheaper(const MlaSpec& mla, int64_t position, int64_t tokens) {
  const auto t = static_cast<double>(tokens);
  const double rows = static_cast<double>(position) + t;
  const double pairs = t * (static_cast<double>(position) + t / 2);
  const auto rank = static_cast<double>(mla.kv_lora_rank());
  const auto head = static_cast<double>(mla.qk_nope_head_dim() + mla.v_head_dim());
  const auto rope = static_cast<double>(mla.qk_rope_head_dim());
  return kAbsorbCost * t * rank * head + pairs * (2 * rank + rope) <=
         (rows + kUnpackTokens) * rank * head + pairs * (head + rope);
}

RotaryPairs PairsOf(const IndexerSpec& indexer) {
  return indexer.rope_interleave() ? RotaryPairs::kAdjacent : RotaryPairs::kHalves;
}

struct Pass {
  const ModelBinding& model;
  const LayerBinding& layer;
  const KernelSet& kernels;
  KernelContext& context;
  const LayerCache& cache;
  int64_t position;
  int64_t tokens;
  Activations& a;
  const FrozenRouting& frozen;
  LinearObserver* observer;
  ActivationPolicy act;
};

absl::Status Observe(const Pass& p, TensorRole role, const float* x, int64_t width) {
  if (p.observer == nullptr) return absl::OkStatus();
  return p.observer->Observe({.role = role, .x = x, .x_stride = width, .tokens = p.tokens, .width = width});
}

absl::Status Norm(const Pass& p, const float* x, const std::vector<float>& weight, double eps, float* y) {
  const int64_t width = std::ssize(weight);
  return p.kernels.rms_norm({.x = x,
                             .x_stride = width,
                             .weight = weight.data(),
                             .eps = eps,
                             .tokens = p.tokens,
                             .width = width,
                             .y = y,
                             .y_stride = width},
                            p.context);
}

absl::Status Linear(const Pass& p, TensorRole role, const MatrixView& w, const float* x, float* y) {
  return p.kernels.linear({.w = w,
                           .x = x,
                           .x_stride = w.shape.cols,
                           .tokens = p.tokens,
                           .y = y,
                           .y_stride = w.shape.rows,
                           .act = p.act.Of(role)},
                          p.context);
}

// a.normed -> a.q, rotated.
absl::Status Queries(const Pass& p) {
  const MlaSpec& mla = p.model.arch.mla();
  const AttentionBinding& w = p.layer.attention;
  if (mla.q_lora_rank() == 0) {
    KOMPAKT_RETURN_IF_ERROR(Linear(p, TensorRole::kQProj, w.q_proj, p.a.normed, p.a.q));
  } else {
    KOMPAKT_RETURN_IF_ERROR(Linear(p, TensorRole::kQAProj, w.q_a_proj, p.a.normed, p.a.q_latent));
    KOMPAKT_RETURN_IF_ERROR(Norm(p, p.a.q_latent, w.q_a_norm, mla.latent_norm_eps(), p.a.q_latent));
    KOMPAKT_RETURN_IF_ERROR(Observe(p, TensorRole::kQBProj, p.a.q_latent, mla.q_lora_rank()));
    KOMPAKT_RETURN_IF_ERROR(Linear(p, TensorRole::kQBProj, w.q_b_proj, p.a.q_latent, p.a.q));
  }
  const int64_t head = mla.qk_nope_head_dim() + mla.qk_rope_head_dim();
  return p.kernels.rope({.x = p.a.q + mla.qk_nope_head_dim(),
                         .x_stride = mla.num_attention_heads() * head,
                         .head_stride = head,
                         .heads = mla.num_attention_heads(),
                         .dim = mla.qk_rope_head_dim(),
                         .cos_sin = p.a.cos_sin,
                         .tokens = p.tokens},
                        p.context);
}

// a.normed -> the key cache of the indexer.
absl::Status AppendIndexKeys(const Pass& p) {
  const IndexerSpec& spec = p.model.arch.indexer();
  const IndexerBinding& w = p.layer.indexer;
  KOMPAKT_RETURN_IF_ERROR(Linear(p, TensorRole::kIndexK, w.wk, p.a.normed, p.a.index_k));
  return p.kernels.index_append({.a = p.a.index_k,
                                 .norm = w.k_norm.data(),
                                 .bias = w.k_bias.data(),
                                 .eps = spec.k_norm_eps(),
                                 .cos_sin = p.a.cos_sin,
                                 .rope_dim = p.model.arch.mla().qk_rope_head_dim(),
                                 .pairs = PairsOf(spec),
                                 .tokens = p.tokens,
                                 .position = p.position,
                                 .cache = p.cache.index},
                                p.context);
}

// a.normed and a.q_latent of tokens [first, T) -> a.selected.
absl::Status SelectRows(const Pass& p, int64_t first) {
  const IndexerSpec& spec = p.model.arch.indexer();
  const IndexerBinding& w = p.layer.indexer;
  const int64_t rope = p.model.arch.mla().qk_rope_head_dim();
  const int64_t tokens = p.tokens - first;
  const int64_t q_width = w.wq_b.shape.rows;
  KOMPAKT_RETURN_IF_ERROR(p.kernels.linear({.w = w.wq_b,
                                            .x = p.a.q_latent + first * w.wq_b.shape.cols,
                                            .x_stride = w.wq_b.shape.cols,
                                            .tokens = tokens,
                                            .y = p.a.index_q,
                                            .y_stride = q_width,
                                            .act = p.act.Of(TensorRole::kIndexQB)},
                                           p.context));
  KOMPAKT_RETURN_IF_ERROR(p.kernels.linear({.w = w.weights,
                                            .x = p.a.normed + first * w.weights.shape.cols,
                                            .x_stride = w.weights.shape.cols,
                                            .tokens = tokens,
                                            .y = p.a.index_weights,
                                            .y_stride = w.weights.shape.rows,
                                            .act = p.act.Of(TensorRole::kIndexWeights)},
                                           p.context));
  KOMPAKT_RETURN_IF_ERROR(p.kernels.rope({.x = p.a.index_q,
                                          .x_stride = q_width,
                                          .head_stride = spec.index_head_dim(),
                                          .heads = spec.index_n_heads(),
                                          .dim = rope,
                                          .cos_sin = p.a.cos_sin + first * rope,
                                          .tokens = tokens,
                                          .pairs = PairsOf(spec)},
                                         p.context));
  bool finite = false;
  const auto size = static_cast<double>(spec.index_n_heads()) * static_cast<double>(spec.index_head_dim());
  KOMPAKT_RETURN_IF_ERROR(p.kernels.index_select({.heads = spec.index_n_heads(),
                                                  .q = p.a.index_q,
                                                  .w = p.a.index_weights,
                                                  .scale = static_cast<float>(1 / std::sqrt(size)),
                                                  .top_k = spec.index_topk(),
                                                  .tokens = tokens,
                                                  .position = p.position + first,
                                                  .cache = p.cache.index,
                                                  .ids = p.a.selected + first * spec.index_topk(),
                                                  .finite = &finite},
                                                 p.context));
  if (finite) return absl::OkStatus();
  return CorruptError("indexer: expected finite scores at positions from ", p.position + first);
}

// Attention over the cache; a.q -> a.attended. The first index_topk tokens of a timeline see everything before them.
absl::Status Attend(const Pass& p, const MlaParams& all) {
  const MlaSpec& mla = p.model.arch.mla();
  const bool indexed = p.model.arch.attention() == ATTENTION_MLA_INDEXED;
  const int64_t top_k = p.model.arch.indexer().index_topk();
  const int64_t dense = indexed ? std::clamp<int64_t>(top_k - p.position, 0, p.tokens) : p.tokens;
  if (dense > 0) {
    MlaParams params = all;
    params.tokens = dense;
    const bool absorbed = AbsorbedIsCheaper(mla, p.position, dense);
    KOMPAKT_RETURN_IF_ERROR(absorbed ? p.kernels.mla_decode(params, p.context)
                                     : p.kernels.mla_prefill(params, p.context));
  }
  if (dense == p.tokens) return absl::OkStatus();
  if (p.layer.has_indexer) KOMPAKT_RETURN_IF_ERROR(SelectRows(p, dense));
  MlaParams params = all;
  params.tokens = p.tokens - dense;
  params.position = p.position + dense;
  params.q += dense * all.heads * (all.nope_dim + all.rope_dim);
  params.y += dense * all.heads * all.value_dim;
  return p.kernels.mla_sparse({.mla = params, .ids = p.a.selected + dense * top_k, .selected = top_k}, p.context);
}

// What kv_b_proj multiplies is only in the cache, in the cache's precision: made once more from a.kv_a.
absl::Status ObserveLatent(const Pass& p) {
  if (p.observer == nullptr) return absl::OkStatus();
  const MlaSpec& mla = p.model.arch.mla();
  const int64_t rank = mla.kv_lora_rank();
  Workspace::Scope scope(*p.context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const latent, p.context.workspace->Floats(p.tokens * rank));
  KOMPAKT_RETURN_IF_ERROR(p.kernels.rms_norm({.x = p.a.kv_a,
                                              .x_stride = rank + mla.qk_rope_head_dim(),
                                              .weight = p.layer.attention.kv_a_norm.data(),
                                              .eps = mla.latent_norm_eps(),
                                              .tokens = p.tokens,
                                              .width = rank,
                                              .y = latent,
                                              .y_stride = rank},
                                             p.context));
  return Observe(p, TensorRole::kKvBProj, latent, rank);
}

// a.normed -> a.out.
absl::Status Attention(const Pass& p) {
  const MlaSpec& mla = p.model.arch.mla();
  const AttentionBinding& w = p.layer.attention;
  KOMPAKT_RETURN_IF_ERROR(Observe(p, TensorRole::kKvAProj, p.a.normed, p.model.arch.hidden_size()));
  KOMPAKT_RETURN_IF_ERROR(Queries(p));
  if (p.layer.has_indexer) KOMPAKT_RETURN_IF_ERROR(AppendIndexKeys(p));
  KOMPAKT_RETURN_IF_ERROR(Linear(p, TensorRole::kKvAProj, w.kv_a_proj, p.a.normed, p.a.kv_a));
  KOMPAKT_RETURN_IF_ERROR(ObserveLatent(p));
  KOMPAKT_RETURN_IF_ERROR(p.kernels.latent_append({.a = p.a.kv_a,
                                                   .norm_weight = w.kv_a_norm.data(),
                                                   .eps = mla.latent_norm_eps(),
                                                   .cos_sin = p.a.cos_sin,
                                                   .tokens = p.tokens,
                                                   .position = p.position,
                                                   .cache = p.cache.latent},
                                                  p.context));
  const MlaParams attend{.heads = mla.num_attention_heads(),
                         .nope_dim = mla.qk_nope_head_dim(),
                         .rope_dim = mla.qk_rope_head_dim(),
                         .value_dim = mla.v_head_dim(),
                         .softmax_scale = p.model.softmax_scale,
                         .kv_b = w.kv_b_proj,
                         .q = p.a.q,
                         .tokens = p.tokens,
                         .position = p.position,
                         .cache = p.cache.latent,
                         .y = p.a.attended,
                         .act = p.act.Of(TensorRole::kKvBProj)};
  KOMPAKT_RETURN_IF_ERROR(Attend(p, attend));
  KOMPAKT_RETURN_IF_ERROR(Observe(p, TensorRole::kOProj, p.a.attended, mla.num_attention_heads() * mla.v_head_dim()));
  return Linear(p, TensorRole::kOProj, w.o_proj, p.a.attended, p.a.out);
}

absl::Status Ffn(const Pass& p, const FfnParams& params, TensorRole gate, TensorRole down) {
  if (p.observer == nullptr) return p.kernels.ffn(params, p.context);
  return ObservedFfn(params, gate, down, p.kernels, p.context, *p.observer);
}

// The experts that the layer after this one will need are probably those that it would need now.
absl::Status GuessNext(const Pass& p) {
  const auto next = static_cast<size_t>(p.layer.number) + 1;
  if (p.model.expert_cache == nullptr || next >= p.model.layers.size()) return absl::OkStatus();
  return GuessExperts(p.model, p.model.layers[next], p.kernels, p.context, p.a.x, p.tokens);
}

absl::Status ExpertPart(const Pass& p, const ExpertFfnParams& params) {
  if (p.observer == nullptr) return p.kernels.expert_ffn(params, p.context);
  return ObservedExpertFfn(params, p.kernels, p.context, *p.observer);
}

absl::Status ExpertFfn(const Pass& p, const ExpertFfnParams& params) {
  if (p.model.expert_cache == nullptr) return ExpertPart(p, params);
  return p.model.expert_cache->Run(
      p.layer.number, params, [&] { return GuessNext(p); },
      [&](const ExpertFfnParams& part) { return ExpertPart(p, part); });
}

// a.normed -> a.out.
absl::Status FeedForward(const Pass& p) {
  const LayerBinding& w = p.layer;
  const FfnParams dense{.w = w.dense,
                        .x = p.a.normed,
                        .tokens = p.tokens,
                        .y = p.a.out,
                        .accumulate = false,
                        .act = p.act.Of(TensorRole::kDenseGate),
                        .down_act = p.act.Of(TensorRole::kDenseDown)};
  if (!w.moe) {
    KOMPAKT_RETURN_IF_ERROR(GuessNext(p));
    return Ffn(p, dense, TensorRole::kDenseGate, TensorRole::kDenseDown);
  }
  KOMPAKT_RETURN_IF_ERROR(p.kernels.route({.rule = p.model.router_rule,
                                           .w = w.router,
                                           .bias = w.router_bias.empty() ? nullptr : w.router_bias.data(),
                                           .x = p.a.normed,
                                           .tokens = p.tokens,
                                           .ids = p.a.router_ids,
                                           .weights = p.a.router_weights,
                                           .scores = p.a.router_scores},
                                          p.context));
  if (p.frozen.ids != nullptr) {
    const int64_t choices = p.tokens * p.model.router_rule.experts_per_token;
    std::copy_n(p.frozen.ids, choices, p.a.router_ids);
    std::copy_n(p.frozen.weights, choices, p.a.router_weights);
  }
  KOMPAKT_RETURN_IF_ERROR(ExpertFfn(p, {.experts = w.experts.data(),
                                        .n_experts = std::ssize(w.experts),
                                        .ids = p.a.router_ids,
                                        .weights = p.a.router_weights,
                                        .k = p.model.router_rule.experts_per_token,
                                        .x = p.a.normed,
                                        .tokens = p.tokens,
                                        .y = p.a.out,
                                        .act = p.act.Of(TensorRole::kExpertGate),
                                        .down_act = p.act.Of(TensorRole::kExpertDown)}));
  if (!w.has_shared) return absl::OkStatus();
  const FfnParams shared{.w = w.shared,
                         .x = p.a.normed,
                         .tokens = p.tokens,
                         .y = p.a.out,
                         .accumulate = true,
                         .act = p.act.Of(TensorRole::kSharedGate),
                         .down_act = p.act.Of(TensorRole::kSharedDown)};
  return Ffn(p, shared, TensorRole::kSharedGate, TensorRole::kSharedDown);
}

}  // namespace

int64_t Activations::Place(const ArchSpec& arch, int64_t max_tokens, int64_t capacity, float* base) {
  const MlaSpec& mla = arch.mla();
  const IndexerSpec& indexer = arch.indexer();
  // A timeline that never passes index_topk selects nothing.
  const int64_t rows = indexer.index_topk() < max_tokens ? indexer.index_topk() : 0;
  const int64_t h = arch.hidden_size();
  const int64_t heads = mla.num_attention_heads();
  const int64_t k = arch.moe().num_experts_per_tok();
  const std::array<std::pair<float**, int64_t>, 13> widths = {{
      {&x, h},
      {&normed, h},
      {&out, h},
      {&q_latent, mla.q_lora_rank()},
      {&q, heads * (mla.qk_nope_head_dim() + mla.qk_rope_head_dim())},
      {&kv_a, mla.kv_lora_rank() + mla.qk_rope_head_dim()},
      {&attended, heads * mla.v_head_dim()},
      {&cos_sin, mla.qk_rope_head_dim()},
      {&router_weights, k},
      {&router_scores, arch.moe().n_routed_experts()},
      {&index_q, indexer.index_n_heads() * indexer.index_head_dim()},
      {&index_k, indexer.index_head_dim()},
      {&index_weights, indexer.index_n_heads()},
  }};
  constexpr auto kFloatsPerLine = static_cast<int64_t>(kMemoryAlign / sizeof(float));
  const auto floats = [&](int64_t width) {
    return (width * capacity + kFloatsPerLine - 1) / kFloatsPerLine * kFloatsPerLine;
  };
  int64_t total = 0;
  for (const auto& [pointer, width] : widths) {
    if (base != nullptr) *pointer = base + total;
    total += floats(width);
  }
  for (const auto& [pointer, width] : {std::pair{&router_ids, k}, std::pair{&selected, rows}}) {
    if (base != nullptr) *pointer = reinterpret_cast<int32_t*>(base + total);
    total += floats(width);
  }
  return total;
}

uint64_t Activations::BytesFor(const ArchSpec& arch, int64_t max_tokens, int64_t capacity) {
  return static_cast<uint64_t>(Activations().Place(arch, max_tokens, capacity, nullptr)) * sizeof(float);
}

absl::StatusOr<Activations> Activations::Create(const ArchSpec& arch, int64_t max_tokens, int64_t capacity) {
  Activations a;
  a.capacity_ = capacity;
  KOMPAKT_ASSIGN_OR_RETURN(a.buffer_,
                           AlignedBuffer::Create(BytesFor(arch, max_tokens, capacity), "activations of the session"));
  a.Place(arch, max_tokens, capacity, reinterpret_cast<float*>(a.buffer_.data()));
  return a;
}

absl::Status RunLayer(const ModelBinding& model, const LayerBinding& layer, const KernelSet& kernels,
                      KernelContext& context, const LayerCache& cache, int64_t position, int64_t tokens, Activations& a,
                      const FrozenRouting& frozen, LinearObserver* observer, ActivationPolicy act) {
  const Pass p{model, layer, kernels, context, cache, position, tokens, a, frozen, observer, act};
  const double eps = model.arch.rms_norm_eps();
  const AddParams add{.x = a.out, .y = a.x, .n = tokens * model.arch.hidden_size()};
  KOMPAKT_RETURN_IF_ERROR(Norm(p, a.x, layer.input_norm, eps, a.normed));
  KOMPAKT_RETURN_IF_ERROR(Attention(p));
  KOMPAKT_RETURN_IF_ERROR(kernels.add(add, context));
  KOMPAKT_RETURN_IF_ERROR(Norm(p, a.x, layer.post_attention_norm, eps, a.normed));
  KOMPAKT_RETURN_IF_ERROR(FeedForward(p));
  return kernels.add(add, context);
}

}  // namespace kompakt
