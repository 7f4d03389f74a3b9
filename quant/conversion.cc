#include "quant/conversion.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "absl/types/optional.h"
#include "format/parallel_for.h"
#include "format/status.h"
#include "quant/band_encoder.h"
#include "quant/band_walk.h"
#include "quant/read_ahead.h"

namespace kompakt {
namespace {

// A record that is being written: bands come in any order and are appended in theirs.
class OpenRecord {
 public:
  OpenRecord(const Extent& extent, std::unique_ptr<PackedWriter::RecordWriter> writer)
      : extent_(extent), writer_(std::move(writer)) {}

  // Writes the tiles of a band of `part` at their place. From the thread that made them.
  absl::Status Place(size_t part_index, int64_t band, const Band& made) {
    const ExtentPart& part = extent_.parts[part_index];
    const uint64_t row_tile_bytes = part.blob.row_tile_bytes(FormatOf(part.format));
    const uint64_t band_bytes = static_cast<uint64_t>(kBandRows / kTileRows) * row_tile_bytes;
    return writer_->Place(part.offset_in_record + static_cast<uint64_t>(band) * band_bytes, made.tiles);
  }

  // Takes the band's turn for the checksum. The calls come in order, one at a time.
  absl::Status Append(const BandStep& step, const Band& made) {
    KOMPAKT_RETURN_IF_ERROR(writer_->AppendPlaced(made.tiles));
    side_.insert(side_.end(), made.side.begin(), made.side.end());
    source_.Add(made.source_xxh3);
    if (made.error.count() != 0) Add(made.error, &error_);
    if (step.last_of_part) KOMPAKT_RETURN_IF_ERROR(FinishPart(extent_.parts[step.part]));
    if (!step.last_of_record) return absl::OkStatus();
    KOMPAKT_RETURN_IF_ERROR(PadTo(extent_.record_bytes));
    return writer_->Finish(errors_, source_xxh3_);
  }

 private:
  absl::Status FinishPart(const ExtentPart& part) {
    KOMPAKT_RETURN_IF_ERROR(PadTo(part.offset_in_record + part.blob.side_offset));
    const auto* side = reinterpret_cast<const uint8_t*>(side_.data());
    KOMPAKT_RETURN_IF_ERROR(writer_->Append({side, side_.size() * sizeof(float)}));
    side_.clear();
    errors_.push_back(std::exchange(error_, ErrorStats()));
    source_xxh3_.push_back(std::exchange(source_, SourceXxh3()).Digest());
    return PadTo(part.offset_in_record + part.blob.total_bytes);
  }

  absl::Status PadTo(uint64_t offset) {
    const uint64_t done = writer_->appended_bytes();
    if (done > offset) {
      return absl::InternalError(absl::StrCat(InfoOf(extent_.parts[0].role).name, ": ", done, " bytes before offset ",
                                              offset, " of its record"));
    }
    return writer_->Append(std::vector<uint8_t>(offset - done, 0));
  }

  friend class Pipeline;
  const Extent& extent_;
  std::unique_ptr<PackedWriter::RecordWriter> writer_;
  std::vector<float> side_;
  ErrorStats error_;
  SourceXxh3 source_;
  std::vector<ErrorStats> errors_;  // of finished parts
  std::vector<uint64_t> source_xxh3_;

  std::mutex mutex_;            // guards what follows, and the calls of Append
  int64_t next_in_record_ = 0;  // the band whose turn it is
  std::map<int64_t, std::pair<BandStep, std::unique_ptr<Band>>> waiting_;
};

class Pipeline {
 public:
  Pipeline(const ConversionJob& job, std::vector<BandWalk::Record> todo)
      : job_(job),
        todo_(std::move(todo)),
        walk_(job.source.schema(), job.layout, todo_),
        read_ahead_(job.source, BandWalk(job.source.schema(), job.layout, todo_), job.read_ahead_bytes, job.feedback) {
    for (int i = 0; i < job.workers * kBandsPerWorker; ++i) free_bands_.push_back(std::make_unique<Band>());
    for (const Extent& extent : job.layout.extents()) total_bytes_ += extent.total_bytes();
    for (size_t e = 0; e < job.layout.extents().size(); ++e) {
      const Extent& extent = job.layout.extents()[e];
      for (int64_t r = 0; r < extent.record_count; ++r) {
        const int64_t index = static_cast<int64_t>(e);
        if (job.writer.IsDone(index, r) || !job.writer.IsMine(index, r)) done_bytes_ += extent.record_bytes;
      }
    }
  }

  absl::Status Run() {
    if (done_bytes_ > 0 && job_.progress) job_.progress(done_bytes_, total_bytes_);
    ParallelFor(job_.workers, job_.workers, [&](int64_t, int) { Work(); });
    const std::lock_guard<std::mutex> lock(mutex_);
    if (failure_.ok() && Interrupted()) return Cancelled();
    return failure_;
  }

 private:
  struct Task {
    BandStep step;
    std::shared_ptr<OpenRecord> record;
    std::unique_ptr<Band> band;
  };

