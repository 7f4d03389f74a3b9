#include "quant/convert.h"

#include <algorithm>
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
#include "format/plan_identity.h"
#include "format/status.h"
#include "format/volume_name.h"
#include "format/volume_plan.h"
#include "format/volume_set.h"
#include "quant/conversion.h"
#include "quant/convert_plan.h"
#include "quant/destination.h"
#include "quant/encoder.h"
#include "quant/source_compare.h"

namespace kompakt {
namespace {

std::vector<ConvertReport::ClassError> SumErrors(const PackedIndex& index) {
  std::map<std::pair<TensorClass, FormatId>, ErrorStats> sums;
  for (size_t e = 0; e < index.layout.extents().size(); ++e) {
    const Extent& extent = index.layout.extents()[e];
    for (size_t p = 0; p < extent.parts.size(); ++p) {
      const ExtentPart& part = extent.parts[p];
      ErrorStats& sum = sums[{ClassOf(index.schema.arch(), part.role, extent.layer), part.format}];
      for (const ErrorStats& s : index.manifest.extents(static_cast<int>(e)).parts(static_cast<int>(p)).stats()) {
        Add(s, &sum);
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
  ConvertReport report;
  report.file_bytes = file.file_bytes;
  for (const OpenedPacked::OneFile& one : file.files) report.paths.push_back(one.path);
  report.already_complete = true;
  report.errors = SumErrors(there);
  // Whoever completed it has verified it; a hundred parts need not all do so again.
  if (options.share.index != 0) return report;
  const SourceCompare compare = {options.threads, options.interrupted, nullptr};
  KOMPAKT_ASSIGN_OR_RETURN(const std::string difference,
                           FirstSourceDifference(source, RecordedSourceXxh3(there.manifest, there.layout), compare));
  if (!difference.empty()) return InTheWay(destination, absl::StrCat("was made from something else: ", difference));
  const std::vector<absl::Status> damage =
      VerifyBytes(*file.data, file.path, there, {options.threads, nullptr, options.interrupted});
  if (!damage.empty() && absl::IsCancelled(damage.back())) return damage.back();
  if (!damage.empty()) return InTheWay(destination, absl::StrCat("is damaged (", damage.front().message(), ")"));
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
    if (!writer.IsMine(place.extent, record) || !writer.IsDone(place.extent, record)) return absl::nullopt;
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
  KOMPAKT_ASSIGN_OR_RETURN(const ConversionPlan plan, PlanConversion(source, recipe, options.threads, options.ram_bytes,
                                                                     options.importance, options.interrupted));
  KOMPAKT_ASSIGN_OR_RETURN(WritePlan write,
                           MakeWritePlan(source, recipe, plan.choices, plan.layout, options.importance));
  if (options.volume_bytes != 0) {
    if (ParseVolumePath(destination).has_value()) {
      return UsageError(destination, ": with --volume-size, expected the name of the whole, for example ",
                        ParseVolumePath(destination)->whole, "; volumes are numbered by themselves");
    }
    KOMPAKT_RETURN_IF_ERROR(CutIntoVolumes(write, options.volume_bytes));
  }
  const std::vector<std::string> paths = TargetPaths(destination, write.manifest);
  if (options.restart && !options.share.is_whole()) {
    return UsageError("--restart would throw away what other parts have done; delete ", PartialNames(paths), " and ",
                      JournalPath(destination), "* before the first part starts");
  }
  if (const std::string there = ExistingDestination(fs, destination, paths); !there.empty()) {
    KOMPAKT_RETURN_IF_ERROR(CheckReplaceable(fs, there));
    absl::StatusOr<ConvertReport> same = CheckExisting(source, write, there, options, fs);
    if (same.ok()) {
      // The run that renamed it may have died before the folder was synced, and its journal is still of use until then.
      KOMPAKT_RETURN_IF_ERROR(fs.SyncFolderOf(there));
      RemoveStaleJournals(fs, destination, paths);
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
  KOMPAKT_ASSIGN_OR_RETURN(
      const std::unique_ptr<PackedWriter> writer,
      PackedWriter::Open(fs, destination, std::move(write),
                         {options.restart, options.share, options.threads, options.interrupted, nullptr}));
  KOMPAKT_RETURN_IF_ERROR(CompareFinished(source, plan.layout, *writer, destination, paths, options));
  KOMPAKT_RETURN_IF_ERROR(names_free());  // now that it is known which renamed volumes are ours
  ConvertReport report;
  report.file_bytes = file_bytes;
  report.paths = paths;
  report.resumed_records = writer->resumed_records();
  KOMPAKT_RETURN_IF_ERROR(RunConversion({source, plan.choices, plan.layout, plan.scale_search, options.importance,
                                         plan.feedback.get(), *writer, plan.memory.workers,
                                         plan.memory.read_ahead_bytes, options.interrupted, options.progress}));
  KOMPAKT_RETURN_IF_ERROR(CheckUnchanged(source, states));
  if (!options.share.is_whole()) {
    KOMPAKT_ASSIGN_OR_RETURN(report.unfinished_shares, writer->UnfinishedShares());
    if (!report.unfinished_shares.empty()) return report;
  }
  const absl::Status committed = writer->Commit();
  if (!options.share.is_whole() && absl::IsAborted(committed)) {
    report.committed_by_another = true;
    return report;
  }
  KOMPAKT_RETURN_IF_ERROR(committed);

  KOMPAKT_ASSIGN_OR_RETURN(const OpenedPacked written, OpenPacked(fs, paths[0]));
  report.errors = SumErrors(written.index);
  return report;
}

}  // namespace kompakt
