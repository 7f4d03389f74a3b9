// Strict JSON for files that strangers wrote: duplicate keys, deep nesting and ill-formed UTF-8 are errors, and no
// exception leaves this header.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kompakt {

inline constexpr int kMaxJsonDepth = 64;

// The document in `text`. kDataLoss naming `file` and the byte where reading stopped.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, absl::string_view file);

// Feeds `text` to `handler`, whose functions return false to stop. False when the handler stopped or the text is not
// JSON; the handler's parse_error has then been called in the latter case. Rejects what nlohmann-json lets through: a
// byte order mark and NUL bytes, which it takes for the end of the text.
bool ParseJsonEvents(absl::string_view text, nlohmann::json_sax<nlohmann::json>& handler);

// Offset of the first byte that is not part of well-formed UTF-8, or -1.
int64_t FirstIllFormedUtf8(absl::string_view text);

// `value` for an error message: compact JSON, cut after about 60 bytes.
std::string JsonExcerpt(const nlohmann::json& value);
// "an object", "a string", ...
absl::string_view JsonKind(const nlohmann::json& value);

}  // namespace kompakt
