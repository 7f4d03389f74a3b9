#include "format/write_share.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "format/packed_index.h"
#include "format/packed_target.h"
#include "format/status.h"

namespace kompakt {
std::vector<std::vector<int64_t>> ShareOfRecords(const PackedLayout& layout, int64_t count) {
  double total = 0;
  for (const Extent& extent : layout.extents()) total += static_cast<double>(extent.total_bytes());
  std::vector<std::vector<int64_t>> shares;
  double done = 0;
  for (const Extent& extent : layout.extents()) {
    std::vector<int64_t>& of = shares.emplace_back();
    for (int64_t r = 0; r < extent.record_count; ++r) {
      // By the middle of the record, so that one large record does not leave a share empty.
      const double middle = done + static_cast<double>(extent.record_bytes) / 2;
      of.push_back(std::min(count - 1, static_cast<int64_t>(middle / total * static_cast<double>(count))));
      done += static_cast<double>(extent.record_bytes);
    }
  }
  return shares;
}

std::string JournalPath(const std::string& destination, const WriteShare& share) {
  const std::string whole = destination + ".partial.journal";
  return share.is_whole() ? whole : absl::StrCat(whole, ".", share.index + 1, "-of-", share.count);
}

absl::optional<WriteShare> ShareOfJournal(const std::string& destination, const std::string& path) {
  const std::string whole = JournalPath(destination, {});
  if (path == whole) return WriteShare{};
  if (!absl::StartsWith(path, whole + ".")) return absl::nullopt;
  const std::vector<std::string> numbers = absl::StrSplit(path.substr(whole.size() + 1), "-of-");
  WriteShare share;
  if (numbers.size() != 2 || !absl::SimpleAtoi(numbers[0], &share.index) ||
      !absl::SimpleAtoi(numbers[1], &share.count)) {
    return absl::nullopt;
  }
  share.index -= 1;
  if (share.index < 0 || share.index >= share.count || JournalPath(destination, share) != path) return absl::nullopt;
  return share;
}

std::vector<std::string> JournalPaths(FileSystem& fs, const std::string& destination) {
  std::vector<std::string> paths;
  for (std::string& path : fs.ListPrefix(JournalPath(destination, {}))) {
    if (ShareOfJournal(destination, path).has_value()) paths.push_back(std::move(path));
  }
  return paths;
}

absl::StatusOr<UnfinishedFile> InspectUnfinished(FileSystem& fs, const std::string& destination) {
  absl::optional<PackedLayout> layout;
  std::set<std::pair<uint64_t, uint64_t>> finished;
  std::set<int64_t> counts;
  for (const std::string& path : JournalPaths(fs, destination)) {
    KOMPAKT_ASSIGN_OR_RETURN(const Journal::Content content, Journal::Peek(fs, path));
    if (!content.identity.has_value() || !AnyPartial(fs, TargetPaths(destination, *content.identity))) continue;
    if (!layout.has_value()) {
      KOMPAKT_ASSIGN_OR_RETURN(CheckedManifest described, DescribedBy(*content.identity));
      layout = std::move(described.layout);
    }
    counts.insert(ShareOfJournal(destination, path)->count);
    for (const JournalEntry& entry : content.entries) finished.insert({entry.extent, entry.record});
  }
  if (!layout.has_value()) {
    return absl::NotFoundError(absl::StrCat(destination, ": no unfinished conversion lies there"));
  }
  UnfinishedFile state;
  for (const Extent& extent : layout->extents()) state.records += extent.record_count;
  for (const int64_t count : counts) {
    const std::vector<std::vector<int64_t>> shares = ShareOfRecords(*layout, count);
    std::set<int64_t> unfinished;
    state.finished = 0;
    for (size_t e = 0; e < shares.size(); ++e) {
      for (size_t r = 0; r < shares[e].size(); ++r) {
        if (finished.count({e, r}) != 0) {
          ++state.finished;
        } else {
          unfinished.insert(shares[e][r]);
        }
      }
    }
    state.splits.push_back({count, {unfinished.begin(), unfinished.end()}});
  }
  return state;
}

}  // namespace kompakt
