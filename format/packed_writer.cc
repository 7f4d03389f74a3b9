#include "format/packed_writer.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "format/checksum.h"
#include "format/journal.h"
#include "format/packed_target.h"
#include "format/packed_verify.h"
#include "format/parallel_for.h"
#include "format/plan_identity.h"
#include "format/status.h"

// What a crash may leave, and why each state is safe.
//
//   1  the journal's head is written      DST.partial absent or stale; the head names the plan; nothing counts as done
//   2  DST.partial is allocated           reads as zeros
//   3  records and journal entries        neither is synced. After a loss of power an entry may have survived its
//   record
//                                         or the other way round; resuming re-reads every record that has an entry and
//                                         compares its XXH3, so a lost record is written again, a lost entry likewise.
//                                         Syncing per record would cost a device flush each and buy nothing.
//   4  padding, header, manifest, footer  still DST.partial
//   5  sync of DST.partial                from here on its content is durable
//   6  re-read and verified               through the device where the system allows; a bad write is found before
//                                         anything is replaced
//   7  rename to DST, sync of the folder  atomic: DST is its old self (or absent) before, complete after. The rename
//                                         cannot overtake the content, which is durable since 5
//      of a set of volumes: the old       none of the new volumes has its name yet, and without a first volume the old
//      first volume is removed;           ones are no set. Durable at the latest with the sync after the first rename
//      renames, the first volume last     each state is a set without its first volume, which nothing opens. A run that
//                                         finds some volumes renamed and the rest as .partial compares the renamed ones
//                                         with what the journal says and takes them as they are
//   8  the journal is removed             a journal left without DST.partial is recognised as stale and started anew
//
// The lock is on the journal, not on DST.partial: it exists through all steps, and the file that becomes DST is never
// one that a second process could have opened and be waiting to write.

namespace kompakt {
namespace {

struct RecordState {
  enum Progress : int { kOpen, kWriting, kDone };
  std::atomic<int> progress{kOpen};
  uint64_t xxh3 = 0;
  std::vector<ErrorStats> stats;      // one per part
  std::vector<uint64_t> source_xxh3;  // one per part
};

class TransactionalWriter : public PackedWriter {
 public:
  TransactionalWriter(FileSystem& fs, std::string destination, WritePlan plan)
      : fs_(fs),
        destination_(std::move(destination)),
        journal_path_(JournalPath(destination_)),
        plan_(std::move(plan)) {
    for (const Extent& extent : plan_.layout.extents()) {
      records_.emplace_back(static_cast<size_t>(extent.record_count));
    }
  }

  absl::Status Start(const RereadOptions& options) {
    KOMPAKT_ASSIGN_OR_RETURN(target_, PackedTarget::Create(fs_, destination_, plan_));
    KOMPAKT_ASSIGN_OR_RETURN(journal_, Journal::Open(fs_, journal_path_));
    KOMPAKT_ASSIGN_OR_RETURN(const Journal::Content found, journal_->Load());
    const Manifest identity = PlanIdentity(plan_.manifest);
    const std::vector<std::string> found_paths =
        found.identity.has_value() ? TargetPaths(destination_, *found.identity) : std::vector<std::string>();
    if (options.start_over) {
      RemovePartials(fs_, found_paths);  // they may be cut otherwise
    } else if (AnyPartial(fs_, found_paths)) {
      const std::string difference = PlanDifference(*found.identity, identity);
      if (!difference.empty()) {
        return absl::FailedPreconditionError(absl::StrCat(
            PartialNames(found_paths), ": an interrupted conversion lies there that is not this one: ", difference,
            ". To go on with it, give what it was started with; to start over, add --restart or delete ",
            PartialNames(found_paths), " and ", journal_path_));
      }
      changed_sources_ = ChangedSources(found.sources, plan_.source_states);
      return Resume(found.entries, options);
    }
    absl::Status started = StartOver(identity);
    if (!started.ok()) {
      // Nothing of value was written, and on a full disk the leftovers would be in the way.
      target_->Close();
      target_->RemovePartials();
      (void)fs_.Remove(journal_path_);
    }
    return started;
  }

  bool IsDone(int64_t extent, int64_t record) const override {
    return StateOf(extent, record).progress.load() == RecordState::kDone;
  }

  int64_t resumed_records() const override { return resumed_records_; }

  const std::vector<std::string>& changed_sources() const override { return changed_sources_; }

  uint64_t SourceXxh3(int64_t extent, int64_t record, int64_t part) const override {
    return StateOf(extent, record).source_xxh3[static_cast<size_t>(part)];
  }

  absl::Status AcceptSources() override {
    changed_sources_.clear();
    return journal_->AppendSources(plan_.source_states);
  }

  std::unique_ptr<RecordWriter> BeginRecord(int64_t extent, int64_t record) override;