  void Work() {
    BandEncoder encoder(job_.source, job_.effort, job_.importance, job_.feedback);
    while (absl::optional<Task> task = Take()) {
      absl::Status status = Encode(encoder, *task);
      const int64_t number = task->step.number;
      if (status.ok()) status = TakeTurns(*std::move(task));
      if (!status.ok()) {
        Stop(absl::IsCancelled(status) ? Cancelled() : status);
        return;
      }
      MarkDone(number);
    }
  }

  // The next band in the order of the file, with a free place for its result. Both at once: so the oldest band that is
  // not finished always has a worker, and its end frees what waits behind it.
  absl::optional<Task> Take() {
    std::unique_lock<std::mutex> lock(mutex_);
    band_freed_.wait(lock, [&] { return stopped_ || !free_bands_.empty(); });
    Task task;
    if (stopped_ || Interrupted() || !walk_.Next(&task.step)) {
      stopped_ = true;
      band_freed_.notify_all();
      return absl::nullopt;
    }
    task.band = std::move(free_bands_.back());
    free_bands_.pop_back();
    if (task.step.number_in_record == 0) {
      const auto& [extent, record] = todo_[task.step.todo];
      newest_record_ = std::make_shared<OpenRecord>(job_.layout.extents()[static_cast<size_t>(extent)],
                                                    job_.writer.BeginRecord(extent, record));
    }
    task.record = newest_record_;
    return task;
  }

  absl::Status Encode(BandEncoder& encoder, Task& task) {
    const TensorInfo& tensor = job_.source.schema().tensors()[task.step.tensor];
    const QuantRecipe::Choice& choice = job_.choices[task.step.tensor];
    KOMPAKT_RETURN_IF_ERROR(encoder.Encode(tensor, choice.format, choice.exact, task.step.band, task.band.get()));
    return task.record->Place(task.step.part, task.step.band, *task.band);
  }

  // Appends this band and those that waited for it, if it is its turn; else it waits.
  absl::Status TakeTurns(Task task) {
    OpenRecord& record = *task.record;
    const std::lock_guard<std::mutex> lock(record.mutex_);
    record.waiting_[task.step.number_in_record] = {task.step, std::move(task.band)};
    while (!record.waiting_.empty() && record.waiting_.begin()->first == record.next_in_record_) {
      auto [step, band] = std::move(record.waiting_.begin()->second);
      record.waiting_.erase(record.waiting_.begin());
      ++record.next_in_record_;
      KOMPAKT_RETURN_IF_ERROR(record.Append(step, *band));
      Free(std::move(band));
      if (step.last_of_record) Report(record.extent_.record_bytes);
    }
    return absl::OkStatus();
  }

  void Free(std::unique_ptr<Band> band) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      free_bands_.push_back(std::move(band));
    }
    band_freed_.notify_one();
  }

  void MarkDone(int64_t number) {
    int64_t below = 0;
    {
      const std::lock_guard<std::mutex> lock(done_mutex_);
      done_.insert(number);
      while (!done_.empty() && *done_.begin() == done_below_) {
        done_.erase(done_.begin());
        ++done_below_;
      }
      below = done_below_;
    }
    read_ahead_.DoneBelow(below);
  }

  void Report(uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(done_mutex_);
    done_bytes_ += bytes;
    if (job_.progress) job_.progress(done_bytes_, total_bytes_);
  }

  bool Interrupted() const { return job_.interrupted != nullptr && job_.interrupted->load(); }

  static absl::Status Cancelled() {
    return absl::CancelledError("interrupted; what is finished is kept, the same command goes on from there");
  }

  // The first failure counts, and ends the others' work.
  void Stop(const absl::Status& status) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (failure_.ok()) failure_ = status;
      stopped_ = true;
    }
    band_freed_.notify_all();
  }

  const ConversionJob& job_;
  const std::vector<BandWalk::Record> todo_;
  uint64_t total_bytes_ = 0;

  std::mutex mutex_;  // guards the walk, free bands, the newest record, stopped and failure
  std::condition_variable band_freed_;
  BandWalk walk_;
  std::vector<std::unique_ptr<Band>> free_bands_;
  std::shared_ptr<OpenRecord> newest_record_;
  bool stopped_ = false;
  absl::Status failure_;

  std::mutex done_mutex_;   // guards what follows and the call of progress
  std::set<int64_t> done_;  // steps above done_below_
  int64_t done_below_ = 0;
  uint64_t done_bytes_ = 0;

  ReadAhead read_ahead_;  // the last member: its thread reads todo_
};

}  // namespace

absl::Status RunConversion(const ConversionJob& job) {
  std::vector<BandWalk::Record> todo;
  for (size_t e = 0; e < job.layout.extents().size(); ++e) {
    const int64_t extent = static_cast<int64_t>(e);
    for (int64_t r = 0; r < job.layout.extents()[e].record_count; ++r) {
      if (job.writer.IsMine(extent, r) && !job.writer.IsDone(extent, r)) todo.emplace_back(extent, r);
    }
  }
  Pipeline pipeline(job, std::move(todo));
  return pipeline.Run();
}

}  // namespace kompakt
