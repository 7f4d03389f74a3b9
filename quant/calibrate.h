// Calibrate: runs a text through a model once and writes what went into its matrices (docs/calibration.md).
//
// All chunks of the text go through one layer before the next layer is begun. So every weight is read once, whatever
// the length of the text, and the statistics of only one layer are in memory; the hidden states of all tokens are.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/calibration_file.h"
#include "runtime/model.h"

namespace kompakt {

// A text cut into chunks of `context` tokens, each a timeline of its own that begins with BOS where the model has one.
// No token is lost: the last chunk may be short.
class CalibrationChunks {
 public:
  // `ids`: the text's tokens without BOS; at most `most_tokens` of them are used (0: all). kInvalidArgument when there
  // are none, or for a context below 2.
  static absl::StatusOr<CalibrationChunks> Create(absl::Span<const int32_t> ids, std::optional<int32_t> bos_id,
                                                  int64_t context, int64_t most_tokens);

  int64_t context() const { return context_; }
  int64_t tokens() const { return static_cast<int64_t>(ids_.size()); }  // BOS included
  int64_t count() const { return (tokens() + context_ - 1) / context_; }
  absl::Span<const int32_t> chunk(int64_t i) const {
    return absl::MakeSpan(ids_).subspan(static_cast<size_t>(i * context_), static_cast<size_t>(context_));
  }

 private:
  std::vector<int32_t> ids_;
  int64_t context_ = 0;
};

// What it takes besides the model; upper bounds.
struct CalibrationMemory {
  uint64_t hidden_bytes = 0;      // hidden states of all tokens
  uint64_t statistics_bytes = 0;  // sums of the largest layer, and one input's results
  uint64_t working_bytes = 0;     // activations, cache of one layer and chunk, scratch of the kernels

  uint64_t total() const { return hidden_bytes + statistics_bytes + working_bytes; }
};
// For `tokens` in chunks of `context` on `threads` threads.
CalibrationMemory CalibrationMemoryOf(const ArchSpec& arch, int threads, int64_t tokens, int64_t context,
                                      absl::Span<const CalibrationRow> rows);

struct CalibrationReport {
  struct Layer {
    int64_t layer = 0;
    std::vector<int64_t> tokens_per_expert;
  };
  std::vector<Layer> layers;  // with routed experts
};

// Fills `writer`, whose rows must be CalibrationRows of the model's schema, and finishes it. `progress` gets (chunks
// through a layer, of) and stops the work by returning false: kCancelled. kDataLoss naming the layer: a hidden state
// that is not finite. kResourceExhausted.
absl::StatusOr<CalibrationReport> Calibrate(const Model& model, const CalibrationChunks& chunks,
                                            CalibrationWriter& writer,
                                            const std::function<bool(int64_t, int64_t)>& progress);

}  // namespace kompakt
