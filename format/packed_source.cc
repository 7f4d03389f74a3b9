#include "format/packed_source.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>

#include "format/file_system.h"
#include "format/packed_verify.h"
#include "format/status.h"

namespace kompakt {
namespace {

class PackedSource : public TensorSource {
 public:
  explicit PackedSource(std::shared_ptr<const PackedReader> file) : file_(std::move(file)) {
    for (const Extent& extent : file_->layout().extents()) {
      verified_.emplace_back(static_cast<size_t>(extent.record_count));
    }
  }

  const ModelSchema& schema() const override { return file_->schema(); }
  const ModelAssets& assets() const override { return file_->manifest().assets(); }

  std::vector<std::string> notices() const override {
    const auto& notices = file_->manifest().provenance().notices();
    return {notices.begin(), notices.end()};
  }

  absl::StatusOr<StoredForm> Form(const TensorInfo& tensor) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const Found found, Find(tensor));
    StoredForm form;
    form.exact_format = found.part->format;
    // F32 values of a form that no exact format holds keep that property.
    form.decoded = !found.entry->exact();
    form.native_low_bit = FormatOf(found.part->format).native_low_bit();
    form.dtype = found.entry->source_dtype();
    form.stored_bytes = found.part->blob.total_bytes;
    return form;
  }

  absl::StatusOr<StoredRows> ReadStored(const TensorInfo& tensor, int64_t row_begin, int64_t row_end) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const Found found, FindVerified(tensor));
    KOMPAKT_RETURN_IF_ERROR(CheckRows(tensor, row_begin, row_end));
    if (row_begin % kFp8Block != 0) {
      return absl::InternalError(absl::StrCat(tensor.Name(), ": row ", row_begin, " is not a multiple of 128"));
    }
    if (!tensor.is_vector()) return UnpackRows(ViewOf(found), row_begin, row_end);
    StoredRows rows;
    rows.format = found.part->format;
    rows.rows = 1;
    rows.cols = tensor.cols;
    const uint64_t bytes = static_cast<uint64_t>(tensor.cols) * FormatOf(rows.format).stored_element_bytes;
    rows.elements.assign(found.data, found.data + bytes);
    return rows;
  }

  absl::Status ReadF32(const TensorInfo& tensor, int64_t row_begin, int64_t row_end,
                       absl::Span<float> out) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const Found found, FindVerified(tensor));
    KOMPAKT_RETURN_IF_ERROR(CheckRows(tensor, row_begin, row_end));
    if (tensor.is_vector()) {
      DecodeVector(FormatOf(found.part->format), found.data, tensor.cols, out);
    } else {
      DecodeRows(ViewOf(found), row_begin, row_end, out);
    }
    for (size_t i = 0; i < out.size(); ++i) {
      if (!std::isfinite(out[i])) {
        const int64_t at = static_cast<int64_t>(i);
        return CorruptError(file_->path(), ": ", tensor.Name(), ": the weight at row ", row_begin + at / tensor.cols,
                            " column ", at % tensor.cols, " is ", out[i], ", expected a finite value");
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<SourceFile>> HashFiles(int /*threads*/) const override {
    KOMPAKT_ASSIGN_OR_RETURN(std::vector<SourceFile> files, ListFiles());
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, PosixFileSystem().OpenForRead(file_->path()));
    KOMPAKT_ASSIGN_OR_RETURN(const uint64_t xxh3, HashRange(*file, 0, file_->file_bytes()));
    files[0].set_xxh3(xxh3);
    return files;
  }

  absl::StatusOr<std::vector<SourceFile>> ListFiles() const override {
    const std::string& path = file_->path();
    SourceFile file;
    file.set_name(path.substr(path.rfind('/') + 1));
    file.set_bytes(file_->file_bytes());
    return std::vector<SourceFile>{file};
  }

 private:
  struct Found {
    PackedLayout::Place place;
    int64_t record = 0;
    const ExtentPart* part = nullptr;
    const PartEntry* entry = nullptr;
    const uint8_t* data = nullptr;
  };

  absl::StatusOr<Found> Find(const TensorInfo& tensor) const {
    if (file_->schema().Find(tensor.role, tensor.layer, tensor.expert) < 0) {
      return absl::InternalError(absl::StrCat(file_->path(), ": the model has no tensor ", tensor.Name()));
    }
    Found found;
    found.place = file_->layout().Find(tensor.role, tensor.layer);
    found.record = tensor.expert < 0 ? 0 : tensor.expert;
    found.part = &file_->layout()
                      .extents()[static_cast<size_t>(found.place.extent)]
                      .parts[static_cast<size_t>(found.place.part)];
    found.entry =
        &file_->manifest().extents(static_cast<int>(found.place.extent)).parts(static_cast<int>(found.place.part));
    found.data = file_->RecordBytes(found.place.extent, found.record).data() + found.part->offset_in_record;
    return found;
  }

  absl::StatusOr<Found> FindVerified(const TensorInfo& tensor) const {
    KOMPAKT_ASSIGN_OR_RETURN(const Found found, Find(tensor));
    std::atomic<bool>& verified = verified_[static_cast<size_t>(found.place.extent)][static_cast<size_t>(found.record)];
    if (!verified.load()) {  // two threads may both check; that is only slower
      KOMPAKT_RETURN_IF_ERROR(file_->VerifyRecord(found.place.extent, found.record));
      verified.store(true);
    }
    return found;
  }

  static MatrixView ViewOf(const Found& found) {
    return {&FormatOf(found.part->format), found.part->shape, found.part->blob, found.data};
  }

  static absl::Status CheckRows(const TensorInfo& tensor, int64_t row_begin, int64_t row_end) {
    if (0 <= row_begin && row_begin < row_end && row_end <= tensor.rows) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(tensor.Name(), ": rows ", row_begin, "..", row_end, " of ", tensor.rows));
  }

  std::shared_ptr<const PackedReader> file_;
  mutable std::vector<std::vector<std::atomic<bool>>> verified_;  // [extent][record]
};

}  // namespace

absl::StatusOr<std::unique_ptr<TensorSource>> OpenPackedSource(std::shared_ptr<const PackedReader> file) {
  for (size_t e = 0; e < file->layout().extents().size(); ++e) {
    const Extent& extent = file->layout().extents()[e];
    for (size_t p = 0; p < extent.parts.size(); ++p) {
      const PartEntry& entry = file->manifest().extents(static_cast<int>(e)).parts(static_cast<int>(p));
      bool lossy = !FormatOf(extent.parts[p].format).exact;
      for (const ErrorStats& stats : entry.stats()) lossy = lossy || stats.sum_squared_error() > 0;
      if (!lossy) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          file->path(), ": ", RecordName(extent, 0), extent.experts ? absl::StrCat(" ", entry.role()) : std::string(),
          " is ", entry.format(), ", made from ", entry.source_dtype(),
          " with loss; only a file made with --recipe lossless can be converted again"));
    }
  }
  return std::unique_ptr<TensorSource>(std::make_unique<PackedSource>(std::move(file)));
}

}  // namespace kompakt
