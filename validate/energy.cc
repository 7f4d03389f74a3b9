#include "validate/energy.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "format/status.h"

namespace kompakt {
namespace {

absl::StatusOr<std::string> WordIn(const std::string& path) {
  errno = 0;
  std::ifstream in(path);
  std::string word;
  if (in >> word) return word;
  return absl::UnavailableError(absl::StrCat(path, ": ", errno != 0 ? std::strerror(errno) : "empty"));
}

absl::StatusOr<uint64_t> NumberIn(const std::string& path) {
  const absl::StatusOr<std::string> word = WordIn(path);
  if (!word.ok()) return word.status();
  uint64_t number = 0;
  if (absl::SimpleAtoi(*word, &number)) return number;
  return absl::UnavailableError(absl::StrCat(path, ": expected a number, found \"", *word, "\""));
}

// One counter, in microjoules.
struct Zone {
  std::string name;
  std::string file;
  uint64_t range = 0;  // the largest value before it starts again at 0
  uint64_t last = 0;
  uint64_t sum = 0;  // since it was opened
};

class Rapl : public EnergyMeter {
 public:
  explicit Rapl(std::vector<Zone> zones) : zones_(std::move(zones)) {
    what_ = "RAPL: " +
            absl::StrJoin(zones_, ", ", [](std::string* out, const Zone& zone) { absl::StrAppend(out, zone.name); });
  }

  const std::string& what() const override { return what_; }

  absl::StatusOr<double> Joules() override {
    uint64_t sum = 0;
    for (Zone& zone : zones_) {
      KOMPAKT_ASSIGN_OR_RETURN(const uint64_t now, NumberIn(zone.file));
      zone.sum += now >= zone.last ? now - zone.last : zone.range - zone.last + now + 1;
      zone.last = now;
      sum += zone.sum;
    }
    return static_cast<double>(sum) * 1e-6;
  }

 private:
  std::vector<Zone> zones_;
  std::string what_;
};

// Cores and graphics are parts of their package; "psys" is the whole platform, packages included.
bool IsCounted(const std::string& name) { return absl::StartsWith(name, "package") || name == "dram"; }

}  // namespace

absl::StatusOr<std::unique_ptr<EnergyMeter>> OpenRapl(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error); !error && it != std::filesystem::end(it);
       it.increment(error)) {
    // "intel-rapl-mmio:..." are the same counters once more.
    if (absl::StartsWith(it->path().filename().string(), "intel-rapl:")) paths.push_back(it->path().string());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Zone> zones;
  for (const std::string& path : paths) {
    const absl::StatusOr<std::string> name = WordIn(path + "/name");
    if (!name.ok()) return name.status();
    if (!IsCounted(*name)) continue;
    Zone zone;
    zone.name = *name;
    zone.file = path + "/energy_uj";
    KOMPAKT_ASSIGN_OR_RETURN(zone.range, NumberIn(path + "/max_energy_range_uj"));
    KOMPAKT_ASSIGN_OR_RETURN(zone.last, NumberIn(zone.file));
    zones.push_back(std::move(zone));
  }
  if (zones.empty()) return absl::UnavailableError(absl::StrCat(folder, ": this machine shows no energy counters"));
  return std::make_unique<Rapl>(std::move(zones));
}

EnergyWatch::EnergyWatch(absl::StatusOr<std::unique_ptr<EnergyMeter>> meter, Clock clock) : clock_(std::move(clock)) {
  if (meter.ok()) {
    meter_ = *std::move(meter);
  } else {
    why_not_ = std::string(meter.status().message());
  }
  Restart();
}

double EnergyWatch::Count() {
  if (meter_ == nullptr) return 0;
  const absl::StatusOr<double> joules = meter_->Joules();
  if (joules.ok()) return *joules;
  why_not_ = std::string(joules.status().message());
  meter_ = nullptr;
  return 0;
}

void EnergyWatch::Restart() {
  start_ = Count();
  start_time_ = clock_();
}

EnergyStretch EnergyWatch::Cut() {
  const double joules = start_;
  const auto time = start_time_;
  Restart();
  return {start_ - joules, std::chrono::duration<double>(start_time_ - time).count()};
}

std::optional<double> EnergyWatch::JoulesOf(const EnergyStretch& stretch) {
  if (meter_ == nullptr) return std::nullopt;
  if (stretch.seconds < meter_->least_seconds()) {
    why_not_ = absl::StrFormat("%s: %.0f s of work are needed at least, this took %.1f s", meter_->what(),
                               meter_->least_seconds(), stretch.seconds);
    return std::nullopt;
  }
  why_not_.clear();
  return stretch.joules;
}

std::optional<double> EnergyWatch::Joules() {
  const double now = Count();
  return JoulesOf({now - start_, std::chrono::duration<double>(clock_() - start_time_).count()});
}

}  // namespace kompakt
