#include "tools/preflight.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "format/file_system.h"
#include "quant/destination.h"
#include "tools/machine_memory.h"
#include "tools/terminal.h"

namespace kompakt {
namespace {

std::string Bytes(uint64_t bytes) { return GroupedDigits(static_cast<int64_t>(bytes)) + " bytes"; }

Preflight::Check FreeDisk(const std::string& destination, const std::vector<PlannedFile>& files, uint64_t needed) {
  Preflight::Check check{.name = "free disk", .status = absl::OkStatus(), .found = ""};
  FileSystem& fs = PosixFileSystem();
  const auto free_bytes = fs.FreeBytes(destination);
  if (!free_bytes.ok()) {
    check.name = "permission to write";
    check.status = free_bytes.status();
    return check;
  }
  check.found = absl::StrCat(HumanBytes(*free_bytes), " free");
  std::vector<std::string> paths;
  for (const PlannedFile& file : files) paths.push_back(file.path);
  check.status = CheckRoom(fs, destination, paths, needed);
  return check;
}

// A size that a smaller file would have, in words; or why there is none.
std::string VolumeAdvice(const TensorSource& source, const QuantRecipe& recipe, const ConversionPlan& plan,
                         const std::string& destination, uint64_t most) {
  const auto files = PlanVolumes(source, recipe, destination, plan, most);
  if (!files.ok()) return absl::StrCat("no --volume-size helps: ", files.status().message());
  return absl::StrCat("--volume-size ", most, " cuts it into ", files->size(), " volumes");
}

Preflight::Check FileSize(const TensorSource& source, const QuantRecipe& recipe, const ConversionPlan& plan,
                          const std::vector<PlannedFile>& files, const std::string& destination) {
  uint64_t needed = 0;
  for (const PlannedFile& file : files) needed = std::max(needed, file.bytes);
  Preflight::Check check{.name = "file size", .status = absl::OkStatus(), .found = ""};
  const uint64_t most = PosixFileSystem().MostFileBytes(destination);
  check.found = most == std::numeric_limits<uint64_t>::max() ? "no limit known" : HumanBytes(most) + " at most";
  if (needed > most) {
    check.status =
        absl::ResourceExhaustedError(absl::StrCat(destination, ": expected to write a file of ", Bytes(needed),
                                                  ", the file system or a limit of this process allows ", Bytes(most),
                                                  "; ", VolumeAdvice(source, recipe, plan, destination, most)));
  }
  return check;
}

Preflight::Check Memory(uint64_t needed) {
  Preflight::Check check{.name = "memory", .status = absl::OkStatus(), .found = ""};
  const uint64_t free_bytes = AvailableMemoryBytes();
  check.found = free_bytes == 0 ? "unknown" : HumanBytes(free_bytes) + " free";
  if (free_bytes != 0 && free_bytes < needed) {
    check.status = absl::ResourceExhaustedError(absl::StrCat("expected ", Bytes(needed), " of free memory, found ",
                                                             Bytes(free_bytes), "; a smaller --ram works"));
  }
  return check;
}

}  // namespace

absl::Status Preflight::Outcome() const {
  for (const Check& check : checks) {
    if (!check.status.ok()) return check.status;
  }
  return absl::OkStatus();
}

std::string Preflight::Text() const {
  std::string text;
  for (const Check& check : checks) {
    absl::StrAppend(&text, absl::StrFormat("%-20s  %s%s\n", check.name, check.status.ok() ? "ok" : "NOT ENOUGH",
                                           check.found.empty() ? "" : ": " + check.found));
  }
  if (!speed.has_value()) return text + "time                  not estimated: the source could not be read\n";
  absl::StrAppend(&text, absl::StrFormat("%-20s  %s", "time", HumanSeconds(speed->total_seconds)));
  if (speed->write_bytes_per_second > 0) {
    absl::StrAppend(&text, ", the disk takes ", HumanBytes(static_cast<uint64_t>(speed->write_bytes_per_second)), "/s");
  }
  return text + " (from a probe of one second)\n";
}

nlohmann::ordered_json Preflight::Json() const {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Check& check : checks) {
    list.push_back({{"check", check.name},
                    {"ok", check.status.ok()},
                    {"found", check.found},
                    {"error", std::string(check.status.message())}});
  }
  nlohmann::ordered_json json = {{"checks", std::move(list)}};
  if (speed.has_value()) {
    json["estimated_seconds"] = speed->total_seconds;
    if (speed->write_bytes_per_second > 0) json["disk_bytes_per_second"] = speed->write_bytes_per_second;
  }
  return json;
}

Preflight CheckBeforeWork(const TensorSource& source, const QuantRecipe& recipe, const ConversionPlan& plan,
                          const std::vector<PlannedFile>& files, const std::string& destination, int threads) {
  Preflight preflight;
  if (!destination.empty()) {
    preflight.checks.push_back(FreeDisk(destination, files, plan.file_bytes));
    preflight.checks.push_back(FileSize(source, recipe, plan, files, destination));
  }
  preflight.checks.push_back(Memory(plan.memory.peak_bytes));
  const bool can_write = preflight.Outcome().ok();
  auto speed = EstimateSpeed(source, plan, threads, can_write ? destination : "", PosixFileSystem());
  if (speed.ok()) preflight.speed = *std::move(speed);
  return preflight;
}

}  // namespace kompakt
