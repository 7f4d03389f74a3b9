// The pipeline of a conversion. Bands are taken in the order of the file; each worker reads, encodes and writes its
// band at the place that the layout gave it, and the record's checksum follows in order.
//
//     disk -> page cache (ReadAhead) -> worker: read, decode, encode, pwrite -> page cache -> disk (WriteBehind)
//
// The bytes do not depend on the number of workers, nor on which of them took which band.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "format/packed_layout.h"
#include "format/packed_writer.h"
#include "format/tensor_source.h"
#include "quant/feedback_plan.h"
#include "quant/importance.h"
#include "quant/recipe.h"
#include "quant/search_effort.h"

namespace kompakt {

struct ConversionJob {
  const TensorSource& source;
  const std::vector<QuantRecipe::Choice>& choices;
  const PackedLayout& layout;
  SearchEffort effort;
  const Importance* importance;  // null: data-free
  const FeedbackPlan* feedback;  // null: none
  PackedWriter& writer;
  int workers = 1;
  uint64_t read_ahead_bytes = 0;
  const std::atomic<bool>* interrupted = nullptr;              // set: stops within a band, kCancelled
  std::function<void(uint64_t, uint64_t)> progress = nullptr;  // tensor bytes done, of; from one thread at a time
};

// Bands that wait for their turn, per worker: one that it works on and one behind it.
inline constexpr int kBandsPerWorker = 2;

// Writes every record that is this process' and not done.
absl::Status RunConversion(const ConversionJob& job);

}  // namespace kompakt
