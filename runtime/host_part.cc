#include "runtime/host_part.h"

#include <utility>

#include "format/status.h"
#include "runtime/random_rows.h"
#include "runtime/session_checks.h"

namespace kompakt {

absl::StatusOr<std::unique_ptr<HostPart>> HostPart::Create(std::shared_ptr<const Model> model, int64_t layers,
                                                           int64_t max_tokens, int64_t tokens) {
  const ModelBinding& binding = model->binding();
  const MlaSpec& mla = binding.arch.mla();
  auto part = std::unique_ptr<HostPart>(new HostPart(std::move(model)));
  const CacheFormat format = part->model_->options().cache_format;
  LatentCache latent{.rank = mla.kv_lora_rank(), .rope = mla.qk_rope_head_dim(), .capacity = max_tokens};
  latent.format = format;
  const IndexCache index{.dim = binding.arch.indexer().index_head_dim(), .capacity = max_tokens, .format = format};
  const uint64_t latent_bytes = latent.row_bytes() * static_cast<uint64_t>(max_tokens);
  const uint64_t key_bytes = index.row_bytes() * static_cast<uint64_t>(max_tokens);
  uint64_t indexers = 0;
  for (int64_t l = 0; l < layers; ++l) indexers += binding.layers[static_cast<size_t>(l)].has_indexer ? 1 : 0;
  KOMPAKT_ASSIGN_OR_RETURN(part->latent_, AlignedBuffer::Create(latent_bytes * static_cast<uint64_t>(layers),
                                                                "latent cache of the host's layers"));
  KOMPAKT_ASSIGN_OR_RETURN(part->keys_,
                           AlignedBuffer::Create(key_bytes * indexers, "index cache of the host's layers"));
  uint8_t* latent_at = part->latent_.data();
  uint8_t* keys_at = part->keys_.data();
  for (int64_t l = 0; l < layers; ++l) {
    LayerCache& cache = part->caches_.emplace_back(LayerCache{latent, index});
    cache.latent.data = latent_at;
    latent_at += latent_bytes;
    if (!binding.layers[static_cast<size_t>(l)].has_indexer) continue;
    cache.index.data = keys_at;
    keys_at += key_bytes;
  }
  KOMPAKT_ASSIGN_OR_RETURN(part->a_, Activations::Create(binding.arch, max_tokens, tokens));
  return part;
}

absl::Status HostPart::Norm(const float* x, const std::vector<float>& weight, int64_t tokens, float* y) {
  const int64_t width = std::ssize(weight);
  return model_->kernels().rms_norm({.x = x,
                                     .x_stride = width,
                                     .weight = weight.data(),
                                     .eps = model_->arch().rms_norm_eps(),
                                     .tokens = tokens,
                                     .width = width,
                                     .y = y,
                                     .y_stride = width},
                                    context_);
}

absl::Status HostPart::Embed(absl::Span<const int32_t> ids, int64_t position) {
  const int64_t tokens = std::ssize(ids);
  KOMPAKT_RETURN_IF_ERROR(model_->kernels().embed(
      {.table = model_->binding().embed, .ids = ids.data(), .tokens = tokens, .y = a_.x}, context_));
  KOMPAKT_RETURN_IF_ERROR(CheckFiniteStates(*model_, context_, a_.x, tokens, position, "embed_tokens"));
  model_->binding().rope.Fill(position, tokens, a_.cos_sin);
  return absl::OkStatus();
}

absl::Status HostPart::RunOwnLayer(int64_t layer, int64_t position, int64_t tokens, const FrozenRouting& frozen) {
  const absl::Status run =
      RunLayer(model_->binding(), model_->binding().layers[static_cast<size_t>(layer)], model_->kernels(), context_,
               caches_[static_cast<size_t>(layer)], position, tokens, a_, frozen, nullptr, model_->options().act);
  if (!run.ok()) return WithContext(run, absl::StrCat(model_->weights().origin(), ": layer ", layer));
  return CheckFiniteStates(*model_, context_, a_.x, tokens, position, absl::StrCat("layer ", layer));
}

void HostPart::AppendRandomRows(int64_t position, int64_t tokens) {
  for (const LayerCache& cache : caches_) StoreRandomRows(cache, position, tokens, context_);
}

absl::Status HostPart::Experts(int64_t layer, const float* x, int64_t tokens, const int32_t* ids, const float* weights,
                               int64_t k, float* y) {
  const LayerBinding& w = model_->binding().layers[static_cast<size_t>(layer)];
  KOMPAKT_RETURN_IF_ERROR(Norm(x, w.post_attention_norm, tokens, a_.normed));
  return model_->kernels().expert_ffn({.experts = w.experts.data(),
                                       .n_experts = std::ssize(w.experts),
                                       .ids = ids,
                                       .weights = weights,
                                       .k = k,
                                       .x = a_.normed,
                                       .tokens = tokens,
                                       .y = y,
                                       .act = model_->options().act.Of(TensorRole::kExpertGate),
                                       .down_act = model_->options().act.Of(TensorRole::kExpertDown)},
                                      context_);
}

absl::Status HostPart::FinalNorm(int64_t tokens, float* x) { return Norm(x, model_->binding().final_norm, tokens, x); }

}  // namespace kompakt
