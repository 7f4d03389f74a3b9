#include "format/packed_verify.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "format/checksum.h"
#include "format/parallel_for.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kPieceBytes = 1 << 20;
constexpr uint64_t kReadAheadBytes = 32 << 20;

// A record, or the padding before an extent or before the manifest.
struct Piece {
  int64_t extent = -1;  // -1: padding
  int64_t record = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

std::vector<Piece> PiecesOf(const PackedIndex& index) {
  std::vector<Piece> pieces;
  uint64_t end = kHeaderBytes;
  const auto pad_to = [&](uint64_t offset) {
    if (offset > end) pieces.push_back({-1, 0, end, offset - end});
  };
  const absl::Span<const Extent> extents = index.layout.extents();
  for (size_t e = 0; e < extents.size(); ++e) {
    pad_to(extents[e].offset);
    for (int64_t r = 0; r < extents[e].record_count; ++r) {
      pieces.push_back({static_cast<int64_t>(e), r, extents[e].record_offset(r), extents[e].record_bytes});
    }
    end = extents[e].offset + extents[e].total_bytes();
  }
  pad_to(index.layout.data_end());
  return pieces;
}

absl::Status VerifyPadding(const File& file, const std::string& path, const PackedIndex& index, const Piece& piece) {
  std::vector<uint8_t> buffer(std::min(piece.bytes, kPieceBytes));
  for (uint64_t done = 0; done < piece.bytes;) {
    const absl::Span<uint8_t> part = absl::MakeSpan(buffer).first(std::min(piece.bytes - done, kPieceBytes));
    if (absl::Status s = file.ReadAt(piece.offset + done, part); !s.ok()) {
      return WithContext(s, absl::StrCat("padding at ", piece.offset));
    }
    const auto bad = std::find_if(part.begin(), part.end(), [](uint8_t b) { return b != 0; });
    if (bad != part.end()) {
      const FilePlace at = PlaceOf(index, path, piece.offset + done + static_cast<uint64_t>(bad - part.begin()));
      return CorruptError(at.path, ": padding byte at ", at.offset, " is ", static_cast<int>(*bad), ", expected 0");
    }
    done += part.size();
  }
  return absl::OkStatus();
}

}  // namespace

std::string RecordName(const Extent& extent, int64_t record) {
  if (extent.experts) return absl::StrCat("layer ", extent.layer, " expert ", record);
  TensorInfo tensor{extent.parts[0].role, extent.layer, -1, extent.parts[0].shape.rows, extent.parts[0].shape.cols};
  return tensor.Name();
}

absl::StatusOr<uint64_t> HashRange(const File& file, uint64_t offset, uint64_t bytes,
                                   const std::atomic<bool>* interrupted) {
  std::vector<uint8_t> buffer(std::min(bytes, kPieceBytes));
  Xxh3Stream hash;
  for (uint64_t done = 0; done < bytes;) {
    if (interrupted != nullptr && interrupted->load()) return absl::CancelledError("interrupted");
    const absl::Span<uint8_t> part = absl::MakeSpan(buffer).first(std::min(bytes - done, kPieceBytes));
    KOMPAKT_RETURN_IF_ERROR(file.ReadAt(offset + done, part));
    hash.Update(part);
    done += part.size();
  }
  return hash.Digest();
}

absl::Status VerifyRecordBytes(const File& file, const std::string& path, const PackedIndex& index, int64_t extent,
                               int64_t record, const std::atomic<bool>* interrupted) {
  if (extent < 0 || extent >= static_cast<int64_t>(index.layout.extents().size()) || record < 0 ||
      record >= index.layout.extents()[static_cast<size_t>(extent)].record_count) {
    return absl::InternalError(absl::StrCat(path, ": no record ", record, " of extent ", extent));
  }
  const Extent& e = index.layout.extents()[static_cast<size_t>(extent)];
  const uint64_t offset = e.record_offset(record);
  const FilePlace at = PlaceOf(index, path, offset);
  const absl::StatusOr<uint64_t> found = HashRange(file, offset, e.record_bytes, interrupted);
  if (!found.ok()) return WithContext(found.status(), absl::StrCat(RecordName(e, record), " at ", at.offset));
  const uint64_t expected = index.manifest.extents(static_cast<int>(extent)).record_xxh3(static_cast<int>(record));
  if (*found == expected) return absl::OkStatus();
  return CorruptError(at.path, ": ", RecordName(e, record), " is damaged (", e.record_bytes, " bytes at ", at.offset,
                      "): expected XXH3 ", HexOf(expected), ", found ", HexOf(*found));
}

std::vector<absl::Status> VerifyBytes(const File& file, const std::string& path, const PackedIndex& index,
                                      const VerifyOptions& options) {
  const std::vector<Piece> pieces = PiecesOf(index);
  std::mutex mutex;  // guards damage, checked_bytes and the call of progress
  std::vector<std::pair<int64_t, absl::Status>> damage;
  uint64_t checked_bytes = 0;
  const auto is_interrupted = [&] { return options.interrupted != nullptr && options.interrupted->load(); };

  // Threads that read here and there hide from the system that all of the file is read in order: it is told.
  const uint64_t data_end = index.layout.data_end();
  uint64_t asked_bytes = 0;  // offset up to which it was; guarded by mutex
  const auto read_ahead = [&](uint64_t offset) {
    const std::lock_guard<std::mutex> lock(mutex);
    const uint64_t target = std::min(data_end, offset + kReadAheadBytes);
    asked_bytes = std::max(asked_bytes, offset);
    if (target < asked_bytes + kReadAheadBytes / 4 && target != data_end) return;
    if (target > asked_bytes) file.WillNeed(asked_bytes, target - asked_bytes);
    asked_bytes = std::max(asked_bytes, target);
  };
  ParallelFor(options.threads, static_cast<int64_t>(pieces.size()), [&](int64_t i, int) {
    if (is_interrupted()) return;
    read_ahead(pieces[static_cast<size_t>(i)].offset);
    const Piece& piece = pieces[static_cast<size_t>(i)];
    absl::Status status = piece.extent < 0
                              ? VerifyPadding(file, path, index, piece)
                              : VerifyRecordBytes(file, path, index, piece.extent, piece.record, options.interrupted);
    // Of a file larger than memory nothing that was read once is worth keeping.
    file.Drop(piece.offset, piece.bytes);
    const std::lock_guard<std::mutex> lock(mutex);
    if (absl::IsCancelled(status)) return;
    if (!status.ok()) damage.emplace_back(i, std::move(status));
    checked_bytes += piece.bytes;
    if (options.progress) options.progress(checked_bytes);
  });

  std::sort(damage.begin(), damage.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<absl::Status> result;
  result.reserve(damage.size() + 1);
  for (auto& [i, status] : damage) result.push_back(std::move(status));
  if (is_interrupted()) result.push_back(absl::CancelledError(absl::StrCat(path, ": verification interrupted")));
  return result;
}

}  // namespace kompakt
