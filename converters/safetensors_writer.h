// Writes a safetensors file as the reference library does (upstream format, "Writer behaviour"): widest dtype first,
// then by name; compact JSON padded with spaces to 8 bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace kompakt {

// One tensor to write; does not own its data.
struct TensorToWrite {
  std::string name;
  std::string dtype;  // "F32" or "I64"
  std::vector<int64_t> shape;
  absl::Span<const uint8_t> bytes;  // little-endian, C order
};

// Writes path.partial, syncs and renames, so that `path` is never half a file. kInvalidArgument when bytes do not fit
// dtype and shape.
absl::Status WriteSafetensors(const std::string& path, std::vector<TensorToWrite> tensors);

}  // namespace kompakt
