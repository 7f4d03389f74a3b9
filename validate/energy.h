// How much energy something took: joules counted by the hardware, where it counts them and lets us read.
//
// RAPL (Intel's Running Average Power Limit, which AMD has as well) counts per processor package, and for its memory
// where there is a zone "dram"; Linux shows the counters below /sys/class/powercap. What else the machine does in that
// time is counted too.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace kompakt {

// A running count of joules. One thread at a time.
class EnergyMeter {
 public:
  virtual ~EnergyMeter() = default;
  // What is counted, for people: "RAPL: package-0, dram".
  virtual const std::string& what() const = 0;
  // Joules since the meter was opened. Counters wrap around (after an hour of full load, or so): to be called more
  // often than that. kUnavailable when a counter can no longer be read.
  virtual absl::StatusOr<double> Joules() = 0;
  // A stretch of work shorter than this says nothing: the counter moves in steps.
  virtual double least_seconds() const { return 0; }
};

// kUnavailable saying why: this machine has no such counters, or they may be read by root only. `folder` is where the
// system shows them; tests have one of their own.
absl::StatusOr<std::unique_ptr<EnergyMeter>> OpenRapl(const std::string& folder = "/sys/class/powercap");

// A piece of work, or several added up.
struct EnergyStretch {
  double joules = 0;
  double seconds = 0;
  EnergyStretch& operator+=(const EnergyStretch& other) {
    joules += other.joules;
    seconds += other.seconds;
    return *this;
  }
};

// The joules of a stretch of work, or why nobody knows.
class EnergyWatch {
 public:
  using Clock = std::function<std::chrono::steady_clock::time_point()>;
  // Begins to count. `clock`: tests have one of their own.
  explicit EnergyWatch(absl::StatusOr<std::unique_ptr<EnergyMeter>> meter = OpenRapl(),
                       Clock clock = std::chrono::steady_clock::now);

  // Since the last call of Restart or Cut, or since the beginning; nothing where it is not measured.
  std::optional<double> Joules();
  void Restart();
  // The same stretch, and begins the next one. Joules says nothing of short ones: pieces of the same kind are added up
  // first, and JoulesOf says whether there is enough of them.
  EnergyStretch Cut();
  std::optional<double> JoulesOf(const EnergyStretch& stretch);
  // Why the last Joules or JoulesOf gave nothing; empty when it did.
  const std::string& why_not() const { return why_not_; }
  // EnergyMeter::what, or empty.
  std::string what() const { return meter_ == nullptr ? "" : meter_->what(); }

 private:
  // Of the meter, which is gone when that fails.
  double Count();

  std::unique_ptr<EnergyMeter> meter_;
  Clock clock_;
  std::string why_not_;
  double start_ = 0;
  std::chrono::steady_clock::time_point start_time_;
};

}  // namespace kompakt
