#include "runtime/session.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "format/arch_spec.h"
#include "format/device_error.h"
#include "format/status.h"
#include "runtime/device_session.h"
#include "runtime/device_target.h"
#include "runtime/footprint.h"
#include "runtime/layer.h"
#include "runtime/random_rows.h"
#include "runtime/session_checks.h"

namespace kompakt {
namespace {

class CpuSession : public Session {
 public:
  CpuSession(std::shared_ptr<const Model> model, int64_t max_tokens, AlignedBuffer cache, AlignedBuffer index_cache,
             Activations activations)
      : model_(std::move(model)),
        max_tokens_(max_tokens),
        cache_(std::move(cache)),
        index_cache_(std::move(index_cache)),
        activations_(std::move(activations)),
        team_(model_->options().threads),
        context_{.team = &team_, .workspace = &workspace_} {}

  const Model& model() const override { return *model_; }
  int64_t position() const override { return position_; }
  int64_t max_tokens() const override { return max_tokens_; }
  uint64_t cache_bytes() const override { return cache_.bytes() + index_cache_.bytes(); }
  uint64_t working_bytes() const override { return activations_.bytes() + workspace_.bytes(); }

  absl::Status Rewind(int64_t position) override {
    KOMPAKT_RETURN_IF_ERROR(CheckRewind(position, position_));
    position_ = position;
    return absl::OkStatus();
  }

  absl::Status AppendRandomRows(int64_t tokens) override;

  absl::StatusOr<Output> Forward(absl::Span<const int32_t> ids, Logits logits, ForwardTrace* trace,
                                 const ForwardTrace* routing) override {
    return WithinMemory(ids.size(), [&] { return ForwardAll(ids, logits, trace, routing); });
  }

 private:
  absl::StatusOr<Output> ForwardAll(absl::Span<const int32_t> ids, Logits logits, ForwardTrace* trace,
                                    const ForwardTrace* routing);
  // Tokens [begin, begin + tokens) of the call, which are at position_ + begin in the timeline.
  absl::Status RunChunk(absl::Span<const int32_t> ids, int64_t begin, int64_t tokens, ForwardTrace* trace,
                        const ForwardTrace* routing);
  absl::Status CheckFinite(const float* x, int64_t tokens, int64_t position, absl::string_view where) {
    return CheckFiniteStates(*model_, context_, x, tokens, position, where);
  }

  // `index_layer`: how many layers below have an indexer of their own.
  LayerCache CacheOf(int64_t layer, int64_t index_layer) const {
    const MlaSpec& mla = model_->arch().mla();
    const CacheFormat format = model_->options().cache_format;
    LatentCache latent{
        .rank = mla.kv_lora_rank(), .rope = mla.qk_rope_head_dim(), .capacity = max_tokens_, .format = format};
    latent.data = cache_.data() + static_cast<uint64_t>(layer * max_tokens_) * latent.row_bytes();
    IndexCache index{.dim = model_->arch().indexer().index_head_dim(), .capacity = max_tokens_, .format = format};
    if (model_->binding().layers[static_cast<size_t>(layer)].has_indexer) {
      index.data = index_cache_.data() + static_cast<uint64_t>(index_layer * max_tokens_) * index.row_bytes();
    }
    return {latent, index};
  }

