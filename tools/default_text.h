// The text that a calibration takes where none is given: addresses of US presidents, in the public domain
// (tests/data/README.md), built into the program.
#pragma once

#include "absl/strings/string_view.h"

namespace kompakt {

absl::string_view DefaultCalibrationText();

}  // namespace kompakt
