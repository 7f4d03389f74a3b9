// What can be told before a conversion starts: whether its destination can take the file, and how long it will take.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "format/tensor_source.h"
#include "nlohmann/json.hpp"
#include "quant/convert.h"
#include "quant/speed_probe.h"

namespace kompakt {

struct Preflight {
  // One per thing looked at; an error's message says what was expected and what was found.
  struct Check {
    std::string name;  // "free disk", "permission to write", "file size", "memory"
    absl::Status status;
    std::string found;  // for people
  };
  std::vector<Check> checks;
  absl::optional<SpeedEstimate> speed;  // none where the source cannot be read, or the disk not written

  // The first error, or OK.
  absl::Status Outcome() const;
  std::string Text() const;
  nlohmann::ordered_json Json() const;
};

// Reads no tensor data but what the speed probe encodes. `files` are what the conversion writes (PlanVolumes).
// `destination` may be empty: then only memory and speed.
Preflight CheckBeforeWork(const TensorSource& source, const QuantRecipe& recipe, const ConversionPlan& plan,
                          const std::vector<PlannedFile>& files, const std::string& destination, int threads);

}  // namespace kompakt
