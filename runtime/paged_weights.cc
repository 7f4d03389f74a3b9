#include "runtime/paged_weights.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

#include "format/checksum.h"
#include "format/packed_verify.h"
#include "format/parallel_for.h"
#include "format/status.h"
#include "runtime/expert_cache.h"
#include "runtime/page_memory.h"

namespace kompakt {
namespace {

constexpr uint64_t kPieceBytes = 4 << 20;
// Reads under way at once; the device, not the processors, sets how many are worth having.
constexpr int kReads = 8;

// Extents that lie side by side in the file, and so in memory: whole pages of it.
struct Run {
  uint64_t begin = 0;  // in the file
  uint64_t end = 0;
  uint64_t at = 0;  // of `begin`, in memory
};

struct Residents {
  std::vector<Run> runs;
  std::vector<uint64_t> places;  // [extent]: in memory
  uint64_t bytes = 0;
};

Residents PlaceResidents(const PackedLayout& layout) {
  Residents residents;
  for (const Extent& extent : layout.extents()) {
    if (extent.experts) {
      residents.places.push_back(0);
      continue;
    }
    const uint64_t begin = extent.offset / kPageBytes * kPageBytes;
    const uint64_t end = (extent.offset + extent.total_bytes() + kPageBytes - 1) / kPageBytes * kPageBytes;
    if (residents.runs.empty() || residents.runs.back().end < begin) {
      residents.runs.push_back({begin, begin, residents.bytes});
    }
    Run& run = residents.runs.back();
    residents.places.push_back(run.at + (extent.offset - run.begin));
    residents.bytes += end - run.end;
    run.end = end;
  }
  return residents;
}

class PagedStore : public WeightStore {
 public:
  explicit PagedStore(std::shared_ptr<const PackedReader> file) : file_(std::move(file)) {}

  const std::string& origin() const override { return file_->path(); }
  const ModelSchema& schema() const override { return file_->schema(); }
  ExpertCache* experts() const override { return experts_.get(); }

  absl::StatusOr<MatrixView> Matrix(const TensorInfo& tensor) const override {
    if (tensor.is_vector()) return absl::InternalError(absl::StrCat(tensor.Name(), " is a vector, not a matrix"));
    KOMPAKT_ASSIGN_OR_RETURN(const PackedLayout::Place place, Find(tensor));
    const ExtentPart& part = PartAt(place);
    MatrixView view{&FormatOf(part.format), part.shape, part.blob, nullptr};
    if (tensor.expert < 0) view.data = DataAt(place);
    return view;
  }

  absl::StatusOr<std::vector<float>> Vector(const TensorInfo& tensor) const override {
    if (!tensor.is_vector()) return absl::InternalError(absl::StrCat(tensor.Name(), " is a matrix, not a vector"));
    KOMPAKT_ASSIGN_OR_RETURN(const PackedLayout::Place place, Find(tensor));
    const ExtentPart& part = PartAt(place);
    std::vector<float> values(static_cast<size_t>(part.shape.cols));
    DecodeVector(FormatOf(part.format), DataAt(place), part.shape.cols, absl::MakeSpan(values));
    return values;
  }

  absl::Status OpenFiles(FileSystem& fs) {
    KOMPAKT_ASSIGN_OR_RETURN(data_, OpenDirect(fs, *file_));
    return absl::OkStatus();
  }
  absl::Status ReadResidents(int threads);
  absl::Status MakeCache(uint64_t bytes);

 private:
  const PackedLayout& layout() const { return file_->layout(); }
  absl::StatusOr<PackedLayout::Place> Find(const TensorInfo& tensor) const {
    if (schema().Find(tensor.role, tensor.layer, tensor.expert) < 0) {
      return absl::InternalError(absl::StrCat(origin(), ": the model has no tensor ", tensor.Name()));
    }
    return layout().Find(tensor.role, tensor.layer);
  }
  const ExtentPart& PartAt(const PackedLayout::Place& place) const {
    return layout().extents()[static_cast<size_t>(place.extent)].parts[static_cast<size_t>(place.part)];
  }
  const uint8_t* DataAt(const PackedLayout::Place& place) const {
    return memory_.data() + residents_.places[static_cast<size_t>(place.extent)] + PartAt(place).offset_in_record;
  }
  absl::Status CheckResident(int64_t extent) const;

