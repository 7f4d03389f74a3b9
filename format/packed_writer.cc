#include "format/packed_writer.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "format/checksum.h"
#include "format/journal_set.h"
#include "format/packed_target.h"
#include "format/packed_verify.h"
#include "format/parallel_for.h"
#include "format/plan_identity.h"
#include "format/record_table.h"
#include "format/status.h"
#include "format/write_behind.h"

// What a crash may leave, and why each state is safe. A kill leaves what was written; a loss of power leaves of every
// file what was synced, and of the writes since then any part in any order (tests/fixtures/power_loss_file_system.h).
//
//  1  The journal's head is written. DST.partial is absent or stale; the head names the plan; nothing counts as done.
//     A journal that held something is emptied, and that synced, before: old entries behind a new head would tell of
//     records that --restart has thrown away.
//
//  2  DST.partial is allocated and reads as zeros. Both files are in their folder for good (OpenForWrite).
//
//  3  Records and journal entries are written. Either may survive without the other: whoever resumes re-reads every
//     record that has an entry and compares its XXH3, so a lost record is written again, and a lost entry makes its
//     record again. Of a torn entry the checksum is wrong; it and all behind it count as lost. The two files are synced
//     every GiB, the records before the entries, so that a loss of power costs a GiB of work and not the whole; no
//     order is needed for safety.
//
//  4  Padding, manifest and footer are written: still no header, DST.partial is no packed file to any reader.
//
//  5  DST.partial and the journal are synced: everything but the header is durable.
//
//  6  Every byte is read back, from the device where the system allows: a bad write is found here.
//
//  7  The header is written, synced, and the structure read back: DST.partial is a packed file, and a correct one. A
//     resume takes the header away again before it writes anything else.
//
//  8  DST.partial is renamed to DST, its folder synced. Atomic: DST is its old self (or absent) before, complete after.
//     The rename cannot overtake the content, which is durable since 7. A kill between rename and sync leaves a DST
//     that is complete and may still be lost: who finds it syncs the folder before he says that it is done.
//
//     Of a set of volumes, first the old first volume is removed, while none of the new ones has its name: without a
//     first volume the old ones are no set. Then they are renamed, the first volume last: each state is a set without
//     its first volume, which nothing opens. A run that finds some volumes renamed and the rest as .partial compares
//     the renamed ones with what the journal says and takes them as they are.
//
//  9  The journals are removed. One that is left without DST.partial is recognised as stale and started anew.
//
// The lock is on the journal, not on DST.partial: it exists through all steps, and the file that becomes DST is never
// one that a second process could have opened and be waiting to write. Shares (write_share.h) each lock their own
// journal; the one that commits takes the lock of the whole file too. What a share writes late into the file after
// another has committed it are the bytes that are there already: they follow from the plan.

namespace kompakt {
namespace {

constexpr uint64_t kSyncEveryBytes = uint64_t{1} << 30;

// Names of the files whose state is not the one before. A file that is new or gone is a difference of the plan.
std::vector<std::string> ChangedSources(const std::vector<SourceState>& before, const std::vector<SourceState>& now) {
  std::map<std::string, std::string> states;
  for (const SourceState& s : before) states[s.file] = s.state;
  std::vector<std::string> changed;
  for (const SourceState& s : now) {
    const auto found = states.find(s.file);
    if (found == states.end() || found->second != s.state) changed.push_back(s.file);
  }
  return changed;
}

class TransactionalWriter : public PackedWriter {
 public:
  TransactionalWriter(FileSystem& fs, std::string destination, WritePlan plan, WriterOptions options)
      : fs_(fs),
        destination_(std::move(destination)),
        plan_(std::move(plan)),
        options_(std::move(options)),
        shares_(ShareOfRecords(plan_.layout, options_.share.count)),
        records_(plan_) {}

  absl::Status Start() {
    KOMPAKT_ASSIGN_OR_RETURN(target_, PackedTarget::Create(fs_, destination_, plan_));
    KOMPAKT_ASSIGN_OR_RETURN(journals_, JournalSet::Lock(fs_, destination_, options_.share));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<JournalSet::Found> found, journals_->Read());
    if (options_.start_over) {
      for (const JournalSet::Found& one : found) {
        RemovePartials(fs_, TargetPaths(destination_, *one.content.identity));  // they may be cut otherwise
      }
    } else {
      KOMPAKT_ASSIGN_OR_RETURN(const bool resumable, CheckFound(found));
      if (resumable) return Resume(found);
    }
    absl::Status started = StartOver();
    if (!started.ok()) {
      // Nothing of value was written, and on a full disk the leftovers would be in the way.
      write_behind_.reset();
      target_->Close();
      if (options_.share.is_whole()) target_->RemovePartials();
      (void)fs_.Remove(journals_->own_path());
    }
    return started;
  }

