// DeviceError: no such accelerator, no driver, too little of its memory, or its work failed: exit 5.
//
// kUnavailable with a mark that IsDeviceError finds and WithContext keeps.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace kompakt {

absl::Status MarkedDeviceError(absl::string_view message);
bool IsDeviceError(const absl::Status& status);

template <typename... Args>
absl::Status DeviceError(const Args&... args) {
  return MarkedDeviceError(absl::StrCat(args...));
}

}  // namespace kompakt
