#include "format/journal_set.h"

#include <chrono>
#include <thread>
#include <utility>

#include "format/status.h"

namespace kompakt {
namespace {

constexpr int kMostAttempts = 20;
constexpr std::chrono::milliseconds kBetweenAttempts(20);

// Another process that finds the file complete removes journals that it takes for stale.
absl::Status RemoveIfThere(FileSystem& fs, const std::string& path) {
  const absl::Status removed = fs.Remove(path);
  return absl::IsNotFound(removed) ? absl::OkStatus() : removed;
}

}  // namespace

absl::StatusOr<std::unique_ptr<JournalSet>> JournalSet::Lock(FileSystem& fs, const std::string& destination,
                                                             const WriteShare& share) {
  std::unique_ptr<JournalSet> set(new JournalSet(fs, destination, share));
  for (int attempt = 0;; ++attempt) {
    absl::StatusOr<std::unique_ptr<Journal>> own = Journal::Open(fs, set->own_path_);
    if (own.ok()) {
      set->own_ = *std::move(own);
      break;
    }
    // Another share that starts may have it for a moment, to see whether it is stale, and have removed it between our
    // open and our lock.
    if (share.is_whole() || attempt == kMostAttempts || !absl::IsAborted(own.status())) return own.status();
    std::this_thread::sleep_for(kBetweenAttempts);
  }
  if (!share.is_whole()) {
    const std::string whole = JournalPath(destination);
    KOMPAKT_ASSIGN_OR_RETURN(const bool held, Journal::IsHeld(fs, whole));
    if (held) return absl::AbortedError(absl::StrCat("another process is writing ", whole, "; wait for it or stop it"));
    return set;
  }
  for (const std::string& path : JournalPaths(fs, destination)) {
    if (path == set->own_path_) continue;
    KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<Journal> other, Journal::Open(fs, path));
    set->others_.push_back({path, std::move(other)});
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

absl::Status JournalSet::RemoveOthers() {
  for (const Held& other : others_) KOMPAKT_RETURN_IF_ERROR(RemoveIfThere(fs_, other.path));
  others_.clear();
  return absl::OkStatus();
}

absl::Status JournalSet::RemoveAll() {
  for (const std::string& path : JournalPaths(fs_, destination_)) {
    if (path != own_path_) KOMPAKT_RETURN_IF_ERROR(RemoveIfThere(fs_, path));
  }
  return RemoveIfThere(fs_, own_path_);
}

}  // namespace kompakt
