#include "runtime/mtp.h"

#include <algorithm>
#include <new>

#include "format/status.h"
#include "runtime/footprint.h"
#include "runtime/layer.h"

namespace kompakt {
namespace {

class MtpPass {
 public:
  MtpPass(const Model& model, absl::Span<const int32_t> ids, absl::Span<const float> hidden, LinearObserver* observer)
      : model_(model),
        observer_(observer),
        binding_(model.binding()),
        mtp_(binding_.mtp[0]),
        ids_(ids),
        hidden_(hidden),
        steps_(std::ssize(ids) - 1),
        width_(binding_.arch.hidden_size()),
        team_(model.options().threads),
        context_{.team = &team_, .workspace = &workspace_} {}

  absl::StatusOr<MtpTrace> Run() {
    const int64_t chunk = std::min(steps_, kChunkTokens);
    KOMPAKT_RETURN_IF_ERROR(Allocate(chunk));
    const int64_t k = binding_.arch.moe().num_experts_per_tok();
    trace_.input.resize(static_cast<size_t>(steps_ * width_));
    trace_.layer_out.resize(static_cast<size_t>(steps_ * width_));
    if (observer_ == nullptr) trace_.logits.resize(static_cast<size_t>(steps_ * binding_.arch.vocab_size()));
    trace_.router_ids.resize(static_cast<size_t>(steps_ * k));
    trace_.router_weights.resize(static_cast<size_t>(steps_ * k));
    for (int64_t begin = 0; begin < steps_; begin += chunk) {
      KOMPAKT_RETURN_IF_ERROR(RunChunk(begin, std::min(chunk, steps_ - begin)));
    }
    return std::move(trace_);
  }

 private:
  absl::Status Allocate(int64_t chunk) {
    const ArchSpec& arch = binding_.arch;
    const CacheFormat format = model_.options().cache_format;
    cache_.latent = {
        .rank = arch.mla().kv_lora_rank(), .rope = arch.mla().qk_rope_head_dim(), .capacity = steps_, .format = format};
    KOMPAKT_ASSIGN_OR_RETURN(latent_, AlignedBuffer::Create(static_cast<uint64_t>(steps_) * cache_.latent.row_bytes(),
                                                            "latent cache of the MTP layer"));
    cache_.latent.data = latent_.data();
    cache_.index = {.dim = arch.indexer().index_head_dim(), .capacity = steps_, .format = format};
    KOMPAKT_ASSIGN_OR_RETURN(keys_, AlignedBuffer::Create(static_cast<uint64_t>(steps_) * cache_.index.row_bytes(),
                                                          "index cache of the MTP layer"));
    cache_.index.data = keys_.data();
    KOMPAKT_ASSIGN_OR_RETURN(pair_, AlignedBuffer::Create(static_cast<uint64_t>(3 * chunk * width_) * sizeof(float),
                                                          "input of the MTP layer"));
    KOMPAKT_ASSIGN_OR_RETURN(a_, Activations::Create(arch, steps_, chunk));
    return absl::OkStatus();
  }

  absl::Status Norm(const float* x, const std::vector<float>& weight, int64_t tokens, float* y, int64_t y_stride) {
    return model_.kernels().rms_norm({.x = x,
                                      .x_stride = width_,
                                      .weight = weight.data(),
                                      .eps = binding_.arch.rms_norm_eps(),
                                      .tokens = tokens,
                                      .width = width_,
                                      .y = y,
                                      .y_stride = y_stride},
                                     context_);
  }

  absl::Status CheckFinite(absl::string_view what, const float* x, int64_t values) {
    bool finite = false;
    KOMPAKT_RETURN_IF_ERROR(model_.kernels().all_finite({.x = x, .n = values, .finite = &finite}, context_));
    if (finite) return absl::OkStatus();
    return CorruptError(model_.weights().origin(), ": MTP layer: expected ", what, " to be finite");
  }

