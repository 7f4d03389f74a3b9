// How a Comparison is shown by `kompakt compare`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "validate/baseline.h"
#include "validate/compare.h"

namespace kompakt {

struct CompareReport {
  std::string original;
  std::string packed;
  std::string text;
  std::string path;                        // kernel set of the packed model
  std::optional<BaselineHeader> baseline;  // where `original` is one
  uint64_t tensor_bytes_original = 0;
  uint64_t tensor_bytes_packed = 0;
  Comparison comparison;
  // The original against itself, computed another way: what a figure above means nothing below.
  std::vector<std::pair<std::string, Comparison>> floor;
  double seconds = 0;
};

std::string CompareText(const CompareReport& report);
nlohmann::ordered_json CompareJson(const CompareReport& report);

}  // namespace kompakt
