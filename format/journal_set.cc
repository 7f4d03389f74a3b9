#include "format/journal_set.h"

#include <utility>

#include "format/status.h"

namespace kompakt {

absl::StatusOr<std::unique_ptr<JournalSet>> JournalSet::Lock(FileSystem& fs, const std::string& destination,
                                                             const WriteShare& share) {
  std::unique_ptr<JournalSet> set(new JournalSet(fs, destination, share));
  for (int attempt = 0;; ++attempt) {
    absl::StatusOr<std::unique_ptr<Journal>> own = Journal::Open(fs, set->own_path_);
    if (own.ok()) {
      set->own_ = *std::move(own);
      break;
    }
    // Another share may have removed it as stale between our open and our lock.
    if (share.is_whole() || attempt == 3 || !absl::IsAborted(own.status())) return own.status();
  }
  const std::string whole = JournalPath(destination, {});
  for (const std::string& path : JournalPaths(fs, destination)) {
    if (path == set->own_path_ || (!share.is_whole() && path != whole)) continue;
    KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<Journal> other, Journal::Open(fs, path));
    if (share.is_whole()) set->others_.push_back(std::move(other));
  }
  return set;
}

absl::StatusOr<std::vector<JournalSet::Found>> JournalSet::Read() {
  std::vector<Found> found;
  for (const std::string& path : JournalPaths(fs_, destination_)) {
    const bool own = path == own_path_;
    KOMPAKT_ASSIGN_OR_RETURN(Journal::Content content, own ? own_->Load() : Journal::Peek(fs_, path));
    if (content.identity.has_value()) found.push_back({path, own, std::move(content)});
  }
  return found;
}

absl::Status JournalSet::RemoveOthersUnheld() {
  others_.clear();
  for (const std::string& path : JournalPaths(fs_, destination_)) {
    if (path != own_path_ && Journal::Open(fs_, path).ok()) KOMPAKT_RETURN_IF_ERROR(fs_.Remove(path));
  }
  return absl::OkStatus();
}

absl::Status JournalSet::RemoveAll() {
  for (const std::string& path : JournalPaths(fs_, destination_)) {
    if (path != own_path_) KOMPAKT_RETURN_IF_ERROR(fs_.Remove(path));
  }
  return fs_.Remove(own_path_);
}

}  // namespace kompakt
