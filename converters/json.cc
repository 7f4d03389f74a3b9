#include "converters/json.h"

#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "format/status.h"

namespace kompakt {
namespace {

using Json = nlohmann::json;

// nlohmann-json prefixes its messages with an identifier of its own: "[json.exception.parse_error.101] ...".
absl::string_view WithoutTag(absl::string_view message) {
  const size_t end = message.find("] ");
  return absl::StartsWith(message, "[json.exception") && end != absl::string_view::npos ? message.substr(end + 2)
                                                                                        : message;
}

// Builds the document. nlohmann-json's own builder keeps the last of two equal keys and nests without bound.
class DocumentBuilder : public nlohmann::json_sax<Json> {
 public:
  explicit DocumentBuilder(absl::string_view file) : file_(file) {}

  bool null() override { return Add(Json(nullptr)); }
  bool boolean(bool value) override { return Add(Json(value)); }
  bool number_integer(number_integer_t value) override { return Add(Json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return Add(Json(value)); }
  bool number_float(number_float_t value, const string_t&) override { return Add(Json(value)); }
  bool string(string_t& value) override { return Add(Json(std::move(value))); }
  bool binary(binary_t&) override { return false; }  // not in JSON text
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    auto [place, inserted] = open_.back()->get_ref<Json::object_t&>().emplace(std::move(name), nullptr);
    if (!inserted) {
      status_ = CorruptError(file_, ": the key \"", place->first, "\" appears twice in one JSON object");
      return false;
    }
    value_of_key_ = &place->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const Json::exception& error) override {
    status_ = CorruptError(file_, ": expected JSON, stopped at byte ", position, ": ", WithoutTag(error.what()));
    return false;
  }

  absl::StatusOr<Json> Finish(bool parsed) && {
    if (!status_.ok()) return status_;
    if (!parsed) return CorruptError(file_, ": expected JSON");
    return std::move(root_);
  }

 private:
  bool Add(Json value) { return Place(std::move(value)) != nullptr; }

  // Where a value lands: the root, the pending key, or the end of the array.
  Json* Place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_object()) {
      *value_of_key_ = std::move(value);
      return value_of_key_;
    }
    Json::array_t& array = open_.back()->get_ref<Json::array_t&>();
    array.push_back(std::move(value));
    return &array.back();
  }

  bool Open(Json container) {
    if (open_.size() >= kMaxJsonDepth) {
      status_ = CorruptError(file_, ": JSON nested deeper than ", kMaxJsonDepth, " levels");
      return false;
    }
    open_.push_back(Place(std::move(container)));
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  absl::string_view file_;
  absl::Status status_;
  Json root_;
  // The containers that are still open. An array's elements may move while it grows, but only its last element can
  // itself be open, and it is not moved before it is closed.
  std::vector<Json*> open_;
  Json* value_of_key_ = nullptr;
};

}  // namespace

bool ParseJsonEvents(absl::string_view text, nlohmann::json_sax<nlohmann::json>& handler) {
  const auto refuse = [&](size_t position, const char* what) {
    return handler.parse_error(position, "", Json::parse_error::create(101, position, what, nullptr));
  };
  if (absl::StartsWith(text, "\xEF\xBB\xBF")) return refuse(0, "a byte order mark is not JSON");
  const size_t nul = text.find('\0');
  if (nul != absl::string_view::npos) return refuse(nul, "a NUL byte is not JSON");
  try {
    return Json::sax_parse(text.begin(), text.end(), &handler);
  } catch (const std::exception& error) {
    return refuse(0, error.what());
  }
}

absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, absl::string_view file) {
  DocumentBuilder builder(file);
  const bool parsed = ParseJsonEvents(text, builder);
  return std::move(builder).Finish(parsed);
}

int64_t FirstIllFormedUtf8(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  for (size_t i = 0; i < text.size();) {
    const uint8_t first = byte(i);
    if (first < 0x80) {
      ++i;
      continue;
    }
    // The second byte's range excludes overlong forms, surrogates and values past U+10FFFF (Unicode, table 3-7).
    size_t length = 0;
    uint8_t low = 0x80;
    uint8_t high = 0xBF;
    if (first >= 0xC2 && first <= 0xDF) {
      length = 2;
    } else if (first >= 0xE0 && first <= 0xEF) {
      length = 3;
      if (first == 0xE0) low = 0xA0;
      if (first == 0xED) high = 0x9F;
    } else if (first >= 0xF0 && first <= 0xF4) {
      length = 4;
      if (first == 0xF0) low = 0x90;
      if (first == 0xF4) high = 0x8F;
    }
    if (length == 0 || text.size() - i < length || byte(i + 1) < low || byte(i + 1) > high) {
      return static_cast<int64_t>(i);
    }
    for (size_t k = 2; k < length; ++k) {
      if (byte(i + k) < 0x80 || byte(i + k) > 0xBF) return static_cast<int64_t>(i);
    }
    i += length;
  }
  return -1;
}

std::string JsonExcerpt(const nlohmann::json& value) {
  constexpr size_t kMaxBytes = 60;
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() <= kMaxBytes) return text;
  size_t end = kMaxBytes;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character
  return text.substr(0, end) + "...";
}

absl::string_view JsonKind(const nlohmann::json& value) {
  if (value.is_null()) return "null";
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  if (value.is_string()) return "a string";
  if (value.is_boolean()) return "a boolean";
  return "a number";
}

}  // namespace kompakt
