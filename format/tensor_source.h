// TensorSource: where weights come from. Implemented by an upstream checkpoint (converters/), by a packed file
// (format/packed_source.h) and by a synthetic generator in tests.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/block_format.h"
#include "format/checksum.h"
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
  // How upstream files spell it (docs/format.md, "Upstream forms"); empty where the exact format alone cannot give it
  // back.
  std::string upstream_form = {};
};

// Where some bytes of a tensor lie.
struct SourceRange {
  std::string file;  // as in Files()
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// What the system says about one file: while `state` stays the same, so does the content. The text means nothing else.
struct SourceState {
  std::string file;   // as in Files()
  std::string state;  // size, times of change, inode
};

// What the files of a checkpoint hold, all of it.
struct SourceInventory {
  int64_t tensors = 0;         // companions such as scales included; 0: the source has no such files
  uint64_t tensor_bytes = 0;   // data of all tensors
  int64_t mtp_parameters = 0;  // of the MTP layers as they are stored, their copies of embedding and head included
};

// Source checksums are taken piece by piece, so that threads may share a tensor.
inline constexpr int64_t kSourcePieceRows = 128;

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  virtual const ModelSchema& schema() const = 0;
  virtual const ModelAssets& assets() const = 0;
  // What the user should know and the manifest keeps, for example skipped MTP layers.
  // One that begins with "warning: " says that the source is usable but suspicious.
  virtual std::vector<std::string> notices() const = 0;
  // What reading has shown since then that is suspicious but usable: complete once every tensor has been read. A notice
  // or observation that begins with "warning: " is a reason for a strict caller to stop.
  virtual std::vector<std::string> observations() const { return {}; }
  virtual SourceInventory Inventory() const { return {}; }

  // All of the following take tensors of schema() and are safe to call from several threads.
  virtual absl::StatusOr<StoredForm> Form(const TensorInfo& tensor) const = 0;

  // Rows [row_begin, row_end) in the exact format of Form(tensor). row_begin is a multiple of 128. Checks what only
  // the data can show: NaN codes, non-finite or non-positive scales (kDataLoss naming file, tensor and element).
  // `source_bytes` (may be null) gets every byte that was read for these rows, as the source stores it: elements or
  // codes by ascending row, then the companions that these rows need. Both reads of the same rows give it the same.
  virtual absl::StatusOr<StoredRows> ReadStored(const TensorInfo& tensor, int64_t row_begin, int64_t row_end,
                                                Xxh3Stream* source_bytes) const = 0;
  absl::StatusOr<StoredRows> ReadStored(const TensorInfo& tensor, int64_t row_begin, int64_t row_end) const {
    return ReadStored(tensor, row_begin, row_end, nullptr);
  }

  // The same rows as F32 into out[(row_end - row_begin) * cols]; any row_begin. Non-finite values are kDataLoss.
  virtual absl::Status ReadF32(const TensorInfo& tensor, int64_t row_begin, int64_t row_end, absl::Span<float> out,
                               Xxh3Stream* source_bytes) const = 0;
  absl::Status ReadF32(const TensorInfo& tensor, int64_t row_begin, int64_t row_end, absl::Span<float> out) const {
    return ReadF32(tensor, row_begin, row_end, out, nullptr);
  }

  // Every file that the weights and assets come from, ascending by name, with the XXH3-64 that SourceFile asks for.
  // Reads no weights.
  virtual absl::StatusOr<std::vector<SourceFile>> Files() const = 0;

  // The state of the files with weights, now; empty for a source without files.
  virtual absl::StatusOr<std::vector<SourceState>> States() const { return std::vector<SourceState>(); }

  // Where the bytes lie that reading these rows takes: elements first, then companions; empty for a source without
  // files. Where rows do not lie one after another, it is all of the stored tensor.
  virtual std::vector<SourceRange> Ranges(const TensorInfo& /*tensor*/, int64_t /*row_begin*/,
                                          int64_t /*row_end*/) const {
    return {};
  }

  // Advice about ranges that Ranges() gave: this one is read soon; that one is not read again.
  virtual void WillNeed(const SourceRange& /*range*/) const {}
  virtual void Drop(const SourceRange& /*range*/) const {}
};

// XXH3 of the source bytes of a whole tensor (docs/format.md, "Source checksums"), from those of its pieces.
class SourceXxh3 {
 public:
  // The digest of a piece's bytes; pieces come in ascending order.
  void Add(uint64_t piece_xxh3);
  uint64_t Digest() const { return pieces_.Digest(); }

 private:
  Xxh3Stream pieces_;
};

// Reads the whole tensor for its source checksum alone. `interrupted` (may be null) set: stops with kCancelled.
absl::StatusOr<uint64_t> ReadSourceXxh3(const TensorSource& source, const TensorInfo& tensor,
                                        const std::atomic<bool>* interrupted);

}  // namespace kompakt