  bool IsMine(int64_t extent, int64_t record) const override {
    return shares_[static_cast<size_t>(extent)][static_cast<size_t>(record)] == options_.share.index;
  }

  bool IsDone(int64_t extent, int64_t record) const override {
    return records_.At(extent, record).progress.load() == RecordState::kDone;
  }

  int64_t resumed_records() const override { return resumed_records_; }

  const std::vector<std::string>& changed_sources() const override { return changed_sources_; }

  uint64_t SourceXxh3(int64_t extent, int64_t record, int64_t part) const override {
    return records_.At(extent, record).source_xxh3[static_cast<size_t>(part)];
  }

  absl::Status AcceptSources() override {
    changed_sources_.clear();
    return journals_->own().AppendSources(plan_.source_states);
  }

  std::unique_ptr<RecordWriter> BeginRecord(int64_t extent, int64_t record) override;

  absl::StatusOr<std::vector<int64_t>> UnfinishedShares() override {
    KOMPAKT_RETURN_IF_ERROR(Sync());
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<JournalSet::Found> found, journals_->Read());
    // Renamed by another share, which then removes the journals: those that were read may not be all.
    if (!AnyPartial(fs_, target_->paths())) return std::vector<int64_t>();
    KOMPAKT_RETURN_IF_ERROR(CheckFound(found).status());
    for (const auto& [place, entry] : LastEntries(found)) {
      if (!IsMine(static_cast<int64_t>(place.first), static_cast<int64_t>(place.second))) records_.Take(*entry);
    }
    std::set<int64_t> unfinished;
    for (size_t e = 0; e < shares_.size(); ++e) {
      for (size_t r = 0; r < shares_[e].size(); ++r) {
        if (!IsDone(static_cast<int64_t>(e), static_cast<int64_t>(r))) unfinished.insert(shares_[e][r]);
      }
    }
    return std::vector<int64_t>(unfinished.begin(), unfinished.end());
  }

  absl::Status Commit() override {
    std::unique_ptr<Journal> commit_lock;
    if (!options_.share.is_whole()) {
      const std::string whole = JournalPath(destination_);
      KOMPAKT_ASSIGN_OR_RETURN(commit_lock, Journal::Open(fs_, whole));
      if (!AnyPartial(fs_, target_->paths())) {  // another share was faster, and may have died since
        KOMPAKT_RETURN_IF_ERROR(fs_.SyncFolderOf(destination_));
        KOMPAKT_RETURN_IF_ERROR(fs_.Remove(whole));
        return absl::AbortedError(absl::StrCat("another process has completed ", destination_));
      }
    }
    KOMPAKT_ASSIGN_OR_RETURN(const Manifest manifest, records_.FinishedManifest(destination_));
    KOMPAKT_RETURN_IF_ERROR(target_->ClearHeaders());
    KOMPAKT_RETURN_IF_ERROR(WritePadding());
    KOMPAKT_RETURN_IF_ERROR(target_->WriteEnds(manifest));
    KOMPAKT_RETURN_IF_ERROR(Sync());
    KOMPAKT_RETURN_IF_ERROR(VerifyWritten(manifest));
    KOMPAKT_RETURN_IF_ERROR(target_->WriteHeaders(manifest));
    KOMPAKT_RETURN_IF_ERROR(target_->data().Sync());
    KOMPAKT_RETURN_IF_ERROR(VerifyStructure(manifest));
    write_behind_.reset();
    KOMPAKT_RETURN_IF_ERROR(target_->Publish());
    return journals_->RemoveAll();
  }

 private:
  class Record;

  // Is there something to go on with? kFailedPrecondition when it is of another plan.
  absl::StatusOr<bool> CheckFound(const std::vector<JournalSet::Found>& found) const {
    bool any = false;
    for (const JournalSet::Found& one : found) {
      const std::vector<std::string> paths = TargetPaths(destination_, *one.content.identity);
      if (!AnyPartial(fs_, paths)) continue;
      any = true;
      const std::string difference = PlanDifference(*one.content.identity, PlanIdentity(plan_.manifest));
      if (difference.empty()) continue;
      return absl::FailedPreconditionError(
          absl::StrCat(PartialNames(paths), ": an interrupted conversion lies there that is not this one: ", difference,
                       ". To go on with it, give what it was started with; to start over, add --restart or delete ",
                       PartialNames(paths), " and ", one.path));
    }
    return any;
  }