  std::shared_ptr<const Model> model_;
  int64_t max_tokens_;
  int64_t position_ = 0;
  AlignedBuffer cache_;        // [layer][max_tokens] rows
  AlignedBuffer index_cache_;  // [layer with an indexer][max_tokens] rows
  Activations activations_;
  Workspace workspace_;
  ThreadTeam team_;
  KernelContext context_;
};

absl::Status CpuSession::AppendRandomRows(int64_t tokens) {
  KOMPAKT_RETURN_IF_ERROR(CheckRoom(tokens, position_, max_tokens_));
  int64_t index_layer = 0;
  for (int64_t l = 0; l < std::ssize(model_->binding().layers); ++l) {
    StoreRandomRows(CacheOf(l, index_layer), position_, tokens, context_);
    index_layer += model_->binding().layers[static_cast<size_t>(l)].has_indexer ? 1 : 0;
  }
  position_ += tokens;
  return absl::OkStatus();
}

absl::Status CpuSession::RunChunk(absl::Span<const int32_t> ids, int64_t begin, int64_t tokens, ForwardTrace* trace,
                                  const ForwardTrace* routing) {
  const ModelBinding& binding = model_->binding();
  const KernelSet& kernels = model_->kernels();
  const int64_t all_tokens = std::ssize(ids);
  const int64_t width = binding.arch.hidden_size();
  const int64_t chosen = binding.arch.moe().num_experts_per_tok();
  const int64_t experts = binding.arch.moe().n_routed_experts();
  const int64_t layers = std::ssize(binding.layers);
  const int64_t position = position_ + begin;
  Activations& a = activations_;
  const auto keep_hidden = [&](int64_t layer, const float* x) {
    std::copy(x, x + tokens * width, trace->hidden.begin() + (layer * all_tokens + begin) * width);
  };

  KOMPAKT_RETURN_IF_ERROR(
      kernels.embed({.table = binding.embed, .ids = ids.data() + begin, .tokens = tokens, .y = a.x}, context_));
  KOMPAKT_RETURN_IF_ERROR(CheckFinite(a.x, tokens, position, "embed_tokens"));
  binding.rope.Fill(position, tokens, a.cos_sin);
  int64_t moe_layer = 0;
  int64_t index_layer = 0;
  for (int64_t l = 0; l < layers; ++l) {
    if (trace != nullptr) keep_hidden(l, a.x);
    const LayerBinding& layer = binding.layers[static_cast<size_t>(l)];
    const int64_t at = moe_layer * all_tokens + begin;
    FrozenRouting frozen;
    if (routing != nullptr && layer.moe) {
      frozen = {routing->router_ids.data() + at * chosen, routing->router_weights.data() + at * chosen};
    }
    const absl::Status run = RunLayer(binding, layer, kernels, context_, CacheOf(l, index_layer), position, tokens, a,
                                      frozen, nullptr, model_->options().act);
    if (!run.ok()) return WithContext(run, absl::StrCat(model_->weights().origin(), ": layer ", l));
    index_layer += layer.has_indexer ? 1 : 0;
    KOMPAKT_RETURN_IF_ERROR(CheckFinite(a.x, tokens, position, absl::StrCat("layer ", l)));
    moe_layer += layer.moe ? 1 : 0;
    if (trace == nullptr || !layer.moe) continue;
    std::copy_n(a.router_ids, tokens * chosen, trace->router_ids.begin() + at * chosen);
    std::copy_n(a.router_weights, tokens * chosen, trace->router_weights.begin() + at * chosen);
    std::copy_n(a.router_scores, tokens * experts, trace->router_scores.begin() + at * experts);
  }
  KOMPAKT_RETURN_IF_ERROR(kernels.rms_norm({.x = a.x,
                                            .x_stride = width,
                                            .weight = binding.final_norm.data(),
                                            .eps = binding.arch.rms_norm_eps(),
                                            .tokens = tokens,
                                            .width = width,
                                            .y = a.normed,
                                            .y_stride = width},
                                           context_));
  KOMPAKT_RETURN_IF_ERROR(CheckFinite(a.normed, tokens, position, "final norm"));
  if (trace != nullptr) keep_hidden(layers, a.normed);
  return absl::OkStatus();
}

absl::StatusOr<Session::Output> CpuSession::ForwardAll(absl::Span<const int32_t> ids, Logits logits,
                                                       ForwardTrace* trace, const ForwardTrace* routing) {
  KOMPAKT_RETURN_IF_ERROR(CheckIds(*model_, ids, position_, max_tokens_));
  const ModelBinding& binding = model_->binding();
  const int64_t tokens = std::ssize(ids);
  if (routing != nullptr) KOMPAKT_RETURN_IF_ERROR(CheckRouting(*model_, *routing, tokens));
  const int64_t vocab = binding.arch.vocab_size();
  const int64_t width = binding.arch.hidden_size();
  if (trace != nullptr) ClearTrace(*model_, tokens, *trace);
  Output output;
  const int64_t wanted = logits == Logits::kAll ? tokens : logits == Logits::kLast ? std::min<int64_t>(1, tokens) : 0;
  output.logits.resize(static_cast<size_t>(wanted * vocab));
  for (int64_t begin = 0; begin < tokens; begin += activations_.capacity()) {
    const int64_t n = std::min(activations_.capacity(), tokens - begin);
    KOMPAKT_RETURN_IF_ERROR(RunChunk(ids, begin, n, trace, routing));
    // Rows of this chunk whose logits are wanted: [first, n).
    const int64_t first = std::max<int64_t>(0, tokens - wanted - begin);
    if (first >= n) continue;
    KOMPAKT_RETURN_IF_ERROR(
        model_->kernels().linear({.w = binding.head,
                                  .x = activations_.normed + first * width,
                                  .x_stride = width,
                                  .tokens = n - first,
                                  .y = output.logits.data() + (begin + first - (tokens - wanted)) * vocab,
                                  .y_stride = vocab,
                                  .act = model_->options().act.Of(TensorRole::kLmHead)},
                                 context_));
  }
  position_ += tokens;
  return output;
}

}  // namespace

namespace {

// layers * max_tokens rows of row_bytes.
absl::StatusOr<AlignedBuffer> CreateCache(absl::string_view what, uint64_t row_bytes, int64_t layers,
                                          int64_t max_tokens) {
  const std::string name = absl::StrCat(what, " of ", max_tokens, " tokens");
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(row_bytes, static_cast<uint64_t>(layers), &bytes) ||
      __builtin_mul_overflow(bytes, static_cast<uint64_t>(max_tokens), &bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat(name, ": more than 2^64 bytes"));
  }
  KOMPAKT_ASSIGN_OR_RETURN(AlignedBuffer cache, AlignedBuffer::Create(bytes, name));
  // Layers that fill many large pages are worth it; smaller ones would take more memory than they use.
  constexpr uint64_t kLargeLayer = uint64_t{8} << 20;
  if (layers > 0 && bytes / static_cast<uint64_t>(layers) >= kLargeLayer) cache.PreferLargePages();
  return cache;
}

}  // namespace

