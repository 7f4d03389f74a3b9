// Tensors of a safetensors file that is still to be written: what they are, and how to make their bytes piece by piece.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "converters/quantization_config.h"
#include "converters/safetensors.h"
#include "converters/shard_set.h"
#include "format/tensor_source.h"

namespace kompakt {

enum class ExportDtype : uint8_t {
  kBf16,    // matrices rounded to BF16; vectors (norms, the correction bias) as they are stored
  kF32,     // everything as F32
  kSource,  // as the upstream files stored it, bit for bit
};

// kInvalidArgument for another name than bf16, f32, source.
absl::StatusOr<ExportDtype> ParseExportDtype(absl::string_view name);

struct OutputTensor {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<uint64_t> shape;
  // Its bytes are `rows` runs of row_bytes. A piece begins at a multiple of row_step.
  int64_t rows = 0;
  uint64_t row_bytes = 0;
  int64_t row_step = 1;
  uint64_t scratch_row_bytes = 0;  // memory that making one row takes besides
  // Fills `out` with rows [row_begin, row_end); safe from several threads.
  std::function<absl::Status(int64_t row_begin, int64_t row_end, uint8_t* out)> read;
  // What reading it has shown that is suspicious but usable (TensorSource::observations); may be empty.
  std::function<std::vector<std::string>()> observations = nullptr;

  uint64_t bytes() const { return static_cast<uint64_t>(rows) * row_bytes; }
};

// Every tensor of `shards`: quantized modules as `<module>.weight` (fused experts under their own name), the rest as it
// is; kF32 widens plain ones too. Both arguments must outlive the result. kInvalidArgument for kSource.
absl::StatusOr<std::vector<OutputTensor>> OutputsOfFiles(const ShardSet& shards, const SourceQuantization& quantization,
                                                         ExportDtype dtype);

// Every tensor of the model. `source` must outlive the result. With kSource: kFailedPrecondition naming the first
// tensor that the source does not keep exactly, or not in a form that can be written back.
absl::StatusOr<std::vector<OutputTensor>> OutputsOfSource(const TensorSource& source, ExportDtype dtype);

}  // namespace kompakt
