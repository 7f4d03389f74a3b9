#include "runtime/json_field.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "format/status.h"

namespace kompakt {
namespace {

absl::Status WrongField(absl::string_view path, const char* key, absl::string_view expected) {
  return CorruptError(path, ".", key, ": expected ", expected);
}

}  // namespace

const nlohmann::json& FieldOrNull(const nlohmann::json& node, const char* key) {
  static const nlohmann::json null;
  if (!node.is_object()) return null;
  const auto found = node.find(key);
  return found == node.end() ? null : *found;
}

absl::StatusOr<absl::string_view> StringField(const nlohmann::json& node, const char* key, absl::string_view path) {
  const nlohmann::json& field = FieldOrNull(node, key);
  if (!field.is_string()) return WrongField(path, key, "a string");
  return absl::string_view(field.get_ref<const std::string&>());
}

absl::StatusOr<bool> BoolField(const nlohmann::json& node, const char* key, absl::string_view path,
                               std::optional<bool> fallback) {
  const nlohmann::json& field = FieldOrNull(node, key);
  if (field.is_null() && fallback.has_value()) return *fallback;
  if (!field.is_boolean()) return WrongField(path, key, "true or false");
  return field.get<bool>();
}

absl::StatusOr<int64_t> IntegerField(const nlohmann::json& node, const char* key, absl::string_view path) {
  const nlohmann::json& field = FieldOrNull(node, key);
  const bool fits = field.is_number_integer() &&
                    (!field.is_number_unsigned() || field.get<uint64_t>() <= std::numeric_limits<int64_t>::max());
  if (!fits) return WrongField(path, key, "an integer");
  return field.get<int64_t>();
}

absl::StatusOr<const nlohmann::json*> ArrayField(const nlohmann::json& node, const char* key, absl::string_view path) {
  const nlohmann::json& field = FieldOrNull(node, key);
  if (!field.is_array()) return WrongField(path, key, "an array");
  return &field;
}

}  // namespace kompakt
