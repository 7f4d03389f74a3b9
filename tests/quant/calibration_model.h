// A small model with random weights, ready to run, and calibrations of it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quant/calibrate.h"
#include "runtime/model.h"

namespace kompakt {

// Random weights; run by the reference kernels.
std::shared_ptr<const Model> RandomModel(const ArchSpec& arch, int threads = 1);
// `n` ids that differ.
std::vector<int32_t> SomeIds(const ArchSpec& arch, int64_t n);
// Calibrates with BOS 1 and writes `path`. The test fails on an error.
CalibrationReport CalibrateInto(const std::string& path, const Model& model, const std::vector<int32_t>& ids,
                                int64_t context, bool matrices);
std::shared_ptr<const CalibrationFile> OpenedCalibration(const std::string& path);

}  // namespace kompakt
