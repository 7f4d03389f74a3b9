// Fails(code, {"part", ...}): a Status or StatusOr with that code whose message contains every part.
#pragma once

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace kompakt {

inline absl::Status StatusOf(const absl::Status& status) { return status; }
template <typename T>
absl::Status StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

MATCHER_P2(FailsWith, code, parts, "") {
  const absl::Status status = StatusOf(arg);
  if (status.code() != code) {
    *result_listener << "the status is " << status.ToString();
    return false;
  }
  for (const std::string& part : parts) {
    if (std::string(status.message()).find(part) == std::string::npos) {
      *result_listener << "the message lacks \"" << part << "\": " << std::string(status.message());
      return false;
    }
  }
  return true;
}

inline auto Fails(absl::StatusCode code, std::vector<std::string> parts) { return FailsWith(code, std::move(parts)); }

MATCHER(IsOk, "") {
  const absl::Status status = StatusOf(arg);
  if (!status.ok()) *result_listener << status.ToString();
  return status.ok();
}

}  // namespace kompakt
