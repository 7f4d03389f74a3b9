#include "quant/calibrate.h"

#include <algorithm>
#include <map>
#include <new>
#include <utility>

#include "format/arch_spec.h"
#include "format/status.h"
#include "quant/moments.h"
#include "runtime/footprint.h"
#include "runtime/layer.h"
#include "runtime/mtp.h"

namespace kompakt {
namespace {

// Adds up the inputs of one layer.
class LayerMoments : public LinearObserver {
 public:
  // `rows`: those of the layer.
  static absl::StatusOr<LayerMoments> Create(absl::Span<const CalibrationRow> rows, KernelContext& context) {
    LayerMoments all(context);
    for (const CalibrationRow& row : rows) {
      all.index_[{row.role, row.expert}] = all.moments_.size();
      KOMPAKT_ASSIGN_OR_RETURN(Moments moments, Moments::Create(row.width, row.has_matrix));
      all.moments_.push_back(std::move(moments));
    }
    return all;
  }

  absl::Status Observe(const LinearInput& input) override {
    const auto at = index_.find({input.role, input.expert});
    if (at == index_.end()) {
      return absl::InternalError(absl::StrCat(InfoOf(input.role).name, ": no row to calibrate it"));
    }
    moments_[at->second].Add(input, context_);
    if (input.role != TensorRole::kExpertGate) return absl::OkStatus();
    // Every token goes to as many experts: over all of them its input keeps its share.
    const auto blended = index_.find({TensorRole::kExpertGate, -1});
    if (blended != index_.end()) moments_[blended->second].Add(input, context_);
    return absl::OkStatus();
  }

  absl::Status Write(CalibrationWriter& writer) const {
    for (const Moments& moments : moments_) {
      KOMPAKT_RETURN_IF_ERROR(writer.Add(moments.tokens(), moments.MeanSquares(), moments.Triangle()));
    }
    return absl::OkStatus();
  }

  int64_t tokens_of_expert(int64_t expert) const {
    const auto at = index_.find({TensorRole::kExpertGate, expert});
    return at == index_.end() ? 0 : moments_[at->second].tokens();
  }

 private:
  explicit LayerMoments(KernelContext& context) : context_(context) {}

  KernelContext& context_;
  std::map<std::pair<TensorRole, int64_t>, size_t> index_;
  std::vector<Moments> moments_;
};

// The rows of one layer, or of what is in none, are neighbours.
absl::Span<const CalibrationRow> RowsOfLayer(absl::Span<const CalibrationRow> rows, int64_t layer) {
  const auto is_of = [layer](const CalibrationRow& row) { return row.layer == layer; };
  const auto begin = std::find_if(rows.begin(), rows.end(), is_of);
  const auto end = std::find_if_not(begin, rows.end(), is_of);
  return {rows.data() + (begin - rows.begin()), static_cast<size_t>(end - begin)};
}

// Whether layers use what another one selected, so that it must be kept for every chunk.
bool KeepsSelection(const ArchSpec& arch, int64_t context) {
  if (arch.attention() != ATTENTION_MLA_INDEXED || arch.indexer().index_topk() >= context) return false;
  for (int64_t layer = 0; layer < arch.num_hidden_layers(); ++layer) {
    if (!HasIndexer(arch, layer)) return true;
  }
  return false;
}

int64_t ContextOf(const CalibrationChunks& chunks) { return std::min(chunks.context(), chunks.tokens()); }

class CalibrationPass {
 public:
  CalibrationPass(const Model& model, const CalibrationChunks& chunks, CalibrationWriter& writer,
                  const std::function<bool(int64_t, int64_t)>& progress)
      : model_(model),
        binding_(model.binding()),
        chunks_(chunks),
        writer_(writer),
        progress_(progress),
        width_(model.arch().hidden_size()),
        layers_(std::ssize(binding_.layers)),
        team_(model.options().threads),
        context_{.team = &team_, .workspace = &workspace_} {}