  RecordTable::Entries LastEntries(const std::vector<JournalSet::Found>& found) const {
    RecordTable::Entries last;
    for (const JournalSet::Found& one : found) records_.AddLastEntries(one.content.entries, &last);
    return last;
  }

  absl::Status StartOver() {
    KOMPAKT_RETURN_IF_ERROR(StartJournal());
    const bool alone = options_.share.is_whole();
    // Journals of others may belong to a file that is gone.
    if (alone) {
      KOMPAKT_RETURN_IF_ERROR(journals_->RemoveOthers());
    } else {
      RemoveStaleJournals(fs_, destination_, target_->paths());
    }
    // Shares that start at the same time reserve the same blocks; none may take another's bytes away.
    KOMPAKT_RETURN_IF_ERROR(target_->Allocate(alone ? PackedTarget::kEmptied : PackedTarget::kShared));
    write_behind_ = std::make_unique<WriteBehind>(target_->data());
    return absl::OkStatus();
  }

  absl::Status StartJournal() {
    KOMPAKT_RETURN_IF_ERROR(journals_->own().Start(PlanIdentity(plan_.manifest)));
    return journals_->own().AppendSources(plan_.source_states);
  }

  absl::Status Resume(const std::vector<JournalSet::Found>& found) {
    const bool alone = options_.share.is_whole();
    bool own_head = false;
    for (const auto& [path, own, content] : found) {
      own_head = own_head || own;
      if ((!alone && !own) || content.entries.empty()) continue;
      for (const std::string& file : ChangedSources(content.sources, plan_.source_states)) {
        changed_sources_.push_back(file);
      }
    }
    if (!own_head) KOMPAKT_RETURN_IF_ERROR(StartJournal());
    const RecordTable::Entries last = LastEntries(found);
    // Renaming begins when all records are there.
    absl::optional<Manifest> finished;
    if (plan_.manifest.has_volumes() && records_.IsComplete(last)) finished = records_.ManifestOf(last);
    KOMPAKT_RETURN_IF_ERROR(target_->Resume(finished.has_value() ? &*finished : nullptr,
                                            alone ? PackedTarget::kEmptied : PackedTarget::kShared,
                                            options_.interrupted));
    write_behind_ = std::make_unique<WriteBehind>(target_->data());
    if (alone) KOMPAKT_RETURN_IF_ERROR(target_->ClearHeaders());
    return TakeFinishedRecords(last);
  }

  // Re-reads the finished records of this process; those of others are taken as they say.
  absl::Status TakeFinishedRecords(const RecordTable::Entries& last) {
    std::vector<const JournalEntry*> work;
    for (const auto& [place, entry] : last) {
      if (IsMine(static_cast<int64_t>(place.first), static_cast<int64_t>(place.second))) {
        work.push_back(entry);
      } else {
        records_.Take(*entry);
      }
    }
    const auto is_interrupted = [&] { return options_.interrupted != nullptr && options_.interrupted->load(); };
    std::mutex mutex;  // guards failure, bytes, resumed_records_ and the call of progress
    absl::Status failure;
    uint64_t bytes = 0;
    ParallelFor(options_.threads, static_cast<int64_t>(work.size()), [&](int64_t i, int) {
      if (is_interrupted()) return;
      const JournalEntry& entry = *work[static_cast<size_t>(i)];
      const Extent& extent = plan_.layout.extents()[entry.extent];
      const uint64_t offset = extent.record_offset(static_cast<int64_t>(entry.record));
      const absl::StatusOr<uint64_t> xxh3 =
          HashRange(target_->data(), offset, extent.record_bytes, options_.interrupted);
      target_->data().Drop(offset, extent.record_bytes);
      const std::lock_guard<std::mutex> lock(mutex);
      if (!xxh3.ok()) failure.Update(xxh3.status());
      bytes += extent.record_bytes;
      if (options_.progress) options_.progress(bytes);
      if (!xxh3.ok() || *xxh3 != entry.xxh3) return;
      records_.Take(entry);
      ++resumed_records_;
    });
    if (is_interrupted())
      return absl::CancelledError(absl::StrCat(destination_, ": interrupted; run it again to go on"));
    return failure;
  }