  absl::Status Commit(const RereadOptions& options) override {
    KOMPAKT_ASSIGN_OR_RETURN(const Manifest manifest, FinishedManifest());
    KOMPAKT_RETURN_IF_ERROR(WritePadding());
    KOMPAKT_RETURN_IF_ERROR(target_->WriteEnds(manifest));
    KOMPAKT_RETURN_IF_ERROR(target_->WriteHeaders(manifest));
    KOMPAKT_RETURN_IF_ERROR(target_->data().Sync());
    // Where files are renamed one after another, the run that finds only some renamed needs the journal.
    if (target_->paths().size() > 1) KOMPAKT_RETURN_IF_ERROR(journal_->Sync());
    KOMPAKT_RETURN_IF_ERROR(VerifyWritten(manifest, options));
    KOMPAKT_RETURN_IF_ERROR(target_->Publish());
    return fs_.Remove(journal_path_);
  }

 private:
  class Record;

  const RecordState& StateOf(int64_t extent, int64_t record) const {
    return records_[static_cast<size_t>(extent)][static_cast<size_t>(record)];
  }
  RecordState& StateOf(int64_t extent, int64_t record) {
    return records_[static_cast<size_t>(extent)][static_cast<size_t>(record)];
  }

  absl::Status StartOver(const Manifest& identity) {
    KOMPAKT_RETURN_IF_ERROR(journal_->Start(identity));
    KOMPAKT_RETURN_IF_ERROR(journal_->AppendSources(plan_.source_states));
    return target_->Allocate();
  }

  // Names of the files whose state is not the one before. A file that is new or gone is a difference of the plan.
  static std::vector<std::string> ChangedSources(const std::vector<SourceState>& before,
                                                 const std::vector<SourceState>& now) {
    std::map<std::string, std::string> states;
    for (const SourceState& s : before) states[s.file] = s.state;
    std::vector<std::string> changed;
    for (const SourceState& s : now) {
      const auto found = states.find(s.file);
      if (found == states.end() || found->second != s.state) changed.push_back(s.file);
    }
    return changed;
  }

  absl::Status Resume(const std::vector<JournalEntry>& entries, const RereadOptions& options) {
    // A record that was damaged and written again has two entries; the last one counts.
    std::map<std::pair<uint64_t, uint64_t>, const JournalEntry*> last;
    size_t records = 0;
    for (const auto& of_extent : records_) records += of_extent.size();
    for (const JournalEntry& entry : entries) {
      if (entry.extent >= records_.size() || entry.record >= records_[entry.extent].size()) continue;
      if (entry.stats.size() != plan_.layout.extents()[entry.extent].parts.size()) continue;
      last[{entry.extent, entry.record}] = &entry;
    }
    std::vector<const JournalEntry*> work;
    work.reserve(last.size());
    for (const auto& [place, entry] : last) work.push_back(entry);
    // Renaming begins when all records are there.
    absl::optional<Manifest> finished;
    if (work.size() == records && plan_.manifest.has_volumes()) {
      finished = ManifestWith([&](size_t e, size_t r) -> const JournalEntry& { return *last.at({e, r}); });
    }
    KOMPAKT_RETURN_IF_ERROR(target_->Resume(finished.has_value() ? &*finished : nullptr));
    return TakeFinishedRecords(work, options);
  }

  absl::Status TakeFinishedRecords(const std::vector<const JournalEntry*>& work, const RereadOptions& options) {
    const auto is_interrupted = [&] { return options.interrupted != nullptr && options.interrupted->load(); };
    std::mutex mutex;  // guards failure, bytes, resumed_records_ and the call of progress
    absl::Status failure;
    uint64_t bytes = 0;
    ParallelFor(options.threads, static_cast<int64_t>(work.size()), [&](int64_t i, int) {
      if (is_interrupted()) return;
      const JournalEntry& entry = *work[static_cast<size_t>(i)];
      const Extent& extent = plan_.layout.extents()[entry.extent];
      const absl::StatusOr<uint64_t> xxh3 =
          HashRange(target_->data(), extent.record_offset(static_cast<int64_t>(entry.record)), extent.record_bytes);
      const std::lock_guard<std::mutex> lock(mutex);
      if (!xxh3.ok()) failure.Update(xxh3.status());
      bytes += extent.record_bytes;
      if (options.progress) options.progress(bytes);
      if (!xxh3.ok() || *xxh3 != entry.xxh3) return;
      RecordState& state = records_[entry.extent][entry.record];
      state.xxh3 = entry.xxh3;
      state.stats = entry.stats;
      state.source_xxh3 = entry.source_xxh3;
      state.progress = RecordState::kDone;
      ++resumed_records_;
    });
    if (is_interrupted())
      return absl::CancelledError(absl::StrCat(destination_, ": interrupted; run it again to go on"));
    return failure;
  }

