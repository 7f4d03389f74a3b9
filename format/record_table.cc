#include "format/record_table.h"

#include "format/packed_target.h"
#include "format/packed_verify.h"
#include "format/status.h"

namespace kompakt {
namespace {

// A serialized message leaves out fields that are zero unless they were set, and its size must be known beforehand.
ErrorStats WithEveryField(ErrorStats stats) {
  stats.set_sum_squared_error(stats.sum_squared_error());
  stats.set_sum_squared_weight(stats.sum_squared_weight());
  stats.set_max_abs_error(stats.max_abs_error());
  stats.set_count(stats.count());
  return stats;
}

}  // namespace

RecordTable::RecordTable(const WritePlan& plan) : plan_(plan) {
  for (const Extent& extent : plan.layout.extents()) {
    records_.emplace_back(static_cast<size_t>(extent.record_count));
    count_ += static_cast<size_t>(extent.record_count);
  }
}

void RecordTable::Take(const JournalEntry& entry) {
  RecordState& state = records_[entry.extent][entry.record];
  state.xxh3 = entry.xxh3;
  state.stats = entry.stats;
  state.source_xxh3 = entry.source_xxh3;
  state.progress = RecordState::kDone;
}

void RecordTable::AddLastEntries(const std::vector<JournalEntry>& entries, Entries* last) const {
  for (const JournalEntry& entry : entries) {
    if (entry.extent >= records_.size() || entry.record >= records_[entry.extent].size()) continue;
    if (entry.stats.size() != plan_.layout.extents()[entry.extent].parts.size()) continue;
    (*last)[{entry.extent, entry.record}] = &entry;
  }
}

template <typename RecordOf>
Manifest RecordTable::ManifestWith(const RecordOf& record_of) const {
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

absl::StatusOr<Manifest> RecordTable::FinishedManifest(const std::string& path) const {
  for (size_t e = 0; e < records_.size(); ++e) {
    for (size_t r = 0; r < records_[e].size(); ++r) {
      if (records_[e][r].progress == RecordState::kDone) continue;
      return absl::InternalError(absl::StrCat(
          path, ": commit before ", RecordName(plan_.layout.extents()[e], static_cast<int64_t>(r)), " was written"));
    }
  }
  return ManifestWith([&](size_t e, size_t r) -> const RecordState& { return records_[e][r]; });
}

Manifest RecordTable::ManifestOf(const Entries& entries) const {
  return ManifestWith([&](size_t e, size_t r) -> const JournalEntry& { return *entries.at({e, r}); });
}

}  // namespace kompakt
