#include "runtime/tokenizer_json_reader.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr size_t kMaxDepth = 64;

class Reader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Reader(TokenizerJson* out) : out_(*out) {}

  const std::string& problem() const { return problem_; }

  bool null() override { return Value(nullptr, "null"); }
  bool boolean(bool value) override { return Value(value, "a boolean"); }
  bool number_float(number_float_t value, const string_t&) override { return Value(value, "a fraction"); }
  bool binary(binary_t&) override { return Fail("binary data"); }

  bool number_integer(number_integer_t value) override {
    if (list_ != List::kVocab) return Value(value, "a number");
    out_.vocab.back().second = value;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (list_ != List::kVocab) return Value(value, "a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return Value(value, "a number too large");
    out_.vocab.back().second = static_cast<int64_t>(value);
    return true;
  }

  bool string(string_t& value) override {
    if (list_ != List::kMerges) return Value(std::move(value), "a string");
    if (merge_parts_ >= 0) {
      if (merge_parts_ == 2) return FailMerge();
      (merge_parts_++ == 0 ? out_.merges.back().first : out_.merges.back().second) = std::move(value);
      return true;
    }
    const size_t space = value.find(' ');
    if (space == std::string::npos || value.find(' ', space + 1) != std::string::npos) {
      return Fail(absl::StrCat("model.merges[", out_.merges.size(), "]: expected two tokens and one space, found \"",
                               value, "\""));
    }
    out_.merges.emplace_back(value.substr(0, space), value.substr(space + 1));
    return true;
  }

  bool start_object(std::size_t) override {
    if (list_ != List::kNone) return Unexpected("an object");
    if (InModel() && key_ == "vocab") {
      list_ = List::kVocab;
      return true;
    }
    return Open(nlohmann::json::object());
  }

  bool key(string_t& value) override {
    if (list_ == List::kVocab) {
      out_.vocab.emplace_back(std::move(value), -1);
    } else {
      key_ = std::move(value);
    }
    return true;
  }

  bool end_object() override { return Close(); }

  bool start_array(std::size_t) override {
    if (list_ == List::kMerges && merge_parts_ < 0) {
      out_.merges.emplace_back();
      merge_parts_ = 0;
      return true;
    }
    if (list_ != List::kNone) return Unexpected("an array");
    if (InModel() && key_ == "merges") {
      list_ = List::kMerges;
      return true;
    }
    return Open(nlohmann::json::array());
  }

  bool end_array() override {
    if (list_ == List::kMerges && merge_parts_ >= 0) {
      if (merge_parts_ != 2) return FailMerge();
      merge_parts_ = -1;
      return true;
    }
    return Close();
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    return Fail(error.what());
  }

 private:
  enum class List { kNone, kVocab, kMerges };

  bool Fail(const std::string& problem) {
    if (problem_.empty()) problem_ = problem;
    return false;
  }

  bool FailMerge() {
    return Fail(absl::StrCat("model.merges[", out_.merges.size() - 1, "]: expected two strings in the pair"));
  }

  bool Unexpected(absl::string_view what) {
    if (list_ == List::kVocab) {
      return Fail(absl::StrCat("model.vocab: the id of \"", out_.vocab.back().first, "\" is ", what));
    }
    return Fail(absl::StrCat("model.merges: found ", what, " after ", out_.merges.size(), " merges"));
  }

  bool InModel() const { return open_.size() == 2 && model_is_open_; }

  nlohmann::json* Place(nlohmann::json value) {
    if (open_.empty()) {
      out_.rest = std::move(value);
      return &out_.rest;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    nlohmann::json& field = (*open_.back())[key_];
    field = std::move(value);
    return &field;
  }

  template <typename T>
  bool Value(T&& value, absl::string_view what) {
    if (list_ != List::kNone) return Unexpected(what);
    Place(nlohmann::json(std::forward<T>(value)));
    return true;
  }

  bool Open(nlohmann::json value) {
    if (open_.size() == kMaxDepth) return Fail(absl::StrCat("nested deeper than ", kMaxDepth));
    if (open_.size() == 1) model_is_open_ = open_.back()->is_object() && key_ == "model";
    open_.push_back(Place(std::move(value)));
    return true;
  }

  bool Close() {
    if (list_ != List::kNone) {
      list_ = List::kNone;
    } else {
      open_.pop_back();
    }
    return true;
  }

  TokenizerJson& out_;
  std::vector<nlohmann::json*> open_;  // objects and arrays that are not closed; only the last one grows
  std::string key_;
  bool model_is_open_ = false;  // the value opened at depth 1 is the field "model"
  List list_ = List::kNone;
  int merge_parts_ = -1;  // strings seen of a pair; -1: not in a pair
  std::string problem_;
};

}  // namespace

absl::StatusOr<TokenizerJson> ReadTokenizerJson(absl::string_view text) {
  TokenizerJson out;
  Reader reader(&out);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &reader)) return CorruptError(reader.problem());
  if (!out.rest.is_object()) return CorruptError("expected an object at the top");
  return out;
}

}  // namespace kompakt
