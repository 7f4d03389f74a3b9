#include "quant/convert.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/str_join.h"
#include "absl/types/optional.h"
#include "format/packed_target.h"
#include "format/packed_verify.h"
#include "format/packed_writer.h"
#include "format/parallel_for.h"
#include "format/plan_identity.h"
#include "format/status.h"
#include "format/volume_name.h"
#include "format/volume_plan.h"
#include "format/volume_set.h"
#include "quant/band_encoder.h"
#include "quant/convert_plan.h"
#include "quant/destination.h"
#include "quant/source_compare.h"

namespace kompakt {
namespace {

// Appends the parts of one record band by band; their sides wait until the tiles are out.
class PartAppender {
 public:
  PartAppender(PackedWriter::RecordWriter& record, const ExtentPart& part) : record_(record), part_(part) {}

  absl::Status Append(const Band& band) {
    KOMPAKT_RETURN_IF_ERROR(record_.Append(band.tiles));
    bytes_ += band.tiles.size();
    source_.Add(band.source_xxh3);
    side_.insert(side_.end(), band.side.begin(), band.side.end());
    if (band.error.count() == 0) return absl::OkStatus();
    error_.set_sum_squared_error(error_.sum_squared_error() + band.error.sum_squared_error());
    error_.set_sum_squared_weight(error_.sum_squared_weight() + band.error.sum_squared_weight());
    error_.set_max_abs_error(std::max(error_.max_abs_error(), band.error.max_abs_error()));
    error_.set_count(error_.count() + band.error.count());
    return absl::OkStatus();
  }

  absl::Status Finish() {
    KOMPAKT_RETURN_IF_ERROR(PadTo(part_.blob.side_offset));
    const auto* side = reinterpret_cast<const uint8_t*>(side_.data());
    KOMPAKT_RETURN_IF_ERROR(record_.Append({side, side_.size() * sizeof(float)}));
    bytes_ += side_.size() * sizeof(float);
    return PadTo(part_.blob.total_bytes);
  }

  const ErrorStats& error() const { return error_; }
  uint64_t source_xxh3() const { return source_.Digest(); }

 private:
  absl::Status PadTo(uint64_t offset) {
    if (bytes_ > offset) {
      return absl::InternalError(absl::StrCat(InfoOf(part_.role).name, ": ", bytes_, " bytes before offset ", offset));
    }
    const std::vector<uint8_t> zeros(offset - bytes_, 0);
    bytes_ = offset;
    return record_.Append(zeros);
  }

  PackedWriter::RecordWriter& record_;
  const ExtentPart& part_;
  uint64_t bytes_ = 0;
  std::vector<float> side_;
  ErrorStats error_;
  SourceXxh3 source_;
};

class Conversion {
 public:
  Conversion(const TensorSource& source, const std::vector<QuantRecipe::Choice>& choices, const PackedLayout& layout,
             SearchEffort effort, PackedWriter& writer, const ConvertOptions& options)
      : source_(source), choices_(choices), layout_(layout), effort_(effort), writer_(writer), options_(options) {}

  absl::Status Run() {
    for (size_t e = 0; e < layout_.extents().size(); ++e) {
      const Extent& extent = layout_.extents()[e];
      for (int64_t r = 0; r < extent.record_count; ++r) {
        if (writer_.IsDone(static_cast<int64_t>(e), r)) Report(extent.record_bytes);
      }
    }
    for (size_t e = 0; e < layout_.extents().size(); ++e) {
      const int64_t extent = static_cast<int64_t>(e);
      KOMPAKT_RETURN_IF_ERROR(layout_.extents()[e].experts ? WriteExperts(extent) : WritePlain(extent));
    }
    return absl::OkStatus();
  }

 private:
  // Experts are many and alike: one thread per record.
  absl::Status WriteExperts(int64_t extent) {
    std::vector<int64_t> todo;
    for (int64_t r = 0; r < layout_.extents()[static_cast<size_t>(extent)].record_count; ++r) {
      if (!writer_.IsDone(extent, r)) todo.push_back(r);
    }
    ParallelFor(options_.threads, static_cast<int64_t>(todo.size()), [&](int64_t i, int) {
      if (Stopped()) return;
      Stop(WriteExpert(extent, todo[static_cast<size_t>(i)]));
    });
    return Outcome();
  }

