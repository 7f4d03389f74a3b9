#include "converters/vocabulary.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "converters/json.h"
#include "converters/json_fields.h"
#include "format/status.h"

namespace kompakt {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxId = std::numeric_limits<uint32_t>::max();

// Picks model.vocab.* and added_tokens.[].{id, content} out of a tokenizer.json of many megabytes without building it.
class TokenizerHandler : public nlohmann::json_sax<Json> {
 public:
  TokenizerHandler(absl::string_view file, Vocabulary* out) : file_(file), out_(*out) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t value) override {
    return !WantsId() || Fail("token \"", path_.back(), "\": expected an id, found ", value);
  }
  bool number_float(number_float_t value, const string_t&) override {
    return !WantsId() || Fail("token \"", path_.back(), "\": expected an id, found ", value);
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!WantsId()) return true;
    if (value > kMaxId) return Fail("token \"", path_.back(), "\": expected an id below 2^32, found ", value);
    const int64_t id = static_cast<int64_t>(value);
    out_.max_id = std::max(out_.max_id, id);
    if (path_[0] == "added_tokens") added_id_ = id;
    return true;
  }
  bool string(string_t& value) override {
    if (InAddedToken() && path_.back() == "content") added_content_ = std::move(value);
    return true;
  }
  bool binary(binary_t&) override { return false; }  // not in JSON text

  bool start_object(std::size_t) override { return Open(); }
  bool start_array(std::size_t) override { return Open(); }
  bool end_object() override {
    path_.pop_back();
    if (path_.size() == 2 && path_[0] == "added_tokens") {
      if (added_id_ < 0 || added_content_.empty()) return Fail("added_tokens: expected an id and a content each");
      out_.added.emplace(std::move(added_content_), added_id_);
      added_content_.clear();
      added_id_ = -1;
    }
    return true;
  }
  bool end_array() override {
    path_.pop_back();
    return true;
  }
  bool key(string_t& name) override {
    path_.back() = std::move(name);
    if (path_.size() == 2 && path_[0] == "model" && path_[1] == "vocab") seen_vocab_ = true;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const Json::exception&) override {
    return Fail("expected JSON, stopped at byte ", position);
  }

  absl::Status Finish(bool parsed) const {
    if (!status_.ok()) return status_;
    if (!parsed || !seen_vocab_) return CorruptError(file_, ": expected a tokenizer with model.vocab, found none");
    return absl::OkStatus();
  }

 private:
  template <typename... Args>
  bool Fail(const Args&... args) {
    status_ = CorruptError(file_, ": ", args...);
    return false;
  }
  bool Open() {
    if (path_.size() >= kMaxJsonDepth) return Fail("JSON nested deeper than ", kMaxJsonDepth, " levels");
    path_.emplace_back();
    return true;
  }
  bool InAddedToken() const { return path_.size() == 3 && path_[0] == "added_tokens"; }
  bool WantsId() const {
    return (InAddedToken() && path_[2] == "id") || (path_.size() == 3 && path_[0] == "model" && path_[1] == "vocab");
  }

  absl::string_view file_;
  Vocabulary& out_;
  absl::Status status_;
  // One entry per open container: the key that is being read, empty inside an array.
  std::vector<std::string> path_;
  std::string added_content_;
  int64_t added_id_ = -1;
  bool seen_vocab_ = false;
};

}  // namespace

std::optional<int64_t> Vocabulary::Find(absl::string_view token) const {
  const auto found = added.find(token);
  return found == added.end() ? std::nullopt : std::optional<int64_t>(found->second);
}

absl::StatusOr<Vocabulary> ScanTokenizerJson(absl::string_view text, absl::string_view file) {
  Vocabulary vocabulary;
  TokenizerHandler handler(file, &vocabulary);
  const bool parsed = ParseJsonEvents(text, handler);
  KOMPAKT_RETURN_IF_ERROR(handler.Finish(parsed));
  return vocabulary;
}

absl::StatusOr<Vocabulary> ScanTiktoken(absl::string_view text, absl::string_view file) {
  Vocabulary vocabulary;
  int64_t line_number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    if (line.empty() || line == "\r") continue;
    const size_t space = line.find(' ');
    uint32_t rank = 0;
    if (space == absl::string_view::npos || space == 0 || !absl::SimpleAtoi(line.substr(space + 1), &rank)) {
      return CorruptError(file, ": line ", line_number, ": expected \"base64 rank\"");
    }
    vocabulary.max_id = std::max<int64_t>(vocabulary.max_id, rank);
  }
  if (vocabulary.max_id < 0) return CorruptError(file, ": expected one token per line, found none");
  return vocabulary;
}

absl::Status AddTokensDecoder(absl::string_view tokenizer_config, absl::string_view file, Vocabulary* vocabulary) {
  KOMPAKT_ASSIGN_OR_RETURN(const Json json, ParseJson(tokenizer_config, file));
  if (!json.is_object()) return CorruptError(file, ": expected an object, found ", JsonKind(json));
  const JsonFields fields(json, std::string(file));
  if (!fields.Has("added_tokens_decoder")) return absl::OkStatus();
  KOMPAKT_ASSIGN_OR_RETURN(const JsonFields decoder, fields.Object("added_tokens_decoder"));
  for (const auto& [key, value] : fields.Find("added_tokens_decoder")->items()) {
    uint32_t id = 0;
    if (!absl::SimpleAtoi(key, &id)) {
      return CorruptError(decoder.where(), ": expected token ids as keys, found \"", key, "\"");
    }
    KOMPAKT_ASSIGN_OR_RETURN(const JsonFields token, decoder.Object(key));
    KOMPAKT_ASSIGN_OR_RETURN(std::string content, token.Text("content"));
    vocabulary->added.emplace(std::move(content), id);
    vocabulary->max_id = std::max<int64_t>(vocabulary->max_id, id);
  }
  return absl::OkStatus();
}

}  // namespace kompakt
