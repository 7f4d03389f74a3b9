#include "quant/source_check.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/optional.h"
#include "format/parallel_for.h"
#include "format/status.h"
#include "quant/band_encoder.h"
#include "quant/recipe.h"
#include "quant/source_compare.h"

namespace kompakt {
namespace {

// A shape or a count that differs means another model: no byte of it needs to be compared.
absl::Status CheckSameModel(const PackedReader& file, const TensorSource& source) {
  const std::string packed = file.schema().arch().SerializeAsString();
  const std::string found = source.schema().arch().SerializeAsString();
  if (packed == found) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the source describes another model: ", file.path(), " holds ", file.schema().arch().architecture(), " with ",
      file.schema().parameter_count(), " parameters, the source ", source.schema().arch().architecture(), " with ",
      source.schema().parameter_count(), "; their hyper-parameters differ"));
}

absl::Status CheckSameCalibration(const PackedReader& file, const Importance* importance) {
  if (importance == nullptr) return absl::OkStatus();
  const uint64_t recorded = file.manifest().provenance().calibration_xxh3();
  const uint64_t found = importance->file().xxh3();
  if (recorded == found) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(file.path(), recorded == 0 ? " was made without calibration" : " was made with another calibration",
                   recorded == 0 ? "" : absl::StrCat(": expected XXH3 ", HexOf(recorded)), "; ",
                   importance->file().path(), " has ", HexOf(found)));
}

bool IsExact(const PackedReader& file, const TensorInfo& tensor) {
  const PackedLayout::Place place = file.layout().Find(tensor.role, tensor.layer);
  return file.manifest().extents(static_cast<int>(place.extent)).parts(static_cast<int>(place.part)).exact();
}

// What the file holds of each tensor of `schema`, which is of the same model.
std::vector<TensorForm> FormsOf(const PackedReader& file, const ModelSchema& schema) {
  std::vector<TensorForm> forms;
  for (const TensorInfo& tensor : schema.tensors()) {
    const PackedLayout::Place place = file.layout().Find(tensor.role, tensor.layer);
    const Extent& extent = file.layout().extents()[static_cast<size_t>(place.extent)];
    forms.push_back({extent.parts[static_cast<size_t>(place.part)].format, IsExact(file, tensor)});
  }
  return forms;
}

// Source files whose hash is not the recorded one. A packed source records other files than the checkpoint it was made
// from, so files are only compared by the names that both know.
std::vector<std::string> DifferingFiles(const Provenance& provenance, const std::vector<SourceFile>& found,
                                        bool compare_xxh3) {
  std::map<std::string, const SourceFile*> by_name;
  for (const SourceFile& f : found) by_name[f.name()] = &f;
  std::vector<std::string> differences;
  for (const SourceFile& recorded : provenance.source_files()) {
    const auto it = by_name.find(recorded.name());
    if (it == by_name.end()) {
      differences.push_back(absl::StrCat("source file ", recorded.name(), " is recorded, but the source has none"));
    } else if (it->second->bytes() != recorded.bytes() || (compare_xxh3 && it->second->xxh3() != recorded.xxh3())) {
      differences.push_back(absl::StrFormat("source file %s: expected %d bytes with XXH3 %016x, found %d with %016x",
                                            recorded.name(), recorded.bytes(), recorded.xxh3(), it->second->bytes(),
                                            it->second->xxh3()));
    }
  }
  return differences;
}

// The first tensor of every role and format, then others at an even distance.
std::vector<size_t> ChooseTensors(const PackedReader& file, int64_t samples) {
  const absl::Span<const TensorInfo> tensors = file.schema().tensors();
  std::set<size_t> chosen;
  std::set<std::pair<TensorRole, FormatId>> seen;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const PackedLayout::Place place = file.layout().Find(tensors[i].role, tensors[i].layer);
    const Extent& extent = file.layout().extents()[static_cast<size_t>(place.extent)];
    if (seen.insert({tensors[i].role, extent.parts[static_cast<size_t>(place.part)].format}).second) chosen.insert(i);
  }
  const size_t wanted = samples == 0 ? tensors.size() : std::min(tensors.size(), static_cast<size_t>(samples));
  for (size_t k = 0; chosen.size() < wanted && k < wanted; ++k) chosen.insert(k * tensors.size() / wanted);
  return {chosen.begin(), chosen.end()};
}

// Does the source have the files that the packed one was made from, whatever they hold now? Otherwise its bytes may lie
// in another form, with other checksums.
bool HasRecordedFiles(const Provenance& provenance, const std::vector<SourceFile>& found) {
  std::set<std::string> names;
  for (const SourceFile& f : found) names.insert(f.name());
  return std::all_of(provenance.source_files().begin(), provenance.source_files().end(),
                     [&](const SourceFile& f) { return names.count(f.name()) != 0; });
}