  absl::Status WriteExpert(int64_t extent_index, int64_t expert) {
    const Extent& extent = layout_.extents()[static_cast<size_t>(extent_index)];
    const auto record = writer_.BeginRecord(extent_index, expert);
    BandEncoder encoder(source_, effort_);
    Band band;
    std::vector<ErrorStats> errors;
    std::vector<uint64_t> source_xxh3;
    uint64_t end = 0;
    for (const ExtentPart& part : extent.parts) {
      const size_t index = TensorIndex(part.role, extent.layer, expert);
      const TensorInfo& tensor = source_.schema().tensors()[index];
      PartAppender appender(*record, part);
      for (int64_t b = 0; b < BandCount(tensor); ++b) {
        if (Stopped()) return Cancelled();
        KOMPAKT_RETURN_IF_ERROR(encoder.Encode(tensor, choices_[index].format, choices_[index].exact, b, &band));
        KOMPAKT_RETURN_IF_ERROR(appender.Append(band));
      }
      KOMPAKT_RETURN_IF_ERROR(appender.Finish());
      errors.push_back(appender.error());
      source_xxh3.push_back(appender.source_xxh3());
      end = part.offset_in_record + part.blob.total_bytes;
    }
    KOMPAKT_RETURN_IF_ERROR(record->Append(std::vector<uint8_t>(extent.record_bytes - end, 0)));
    KOMPAKT_RETURN_IF_ERROR(record->Finish(errors, source_xxh3));
    Report(extent.record_bytes);
    return absl::OkStatus();
  }

  // Other tensors may be large (embedding, head): threads encode bands, which are appended in their order.
  absl::Status WritePlain(int64_t extent_index) {
    if (writer_.IsDone(extent_index, 0)) return Outcome();
    const Extent& extent = layout_.extents()[static_cast<size_t>(extent_index)];
    const ExtentPart& part = extent.parts[0];
    const size_t index = TensorIndex(part.role, extent.layer, -1);
    const TensorInfo& tensor = source_.schema().tensors()[index];
    const auto record = writer_.BeginRecord(extent_index, 0);
    PartAppender appender(*record, part);

    std::mutex mutex;
    std::condition_variable turn_changed;
    int64_t turn = 0;  // the band to append next
    struct Worker {
      std::unique_ptr<BandEncoder> encoder;
      Band band;
    };
    std::vector<Worker> workers(static_cast<size_t>(std::max(options_.threads, 1)));
    ParallelFor(options_.threads, BandCount(tensor), [&](int64_t b, int w) {
      Worker& worker = workers[static_cast<size_t>(w)];
      if (worker.encoder == nullptr) worker.encoder = std::make_unique<BandEncoder>(source_, effort_);
      absl::Status status =
          Stopped() ? Cancelled()
                    : worker.encoder->Encode(tensor, choices_[index].format, choices_[index].exact, b, &worker.band);
      // Bands are handed out in ascending order, so the one whose turn it is always has a thread.
      std::unique_lock<std::mutex> lock(mutex);
      turn_changed.wait(lock, [&] { return turn == b; });
      if (status.ok() && !Stopped()) status = appender.Append(worker.band);
      Stop(status);
      ++turn;
      turn_changed.notify_all();
    });
    KOMPAKT_RETURN_IF_ERROR(Outcome());
    KOMPAKT_RETURN_IF_ERROR(appender.Finish());
    KOMPAKT_RETURN_IF_ERROR(record->Finish({&appender.error(), 1}, {appender.source_xxh3()}));
    Report(extent.record_bytes);
    return absl::OkStatus();
  }

  size_t TensorIndex(TensorRole role, int64_t layer, int64_t expert) const {
    return static_cast<size_t>(source_.schema().Find(role, layer, expert));
  }

  bool Interrupted() const { return options_.interrupted != nullptr && options_.interrupted->load(); }
  bool Stopped() const { return failed_.load() || Interrupted(); }
  static absl::Status Cancelled() {
    return absl::CancelledError("interrupted; what is finished is kept, the same command goes on from there");
  }

  // The first failure counts, and ends the others' work.
  void Stop(const absl::Status& status) {
    if (status.ok()) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (failure_.ok() || absl::IsCancelled(failure_)) failure_ = status;
    failed_ = true;
  }

  absl::Status Outcome() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (failure_.ok() && Interrupted()) return Cancelled();
    return failure_;
  }

  void Report(uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    done_bytes_ += bytes;
    if (options_.progress) options_.progress(done_bytes_, layout_.tensor_bytes());
  }

