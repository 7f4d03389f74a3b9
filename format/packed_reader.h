// PackedReader: a validated, memory-mapped packed file. Open checks header, footer, manifest checksum, feature bits,
// the ArchSpec, that the extents are exactly those of the model's schema, that every size equals what its shape and
// format compute, and that extents ascend, do not overlap and lie inside the file. It does not read weight bytes:
// VerifyRecord and Verify do.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/block_format.h"
#include "format/manifest.pb.h"
#include "format/model_schema.h"
#include "format/packed_layout.h"
#include "format/volume_set.h"

namespace kompakt {

class PackedReader {
 public:
  // `path` may be any volume of a set, or NAME.kpk where only its volumes exist (format/volume_set.h).
  // kNotFound / kPermissionDenied: cannot open; for a set, names the volumes that are missing. kFailedPrecondition: not
  // a packed file at all (or an unfinished one). kDataLoss: a packed file whose header, manifest or footer is damaged.
  // kUnimplemented: another major version or an unknown required feature, by name.
  static absl::StatusOr<std::shared_ptr<const PackedReader>> Open(const std::string& path);
  virtual ~PackedReader() = default;

  // Of the file; of a set, that of its first volume, and the bytes of all of them.
  virtual const std::string& path() const = 0;
  virtual uint64_t file_bytes() const = 0;
  virtual const OpenedPacked& file() const = 0;
  virtual const Manifest& manifest() const = 0;
  virtual const ModelSchema& schema() const = 0;
  // As read from the manifest, and checked against the schema.
  virtual const PackedLayout& layout() const = 0;

  // A matrix of schema(); the bytes stay mapped as long as the reader lives. kInternal for a vector.
  virtual absl::StatusOr<MatrixView> Matrix(const TensorInfo& tensor) const = 0;
  // A norm or bias as F32.
  virtual absl::StatusOr<std::vector<float>> Vector(const TensorInfo& tensor) const = 0;
  virtual absl::Span<const uint8_t> RecordBytes(int64_t extent, int64_t record) const = 0;

  // kDataLoss naming the tensor or "layer L expert E", the offset, expected and found XXH3.
  virtual absl::Status VerifyRecord(int64_t extent, int64_t record) const = 0;

  // Every record and every padding byte, in file order. Returns one status per damaged record or padding run; empty
  // when intact. `progress` (may be null) is called with bytes checked so far, from one thread at a time.
  virtual std::vector<absl::Status> Verify(int threads, const std::function<void(uint64_t)>& progress) const = 0;
};

}  // namespace kompakt
