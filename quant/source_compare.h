// Has the source changed? Compares its bytes with checksums that an earlier conversion recorded.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "format/packed_layout.h"
#include "format/tensor_source.h"

namespace kompakt {

// The source checksum that a tensor should have; none: do not look at it.
using ExpectedSourceXxh3 = std::function<absl::optional<uint64_t>(const TensorInfo&)>;

// What a packed file recorded. None for a file of version 1.0. `manifest` must outlive the result.
ExpectedSourceXxh3 RecordedSourceXxh3(const Manifest& manifest, const PackedLayout& layout);

struct SourceCompare {
  int threads = 1;
  const std::atomic<bool>* interrupted = nullptr;            // set: stops, kCancelled
  std::function<void(int64_t, int64_t)> progress = nullptr;  // tensors compared, of; from one thread at a time
};

// Reads the tensors that have an expectation. Empty when every checksum is as expected, else the first tensor in schema
// order that differs, of those found until the reading stopped: "tensor model.norm.weight differs (source XXH3 12..
// before, 34.. now)".
absl::StatusOr<std::string> FirstSourceDifference(const TensorSource& source, const ExpectedSourceXxh3& expected,
                                                  const SourceCompare& options);

// The sentence for one tensor; empty when they are equal.
std::string SourceDifference(const TensorInfo& tensor, uint64_t before, uint64_t now);

}  // namespace kompakt