  // Allocation gave zeros, but a file left by an earlier run may hold anything between the records.
  absl::Status WritePadding() {
    const std::vector<uint8_t> zeros(kPageBytes, 0);
    uint64_t end = kHeaderBytes;
    const auto pad_to = [&](uint64_t offset) {
      return target_->IsPublished(end) ? absl::OkStatus()
                                       : target_->data().WriteAt(end, absl::MakeConstSpan(zeros).first(offset - end));
    };
    for (const Extent& extent : plan_.layout.extents()) {
      if (extent.offset > end) KOMPAKT_RETURN_IF_ERROR(pad_to(extent.offset));
      end = extent.offset + extent.total_bytes();
    }
    return plan_.layout.data_end() > end ? pad_to(plan_.layout.data_end()) : absl::OkStatus();
  }

  // Every record and all padding, as the device has them.
  absl::Status VerifyWritten(const Manifest& manifest) {
    KOMPAKT_ASSIGN_OR_RETURN(const OpenedPacked file, target_->OpenWithoutHeaders(manifest));
    const std::vector<absl::Status> damage =
        VerifyBytes(*file.data, file.path, file.index, {options_.threads, options_.progress, options_.interrupted});
    if (damage.empty()) return absl::OkStatus();
    if (absl::IsCancelled(damage.back())) return damage.back();
    return WithContext(damage.front(), absl::StrCat("what was written does not read back (", damage.size(),
                                                    " places; the next run writes them again)"));
  }

  // As a stranger would: opens the file anew and checks its structure.
  absl::Status VerifyStructure(const Manifest& manifest) {
    const absl::StatusOr<OpenedPacked> file = target_->Reopen();
    if (!file.ok()) return WithContext(file.status(), "what was written does not read back");
    if (file->index.manifest.SerializeAsString() == manifest.SerializeAsString()) return absl::OkStatus();
    return CorruptError(file->path, ": the manifest reads back differently from what was written");
  }

  absl::Status Sync() {
    const std::lock_guard<std::mutex> lock(sync_mutex_);
    // The records first: an entry without its record costs a re-reading, a record without its entry is done again.
    KOMPAKT_RETURN_IF_ERROR(target_->data().Sync());
    return journals_->own().Sync();
  }

  // A loss of power costs at most what was written since the last of these.
  absl::Status Finished(uint64_t record_bytes) {
    if (unsynced_bytes_.fetch_add(record_bytes) + record_bytes < kSyncEveryBytes) return absl::OkStatus();
    unsynced_bytes_ = 0;
    return Sync();
  }

  FileSystem& fs_;
  const std::string destination_;
  const WritePlan plan_;
  const WriterOptions options_;
  const std::vector<std::vector<int64_t>> shares_;  // [extent][record]
  RecordTable records_;
  std::unique_ptr<JournalSet> journals_;  // holds the locks
  std::unique_ptr<PackedTarget> target_;
  std::unique_ptr<WriteBehind> write_behind_;  // of the target's data
  std::mutex sync_mutex_;                      // one sync at a time
  std::atomic<uint64_t> unsynced_bytes_ = 0;
  int64_t resumed_records_ = 0;
  std::vector<std::string> changed_sources_;
};

class TransactionalWriter::Record : public PackedWriter::RecordWriter {
 public:
  Record(TransactionalWriter& writer, int64_t extent, int64_t record)
      : writer_(writer),
        extent_(writer.plan_.layout.extents()[static_cast<size_t>(extent)]),
        entry_(writer.plan_.manifest.extents(static_cast<int>(extent))),
        extent_index_(extent),
        record_(record),
        state_(writer.records_.At(extent, record)) {
    int open = RecordState::kOpen;
    mine_ = writer.IsMine(extent, record) && state_.progress.compare_exchange_strong(open, RecordState::kWriting);
  }

  ~Record() override {
    if (mine_ && state_.progress != RecordState::kDone) state_.progress = RecordState::kOpen;
  }

  absl::Status Append(absl::Span<const uint8_t> bytes) override {
    KOMPAKT_RETURN_IF_ERROR(Place(done_bytes_, bytes));
    return AppendPlaced(bytes);
  }

  absl::Status Place(uint64_t offset_in_record, absl::Span<const uint8_t> bytes) override {
    KOMPAKT_RETURN_IF_ERROR(CheckRoom(offset_in_record, bytes.size()));
    const uint64_t offset = extent_.record_offset(record_) + offset_in_record;
    KOMPAKT_RETURN_IF_ERROR(writer_.target_->data().WriteAt(offset, bytes));
    return writer_.write_behind_->Wrote(offset, bytes.size());
  }

