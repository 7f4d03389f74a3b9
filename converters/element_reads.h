// Reading elements of stored tensors: runs, column slices, scales; and the errors that name an element.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "converters/shard_set.h"
#include "format/checksum.h"
#include "format/status.h"

namespace kompakt {

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

inline uint64_t ElementBytes(Dtype dtype) { return InfoOf(dtype).bits / 8; }

// BF16, F16 or F32.
bool IsFloat(Dtype dtype);

// "FILE: tensor NAME [row, col] (byte N of the file): <what>" for the element at `flat_index` of the stored tensor.
absl::Status ElementError(const FoundTensor& found, uint64_t flat_index, const std::string& what);

// "FILE: tensor NAME: <args>": headers that contradict the model or each other.
template <typename... Args>
absl::Status MismatchError(const FoundTensor& found, const Args&... args) {
  return absl::FailedPreconditionError(absl::StrCat(found.file->path(), ": tensor ", found.entry->name, ": ", args...));
}

absl::Status CheckShape(const FoundTensor& found, absl::Span<const int64_t> expected);
// kUnimplemented: another floating-point or integer type than the form is written in.
absl::Status CheckFloat(const FoundTensor& found);

// Elements [begin, begin + count) of a stored tensor as bytes. Here and below `source_bytes` (may be null) gets them
// too.
absl::StatusOr<std::vector<uint8_t>> ReadElements(const FoundTensor& found, uint64_t begin, uint64_t count,
                                                  Xxh3Stream* source_bytes);

// Columns [begin, begin + count) of every row of a stored matrix, as bytes: [rows][count]. Through gaps below a page it
// reads on instead of beginning anew; the memory is that of the result and at most 256 KiB.
absl::StatusOr<std::vector<uint8_t>> ReadColumns(const FoundTensor& found, int64_t begin, int64_t count,
                                                 Xxh3Stream* source_bytes);

// Element `index` of BF16, F16, F32 or F8_E8M0 bytes, widened.
float ElementAsF32(Dtype dtype, const uint8_t* bytes, uint64_t index);

// What a scale may be.
struct ScaleRule {
  float largest_code = 1;  // scale * largest_code is finite
  bool power_of_two = false;
};
// OK, or an ElementError for a scale that is not finite, not positive, too large, or against the rule.
absl::Status CheckScale(const FoundTensor& found, uint64_t flat_index, float scale, const ScaleRule& rule);

// `count` scales from element `begin` on, as F32, each checked.
absl::StatusOr<std::vector<float>> ReadScales(const FoundTensor& found, uint64_t begin, uint64_t count,
                                              const ScaleRule& rule, Xxh3Stream* source_bytes);

}  // namespace kompakt
