// Errors: which absl::StatusCode means what in this program, and the two macros that pass them on.
//
// | code                                       | meaning                                   | exit code (tools/) |
// |--------------------------------------------|-------------------------------------------|--------------------|
// | kInvalidArgument                           | the caller asked for something impossible | 2 usage            |
// | kAlreadyExists                             | the destination is in the way             | 2 usage            |
// | kDataLoss, kFailedPrecondition, kOutOfRange | input corrupt or contradictory            | 3                  |
// | kUnimplemented                             | input valid but not supported             | 3                  |
// | kNotFound, kPermissionDenied, kUnavailable, kResourceExhausted | I/O, disk or memory   | 4; device_error.h: 5 |
// | kAborted                                   | another process is at it                  | 4                  |
// | kCancelled                                 | interrupted                               | 130                |
// | anything else                              | a bug of ours                             | 70                 |
//
// Every message about input names the file, the tensor or field, what was expected and what was found.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace kompakt {

// The input contradicts itself or its format: exit 3.
template <typename... Args>
absl::Status CorruptError(const Args&... args) {
  return absl::DataLossError(absl::StrCat(args...));
}

// The input is well formed, but this program does not know it: exit 3.
template <typename... Args>
absl::Status UnsupportedError(const Args&... args) {
  return absl::UnimplementedError(absl::StrCat(args...));
}

// The caller asked for something that cannot be: exit 2.
template <typename... Args>
absl::Status UsageError(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// A system call failed with `error_number` (errno): exit 4. "cannot <what> <path>: <strerror>".
absl::Status IoError(int error_number, absl::string_view what, absl::string_view path);

// `status` with "<context>: " before its message; OK stays OK.
absl::Status WithContext(const absl::Status& status, absl::string_view context);

}  // namespace kompakt

#define KOMPAKT_RETURN_IF_ERROR(expr)                                                         \
  do {                                                                                        \
    if (absl::Status kompakt_status_ = (expr); !kompakt_status_.ok()) return kompakt_status_; \
  } while (false)

#define KOMPAKT_CONCAT_INNER_(a, b) a##b
#define KOMPAKT_CONCAT_(a, b) KOMPAKT_CONCAT_INNER_(a, b)
#define KOMPAKT_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return std::move(tmp).status();  \
  lhs = *std::move(tmp)
#define KOMPAKT_ASSIGN_OR_RETURN(lhs, expr) KOMPAKT_ASSIGN_OR_RETURN_(KOMPAKT_CONCAT_(kompakt_or_, __LINE__), lhs, expr)
