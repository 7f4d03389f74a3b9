// How a Comparison is shown by `kompakt compare`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "tools/model_input.h"
#include "tools/sensitivity_file.h"
#include "validate/baseline.h"
#include "validate/compare.h"

namespace kompakt {

// The tensors of one role in one layer of the packed model.
struct TensorLine {
  std::string name;  // without the number of an expert
  std::string tensor_class;
  std::string format;
  uint64_t bytes = 0;
  int64_t parameters = 0;
  bool exact = false;
  bool has_error = false;  // else it is not known: a checkpoint folder
  double error_db = 0;     // against the source that it was packed from
};
std::vector<TensorLine> TensorLines(const LoadedModel& packed);

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
  std::vector<TensorLine> tensors;
  std::optional<SensitivityReport> sensitivity;  // where a file was given
};

std::string CompareText(const CompareReport& report);
nlohmann::ordered_json CompareJson(const CompareReport& report);

}  // namespace kompakt
