// `kompakt bench --ops`: every op of the op list, timed beside what the machine can do.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/op_list.h"
#include "nlohmann/json.hpp"

namespace kompakt {

struct OpBenchOptions {
  std::vector<int> threads;  // each case once with each
  int repetitions = 7;       // pairs of op and probe
  double sample_seconds = 0.015;
};

struct OpTiming {
  std::string name;
  int threads = 1;
  double seconds = 0;              // of one run, median
  double bytes_per_second = 0;     // median
  double products_per_second = 0;  // median
  double read_probe = 0;           // bytes per second, median
  double product_probe = 0;        // of the set's instruction; 0 where the op multiplies no matrices
  // What the bounds of both probes leave of the time that was taken: max(bytes / read probe, products / product probe)
  // / seconds, the median of pairs; and which of them it is. 0 for ops that move no weights and no cache.
  double fraction = 0;
  double least = 0;
  double most = 0;
  bool memory_bound = false;
};

// The timed cases whose name has all words of the filter: one with "=" in it in full, others as a part. Those
// with rounded activations only where the set has a product of whole numbers for the format; else they would repeat the
// case without. kInvalidArgument where that leaves none.
absl::StatusOr<std::vector<OpCase>> FilterOps(const KernelSet& set, const std::string& filter);

// Each case in turn; `report` is called after each and may print.
absl::Status TimeOps(const KernelSet& set, const OpBenchOptions& options, const std::vector<OpCase>& cases,
                     const std::function<void(const OpTiming&)>& report);

nlohmann::ordered_json ToJson(const OpTiming& timing);
std::string OpTableHead();
std::string OpTableLine(const OpTiming& timing);

// Which op multiplies which format's tiles as they lie in the file, and which decodes them first, in every set of the
// build. Text or JSON.
std::string SupportTable();
nlohmann::ordered_json SupportJson();

}  // namespace kompakt
