#include "quant/factor_cache.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace kompakt {

absl::StatusOr<FactorCache::Shared> FactorCache::Get(int64_t key,
                                                     const std::function<absl::StatusOr<FeedbackFactor>()>& make) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto found = entries_.find(key);
  if (found != entries_.end()) {
    const std::shared_ptr<Entry> entry = found->second;
    entry->last_use = ++uses_;
    ++entry->waiting;
    finished_.wait(lock, [&] { return entry->finished; });
    --entry->waiting;
    if (!entry->status.ok()) return entry->status;
    return entry->factor;
  }
  DropUnused();
  const auto entry = std::make_shared<Entry>();
  entry->last_use = ++uses_;
  entries_[key] = entry;
  lock.unlock();
  absl::StatusOr<FeedbackFactor> made = make();
  Shared factor;
  if (made.ok()) factor = std::make_shared<const FeedbackFactor>(*std::move(made));
  lock.lock();
  entry->finished = true;
  entry->factor = factor;
  entry->status = made.status();
  if (!made.ok()) entries_.erase(key);
  finished_.notify_all();
  if (!made.ok()) return made.status();
  return factor;
}

void FactorCache::DropUnused() {
  const auto is_unused = [](const Entry& entry) {
    return entry.finished && entry.waiting == 0 && entry.factor.use_count() == 1;
  };
  int64_t last = 0;
  for (const auto& [key, entry] : entries_) {
    if (is_unused(*entry)) last = std::max(last, entry->last_use);
  }
  for (auto at = entries_.begin(); at != entries_.end();) {
    at = is_unused(*at->second) && at->second->last_use != last ? entries_.erase(at) : std::next(at);
  }
}

}  // namespace kompakt