// OK with an empty string: every byte equal. A string says where they differ. `before`: the source checksum to expect.
absl::StatusOr<std::string> CompareTensor(const PackedReader& file, const TensorSource& source,
                                          const TensorInfo& tensor, SearchEffort scale_search,
                                          const Importance* importance, const FeedbackPlan* feedback,
                                          absl::optional<uint64_t> before) {
  const PackedLayout::Place place = file.layout().Find(tensor.role, tensor.layer);
  const Extent& extent = file.layout().extents()[static_cast<size_t>(place.extent)];
  const ExtentPart& part = extent.parts[static_cast<size_t>(place.part)];
  const PartEntry& entry = file.manifest().extents(static_cast<int>(place.extent)).parts(static_cast<int>(place.part));
  const absl::Span<const uint8_t> blob = file.RecordBytes(place.extent, std::max<int64_t>(tensor.expert, 0))
                                             .subspan(part.offset_in_record, part.blob.total_bytes);
  if (entry.exact()) {
    KOMPAKT_ASSIGN_OR_RETURN(const StoredForm form, source.Form(tensor));
    if (form.exact_format != part.format) {
      return absl::StrCat(tensor.Name(), ": kept exactly as ", entry.format(), ", but the source holds ", form.dtype);
    }
  }
  BandEncoder encoder(source, scale_search, importance, feedback);
  Band band;
  SourceXxh3 source_xxh3;
  uint64_t offset = 0;
  uint64_t side_offset = part.blob.side_offset;
  for (int64_t b = 0; b < BandCount(tensor); ++b) {
    KOMPAKT_RETURN_IF_ERROR(encoder.Encode(tensor, part.format, entry.exact(), b, &band));
    source_xxh3.Add(band.source_xxh3);
    const uint64_t side_bytes = band.side.size() * sizeof(float);
    if (offset + band.tiles.size() > blob.size() || side_offset + side_bytes > blob.size()) {
      return absl::InternalError(absl::StrCat(tensor.Name(), ": derived bytes exceed the record"));
    }
    if (std::memcmp(blob.data() + offset, band.tiles.data(), band.tiles.size()) != 0 ||
        (side_bytes > 0 && std::memcmp(blob.data() + side_offset, band.side.data(), side_bytes) != 0)) {
      return absl::StrCat(tensor.Name(), ": rows ", b * kBandRows, " to ",
                          std::min(tensor.rows, (b + 1) * kBandRows) - 1, " differ from what the source gives as ",
                          entry.format());
    }
    offset += band.tiles.size();
    side_offset += side_bytes;
  }
  return before.has_value() ? SourceDifference(tensor, *before, source_xxh3.Digest()) : std::string();
}

absl::StatusOr<std::string> CompareSourceXxh3(const TensorSource& source, const TensorInfo& tensor, uint64_t before) {
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t now, ReadSourceXxh3(source, tensor, nullptr));
  return SourceDifference(tensor, before, now);
}

}  // namespace

absl::StatusOr<SourceCheck> CheckAgainstSource(const PackedReader& file, const TensorSource& source, int64_t samples,
                                               int threads, const std::function<void(int64_t, int64_t)>& progress,
                                               const Importance* importance) {
  KOMPAKT_RETURN_IF_ERROR(CheckSameModel(file, source));
  KOMPAKT_RETURN_IF_ERROR(CheckSameCalibration(file, importance));
  SourceCheck check;
  check.lacks_calibration = file.manifest().provenance().calibration_xxh3() != 0 && importance == nullptr;
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<SourceFile> found, source.Files());
  const Provenance& provenance = file.manifest().provenance();
  const bool has_source_xxh3 = file.manifest().extents(0).parts(0).source_xxh3_size() != 0;
  check.differences = DifferingFiles(provenance, found, has_source_xxh3);
  const bool compare_xxh3 = has_source_xxh3 && HasRecordedFiles(provenance, found);
  const ExpectedSourceXxh3 recorded = RecordedSourceXxh3(file.manifest(), file.layout());

  // A file of another program may hold a recipe in words of its own; what differs shows in the bytes.
  const absl::StatusOr<QuantRecipe> recipe = QuantRecipe::Parse(file.manifest().recipe(), file.path());
  const SearchEffort scale_search = recipe.ok() ? recipe->scale_search() : SearchEffort::kDefault;
  std::unique_ptr<const FeedbackPlan> feedback;
  if (importance != nullptr && recipe.ok() && recipe->error_feedback().has_value()) {
    KOMPAKT_ASSIGN_OR_RETURN(feedback, FeedbackPlan::Create(*importance, source.schema(),
                                                            FormsOf(file, source.schema()), *recipe->error_feedback()));
  }
  const std::vector<size_t> sampled = ChooseTensors(file, samples);
  std::set<size_t> derive;
  for (const size_t index : sampled) {
    if (!check.lacks_calibration || IsExact(file, file.schema().tensors()[index])) derive.insert(index);
  }
  std::vector<size_t> chosen(derive.begin(), derive.end());
  if (compare_xxh3) {
    chosen.resize(source.schema().tensors().size());
    std::iota(chosen.begin(), chosen.end(), size_t{0});
  }
  std::vector<std::string> outcomes(chosen.size());
  std::mutex mutex;  // guards failure, done and the call of progress
  absl::Status failure;
  int64_t done = 0;
  ParallelFor(threads, static_cast<int64_t>(chosen.size()), [&](int64_t i, int) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!failure.ok()) return;
    }
    const size_t index = chosen[static_cast<size_t>(i)];
    const TensorInfo& tensor = source.schema().tensors()[index];
    const absl::optional<uint64_t> before = compare_xxh3 ? recorded(tensor) : absl::nullopt;
    absl::StatusOr<std::string> outcome =
        derive.count(index) != 0 ? CompareTensor(file, source, tensor, scale_search, importance, feedback.get(), before)
                                 : CompareSourceXxh3(source, tensor, *before);
    const std::lock_guard<std::mutex> lock(mutex);
    if (!outcome.ok()) {
      if (failure.ok()) failure = outcome.status();
      return;
    }
    outcomes[static_cast<size_t>(i)] = *std::move(outcome);
    if (progress) progress(++done, static_cast<int64_t>(chosen.size()));
  });
  KOMPAKT_RETURN_IF_ERROR(failure);
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (derive.count(chosen[i]) != 0) {
      ++check.tensors_checked;
      check.parameters_checked += source.schema().tensors()[chosen[i]].elements();
    }
    if (!outcomes[i].empty()) check.differences.push_back(std::move(outcomes[i]));
  }
  return check;
}

}  // namespace kompakt
