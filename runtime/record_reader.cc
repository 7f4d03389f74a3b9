#include "runtime/record_reader.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "format/checksum.h"
#include "format/status.h"

namespace kompakt {
namespace {

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

RecordReader::RecordReader(const File& file) : file_(file) {
  for (int i = 0; i < kThreads; ++i) {
    try {
      threads_.emplace_back([this] { Serve(); });
    } catch (const std::system_error&) {
      break;
    }
  }
}

RecordReader::~RecordReader() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  work_came_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

RecordReader::Id RecordReader::Start(const Record& record, bool urgent) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Id id = next_id_++;
  Work& work = works_[id];
  work.record = record;
  work.urgent = urgent;
  if (threads_.empty()) {
    work.status = absl::ResourceExhaustedError("cannot start a thread to read with");
    work.done = true;
    return id;
  }
  (urgent ? urgent_ : guesses_).push_back(id);
  work_came_.notify_all();
  return id;
}

void RecordReader::Urge(Id id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Work& work = works_.at(id);
  if (work.urgent || work.done) return;
  work.urgent = true;
  urgent_.push_back(id);
  work_came_.notify_all();
}

void RecordReader::GiveUp(Id id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Work& work = works_.at(id);
  if (work.done) return;
  work.given_up = true;
  EndIfIdle(work);
}

bool RecordReader::IsDone(Id id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return works_.at(id).done;
}

absl::Status RecordReader::Wait(Id id) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto found = works_.find(id);
  work_done_.wait(lock, [&] { return found->second.done; });
  absl::Status status = std::move(found->second.status);
  works_.erase(found);
  return status;
}

RecordReader::Counts RecordReader::counts() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  Counts counts = counts_;
  if (reading_ > 0) counts.busy_seconds += Now() - busy_since_;
  return counts;
}

RecordReader::Work* RecordReader::Next() {
  for (const bool urgent : {true, false}) {
    std::deque<Id>& queue = urgent ? urgent_ : guesses_;
    if (!urgent && reading_guesses_ >= kGuessThreads) return nullptr;
    for (; !queue.empty(); queue.pop_front()) {
      const auto found = works_.find(queue.front());
      if (found == works_.end()) continue;
      Work& work = found->second;
      // A guess that became urgent is in the other queue too.
      const bool here = !work.done && !work.given_up && work.urgent == urgent;
      if (here && work.asked_bytes < work.record.into.size()) return &work;
    }
  }
  return nullptr;
}

void RecordReader::EndIfIdle(Work& work) {
  if (work.threads > 0 || work.done) return;
  const bool whole = work.asked_bytes == work.record.into.size();
  if (whole || work.given_up || !work.status.ok()) {
    if (!whole && work.status.ok()) work.status = absl::CancelledError("given up");
    work.done = true;
    work_done_.notify_all();
  }
}

void RecordReader::Serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    Work* work = nullptr;
    work_came_.wait(lock, [&] { return stop_ || (work = Next()) != nullptr; });
    if (stop_) return;
    const bool guess = !work->urgent;
    const uint64_t at = work->asked_bytes;
    const absl::Span<uint8_t> piece = work->record.into.subspan(at, kPieceBytes);
    work->asked_bytes += piece.size();
    ++work->threads;
    if (reading_++ == 0) busy_since_ = Now();
    if (guess) ++reading_guesses_;
    lock.unlock();
    absl::Status status = file_.ReadAt(work->record.offset + at, piece);
    lock.lock();
    if (--reading_ == 0) counts_.busy_seconds += Now() - busy_since_;
    if (guess) --reading_guesses_;
    counts_.read_bytes += piece.size();
    if (!status.ok() && work->status.ok()) {
      work->status = std::move(status);
      work->given_up = true;  // the rest is not worth reading
    }
    const bool last = work->threads == 1 && work->asked_bytes == work->record.into.size() && work->status.ok();
    if (last && work->record.xxh3.has_value()) {
      lock.unlock();
      const uint64_t found = Xxh3(work->record.into);
      lock.lock();
      const uint64_t expected = *work->record.xxh3;
      if (found != expected) {
        work->status = CorruptError("expected XXH3 ", HexOf(expected), ", found ", HexOf(found));
      }
    }
    --work->threads;
    EndIfIdle(*work);
    // The thread that guesses may have been the last that was allowed to.
    if (guess) work_came_.notify_one();
  }
}

}  // namespace kompakt
