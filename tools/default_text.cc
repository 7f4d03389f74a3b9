#include "tools/default_text.h"

// Made by tools/embed_text.cmake.
extern const unsigned char kompakt_calibration_text[];
extern const unsigned long kompakt_calibration_text_bytes;

namespace kompakt {

absl::string_view DefaultCalibrationText() {
  return {reinterpret_cast<const char*>(kompakt_calibration_text), kompakt_calibration_text_bytes};
}

}  // namespace kompakt
