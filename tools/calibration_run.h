// What calibrate and convert --calibrate share: running a text through a model into a calibration file, and opening one
// for a conversion.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "format/tensor_source.h"
#include "nlohmann/json.hpp"
#include "quant/calibrate.h"
#include "quant/importance.h"

namespace kompakt {

struct CalibrationRequest {
  std::string text;         // a file; "-" is stdin; empty: the text in the program
  int64_t context = 512;    // tokens per chunk
  int64_t tokens = 0;       // of the text; 0: all
  bool hessian = false;     // second moments too
  int64_t min_tokens = 64;  // experts that were seen less often are warned about
};

struct CalibrationAnswer {
  std::string text;
  nlohmann::ordered_json json;
};

// Runs it and writes `output`; what it will take and what it warns of goes to stderr.
absl::StatusOr<CalibrationAnswer> RunCalibration(const std::string& model, bool keep_mtp,
                                                 const CalibrationRequest& request, const ModelOptions& options,
                                                 const std::string& output);

// The flags of convert.
struct CalibrationFlags {
  std::string file;      // --calibration; empty: data-free
  std::string text;      // --calibrate; "default": the text in the program
  bool hessian = false;  // with --calibrate: second moments too
};
void DeclareCalibrationFlag(CLI::App& app, CalibrationFlags& flags);  // --calibration
void DeclareCalibrateFlag(CLI::App& app, CalibrationFlags& flags);    // --calibrate, --hessian

// Null without --calibration. kFailedPrecondition when it was made for another model.
absl::StatusOr<std::shared_ptr<const Importance>> OpenCalibration(const CalibrationFlags& flags,
                                                                  const TensorSource& source);

// For --calibrate: makes DESTINATION.kcal from `model`, unless it is there and was made from these weights and this
// text, and sets flags.file.
absl::Status CalibrateFor(const std::string& model, bool keep_mtp, int threads, const std::string& destination,
                          CalibrationFlags* flags);

// "calibration x.kcal: 129,381 tokens of speeches.txt"; and the same for JSON.
std::string CalibrationText(const Importance& importance);
nlohmann::ordered_json CalibrationJson(const Importance* importance);

}  // namespace kompakt
