// `kompakt bench MODEL`: tokens per second of prompts and of generated text, beside what the machine can do.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/packed_reader.h"
#include "nlohmann/json.hpp"
#include "runtime/expert_cache.h"
#include "runtime/model.h"

namespace kompakt {

struct ModelBenchOptions {
  std::vector<int> threads;
  int repetitions = 3;
  // Where experts are read as they are needed (runtime/expert_cache.h): the file that they are in. Else null.
  std::shared_ptr<const PackedReader> paged;
};

// One thing to measure: a prompt of `tokens` in one call, or `tokens` calls of one token each, at a cache that holds
// `depth` tokens already.
struct ModelTest {
  bool prompt = false;
  int64_t tokens = 0;
  int64_t depth = 0;
  std::string Name() const;  // "pp512", "tg128 @ 4096", as llama-bench has them
};

struct ModelTiming {
  ModelTest test;
  int threads = 1;
  std::vector<double> tokens_per_second;  // one per repetition
  double mean = 0;
  double deviation = 0;  // standard deviation of the repetitions; 0 of a single one
  // Per token: bytes of weights and cache rows that have to be read (of a prompt's, its share), products.
  double weight_bytes = 0;
  double cache_bytes = 0;
  double products = 0;
  // Bytes per second of the memory that holds the weights, median of those before and after each repetition (on a
  // device: before and after all). 0: not measured, in the simulator and where a model lies on device and host.
  double read_probe = 0;
  double product_probe = 0;  // likewise; never measured on a device
  // Of all repetitions; only where experts are read as they are needed.
  std::optional<ExpertCacheStats> experts;
  double missed_bytes =
      0;                  // per token: of experts that were needed and not in memory; guesses that failed are not in it
  double disk_probe = 0;  // bytes per second of the reads that experts take, mean of before and after
  // max(bytes / read probe, products / product probe, missed bytes / disk probe) / seconds: the median of repetitions;
  // and which it is: "memory", "products" or "disk". On a device the bytes alone, of single tokens. 0: not measured.
  double fraction = 0;
  absl::string_view bound;
  std::optional<double> joules_per_token;
  int64_t measured_tokens() const { return static_cast<int64_t>(tokens_per_second.size()) * test.tokens; }
  std::string placement;  // what of the model lies on the device; empty: the CPU runs it
};

// Tokens of cache that the tests need.
int64_t RoomFor(const std::vector<ModelTest>& tests);

// Measures every test with every number of threads; `report` is called after each.
absl::Status TimeModel(const std::shared_ptr<const WeightStore>& weights, const ModelOptions& model_options,
                       const ModelBenchOptions& options, const std::vector<ModelTest>& tests,
                       const std::function<void(const ModelTiming&)>& report);

nlohmann::ordered_json ToJson(const ModelTiming& timing);
std::string ModelTableHead();
std::string ModelTableLine(const ModelTiming& timing);

}  // namespace kompakt
