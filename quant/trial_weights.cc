#include "quant/trial_weights.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "format/status.h"

namespace kompakt {
namespace {

// The tiles and row scales of one matrix, where its blob has them.
absl::StatusOr<MatrixReplacement> EncodeMatrix(const MatrixView& from, const TensorInfo& tensor, FormatId format,
                                               const Importance* importance, const FeedbackPlan* feedback,
                                               ErrorStats* error) {
  std::vector<float> columns;
  FactorCache::Shared factor;
  if (importance != nullptr) {
    KOMPAKT_ASSIGN_OR_RETURN(columns, importance->Of(tensor));
  }
  if (feedback != nullptr) {
    KOMPAKT_ASSIGN_OR_RETURN(factor, feedback->FactorOf(tensor));
  }
  MatrixReplacement to;
  to.tensor = tensor;
  to.format = format;
  const BlockFormat& row = FormatOf(format);
  KOMPAKT_ASSIGN_OR_RETURN(const BlobLayout layout, LayoutOfMatrix(row, from.shape));
  to.blob.assign(layout.total_bytes, 0);
  const uint64_t tile_row_bytes = layout.row_tile_bytes(row);
  std::vector<float> values(static_cast<size_t>(kTileRows * from.shape.cols));
  EncoderScratch scratch;
  for (int64_t t = 0; t < layout.row_tiles; ++t) {
    const int64_t begin = t * kTileRows;
    const int64_t end = std::min(from.shape.rows, begin + kTileRows);
    DecodeRows(from, begin, end, absl::MakeSpan(values).first(static_cast<size_t>((end - begin) * from.shape.cols)));
    RowTile in;
    in.values = values.data();
    in.n_rows = end - begin;
    in.cols = from.shape.cols;
    in.importance = columns;
    float scales[kTileRows] = {};
    TileError tile;
    const absl::Span<uint8_t> tiles =
        absl::MakeSpan(to.blob).subspan(static_cast<uint64_t>(t) * tile_row_bytes, tile_row_bytes);
    const absl::Status encoded =
        factor == nullptr
            ? EncodeRowTile(format, SearchEffort::kDefault, in, scratch, tiles, absl::MakeSpan(scales), &tile)
            : EncodeRowTileWithFeedback(format, SearchEffort::kDefault, in, *factor, scratch, tiles,
                                        absl::MakeSpan(scales), &tile);
    if (!encoded.ok()) return WithContext(encoded, absl::StrCat(tensor.Name(), ", rows from ", begin));
    if (row.side == SideKind::kRowScale) {
      std::memcpy(to.blob.data() + layout.side_offset + static_cast<uint64_t>(begin) * sizeof(float), scales,
                  sizeof(scales));
    }
    Accumulate(tile, error);
  }
  return to;
}

}  // namespace

absl::StatusOr<TrialWeights> EncodeTrial(const WeightStore& weights, absl::Span<const TensorInfo> tensors,
                                         FormatId format, int threads, const std::atomic<bool>& interrupted,
                                         const Importance* importance) {
  const auto count = static_cast<int64_t>(tensors.size());
  TrialWeights trial;
  std::unique_ptr<const FeedbackPlan> feedback;
  if (importance != nullptr && importance->file().has_matrices()) {
    // All else counts as kept: so no channels change places.
    const ModelSchema& schema = weights.schema();
    std::vector<TensorForm> forms(schema.tensors().size(), {format, true});
    for (const TensorInfo& tensor : tensors) {
      forms[static_cast<size_t>(schema.Find(tensor.role, tensor.layer, tensor.expert))].exact = false;
    }
    KOMPAKT_ASSIGN_OR_RETURN(
        feedback, FeedbackPlan::Create(*importance, schema, std::move(forms), kDefaultDamping, &interrupted));
  }
  trial.matrices.resize(tensors.size());
  std::vector<ErrorStats> errors(tensors.size());
  absl::Status status;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(i);
    bool stop = interrupted.load();
#pragma omp critical(kompakt_trial_weights)
    stop = stop || !status.ok();
    if (stop) continue;
    absl::Status encoded;
    // An exception must not leave a thread of the loop.
    try {
      absl::StatusOr<MatrixView> from = weights.Matrix(tensors[at]);
      absl::StatusOr<MatrixReplacement> to =
          from.ok() ? EncodeMatrix(*from, tensors[at], format, importance, feedback.get(), &errors[at]) : from.status();
      encoded = to.status();
      if (encoded.ok()) trial.matrices[at] = *std::move(to);
    } catch (const std::bad_alloc&) {
      encoded = absl::ResourceExhaustedError(absl::StrCat(tensors[at].Name(), ": no memory left to encode it"));
    }
#pragma omp critical(kompakt_trial_weights)
    if (!encoded.ok() && status.ok()) status = encoded;
  }
  if (!status.ok()) return status;
  if (interrupted.load()) return absl::CancelledError("encoding was stopped");
  for (const ErrorStats& error : errors) {
    trial.error.set_sum_squared_error(trial.error.sum_squared_error() + error.sum_squared_error());
    trial.error.set_sum_squared_weight(trial.error.sum_squared_weight() + error.sum_squared_weight());
    trial.error.set_max_abs_error(std::max(trial.error.max_abs_error(), error.max_abs_error()));
    trial.error.set_count(trial.error.count() + error.count());
  }
  return trial;
}

}  // namespace kompakt
