#include "runtime/layer.h"

#include <array>
#include <utility>

#include "format/status.h"

namespace kompakt {
namespace {

// Which form of attention costs fewer multiplications, per head. The plain form decompresses every cached row; the
// absorbed form pays with longer dot products for every pair of token and row.
bool AbsorbedIsCheaper(const MlaSpec& mla, int64_t position, int64_t tokens) {
  const auto t = static_cast<double>(tokens);
  const double rows = static_cast<double>(position) + t;
  const double pairs = t * (static_cast<double>(position) + t / 2);
  const auto rank = static_cast<double>(mla.kv_lora_rank());
  const auto head = static_cast<double>(mla.qk_nope_head_dim() + mla.v_head_dim());
  const auto rope = static_cast<double>(mla.qk_rope_head_dim());
  return t * rank * head + pairs * (2 * rank + rope) <= rows * rank * head + pairs * (head + rope);
}

struct Pass {
  const ModelBinding& model;
  const LayerBinding& layer;
  const KernelSet& kernels;
  KernelContext& context;
  const LatentCache& cache;
  int64_t position;
  int64_t tokens;
  Activations& a;
};

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

absl::Status Linear(const Pass& p, const MatrixView& w, const float* x, float* y) {
  return p.kernels.linear(
      {.w = w, .x = x, .x_stride = w.shape.cols, .tokens = p.tokens, .y = y, .y_stride = w.shape.rows}, p.context);
}

// a.normed -> a.q, rotated.
absl::Status Queries(const Pass& p) {
  const MlaSpec& mla = p.model.arch.mla();
  const AttentionBinding& w = p.layer.attention;
  if (mla.q_lora_rank() == 0) {
    KOMPAKT_RETURN_IF_ERROR(Linear(p, w.q_proj, p.a.normed, p.a.q));
  } else {
    KOMPAKT_RETURN_IF_ERROR(Linear(p, w.q_a_proj, p.a.normed, p.a.q_latent));
    KOMPAKT_RETURN_IF_ERROR(Norm(p, p.a.q_latent, w.q_a_norm, mla.latent_norm_eps(), p.a.q_latent));
    KOMPAKT_RETURN_IF_ERROR(Linear(p, w.q_b_proj, p.a.q_latent, p.a.q));
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

// a.normed -> a.out.
absl::Status Attention(const Pass& p) {
  const MlaSpec& mla = p.model.arch.mla();
  const AttentionBinding& w = p.layer.attention;
  KOMPAKT_RETURN_IF_ERROR(Queries(p));
  KOMPAKT_RETURN_IF_ERROR(Linear(p, w.kv_a_proj, p.a.normed, p.a.kv_a));
  KOMPAKT_RETURN_IF_ERROR(p.kernels.latent_append({.a = p.a.kv_a,
                                                   .norm_weight = w.kv_a_norm.data(),
                                                   .eps = mla.latent_norm_eps(),
                                                   .cos_sin = p.a.cos_sin,
                                                   .tokens = p.tokens,
                                                   .position = p.position,
                                                   .cache = p.cache},
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
                         .cache = p.cache,
                         .y = p.a.attended};
  const bool absorbed = AbsorbedIsCheaper(mla, p.position, p.tokens);
  KOMPAKT_RETURN_IF_ERROR(absorbed ? p.kernels.mla_decode(attend, p.context)
                                   : p.kernels.mla_prefill(attend, p.context));
  return Linear(p, w.o_proj, p.a.attended, p.a.out);
}

// a.normed -> a.out.
absl::Status FeedForward(const Pass& p) {
  const LayerBinding& w = p.layer;
  const FfnParams dense{.w = w.dense, .x = p.a.normed, .tokens = p.tokens, .y = p.a.out, .accumulate = false};
  if (!w.moe) return p.kernels.ffn(dense, p.context);
  KOMPAKT_RETURN_IF_ERROR(p.kernels.route({.rule = p.model.router_rule,
                                           .w = w.router,
                                           .bias = w.router_bias.empty() ? nullptr : w.router_bias.data(),
                                           .x = p.a.normed,
                                           .tokens = p.tokens,
                                           .ids = p.a.router_ids,
                                           .weights = p.a.router_weights},
                                          p.context));
  KOMPAKT_RETURN_IF_ERROR(p.kernels.expert_ffn({.experts = w.experts.data(),
                                                .n_experts = std::ssize(w.experts),
                                                .ids = p.a.router_ids,
                                                .weights = p.a.router_weights,
                                                .k = p.model.router_rule.experts_per_token,
                                                .x = p.a.normed,
                                                .tokens = p.tokens,
                                                .y = p.a.out},
                                               p.context));
  if (!w.has_shared) return absl::OkStatus();
  const FfnParams shared{.w = w.shared, .x = p.a.normed, .tokens = p.tokens, .y = p.a.out, .accumulate = true};
  return p.kernels.ffn(shared, p.context);
}

}  // namespace

int64_t Activations::Place(const ArchSpec& arch, int64_t capacity, float* base) {
  const MlaSpec& mla = arch.mla();
  const int64_t h = arch.hidden_size();
  const int64_t heads = mla.num_attention_heads();
  const int64_t k = arch.moe().num_experts_per_tok();
  const std::array<std::pair<float**, int64_t>, 9> widths = {{
      {&x, h},
      {&normed, h},
      {&out, h},
      {&q_latent, mla.q_lora_rank()},
      {&q, heads * (mla.qk_nope_head_dim() + mla.qk_rope_head_dim())},
      {&kv_a, mla.kv_lora_rank() + mla.qk_rope_head_dim()},
      {&attended, heads * mla.v_head_dim()},
      {&cos_sin, mla.qk_rope_head_dim()},
      {&router_weights, k},
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
  if (base != nullptr) router_ids = reinterpret_cast<int32_t*>(base + total);
  return total + floats(k);
}

uint64_t Activations::BytesFor(const ArchSpec& arch, int64_t capacity) {
  return static_cast<uint64_t>(Activations().Place(arch, capacity, nullptr)) * sizeof(float);
}

absl::StatusOr<Activations> Activations::Create(const ArchSpec& arch, int64_t capacity) {
  Activations a;
  a.capacity_ = capacity;
  KOMPAKT_ASSIGN_OR_RETURN(a.buffer_, AlignedBuffer::Create(BytesFor(arch, capacity), "activations of the session"));
  a.Place(arch, capacity, reinterpret_cast<float*>(a.buffer_.data()));
  return a;
}

absl::Status RunLayer(const ModelBinding& model, int64_t index, const KernelSet& kernels, KernelContext& context,
                      const LatentCache& cache, int64_t position, int64_t tokens, Activations& a) {
  const LayerBinding& layer = model.layers[static_cast<size_t>(index)];
  const Pass p{model, layer, kernels, context, cache, position, tokens, a};
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