  absl::StatusOr<CalibrationReport> Run() {
    KOMPAKT_RETURN_IF_ERROR(Allocate());
    KOMPAKT_RETURN_IF_ERROR(Embed());
    for (int64_t layer = 0; layer < layers_; ++layer) {
      KOMPAKT_RETURN_IF_ERROR(RunOneLayer(layer));
    }
    KOMPAKT_RETURN_IF_ERROR(RunHead());
    for (int64_t mtp = 0; mtp < std::ssize(binding_.mtp); ++mtp) KOMPAKT_RETURN_IF_ERROR(RunMtp(layers_ + mtp));
    KOMPAKT_RETURN_IF_ERROR(writer_.Finish());
    return std::move(report_);
  }

 private:
  absl::Status Allocate() {
    const ArchSpec& arch = model_.arch();
    const int64_t context = ContextOf(chunks_);
    KOMPAKT_ASSIGN_OR_RETURN(hidden_,
                             AlignedBuffer::Create(static_cast<uint64_t>(chunks_.tokens() * width_) * sizeof(float),
                                                   absl::StrCat("hidden states of ", chunks_.tokens(), " tokens")));
    if (KeepsSelection(arch, context)) {
      KOMPAKT_ASSIGN_OR_RETURN(
          selected_,
          AlignedBuffer::Create(static_cast<uint64_t>(chunks_.tokens() * arch.indexer().index_topk()) * sizeof(int32_t),
                                absl::StrCat("selections of ", chunks_.tokens(), " tokens")));
    }
    cache_.latent = {.rank = arch.mla().kv_lora_rank(), .rope = arch.mla().qk_rope_head_dim(), .capacity = context};
    KOMPAKT_ASSIGN_OR_RETURN(
        latent_, AlignedBuffer::Create(static_cast<uint64_t>(context) * cache_.latent.row_bytes(), "latent cache"));
    cache_.latent.data = latent_.data();
    cache_.index = {.dim = arch.indexer().index_head_dim(), .capacity = context};
    KOMPAKT_ASSIGN_OR_RETURN(
        keys_, AlignedBuffer::Create(static_cast<uint64_t>(context) * cache_.index.row_bytes(), "index cache"));
    cache_.index.data = keys_.data();
    KOMPAKT_ASSIGN_OR_RETURN(a_, Activations::Create(arch, context, std::min(context, kChunkTokens)));
    return absl::OkStatus();
  }

  // Hidden states of a chunk's tokens from `begin` on.
  float* HiddenOf(int64_t chunk, int64_t begin) const {
    return reinterpret_cast<float*>(hidden_.data()) + (chunk * chunks_.context() + begin) * width_;
  }

