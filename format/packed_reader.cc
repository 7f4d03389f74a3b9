#include "format/packed_reader.h"

#include <utility>

#include "format/packed_index.h"
#include "format/packed_verify.h"
#include "format/status.h"
#include "format/volume_set.h"

namespace kompakt {
namespace {

class MappedReader : public PackedReader {
 public:
  explicit MappedReader(OpenedPacked file) : file_(std::move(file)) {}

  absl::Status MapRecords() {
    for (const Extent& extent : layout().extents()) {
      std::vector<const uint8_t*>& records = records_.emplace_back();
      records.reserve(static_cast<size_t>(extent.record_count));
      for (int64_t r = 0; r < extent.record_count; ++r) {
        const auto bytes = file_.data->Map(extent.record_offset(r), extent.record_bytes);
        if (absl::IsDataLoss(bytes.status())) {
          return absl::UnavailableError(absl::StrCat(path(), ": changed while it was opened"));
        }
        if (!bytes.ok()) return bytes.status();
        records.push_back(bytes->data());
      }
    }
    return absl::OkStatus();
  }

  const std::string& path() const override { return file_.path; }
  uint64_t file_bytes() const override { return file_.file_bytes; }
  const Manifest& manifest() const override { return file_.index.manifest; }
  const ModelSchema& schema() const override { return file_.index.schema; }
  const PackedLayout& layout() const override { return file_.index.layout; }
  const OpenedPacked& file() const override { return file_; }

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
    return {records_[static_cast<size_t>(extent)][static_cast<size_t>(record)],
            layout().extents()[static_cast<size_t>(extent)].record_bytes};
  }

  absl::Status VerifyRecord(int64_t extent, int64_t record) const override {
    return VerifyRecordBytes(*file_.data, path(), file_.index, extent, record, nullptr);
  }

  std::vector<absl::Status> Verify(int threads, const std::function<void(uint64_t)>& progress) const override {
    return VerifyBytes(*file_.data, path(), file_.index, {threads, progress, nullptr});
  }

 private:
  struct Found {
    const ExtentPart* part = nullptr;
    const uint8_t* data = nullptr;
  };

  absl::StatusOr<Found> Find(const TensorInfo& tensor) const {
    if (schema().Find(tensor.role, tensor.layer, tensor.expert) < 0) {
      return absl::InternalError(absl::StrCat(path(), ": the model has no tensor ", tensor.Name()));
    }
    const PackedLayout::Place place = layout().Find(tensor.role, tensor.layer);
    const Extent& extent = layout().extents()[static_cast<size_t>(place.extent)];
    const ExtentPart& part = extent.parts[static_cast<size_t>(place.part)];
    const int64_t record = tensor.expert < 0 ? 0 : tensor.expert;
    return Found{&part, RecordBytes(place.extent, record).data() + part.offset_in_record};
  }

  OpenedPacked file_;
  // [extent][record], mapped. Volumes are mapped one by one, wherever the system likes: a record lies in one of them,
  // and pages of 16 or 64 KiB could not join them at multiples of 4096.
  std::vector<std::vector<const uint8_t*>> records_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const PackedReader>> PackedReader::Open(const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(OpenedPacked file, OpenPacked(PosixFileSystem(), path));
  auto reader = std::make_shared<MappedReader>(std::move(file));
  KOMPAKT_RETURN_IF_ERROR(reader->MapRecords());
  return std::shared_ptr<const PackedReader>(std::move(reader));
}

}  // namespace kompakt
