#include "converters/json_fields.h"

#include <algorithm>
#include <limits>

#include "converters/json.h"
#include "format/status.h"

namespace kompakt {

const nlohmann::json* JsonFields::Find(absl::string_view key) const {
  const auto found = object_.find(std::string(key));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

absl::Status JsonFields::Unexpected(absl::string_view key, absl::string_view expected) const {
  const auto found = object_.find(std::string(key));
  if (found == object_.end()) return CorruptError(where_, ": ", key, ": expected ", expected, ", found no such key");
  return CorruptError(where_, ": ", key, ": expected ", expected, ", found ", JsonExcerpt(*found));
}

std::vector<std::string> JsonFields::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object_.items()) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  return keys;
}

absl::StatusOr<int64_t> JsonFields::Int(absl::string_view key) const {
  const nlohmann::json* value = Find(key);
  const bool fits = value != nullptr && value->is_number_integer() &&
                    (!value->is_number_unsigned() ||
                     value->get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
  if (!fits) return Unexpected(key, "an integer");
  return value->get<int64_t>();
}

absl::StatusOr<int64_t> JsonFields::IntOr(absl::string_view key, int64_t if_absent) const {
  if (!Has(key)) return if_absent;
  return Int(key);
}

absl::StatusOr<double> JsonFields::Number(absl::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr || !value->is_number()) return Unexpected(key, "a number");
  return value->get<double>();
}

absl::StatusOr<double> JsonFields::NumberOr(absl::string_view key, double if_absent) const {
  if (!Has(key)) return if_absent;
  return Number(key);
}

absl::StatusOr<bool> JsonFields::Bool(absl::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr || !value->is_boolean()) return Unexpected(key, "true or false");
  return value->get<bool>();
}

absl::StatusOr<bool> JsonFields::BoolOr(absl::string_view key, bool if_absent) const {
  if (!Has(key)) return if_absent;
  return Bool(key);
}

absl::StatusOr<std::string> JsonFields::Text(absl::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr || !value->is_string()) return Unexpected(key, "a string");
  return value->get<std::string>();
}

absl::StatusOr<std::string> JsonFields::TextOr(absl::string_view key, absl::string_view if_absent) const {
  if (!Has(key)) return std::string(if_absent);
  return Text(key);
}

absl::StatusOr<JsonFields> JsonFields::Object(absl::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr || !value->is_object()) return Unexpected(key, "an object");
  return JsonFields(*value, absl::StrCat(where_, ": ", key));
}

absl::StatusOr<std::vector<uint32_t>> JsonFields::TokenIds(absl::string_view key) const {
  std::vector<uint32_t> ids;
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return ids;
  const auto append = [&](const nlohmann::json& item) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > std::numeric_limits<uint32_t>::max()) return false;
    ids.push_back(item.get<uint32_t>());
    return true;
  };
  bool ok = true;
  if (value->is_array()) {
    for (const nlohmann::json& item : *value) ok = ok && append(item);
  } else {
    ok = append(*value);
  }
  if (!ok) return Unexpected(key, "a token id or a list of token ids");
  return ids;
}

}  // namespace kompakt