  // piece(chunk, begin, tokens) for all tokens, as many at once as the activations hold.
  template <typename Piece>
  absl::Status ForEachPiece(const Piece& piece) {
    for (int64_t chunk = 0; chunk < chunks_.count(); ++chunk) {
      const int64_t tokens = std::ssize(chunks_.chunk(chunk));
      for (int64_t begin = 0; begin < tokens; begin += a_.capacity()) {
        KOMPAKT_RETURN_IF_ERROR(piece(chunk, begin, std::min(a_.capacity(), tokens - begin)));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Embed() {
    return ForEachPiece([&](int64_t chunk, int64_t begin, int64_t tokens) {
      return model_.kernels().embed({.table = binding_.embed,
                                     .ids = chunks_.chunk(chunk).data() + begin,
                                     .tokens = tokens,
                                     .y = HiddenOf(chunk, begin)},
                                    context_);
    });
  }

  absl::Status RunOneLayer(int64_t index) {
    const LayerBinding& layer = binding_.layers[static_cast<size_t>(index)];
    KOMPAKT_ASSIGN_OR_RETURN(LayerMoments moments, LayerMoments::Create(RowsOfLayer(writer_.rows(), index), context_));
    KOMPAKT_RETURN_IF_ERROR(ForEachPiece([&](int64_t chunk, int64_t begin, int64_t tokens) -> absl::Status {
      float* const x = HiddenOf(chunk, begin);
      std::copy_n(x, tokens * width_, a_.x);
      CopySelection(chunk, begin, tokens, /*to_activations=*/true);
      binding_.rope.Fill(begin, tokens, a_.cos_sin);
      const absl::Status run =
          RunLayer(binding_, layer, model_.kernels(), context_, cache_, begin, tokens, a_, {}, &moments);
      if (!run.ok()) return WithContext(run, absl::StrCat(model_.weights().origin(), ": layer ", index));
      KOMPAKT_RETURN_IF_ERROR(CheckFinite(a_.x, tokens, absl::StrCat("layer ", index)));
      CopySelection(chunk, begin, tokens, /*to_activations=*/false);
      std::copy_n(a_.x, tokens * width_, x);
      const bool chunk_ends = begin + tokens == std::ssize(chunks_.chunk(chunk));
      return chunk_ends ? Report() : absl::OkStatus();
    }));
    KeepCounts(index, moments);
    return moments.Write(writer_);
  }

  // The final norm, in place, and what the head sees of it.
  absl::Status RunHead() {
    const absl::Span<const CalibrationRow> all = writer_.rows();
    const auto head = std::find_if(all.begin(), all.end(), [](const CalibrationRow& r) { return r.layer < 0; });
    KOMPAKT_ASSIGN_OR_RETURN(
        LayerMoments moments,
        LayerMoments::Create({all.data() + (head - all.begin()), head == all.end() ? 0u : 1u}, context_));
    KOMPAKT_RETURN_IF_ERROR(ForEachPiece([&](int64_t chunk, int64_t begin, int64_t tokens) -> absl::Status {
      float* const x = HiddenOf(chunk, begin);
      KOMPAKT_RETURN_IF_ERROR(model_.kernels().rms_norm({.x = x,
                                                         .x_stride = width_,
                                                         .weight = binding_.final_norm.data(),
                                                         .eps = model_.arch().rms_norm_eps(),
                                                         .tokens = tokens,
                                                         .width = width_,
                                                         .y = x,
                                                         .y_stride = width_},
                                                        context_));
      KOMPAKT_RETURN_IF_ERROR(CheckFinite(x, tokens, "final norm"));
      KOMPAKT_RETURN_IF_ERROR(moments.Observe(
          {.role = TensorRole::kLmHead, .x = x, .x_stride = width_, .tokens = tokens, .width = width_}));
      return absl::OkStatus();
    }));
    return moments.Write(writer_);
  }

  // Only the first MTP layer runs; the others are written as never seen.
  absl::Status RunMtp(int64_t index) {
    KOMPAKT_ASSIGN_OR_RETURN(LayerMoments moments, LayerMoments::Create(RowsOfLayer(writer_.rows(), index), context_));
    for (int64_t chunk = 0; index == layers_ && chunk < chunks_.count(); ++chunk) {
      const absl::Span<const int32_t> ids = chunks_.chunk(chunk);
      if (ids.size() >= 2) {
        KOMPAKT_RETURN_IF_ERROR(
            ObserveMtp(model_, ids, {HiddenOf(chunk, 0), ids.size() * static_cast<size_t>(width_)}, moments));
      }
      KOMPAKT_RETURN_IF_ERROR(Report());
    }
    KeepCounts(index, moments);
    return moments.Write(writer_);
  }

  void KeepCounts(int64_t index, const LayerMoments& moments) {
    if (!IsMoeLayer(model_.arch(), index)) return;
    CalibrationReport::Layer layer{.layer = index, .tokens_per_expert = {}};
    for (int64_t e = 0; e < model_.arch().moe().n_routed_experts(); ++e) {
      layer.tokens_per_expert.push_back(moments.tokens_of_expert(e));
    }
    report_.layers.push_back(std::move(layer));
  }

  void CopySelection(int64_t chunk, int64_t begin, int64_t tokens, bool to_activations) {
    if (selected_.bytes() == 0) return;
    const int64_t top_k = model_.arch().indexer().index_topk();
    int32_t* const kept = reinterpret_cast<int32_t*>(selected_.data()) + (chunk * chunks_.context() + begin) * top_k;
    if (to_activations) {
      std::copy_n(kept, tokens * top_k, a_.selected);
    } else {
      std::copy_n(a_.selected, tokens * top_k, kept);
    }
  }

  absl::Status CheckFinite(const float* x, int64_t tokens, absl::string_view where) {
    bool finite = false;
    KOMPAKT_RETURN_IF_ERROR(model_.kernels().all_finite({.x = x, .n = tokens * width_, .finite = &finite}, context_));
    if (finite) return absl::OkStatus();
    return CorruptError(model_.weights().origin(), ": ", where, ": expected finite hidden states");
  }

  absl::Status Report() {
    const int64_t all = (layers_ + std::min<int64_t>(1, std::ssize(binding_.mtp))) * chunks_.count();
    if (progress_ && !progress_(++done_, all)) return absl::CancelledError("the calibration was stopped");
    return absl::OkStatus();
  }

  const Model& model_;
  const ModelBinding& binding_;
  const CalibrationChunks& chunks_;
  CalibrationWriter& writer_;
  const std::function<bool(int64_t, int64_t)>& progress_;
  int64_t width_;
  int64_t layers_;
  int64_t done_ = 0;
  AlignedBuffer hidden_;    // [tokens, h]
  AlignedBuffer selected_;  // [tokens, index_topk] of the last layer with an indexer; empty where nobody needs it
  AlignedBuffer latent_, keys_;
  LayerCache cache_;
  Activations a_;
  Workspace workspace_;
  ThreadTeam team_;
  KernelContext context_;
  CalibrationReport report_;
};

}  // namespace

absl::StatusOr<CalibrationChunks> CalibrationChunks::Create(absl::Span<const int32_t> ids,
                                                            std::optional<int32_t> bos_id, int64_t context,
                                                            int64_t most_tokens) {
  if (context < 2) return UsageError("the context must be 2 tokens or more, found ", context);
  if (ids.empty()) return UsageError("the calibration text has no tokens");
  if (most_tokens > 0 && most_tokens < std::ssize(ids)) ids = ids.first(static_cast<size_t>(most_tokens));
  CalibrationChunks chunks;
  chunks.context_ = context;
  for (const int32_t id : ids) {
    if (bos_id.has_value() && chunks.tokens() % context == 0) chunks.ids_.push_back(*bos_id);
    chunks.ids_.push_back(id);
  }
  return chunks;
}

CalibrationMemory CalibrationMemoryOf(const ArchSpec& arch, int threads, int64_t tokens, int64_t context,
                                      absl::Span<const CalibrationRow> rows) {
  context = std::min(context, tokens);
  const int64_t piece = std::min(context, kChunkTokens);
  CalibrationMemory memory;
  const int64_t selected = KeepsSelection(arch, context) ? arch.indexer().index_topk() : 0;
  memory.hidden_bytes = static_cast<uint64_t>(tokens * (arch.hidden_size() + selected)) * sizeof(float);
  std::map<int64_t, uint64_t> by_layer;
  uint64_t results = 0;
  for (const CalibrationRow& row : rows) {
    by_layer[row.layer] += Moments::BytesFor(row.width, row.has_matrix);
    const int64_t floats = row.width + (row.has_matrix ? TriangleSize(row.width) : 0);
    results = std::max(results, static_cast<uint64_t>(floats) * sizeof(float));
  }
  for (const auto& [layer, bytes] : by_layer) memory.statistics_bytes = std::max(memory.statistics_bytes, bytes);
  memory.statistics_bytes += results + rows.size() * 2 * sizeof(CalibrationRow);
  // A session's for one chunk bounds activations, kernels and the cache of all layers; the taken-apart FFN holds gate
  // and up at once, and the tokens of one expert twice. An MTP layer has activations of its own.
  const Footprint session = FootprintOf(arch, context, threads, CacheFormat::kF32);
  const int64_t inter = std::max({arch.intermediate_size(), arch.moe().moe_intermediate_size(),
                                  arch.moe().n_shared_experts() * arch.moe().moe_intermediate_size()});
  const int64_t latent = arch.mla().kv_lora_rank() + arch.mla().qk_rope_head_dim() + arch.indexer().index_head_dim();
  memory.working_bytes =
      (session.working_bytes + static_cast<uint64_t>(context * latent) * sizeof(float)) *
          (arch.mtp_layers() > 0 ? 2 : 1) +
      static_cast<uint64_t>(piece * (2 * inter + 3 * arch.hidden_size() + arch.mla().kv_lora_rank())) * sizeof(float);
  return memory;
}

absl::StatusOr<CalibrationReport> Calibrate(const Model& model, const CalibrationChunks& chunks,
                                            CalibrationWriter& writer,
                                            const std::function<bool(int64_t, int64_t)>& progress) {
  try {
    return CalibrationPass(model, chunks, writer, progress).Run();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory to calibrate with ", chunks.tokens(), " tokens"));
  }
}

}  // namespace kompakt