  std::shared_ptr<const PackedReader> file_;
  std::unique_ptr<File> data_;  // the same bytes, read past the page cache
  Residents residents_;
  PageMemory memory_;
  std::unique_ptr<ExpertCache> experts_;
};

absl::Status PagedStore::CheckResident(int64_t extent) const {
  const Extent& e = layout().extents()[static_cast<size_t>(extent)];
  const uint64_t expected = file_->manifest().extents(static_cast<int>(extent)).record_xxh3(0);
  const uint64_t found = Xxh3({memory_.data() + residents_.places[static_cast<size_t>(extent)], e.record_bytes});
  if (found == expected) return absl::OkStatus();
  const FilePlace at = PlaceOf(file_->file().index, origin(), e.offset);
  return CorruptError(at.path, ": ", RecordName(e, 0), " is damaged (", e.record_bytes, " bytes at ", at.offset,
                      "): expected XXH3 ", HexOf(expected), ", found ", HexOf(found));
}

absl::Status PagedStore::ReadResidents(int threads) {
  residents_ = PlaceResidents(layout());
  KOMPAKT_ASSIGN_OR_RETURN(memory_, PageMemory::Create(residents_.bytes, absl::StrCat(origin(), ": weights")));
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t data_bytes, data_->Size());
  std::vector<Run> pieces;
  for (const Run& run : residents_.runs) {
    // The last page of the data may be cut short by the end of the file.
    const uint64_t end = std::min(run.end, data_bytes);
    for (uint64_t begin = run.begin; begin < end; begin += kPieceBytes) {
      pieces.push_back({begin, std::min(begin + kPieceBytes, end), run.at + (begin - run.begin)});
    }
  }
  std::mutex mutex;  // guards first_error
  absl::Status first_error;
  std::atomic<bool> failed = false;
  const auto keep = [&](const absl::Status& status) {
    if (status.ok()) return;
    const std::lock_guard<std::mutex> lock(mutex);
    if (first_error.ok()) first_error = status;
    failed = true;
  };
  ParallelFor(kReads, std::ssize(pieces), [&](int64_t i, int) {
    if (failed) return;
    const Run& piece = pieces[static_cast<size_t>(i)];
    keep(data_->ReadAt(piece.begin, {memory_.data() + piece.at, piece.end - piece.begin}));
  });
  if (failed) return first_error;
  ParallelFor(threads, std::ssize(layout().extents()), [&](int64_t e, int) {
    if (!layout().extents()[static_cast<size_t>(e)].experts) keep(CheckResident(e));
  });
  return first_error;
}

absl::Status PagedStore::MakeCache(uint64_t bytes) {
  if (ExpertCache::LeastBytes(layout()) == 0) return absl::OkStatus();
  KOMPAKT_ASSIGN_OR_RETURN(experts_, ExpertCache::Create(*data_, file_->file().index, origin(), bytes));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<File>> OpenDirect(FileSystem& fs, const PackedReader& file) {
  std::vector<std::unique_ptr<File>> files;
  for (const OpenedPacked::OneFile& one : file.file().files) {
    KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<File> data, fs.OpenForDirectRead(one.path));
    KOMPAKT_ASSIGN_OR_RETURN(const uint64_t bytes, data->Size());
    if (bytes != one.bytes) return absl::UnavailableError(absl::StrCat(one.path, ": changed while it was opened"));
    files.push_back(std::move(data));
  }
  if (!file.manifest().has_volumes()) return std::move(files[0]);
  return JoinVolumes(std::move(files), file.manifest().volumes());
}

uint64_t ResidentBytes(const PackedLayout& layout) { return PlaceResidents(layout).bytes; }

absl::StatusOr<std::shared_ptr<const WeightStore>> OpenPagedWeights(FileSystem& fs,
                                                                    std::shared_ptr<const PackedReader> file,
                                                                    uint64_t expert_bytes, int threads) {
  auto store = std::make_shared<PagedStore>(std::move(file));
  KOMPAKT_RETURN_IF_ERROR(store->OpenFiles(fs));
  // Before minutes may be spent on reading.
  KOMPAKT_RETURN_IF_ERROR(store->MakeCache(expert_bytes));
  KOMPAKT_RETURN_IF_ERROR(store->ReadResidents(threads));
  return store;
}

}  // namespace kompakt
