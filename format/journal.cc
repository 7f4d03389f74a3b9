#include "format/journal.h"

#include <google/protobuf/stubs/logging.h>

#include <cstring>
#include <limits>

#include "format/checksum.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr char kMagic[8] = {'K', 'P', 'K', 'J', 'R', 'N', 'L', '2'};
// 65,536 experts in each of 200 layers would take this much.
constexpr uint64_t kMaxJournalBytes = uint64_t{2} << 30;
constexpr uint8_t kRecordKind = 1;
constexpr uint8_t kSourcesKind = 2;
constexpr size_t kPartBytes = 8 + 8 + 4 + 8 + 8;
constexpr size_t kFixedRecordBytes = 3 * 8;

// The journal never leaves the machine that wrote it: native byte order.
template <typename T>
void Put(std::vector<uint8_t>& out, T value) {
  uint8_t bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.insert(out.end(), bytes, bytes + sizeof(T));
}

// Consumes a value from the front of `in`; false when there are not enough bytes.
template <typename T>
bool Take(absl::Span<const uint8_t>& in, T& value) {
  if (in.size() < sizeof(T)) return false;
  std::memcpy(&value, in.data(), sizeof(T));
  in.remove_prefix(sizeof(T));
  return true;
}

bool TakeBlock(absl::Span<const uint8_t>& in, absl::Span<const uint8_t>& block) {
  uint32_t n = 0;
  if (!Take(in, n) || in.size() < n) return false;
  block = in.first(n);
  in.remove_prefix(n);
  return true;
}

uint64_t EntryXxh3(uint64_t head_xxh3, absl::Span<const uint8_t> payload) {
  std::vector<uint8_t> head;
  Put(head, head_xxh3);
  Xxh3Stream hash;
  hash.Update(head);
  hash.Update(payload);
  return hash.Digest();
}

void PutBlock(std::vector<uint8_t>& out, absl::string_view block) {
  Put(out, static_cast<uint32_t>(block.size()));
  out.insert(out.end(), block.begin(), block.end());
}

std::vector<uint8_t> EncodeRecord(const JournalEntry& entry) {
  std::vector<uint8_t> out;
  Put(out, kRecordKind);
  Put(out, entry.extent);
  Put(out, entry.record);
  Put(out, entry.xxh3);
  for (size_t p = 0; p < entry.stats.size(); ++p) {
    const ErrorStats& s = entry.stats[p];
    Put<double>(out, s.sum_squared_error());
    Put<double>(out, s.sum_squared_weight());
    Put<float>(out, s.max_abs_error());
    Put<uint64_t>(out, s.count());
    Put<uint64_t>(out, entry.source_xxh3[p]);
  }
  return out;
}

bool DecodeSources(absl::Span<const uint8_t> in, std::vector<SourceState>& sources) {
  sources.clear();
  while (!in.empty()) {
    absl::Span<const uint8_t> file, state;
    if (!TakeBlock(in, file) || !TakeBlock(in, state)) return false;
    sources.push_back({std::string(file.begin(), file.end()), std::string(state.begin(), state.end())});
  }
  return true;
}

bool DecodeRecord(absl::Span<const uint8_t> in, JournalEntry& entry) {
  if (in.size() < kFixedRecordBytes || (in.size() - kFixedRecordBytes) % kPartBytes != 0) return false;
  bool ok = Take(in, entry.extent) && Take(in, entry.record) && Take(in, entry.xxh3);
  while (ok && !in.empty()) {
    double error = 0, weight = 0;
    float max_abs = 0;
    uint64_t count = 0, source_xxh3 = 0;
    ok = Take(in, error) && Take(in, weight) && Take(in, max_abs) && Take(in, count) && Take(in, source_xxh3);
    ErrorStats stats;
    stats.set_sum_squared_error(error);
    stats.set_sum_squared_weight(weight);
    stats.set_max_abs_error(max_abs);
    stats.set_count(count);
    entry.stats.push_back(std::move(stats));
    entry.source_xxh3.push_back(source_xxh3);
  }
  return ok;
}

