#include "tools/exit_code.h"

#include "format/device_error.h"

namespace kompakt {

ExitCode ExitCodeOf(const absl::Status& status) {
  if (IsDeviceError(status)) return kExitDevice;
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitYes;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kAlreadyExists:
      return kExitUsage;
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return kExitInput;
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kResourceExhausted:
      return kExitIo;
    case absl::StatusCode::kCancelled:
      return kExitInterrupted;
    default:
      return kExitBug;
  }
}

}  // namespace kompakt
