// Fields of a JSON object, with errors that name the path: "pre_tokenizer.pretokenizers[1].type: expected a string".
// All return kDataLoss when the node is no object, or the field is missing (without fallback) or of another type.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kompakt {

// A view of the string in `node`.
absl::StatusOr<absl::string_view> StringField(const nlohmann::json& node, const char* key, absl::string_view path);
// null counts as missing.
absl::StatusOr<bool> BoolField(const nlohmann::json& node, const char* key, absl::string_view path,
                               std::optional<bool> fallback = std::nullopt);
absl::StatusOr<int64_t> IntegerField(const nlohmann::json& node, const char* key, absl::string_view path);
absl::StatusOr<const nlohmann::json*> ArrayField(const nlohmann::json& node, const char* key, absl::string_view path);
// The field, or null where it is missing.
const nlohmann::json& FieldOrNull(const nlohmann::json& node, const char* key);

}  // namespace kompakt