absl::StatusOr<std::vector<uint8_t>> ReadAll(const File& file, const std::string& path) {
  for (;;) {
    KOMPAKT_ASSIGN_OR_RETURN(const uint64_t bytes, file.Size());
    if (bytes > kMaxJournalBytes) return CorruptError(path, ": ", bytes, " bytes is more than any journal has");
    std::vector<uint8_t> all(bytes);
    const absl::Status read = file.ReadAt(0, absl::MakeSpan(all));
    if (read.ok()) return all;
    KOMPAKT_ASSIGN_OR_RETURN(const uint64_t bytes_now, file.Size());
    if (bytes_now >= bytes) return read;
    // Its owner has cut it meanwhile: there is less to read now.
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(FileSystem& fs, const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<File> file, fs.OpenForWrite(path));
  KOMPAKT_RETURN_IF_ERROR(file->Lock());
  return std::unique_ptr<Journal>(new Journal(std::move(file), path));
}

absl::StatusOr<bool> Journal::IsHeld(FileSystem& fs, const std::string& path) {
  const absl::StatusOr<std::unique_ptr<File>> file = fs.OpenForRead(path);
  if (absl::IsNotFound(file.status())) return false;
  KOMPAKT_RETURN_IF_ERROR(file.status());
  return (*file)->IsLocked();
}

absl::StatusOr<Journal::Parsed> Journal::Parse(const File& file, const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> all, ReadAll(file, path));
  const uint64_t bytes = all.size();
  absl::Span<const uint8_t> in = all;

  Parsed parsed;
  Content& content = parsed.content;
  if (in.size() < sizeof(kMagic) || std::memcmp(in.data(), kMagic, sizeof(kMagic)) != 0) return parsed;
  in.remove_prefix(sizeof(kMagic));
  absl::Span<const uint8_t> block;
  uint64_t xxh3 = 0;
  if (!TakeBlock(in, block) || !Take(in, xxh3)) return parsed;
  const uint64_t head_bytes = sizeof(kMagic) + sizeof(uint32_t) + block.size();
  if (xxh3 != Xxh3(absl::MakeConstSpan(all).first(head_bytes))) return parsed;
  const google::protobuf::LogSilencer silence;
  Manifest identity;
  if (!identity.ParseFromArray(block.data(), static_cast<int>(block.size()))) return parsed;
  content.identity = std::move(identity);
  parsed.head_xxh3 = xxh3;

  parsed.end = bytes - in.size();
  while (TakeBlock(in, block) && Take(in, xxh3) && xxh3 == EntryXxh3(parsed.head_xxh3, block)) {
    uint8_t kind = 0;
    if (!Take(block, kind)) break;
    if (kind == kSourcesKind) {
      if (!DecodeSources(block, content.sources)) break;
    } else {
      JournalEntry entry;
      if (kind != kRecordKind || !DecodeRecord(block, entry)) break;
      content.entries.push_back(std::move(entry));
    }
    parsed.end = bytes - in.size();
  }
  return parsed;
}

absl::StatusOr<Journal::Content> Journal::Load() {
  KOMPAKT_ASSIGN_OR_RETURN(Parsed parsed, Parse(*file_, path_));
  if (!parsed.content.identity.has_value()) return parsed.content;
  head_xxh3_ = parsed.head_xxh3;
  end_ = parsed.end;
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t bytes, file_->Size());
  if (end_ != bytes) KOMPAKT_RETURN_IF_ERROR(file_->Truncate(end_));
  return std::move(parsed.content);
}

absl::StatusOr<Journal::Content> Journal::Peek(FileSystem& fs, const std::string& path) {
  const absl::StatusOr<std::unique_ptr<File>> file = fs.OpenForRead(path);
  if (absl::IsNotFound(file.status())) return Content();
  KOMPAKT_RETURN_IF_ERROR(file.status());
  KOMPAKT_ASSIGN_OR_RETURN(Parsed parsed, Parse(**file, path));
  return std::move(parsed.content);
}

absl::Status Journal::Start(const Manifest& identity) {
  const std::string plan = identity.SerializeAsString();
  if (plan.size() > std::numeric_limits<int32_t>::max()) {
    return absl::InternalError(absl::StrCat("journal: a plan of ", plan.size(), " bytes"));
  }
  std::vector<uint8_t> head(std::begin(kMagic), std::end(kMagic));
  Put(head, static_cast<uint32_t>(plan.size()));
  head.insert(head.end(), plan.begin(), plan.end());
  head_xxh3_ = Xxh3(head);
  Put(head, head_xxh3_);
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t left_bytes, file_->Size());
  KOMPAKT_RETURN_IF_ERROR(file_->Truncate(0));
  // A loss of power may keep what is written from here on and not the truncation: old entries would then lie behind a
  // head, and perhaps a state of the sources, under which they were never made.
  if (left_bytes != 0) KOMPAKT_RETURN_IF_ERROR(file_->Sync());
  end_ = head.size();
  return file_->WriteAt(0, head);
}

absl::Status Journal::Append(const JournalEntry& entry) {
  if (entry.source_xxh3.size() != entry.stats.size()) {
    return absl::InternalError(absl::StrCat("journal: ", entry.stats.size(), " error statistics with ",
                                            entry.source_xxh3.size(), " source checksums"));
  }
  return AppendPayload(EncodeRecord(entry));
}

absl::Status Journal::AppendSources(absl::Span<const SourceState> sources) {
  std::vector<uint8_t> payload;
  Put(payload, kSourcesKind);
  for (const SourceState& source : sources) {
    PutBlock(payload, source.file);
    PutBlock(payload, source.state);
  }
  return AppendPayload(payload);
}

absl::Status Journal::AppendPayload(absl::Span<const uint8_t> payload) {
  std::vector<uint8_t> out;
  Put(out, static_cast<uint32_t>(payload.size()));
  out.insert(out.end(), payload.begin(), payload.end());
  Put(out, EntryXxh3(head_xxh3_, payload));
  const std::lock_guard<std::mutex> lock(mutex_);
  KOMPAKT_RETURN_IF_ERROR(file_->WriteAt(end_, out));
  end_ += out.size();
  return absl::OkStatus();
}

}  // namespace kompakt