  absl::Status AppendPlaced(absl::Span<const uint8_t> bytes) override {
    KOMPAKT_RETURN_IF_ERROR(CheckRoom(done_bytes_, bytes.size()));
    hash_.Update(bytes);
    done_bytes_ += bytes.size();
    return absl::OkStatus();
  }

  uint64_t appended_bytes() const override { return done_bytes_; }

  absl::Status Finish(absl::Span<const ErrorStats> stats_per_part,
                      absl::Span<const uint64_t> source_xxh3_per_part) override {
    if (!mine_) return Bug("is written twice");
    if (done_bytes_ != extent_.record_bytes) {
      return Bug(absl::StrCat("got ", done_bytes_, " bytes, expected ", extent_.record_bytes));
    }
    if (stats_per_part.size() != extent_.parts.size()) {
      return Bug(absl::StrCat("got ", stats_per_part.size(), " error statistics, expected ", extent_.parts.size()));
    }
    if (source_xxh3_per_part.size() != extent_.parts.size()) {
      return Bug(
          absl::StrCat("got ", source_xxh3_per_part.size(), " source checksums, expected ", extent_.parts.size()));
    }
    for (size_t p = 0; p < extent_.parts.size(); ++p) {
      const MatrixShape shape = extent_.parts[p].shape;
      const uint64_t expected =
          entry_.parts(static_cast<int>(p)).exact() ? 0 : static_cast<uint64_t>(shape.rows * shape.cols);
      if (stats_per_part[p].count() != expected) {
        return Bug(absl::StrCat("part ", p, " has error statistics of ", stats_per_part[p].count(),
                                " weights, expected ", expected));
      }
    }
    state_.xxh3 = hash_.Digest();
    state_.stats.assign(stats_per_part.begin(), stats_per_part.end());
    state_.source_xxh3.assign(source_xxh3_per_part.begin(), source_xxh3_per_part.end());
    KOMPAKT_RETURN_IF_ERROR(
        writer_.journals_->own().Append({static_cast<uint64_t>(extent_index_), static_cast<uint64_t>(record_),
                                         state_.xxh3, state_.stats, state_.source_xxh3}));
    state_.progress = RecordState::kDone;
    return writer_.Finished(extent_.record_bytes);
  }

 private:
  absl::Status CheckRoom(uint64_t offset_in_record, uint64_t bytes) const {
    if (!mine_) return Bug("is written twice");
    if (offset_in_record <= extent_.record_bytes && bytes <= extent_.record_bytes - offset_in_record) {
      return absl::OkStatus();
    }
    return Bug(absl::StrCat("gets ", offset_in_record + bytes, " bytes, expected ", extent_.record_bytes));
  }

  absl::Status Bug(absl::string_view what) const {
    return absl::InternalError(absl::StrCat(writer_.destination_, ": ", RecordName(extent_, record_), " ", what));
  }

  TransactionalWriter& writer_;
  const Extent& extent_;
  const ExtentEntry& entry_;
  int64_t extent_index_;
  int64_t record_;
  RecordState& state_;
  bool mine_ = false;
  uint64_t done_bytes_ = 0;
  Xxh3Stream hash_;
};

std::unique_ptr<PackedWriter::RecordWriter> TransactionalWriter::BeginRecord(int64_t extent, int64_t record) {
  return std::make_unique<Record>(*this, extent, record);
}

}  // namespace

void RemoveStaleJournals(FileSystem& fs, const std::string& destination, const std::vector<std::string>& paths) {
  for (const std::string& path : JournalPaths(fs, destination)) {
    if (AnyPartial(fs, paths)) return;
    // One that is locked belongs to a process that has just renamed the file, or just begun.
    const absl::StatusOr<std::unique_ptr<Journal>> unheld = Journal::Open(fs, path);
    // Once more, now that it is ours: whoever has let go of a journal that is of use has left a file beside it.
    if (unheld.ok() && !AnyPartial(fs, paths)) (void)fs.Remove(path);
  }
}

absl::StatusOr<std::unique_ptr<PackedWriter>> PackedWriter::Open(FileSystem& fs, const std::string& destination,
                                                                 WritePlan plan, const WriterOptions& options) {
  auto writer = std::make_unique<TransactionalWriter>(fs, destination, std::move(plan), options);
  KOMPAKT_RETURN_IF_ERROR(writer->Start());
  return std::unique_ptr<PackedWriter>(std::move(writer));
}

}  // namespace kompakt
