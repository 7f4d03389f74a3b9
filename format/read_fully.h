#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kompakt {

// Calls read(bytes, count, offset), which behaves like pread, until `bytes` is full or the file ends: continues short
// reads, repeats interrupted ones. How many bytes there were; IoError naming `path` otherwise.
absl::StatusOr<uint64_t> ReadFully(const std::function<int64_t(uint8_t*, uint64_t, uint64_t)>& read, uint64_t offset,
                                   absl::Span<uint8_t> bytes, absl::string_view path);
// The same of an open file.
absl::StatusOr<uint64_t> ReadFully(int fd, uint64_t offset, absl::Span<uint8_t> bytes, absl::string_view path);

}  // namespace kompakt
