#include "format/packed_source.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>

#include "format/file_system.h"
#include "format/packed_verify.h"
#include "format/status.h"
#include "format/volume_plan.h"

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
    form.upstream_form = found.entry->upstream_form();
    form.stored_bytes = found.part->blob.total_bytes;
    return form;
  }

  absl::StatusOr<StoredRows> ReadStored(const TensorInfo& tensor, int64_t row_begin, int64_t row_end,
                                        Xxh3Stream* source_bytes) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const Found found, FindVerified(tensor));
    KOMPAKT_RETURN_IF_ERROR(CheckRows(tensor, row_begin, row_end));
    HashRows(found, tensor, row_begin, row_end, source_bytes);
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

  absl::Status ReadF32(const TensorInfo& tensor, int64_t row_begin, int64_t row_end, absl::Span<float> out,
                       Xxh3Stream* source_bytes) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const Found found, FindVerified(tensor));
    KOMPAKT_RETURN_IF_ERROR(CheckRows(tensor, row_begin, row_end));
    HashRows(found, tensor, row_begin, row_end, source_bytes);
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

  absl::StatusOr<std::vector<SourceFile>> Files() const override {
    std::vector<SourceFile> files;
    for (const OpenedPacked::OneFile& one : file_->file().files) {
      SourceFile& file = files.emplace_back();
      file.set_name(NameOf(one.path));
      file.set_bytes(one.bytes);
      file.set_xxh3(one.manifest_xxh3);
    }
    return files;
  }

  absl::StatusOr<std::vector<SourceState>> States() const override {
    std::vector<SourceState> states;
    for (const OpenedPacked::OneFile& one : file_->file().files) {
      KOMPAKT_ASSIGN_OR_RETURN(std::string state, FileState(one.path));
      states.push_back({NameOf(one.path), std::move(state)});
    }
    return states;
  }

  // The row tiles, and all scales beside them.
  std::vector<SourceRange> Ranges(const TensorInfo& tensor, int64_t row_begin, int64_t row_end) const override {
    const absl::StatusOr<Found> found = Find(tensor);
    if (!found.ok()) return {};
    const Extent& extent = file_->layout().extents()[static_cast<size_t>(found->place.extent)];
    const FilePlace place = PlaceOf(file_->file().index, file_->path(),
                                    extent.record_offset(found->record) + found->part->offset_in_record);
    const std::string name = NameOf(place.path);
    const BlobLayout& blob = found->part->blob;
    if (tensor.is_vector()) return {{name, place.offset, blob.total_bytes}};
    const uint64_t row_tile_bytes = blob.row_tile_bytes(FormatOf(found->part->format));
    const uint64_t first = static_cast<uint64_t>(row_begin / kTileRows) * row_tile_bytes;
    const uint64_t end = static_cast<uint64_t>((row_end + kTileRows - 1) / kTileRows) * row_tile_bytes;
    std::vector<SourceRange> ranges = {{name, place.offset + first, end - first}};
    if (blob.side_bytes > 0) ranges.push_back({name, place.offset + blob.side_offset, blob.side_bytes});
    return ranges;
  }

  void WillNeed(const SourceRange& range) const override {
    if (const auto at = DataOffsetOf(range)) file_->file().data->WillNeed(*at, range.bytes);
  }
  void Drop(const SourceRange& range) const override {
    if (const auto at = DataOffsetOf(range)) file_->file().data->Drop(*at, range.bytes);
  }

 private:
  // What PlaceOf made of an offset of the data, back.
  absl::optional<uint64_t> DataOffsetOf(const SourceRange& range) const {
    const OpenedPacked& file = file_->file();
    if (file.files.size() == 1) return range.offset;
    const Volumes& volumes = file.index.manifest.volumes();
    for (size_t v = 0; v < file.files.size(); ++v) {
      if (NameOf(file.files[v].path) != range.file) continue;
      const int number = static_cast<int>(v) + 1;
      const uint64_t begin = SpanOfVolume(volumes, number).begin;
      return begin + (range.offset - OffsetInVolume(volumes, number, begin));
    }
    return absl::nullopt;
  }

  static std::string NameOf(const std::string& path) { return path.substr(path.rfind('/') + 1); }

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

  // The row tiles of these rows, which lie together, and the scales beside them. row_begin is a multiple of 128.
  static void HashRows(const Found& found, const TensorInfo& tensor, int64_t row_begin, int64_t row_end,
                       Xxh3Stream* source_bytes) {
    if (source_bytes == nullptr) return;
    const BlockFormat& format = FormatOf(found.part->format);
    if (tensor.is_vector()) {
      source_bytes->Update({found.data, static_cast<size_t>(tensor.cols) * format.stored_element_bytes});
      return;
    }
    const BlobLayout& blob = found.part->blob;
    const uint64_t first = static_cast<uint64_t>(row_begin / kTileRows);
    const uint64_t last = static_cast<uint64_t>((row_end + kTileRows - 1) / kTileRows);
    source_bytes->Update(
        {found.data + first * blob.row_tile_bytes(format), (last - first) * blob.row_tile_bytes(format)});
    if (format.side == SideKind::kTensorScale) source_bytes->Update({found.data + blob.side_offset, blob.side_bytes});
    if (format.side != SideKind::kBlockScale) return;  // no exact format has row scales
    const uint64_t scale_row_bytes = static_cast<uint64_t>((tensor.cols + kFp8Block - 1) / kFp8Block) * sizeof(float);
    const uint64_t block = static_cast<uint64_t>(row_begin / kFp8Block);
    const uint64_t end = static_cast<uint64_t>((row_end + kFp8Block - 1) / kFp8Block);
    source_bytes->Update({found.data + blob.side_offset + block * scale_row_bytes, (end - block) * scale_row_bytes});
  }

  static absl::Status CheckRows(const TensorInfo& tensor, int64_t row_begin, int64_t row_end) {
    if (0 <= row_begin && row_begin < row_end && row_end <= tensor.rows) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(tensor.Name(), ": rows ", row_begin, "..", row_end, " of ", tensor.rows));
  }

  std::shared_ptr<const PackedReader> file_;
  mutable std::vector<std::vector<std::atomic<bool>>> verified_;  // [extent][record]
};

}  // namespace

std::unique_ptr<TensorSource> OpenPackedValues(std::shared_ptr<const PackedReader> file) {
  return std::make_unique<PackedSource>(std::move(file));
}

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
