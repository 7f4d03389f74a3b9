// TensorSource: where weights come from. Implemented by an upstream checkpoint (converters/), by a packed file
// (format/packed_source.h) and by a synthetic generator in tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/block_format.h"
#include "format/manifest.pb.h"
#include "format/model_schema.h"

namespace kompakt {

// How a source stores one tensor.
struct StoredForm {
  // The exact format that holds it bit for bit. kF32 with `decoded` set where no exact format does.
  FormatId exact_format = FormatId::kF32;
  // True: the source's own form (codes and scales) is only kept as its F32 values.
  bool decoded = false;
  // True: already 4-bit upstream. A recipe keeps such a tensor instead of quantizing it twice.
  bool native_low_bit = false;
  std::string dtype;          // for people: "F8_E4M3, F32 scale per 128x128"
  uint64_t stored_bytes = 0;  // bytes that reading it takes, companions included
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  virtual const ModelSchema& schema() const = 0;
  virtual const ModelAssets& assets() const = 0;
  // What the user should know and the manifest keeps, for example skipped MTP layers.
  virtual std::vector<std::string> notices() const = 0;

  // All of the following take tensors of schema() and are safe to call from several threads.
  virtual absl::StatusOr<StoredForm> Form(const TensorInfo& tensor) const = 0;

  // Rows [row_begin, row_end) in the exact format of Form(tensor). row_begin is a multiple of 128. Checks what only
  // the data can show: NaN codes, non-finite or non-positive scales (kDataLoss naming file, tensor and element).
  virtual absl::StatusOr<StoredRows> ReadStored(const TensorInfo& tensor, int64_t row_begin, int64_t row_end) const = 0;

  // The same rows as F32 into out[(row_end - row_begin) * cols]; any row_begin. Non-finite values are kDataLoss.
  virtual absl::Status ReadF32(const TensorInfo& tensor, int64_t row_begin, int64_t row_end,
                               absl::Span<float> out) const = 0;

  // Every file that the weights and assets come from, with its XXH3-64; reads them all. Ascending by name.
  virtual absl::StatusOr<std::vector<SourceFile>> HashFiles(int threads) const = 0;

  // The same list, names and bytes only: what a plan needs to know the size of a manifest. A source that can list its
  // files without reading them overrides this.
  virtual absl::StatusOr<std::vector<SourceFile>> ListFiles() const { return HashFiles(1); }
};

}  // namespace kompakt