  const TensorSource& source_;
  const std::vector<QuantRecipe::Choice>& choices_;
  const PackedLayout& layout_;
  const SearchEffort effort_;
  PackedWriter& writer_;
  const ConvertOptions& options_;
  std::mutex mutex_;  // guards failure_, done_bytes_ and the call of progress
  absl::Status failure_;
  std::atomic<bool> failed_{false};
  uint64_t done_bytes_ = 0;
};

std::vector<ConvertReport::ClassError> SumErrors(const PackedIndex& index) {
  std::map<std::pair<TensorClass, FormatId>, ErrorStats> sums;
  for (size_t e = 0; e < index.layout.extents().size(); ++e) {
    const Extent& extent = index.layout.extents()[e];
    for (size_t p = 0; p < extent.parts.size(); ++p) {
      const ExtentPart& part = extent.parts[p];
      ErrorStats& sum = sums[{ClassOf(index.schema.arch(), part.role, extent.layer), part.format}];
      for (const ErrorStats& s : index.manifest.extents(static_cast<int>(e)).parts(static_cast<int>(p)).stats()) {
        sum.set_sum_squared_error(sum.sum_squared_error() + s.sum_squared_error());
        sum.set_sum_squared_weight(sum.sum_squared_weight() + s.sum_squared_weight());
        sum.set_max_abs_error(std::max(sum.max_abs_error(), s.max_abs_error()));
        sum.set_count(sum.count() + s.count());
      }
    }
  }
  std::vector<ConvertReport::ClassError> errors;
  for (const auto& [key, sum] : sums) {
    if (!(sum.sum_squared_error() > 0)) continue;
    errors.push_back({std::string(ClassName(key.first)), std::string(FormatOf(key.second).name), NmseDb(sum),
                      sum.max_abs_error(), static_cast<int64_t>(sum.count())});
  }
  return errors;
}

// What lies at `path`, when it is the result of this very plan. kAlreadyExists when it is something else.
absl::StatusOr<OpenedPacked> OpenSameResult(FileSystem& fs, const std::string& path, const Manifest& plan) {
  absl::StatusOr<OpenedPacked> file = OpenPacked(fs, path);
  if (!file.ok())
    return InTheWay(path, absl::StrCat("is not what this conversion makes (", file.status().message(), ")"));
  const std::string difference = PlanDifference(PlanIdentity(file->index.manifest), PlanIdentity(plan));
  if (!difference.empty()) return InTheWay(path, absl::StrCat("was made from something else: ", difference));
  return file;
}

// The destination is there already: is it the result of `plan`, made from the source as it is now, and intact?
// kAlreadyExists says why not.
absl::StatusOr<ConvertReport> CheckExisting(const TensorSource& source, const WritePlan& plan,
                                            const std::string& destination, const ConvertOptions& options,
                                            FileSystem& fs) {
  KOMPAKT_ASSIGN_OR_RETURN(const OpenedPacked file, OpenSameResult(fs, destination, plan.manifest));
  const PackedIndex& there = file.index;
  const SourceCompare compare = {options.threads, options.interrupted, nullptr};
  KOMPAKT_ASSIGN_OR_RETURN(const std::string difference,
                           FirstSourceDifference(source, RecordedSourceXxh3(there.manifest, there.layout), compare));
  if (!difference.empty()) return InTheWay(destination, absl::StrCat("was made from something else: ", difference));
  const std::vector<absl::Status> damage =
      VerifyBytes(*file.data, file.path, there, {options.threads, nullptr, options.interrupted});
  if (!damage.empty() && absl::IsCancelled(damage.back())) return damage.back();
  if (!damage.empty()) return InTheWay(destination, absl::StrCat("is damaged (", damage.front().message(), ")"));
  ConvertReport report;
  report.file_bytes = file.file_bytes;
  for (const OpenedPacked::OneFile& one : file.files) report.paths.push_back(one.path);
  report.already_complete = true;
  report.errors = SumErrors(there);
  return report;
}

// Records of an interrupted run were made from files that have changed since: are they still what the files give?
absl::Status CompareFinished(const TensorSource& source, const PackedLayout& layout, PackedWriter& writer,
                             const std::string& destination, const std::vector<std::string>& paths,
                             const ConvertOptions& options) {
  const std::set<std::string> changed(writer.changed_sources().begin(), writer.changed_sources().end());
  if (changed.empty()) return absl::OkStatus();
  const auto expected = [&](const TensorInfo& tensor) -> absl::optional<uint64_t> {
    const PackedLayout::Place place = layout.Find(tensor.role, tensor.layer);
    const int64_t record = std::max<int64_t>(tensor.expert, 0);
    if (!writer.IsDone(place.extent, record)) return absl::nullopt;
    for (const SourceRange& range : source.Ranges(tensor, 0, tensor.rows)) {
      if (changed.count(range.file) != 0) return writer.SourceXxh3(place.extent, record, place.part);
    }
    return absl::nullopt;
  };
  KOMPAKT_ASSIGN_OR_RETURN(const std::string difference,
                           FirstSourceDifference(source, expected, {options.threads, options.interrupted, nullptr}));
  if (difference.empty()) return writer.AcceptSources();
  return absl::FailedPreconditionError(absl::StrCat(
      absl::StrJoin(changed, ", "), changed.size() == 1 ? " has" : " have", " changed since the interrupted run: ",
      difference, "; to go on, restore what it was; to start over, add --restart or delete ", PartialNames(paths),
      " and ", JournalPath(destination)));
}

// A file that was written to while it was read gives weights that belong to no checkpoint.
absl::Status CheckUnchanged(const TensorSource& source, const std::vector<SourceState>& before) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<SourceState> now, source.States());
  for (size_t i = 0; i < before.size(); ++i) {
    if (i < now.size() && now[i].file == before[i].file && now[i].state == before[i].state) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(before[i].file, " changed while it was converted (", before[i].state, " before, ",
                     i < now.size() ? now[i].state : "gone",
                     " now); the same command again compares what is finished with the file as it is"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ConvertReport> Convert(const TensorSource& source, const QuantRecipe& recipe,
                                      const std::string& destination, const ConvertOptions& options, FileSystem& fs) {
  KOMPAKT_ASSIGN_OR_RETURN(const ConversionPlan plan, PlanConversion(source, recipe, options.threads));
  KOMPAKT_ASSIGN_OR_RETURN(WritePlan write, MakeWritePlan(source, recipe, plan.choices, plan.layout));
  if (options.volume_bytes != 0) {
    if (ParseVolumePath(destination).has_value()) {
      return UsageError(destination, ": with --volume-size, expected the name of the whole, for example ",
                        ParseVolumePath(destination)->whole, "; volumes are numbered by themselves");
    }
    KOMPAKT_RETURN_IF_ERROR(CutIntoVolumes(write, options.volume_bytes));
  }
  const std::vector<std::string> paths = TargetPaths(destination, write.manifest);
  if (const std::string there = ExistingDestination(fs, destination, paths); !there.empty()) {
    KOMPAKT_RETURN_IF_ERROR(CheckReplaceable(fs, there));
    absl::StatusOr<ConvertReport> same = CheckExisting(source, write, there, options, fs);
    if (same.ok()) {
      // A crash between the rename and the end of the run before leaves its journal.
      const std::string journal = JournalPath(destination);
      if (!AnyPartial(fs, paths) && fs.Exists(journal)) (void)fs.Remove(journal);
      return same;
    }
    if (!options.force || !absl::IsAlreadyExists(same.status())) return same.status();
  }
  const auto names_free = [&] {
    const absl::Status status = CheckNamesFree(fs, destination, paths);
    return options.force && absl::IsAlreadyExists(status) ? absl::OkStatus() : status;
  };
  KOMPAKT_RETURN_IF_ERROR(names_free());
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint64_t> volume_bytes, VolumeFileBytes(write));
  const uint64_t file_bytes = std::accumulate(volume_bytes.begin(), volume_bytes.end(), uint64_t{0});
  KOMPAKT_RETURN_IF_ERROR(CheckRoom(fs, destination, paths, file_bytes));

  const std::vector<SourceState> states = write.source_states;
  RereadOptions reread = {options.restart, options.threads, options.interrupted, nullptr};
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<PackedWriter> writer,
                           PackedWriter::Open(fs, destination, std::move(write), reread));
  KOMPAKT_RETURN_IF_ERROR(CompareFinished(source, plan.layout, *writer, destination, paths, options));
  KOMPAKT_RETURN_IF_ERROR(names_free());  // now that it is known which renamed volumes are ours
  ConvertReport report;
  report.file_bytes = file_bytes;
  report.paths = paths;
  report.resumed_records = writer->resumed_records();
  Conversion conversion(source, plan.choices, plan.layout, plan.scale_search, *writer, options);
  KOMPAKT_RETURN_IF_ERROR(conversion.Run());
  KOMPAKT_RETURN_IF_ERROR(CheckUnchanged(source, states));
  KOMPAKT_RETURN_IF_ERROR(writer->Commit(reread));

  KOMPAKT_ASSIGN_OR_RETURN(const OpenedPacked written, OpenPacked(fs, paths[0]));
  report.errors = SumErrors(written.index);
  return report;
}

}  // namespace kompakt
