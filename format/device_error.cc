#include "format/device_error.h"

#include "absl/strings/cord.h"

namespace kompakt {
namespace {

constexpr absl::string_view kMark = "kompakt/device";

}  // namespace

absl::Status MarkedDeviceError(absl::string_view message) {
  absl::Status status = absl::UnavailableError(message);
  status.SetPayload(kMark, absl::Cord());
  return status;
}

bool IsDeviceError(const absl::Status& status) { return status.GetPayload(kMark).has_value(); }

}  // namespace kompakt
