// The result of `kompakt sensitivity`, as JSON: what --sensitivity of convert and plan reads (docs/quantization.md,
// "Measuring weights").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/arch_spec.pb.h"
#include "nlohmann/json.hpp"
#include "quant/error_weight.h"

namespace kompakt {

// One class in one band of layers, quantized alone.
struct SensitivityUnit {
  std::string weight_class;
  int64_t first_layer = -1;
  int64_t last_layer = -1;
  int64_t roles = 0;  // pairs of role and layer that were quantized
  int64_t parameters = 0;
  double relative_error = 0;  // squared, of the quantized weights
  double kl_free = 0;         // mean, floor not subtracted
  double kl_free_stderr = 0;
  double kl_frozen = 0;
  double kl_frozen_stderr = 0;
};

struct SensitivityReport {
  std::string model;
  std::string text;
  std::string format;
  double format_error = 0;  // its relative squared error on Gaussian weights: FormatNoise
  std::string calibration;  // of the trials; empty: data-free
  int64_t num_hidden_layers = 0;
  int64_t context = 0;
  int64_t chunks = 0;
  int64_t tokens_scored = 0;
  double floor_free = 0;  // KL of the original against itself in another summation order
  double floor_frozen = 0;
  std::vector<SensitivityUnit> units;

  // (kl_free - floor) / format_error / roles, never below 0: what ErrorWeights takes. So at the format of the trials
  // the allocator expects the KL that was measured, whatever the weights of this part are like and however they are
  // encoded.
  double WeightOf(const SensitivityUnit& unit) const;
  std::vector<MeasuredWeight> Weights() const;
};

nlohmann::ordered_json SensitivityJson(const SensitivityReport& report);
// kDataLoss naming `path` and the field for what is no such file.
absl::StatusOr<SensitivityReport> ParseSensitivity(const std::string& text, const std::string& path);
absl::StatusOr<SensitivityReport> ReadSensitivity(const std::string& path);
// kFailedPrecondition when the file was measured on a model of another depth.
absl::Status CheckSameDepth(const SensitivityReport& report, const ArchSpec& arch, const std::string& path);

}  // namespace kompakt
