// `--synthetic NAME`: published shapes with random weights in the formats of a recipe, in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/weights.h"

namespace kompakt {

struct SyntheticModel {
  std::string description;  // "DeepSeek-V2-Lite, 27 layers, recipe q4"
  ModelSchema schema;
  std::vector<FormatId> formats;  // one per tensor
  uint64_t weight_bytes = 0;      // of the matrices, in memory
};

// "v2-lite": DeepSeek-V2-Lite. "v3-layer": embedding, one dense layer, one MoE layer with all of its 256 experts, and
// the head of DeepSeek-V3. `layers`: how many of them, 0 for all. `recipe`: name of a built-in one, or a file.
// kInvalidArgument with "did you mean", or for a number of layers that the model does not have.
absl::StatusOr<SyntheticModel> PlanSyntheticModel(const std::string& name, const std::string& recipe, int64_t layers);

// kResourceExhausted when the machine has less to give than the weights and `other_bytes`, else the weights, with a
// progress line on stderr.
absl::StatusOr<std::shared_ptr<const WeightStore>> MakeSyntheticModel(const SyntheticModel& plan, uint64_t other_bytes,
                                                                      int threads);

}  // namespace kompakt
