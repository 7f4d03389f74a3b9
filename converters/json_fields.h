// JsonFields: typed access to the fields of one JSON object of a configuration file. Nothing is converted: an integer
// field must be an integer, a flag a boolean. Every failure is kDataLoss naming the file, the field, what was expected
// and what was found. JSON null counts as absent, as it does upstream.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kompakt {

class JsonFields {
 public:
  // `object` must be a JSON object and outlive this. `where` names it in messages, for example
  // "config.json: rope_scaling".
  JsonFields(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  // Null when absent or JSON null.
  const nlohmann::json* Find(absl::string_view key) const;
  bool Has(absl::string_view key) const { return Find(key) != nullptr; }
  // Every key that is there, ascending.
  std::vector<std::string> Keys() const;
  // True when the key is there, were it with null.
  bool Mentions(absl::string_view key) const { return object_.contains(std::string(key)); }

  absl::StatusOr<int64_t> Int(absl::string_view key) const;
  absl::StatusOr<int64_t> IntOr(absl::string_view key, int64_t if_absent) const;
  absl::StatusOr<double> Number(absl::string_view key) const;
  absl::StatusOr<double> NumberOr(absl::string_view key, double if_absent) const;
  absl::StatusOr<bool> Bool(absl::string_view key) const;
  absl::StatusOr<bool> BoolOr(absl::string_view key, bool if_absent) const;
  absl::StatusOr<std::string> Text(absl::string_view key) const;
  absl::StatusOr<std::string> TextOr(absl::string_view key, absl::string_view if_absent) const;
  // The fields of an object inside this one.
  absl::StatusOr<JsonFields> Object(absl::string_view key) const;
  // A non-negative id below 2^32, or a list of them; empty when absent.
  absl::StatusOr<std::vector<uint32_t>> TokenIds(absl::string_view key) const;

  // "<where>: <key>: expected <expected>, found <value>"
  absl::Status Unexpected(absl::string_view key, absl::string_view expected) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
};

}  // namespace kompakt