  absl::Status RunChunk(int64_t begin, int64_t tokens) {
    const KernelSet& kernels = model_.kernels();
    auto* const pair = reinterpret_cast<float*>(pair_.data());  // [tokens, 2 h]
    float* const embedded = pair + 2 * tokens * width_;         // [tokens, h]
    KOMPAKT_RETURN_IF_ERROR(kernels.embed(
        {.table = binding_.embed, .ids = ids_.data() + begin + 1, .tokens = tokens, .y = embedded}, context_));
    KOMPAKT_RETURN_IF_ERROR(Norm(embedded, mtp_.embed_norm, tokens, pair, 2 * width_));
    KOMPAKT_RETURN_IF_ERROR(Norm(hidden_.data() + begin * width_, mtp_.hidden_norm, tokens, pair + width_, 2 * width_));
    if (observer_ != nullptr) {
      KOMPAKT_RETURN_IF_ERROR(observer_->Observe(
          {.role = TensorRole::kMtpProj, .x = pair, .x_stride = 2 * width_, .tokens = tokens, .width = 2 * width_}));
    }
    KOMPAKT_RETURN_IF_ERROR(kernels.linear({.w = mtp_.projection,
                                            .x = pair,
                                            .x_stride = 2 * width_,
                                            .tokens = tokens,
                                            .y = a_.x,
                                            .y_stride = width_,
                                            .act = model_.options().act.Of(TensorRole::kMtpProj)},
                                           context_));
    KOMPAKT_RETURN_IF_ERROR(CheckFinite("its input", a_.x, tokens * width_));
    std::copy_n(a_.x, tokens * width_, trace_.input.begin() + begin * width_);
    binding_.rope.Fill(begin, tokens, a_.cos_sin);
    const absl::Status run = RunLayer(binding_, mtp_.layer, kernels, context_, cache_, begin, tokens, a_, {}, observer_,
                                      model_.options().act);
    if (!run.ok()) return WithContext(run, absl::StrCat(model_.weights().origin(), ": MTP layer"));
    KOMPAKT_RETURN_IF_ERROR(CheckFinite("hidden states", a_.x, tokens * width_));
    std::copy_n(a_.x, tokens * width_, trace_.layer_out.begin() + begin * width_);
    const int64_t k = binding_.arch.moe().num_experts_per_tok();
    std::copy_n(a_.router_ids, tokens * k, trace_.router_ids.begin() + begin * k);
    std::copy_n(a_.router_weights, tokens * k, trace_.router_weights.begin() + begin * k);
    if (observer_ != nullptr) return absl::OkStatus();
    KOMPAKT_RETURN_IF_ERROR(Norm(a_.x, mtp_.head_norm, tokens, a_.normed, width_));
    const int64_t vocab = binding_.arch.vocab_size();
    return kernels.linear({.w = binding_.head,
                           .x = a_.normed,
                           .x_stride = width_,
                           .tokens = tokens,
                           .y = trace_.logits.data() + begin * vocab,
                           .y_stride = vocab,
                           .act = model_.options().act.Of(TensorRole::kLmHead)},
                          context_);
  }

  const Model& model_;
  LinearObserver* observer_;  // null: a trace
  const ModelBinding& binding_;
  const MtpBinding& mtp_;
  absl::Span<const int32_t> ids_;
  absl::Span<const float> hidden_;
  int64_t steps_;
  int64_t width_;
  MtpTrace trace_;
  AlignedBuffer latent_, keys_, pair_;
  LayerCache cache_;
  Activations a_;
  Workspace workspace_;
  ThreadTeam team_;
  KernelContext context_;
};

absl::StatusOr<MtpTrace> RunMtp(const Model& model, absl::Span<const int32_t> ids, absl::Span<const float> hidden,
                                LinearObserver* observer) {
  const ArchSpec& arch = model.arch();
  if (model.binding().mtp.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        model.weights().origin(), ": expected an MTP layer, found none (convert keeps it with --keep-mtp)"));
  }
  if (ids.size() < 2) return UsageError("an MTP layer needs at least 2 tokens, found ", ids.size());
  if (std::ssize(hidden) != std::ssize(ids) * arch.hidden_size()) {
    return UsageError("hidden states: expected ", std::ssize(ids) * arch.hidden_size(), " values, found ",
                      hidden.size());
  }
  for (const int32_t id : ids) {
    if (id < 0 || id >= arch.vocab_size()) return UsageError("expected ids below ", arch.vocab_size(), ", found ", id);
  }
  try {
    return MtpPass(model, ids, hidden, observer).Run();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for the MTP layer over ", ids.size(), " tokens"));
  }
}

}  // namespace

absl::StatusOr<MtpTrace> TraceMtp(const Model& model, absl::Span<const int32_t> ids, absl::Span<const float> hidden) {
  return RunMtp(model, ids, hidden, nullptr);
}

absl::Status ObserveMtp(const Model& model, absl::Span<const int32_t> ids, absl::Span<const float> hidden,
                        LinearObserver& observer) {
  return RunMtp(model, ids, hidden, &observer).status();
}

}  // namespace kompakt