absl::StatusOr<int32_t> Session::ForwardGreedy(absl::Span<const int32_t> ids, int64_t limit) {
  if (ids.empty() || limit < 1) return UsageError("the likeliest token after ", ids.size(), " tokens, of ", limit);
  KOMPAKT_ASSIGN_OR_RETURN(const Output output, Forward(ids, Logits::kLast));
  const auto end = output.logits.begin() + std::min(limit, std::ssize(output.logits));
  return static_cast<int32_t>(std::max_element(output.logits.begin(), end) - output.logits.begin());
}

absl::StatusOr<std::unique_ptr<Session>> Session::Create(std::shared_ptr<const Model> model, int64_t max_tokens) {
  if (const DeviceTarget* const target = model->options().device.get(); target != nullptr && target->gpu_layers != 0) {
    absl::StatusOr<std::unique_ptr<Session>> session = CreateDeviceSession(model, max_tokens);
    const bool unusable = IsDeviceError(session.status()) || absl::IsUnimplemented(session.status());
    if (!unusable || target->on_unusable == nullptr) return session;
    target->on_unusable(session.status());
  }
  if (max_tokens <= 0) return UsageError("max_tokens: expected a positive number, found ", max_tokens);
  const ArchSpec& arch = model->arch();
  const CacheFormat format = model->options().cache_format;
  const uint64_t row_bytes =
      LatentCache::LatentRowBytes(arch.mla().kv_lora_rank(), arch.mla().qk_rope_head_dim(), format);
  KOMPAKT_ASSIGN_OR_RETURN(AlignedBuffer cache,
                           CreateCache("latent cache", row_bytes, arch.num_hidden_layers(), max_tokens));
  const uint64_t key_bytes = IndexCache::IndexRowBytes(arch.indexer().index_head_dim(), format);
  KOMPAKT_ASSIGN_OR_RETURN(AlignedBuffer index_cache,
                           CreateCache("index cache", key_bytes, model->binding().index_layers, max_tokens));
  KOMPAKT_ASSIGN_OR_RETURN(Activations activations,
                           Activations::Create(arch, max_tokens, std::min(max_tokens, kChunkTokens)));
  return std::make_unique<CpuSession>(std::move(model), max_tokens, std::move(cache), std::move(index_cache),
                                      std::move(activations));
}

}  // namespace kompakt