  absl::StatusOr<Manifest> FinishedManifest() const {
    for (size_t e = 0; e < records_.size(); ++e) {
      for (size_t r = 0; r < records_[e].size(); ++r) {
        if (records_[e][r].progress == RecordState::kDone) continue;
        return absl::InternalError(absl::StrCat(destination_, ": commit before ",
                                                RecordName(plan_.layout.extents()[e], static_cast<int64_t>(r)),
                                                " was written"));
      }
    }
    return ManifestWith([&](size_t e, size_t r) -> const RecordState& { return records_[e][r]; });
  }

  // The manifest of the finished file; record_of(extent, record) has what only writing it told.
  template <typename RecordOf>
  Manifest ManifestWith(const RecordOf& record_of) const {
    Manifest manifest = plan_.manifest;
    for (SourceFile& file : *manifest.mutable_provenance()->mutable_source_files()) file.set_xxh3(file.xxh3());
    for (size_t e = 0; e < records_.size(); ++e) {
      ExtentEntry& entry = *manifest.mutable_extents(static_cast<int>(e));
      entry.clear_record_xxh3();
      for (PartEntry& part : *entry.mutable_parts()) {
        part.clear_stats();
        part.clear_source_xxh3();
      }
      for (size_t r = 0; r < records_[e].size(); ++r) {
        const auto& record = record_of(e, r);
        entry.add_record_xxh3(record.xxh3);
        for (int p = 0; p < entry.parts_size(); ++p) {
          PartEntry& part = *entry.mutable_parts(p);
          if (!part.exact()) *part.add_stats() = WithEveryField(record.stats[static_cast<size_t>(p)]);
          part.add_source_xxh3(record.source_xxh3[static_cast<size_t>(p)]);
        }
      }
    }
    return WithSetId(std::move(manifest));
  }

  static ErrorStats WithEveryField(ErrorStats stats) {
    stats.set_sum_squared_error(stats.sum_squared_error());
    stats.set_sum_squared_weight(stats.sum_squared_weight());
    stats.set_max_abs_error(stats.max_abs_error());
    stats.set_count(stats.count());
    return stats;
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

  // As a stranger would: opens the file anew, checks its structure, then every byte.
  absl::Status VerifyWritten(const Manifest& manifest, const RereadOptions& options) {
    const absl::StatusOr<OpenedPacked> file = target_->Reopen();
    if (!file.ok()) return WithContext(file.status(), "what was written does not read back");
    if (file->index.manifest.SerializeAsString() != manifest.SerializeAsString()) {
      return CorruptError(file->path, ": the manifest reads back differently from what was written");
    }
    const std::vector<absl::Status> damage =
        VerifyBytes(*file->data, file->path, file->index, {options.threads, options.progress, options.interrupted});
    if (damage.empty()) return absl::OkStatus();
    if (absl::IsCancelled(damage.back())) return damage.back();
    return WithContext(damage.front(), absl::StrCat("what was written does not read back (", damage.size(),
                                                    " places; the next run writes them again)"));
  }

  FileSystem& fs_;
  std::string destination_;
  std::string journal_path_;
  WritePlan plan_;
  std::unique_ptr<Journal> journal_;  // holds the lock
  std::unique_ptr<PackedTarget> target_;
  std::vector<std::vector<RecordState>> records_;  // [extent][record]
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
        state_(writer.StateOf(extent, record)) {
    int open = RecordState::kOpen;
    mine_ = state_.progress.compare_exchange_strong(open, RecordState::kWriting);
  }

  ~Record() override {
    if (mine_ && state_.progress != RecordState::kDone) state_.progress = RecordState::kOpen;
  }

  absl::Status Append(absl::Span<const uint8_t> bytes) override {
    if (!mine_) return Bug("is written twice");
    if (bytes.size() > extent_.record_bytes - done_bytes_) {
      return Bug(absl::StrCat("gets ", done_bytes_ + bytes.size(), " bytes, expected ", extent_.record_bytes));
    }
    KOMPAKT_RETURN_IF_ERROR(writer_.target_->data().WriteAt(extent_.record_offset(record_) + done_bytes_, bytes));
    hash_.Update(bytes);
    done_bytes_ += bytes.size();
    return absl::OkStatus();
  }

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
        writer_.journal_->Append({static_cast<uint64_t>(extent_index_), static_cast<uint64_t>(record_), state_.xxh3,
                                  state_.stats, state_.source_xxh3}));
    state_.progress = RecordState::kDone;
    return absl::OkStatus();
  }

 private:
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

absl::StatusOr<std::unique_ptr<PackedWriter>> PackedWriter::Open(FileSystem& fs, const std::string& destination,
                                                                 WritePlan plan, const RereadOptions& options) {
  auto writer = std::make_unique<TransactionalWriter>(fs, destination, std::move(plan));
  KOMPAKT_RETURN_IF_ERROR(writer->Start(options));
  return std::unique_ptr<PackedWriter>(std::move(writer));
}

}  // namespace kompakt
