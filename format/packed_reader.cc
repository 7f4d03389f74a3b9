#include "format/packed_reader.h"

#include <utility>

#include "format/packed_index.h"
#include "format/packed_verify.h"
#include "format/status.h"

namespace kompakt {
namespace {

class MappedReader : public PackedReader {
 public:
  MappedReader(std::string path, std::unique_ptr<File> file, absl::Span<const uint8_t> bytes, PackedIndex index)
      : path_(std::move(path)), file_(std::move(file)), bytes_(bytes), index_(std::move(index)) {}

  const std::string& path() const override { return path_; }
  uint64_t file_bytes() const override { return bytes_.size(); }
  const Manifest& manifest() const override { return index_.manifest; }
  uint64_t manifest_xxh3() const override { return index_.footer.manifest_xxh3; }
  const ModelSchema& schema() const override { return index_.schema; }
  const PackedLayout& layout() const override { return index_.layout; }

  absl::StatusOr<MatrixView> Matrix(const TensorInfo& tensor) const override {
    if (tensor.is_vector()) return absl::InternalError(absl::StrCat(tensor.Name(), " is a vector, not a matrix"));
    KOMPAKT_ASSIGN_OR_RETURN(const Found found, Find(tensor));
    return MatrixView{&FormatOf(found.part->format), found.part->shape, found.part->blob, found.data};
  }

  absl::StatusOr<std::vector<float>> Vector(const TensorInfo& tensor) const override {
    if (!tensor.is_vector()) return absl::InternalError(absl::StrCat(tensor.Name(), " is a matrix, not a vector"));
    KOMPAKT_ASSIGN_OR_RETURN(const Found found, Find(tensor));
    std::vector<float> values(static_cast<size_t>(found.part->shape.cols));
    DecodeVector(FormatOf(found.part->format), found.data, found.part->shape.cols, absl::MakeSpan(values));
    return values;
  }

  absl::Span<const uint8_t> RecordBytes(int64_t extent, int64_t record) const override {
    const Extent& e = index_.layout.extents()[static_cast<size_t>(extent)];
    return bytes_.subspan(e.record_offset(record), e.record_bytes);
  }

  absl::Status VerifyRecord(int64_t extent, int64_t record) const override {
    return VerifyRecordBytes(*file_, path_, index_, extent, record);
  }

  std::vector<absl::Status> Verify(int threads, const std::function<void(uint64_t)>& progress) const override {
    return VerifyBytes(*file_, path_, index_, {threads, progress, nullptr});
  }

 private:
  struct Found {
    const ExtentPart* part = nullptr;
    const uint8_t* data = nullptr;
  };

  absl::StatusOr<Found> Find(const TensorInfo& tensor) const {
    if (index_.schema.Find(tensor.role, tensor.layer, tensor.expert) < 0) {
      return absl::InternalError(absl::StrCat(path_, ": the model has no tensor ", tensor.Name()));
    }
    const PackedLayout::Place place = index_.layout.Find(tensor.role, tensor.layer);
    const Extent& extent = index_.layout.extents()[static_cast<size_t>(place.extent)];
    const ExtentPart& part = extent.parts[static_cast<size_t>(place.part)];
    const int64_t record = tensor.expert < 0 ? 0 : tensor.expert;
    return Found{&part, bytes_.data() + extent.record_offset(record) + part.offset_in_record};
  }

  std::string path_;
  std::unique_ptr<File> file_;
  absl::Span<const uint8_t> bytes_;  // of file_
  PackedIndex index_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const PackedReader>> PackedReader::Open(const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<File> file, PosixFileSystem().OpenForRead(path));
  KOMPAKT_ASSIGN_OR_RETURN(PackedIndex index, ReadPackedIndex(*file, path));
  KOMPAKT_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> bytes, file->Map());
  if (bytes.size() != index.header.file_bytes) {
    return absl::UnavailableError(absl::StrCat(path, ": changed while it was opened"));
  }
  return std::make_shared<const MappedReader>(path, std::move(file), bytes, std::move(index));
}

}  // namespace kompakt
