// PackedLayout: every extent of a packed file before a byte of it is written. A pure function of the schema and of the
// format of each tensor; planner, writer and verifier share it.
//
// An extent is a run of equal records. A plain tensor is one record holding one part. The routed experts of a layer are
// one extent with one record per expert: gate | up | down, so that one read brings one expert.
// Alignment: expert records 4096 bytes (their size too), other extents of 64 KiB and more 4096, the rest 64.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/block_format.h"
#include "format/model_schema.h"

namespace kompakt {

inline constexpr uint64_t kHeaderBytes = 64;
inline constexpr uint64_t kFooterBytes = 64;
inline constexpr uint64_t kPageBytes = 4096;
inline constexpr uint64_t kSmallAlign = 64;
inline constexpr uint64_t kPageAlignFrom = 64 * 1024;

struct ExtentPart {
  TensorRole role;
  FormatId format;
  MatrixShape shape;  // of one record's tensor; a vector has rows = 1
  uint64_t offset_in_record = 0;
  BlobLayout blob;
};

struct Extent {
  uint64_t offset = 0;        // in the file
  uint64_t record_bytes = 0;  // expert records include their zero padding
  int64_t record_count = 1;   // experts, or 1
  int32_t layer = -1;
  bool experts = false;
  std::vector<ExtentPart> parts;

  uint64_t record_offset(int64_t record) const { return offset + static_cast<uint64_t>(record) * record_bytes; }
  uint64_t total_bytes() const { return static_cast<uint64_t>(record_count) * record_bytes; }
};

class PackedLayout {
 public:
  // formats[i] belongs to schema.tensors()[i]; the experts of one layer must agree per role (kInvalidArgument).
  // kOutOfRange on overflow.
  static absl::StatusOr<PackedLayout> Create(const ModelSchema& schema, absl::Span<const FormatId> formats);

  absl::Span<const Extent> extents() const { return extents_; }
  // First byte after the last extent, rounded up to 64: where the manifest begins.
  uint64_t data_end() const { return data_end_; }
  // Bytes of all records, padding between extents not counted.
  uint64_t tensor_bytes() const { return tensor_bytes_; }

  // Which extent and part hold a role of a layer; extent -1 when none does. The record is the expert number, or 0.
  struct Place {
    int64_t extent = -1;
    int64_t part = -1;
  };
  Place Find(TensorRole role, int64_t layer) const;

 private:
  std::vector<Extent> extents_;
  std::vector<std::vector<Place>> places_;  // [layer + 1][role]
  uint64_t data_end_ = 0;
  uint64_t tensor_bytes_ = 0;
};

}  // namespace kompakt
