#include "runtime/added_tokens.h"

#include <utility>

#include "format/status.h"
#include "runtime/regex.h"
#include "runtime/utf8.h"

namespace kompakt {
namespace {

// Unicode's White_Space.
bool IsWhiteSpace(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// What the library's regex engine calls \w; Oniguruma's own \w is a little narrower.
bool IsWordCharacter(absl::string_view character) {
  static const Regex* const word = [] {
    auto regex = Regex::Create(R"(\A[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}])");
    return regex.ok() ? new Regex(*std::move(regex)) : nullptr;
  }();
  if (word == nullptr) return false;
  bool found = false;
  Regex::Scratch scratch;
  const absl::Status status = word->ForEachMatch(character, scratch, [&found](size_t, size_t) {
    found = true;
    return absl::OkStatus();
  });
  return status.ok() && found;
}

// The last character of a well-formed, non-empty text.
absl::string_view LastCharacter(absl::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return text.substr(at);
}

absl::string_view FirstCharacter(absl::string_view text) {
  absl::string_view rest = text;
  TakeCodePoint(&rest);
  return text.substr(0, text.size() - rest.size());
}

bool StandsAlone(absl::string_view before, absl::string_view after) {
  return (before.empty() || !IsWordCharacter(LastCharacter(before))) &&
         (after.empty() || !IsWordCharacter(FirstCharacter(after)));
}

size_t TrailingWhiteSpace(absl::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    absl::string_view last = LastCharacter(text.substr(0, text.size() - bytes));
    const size_t last_bytes = last.size();
    if (!IsWhiteSpace(TakeCodePoint(&last))) break;
    bytes += last_bytes;
  }
  return bytes;
}

size_t LeadingWhiteSpace(absl::string_view text) {
  absl::string_view rest = text;
  while (!rest.empty()) {
    absl::string_view next = rest;
    if (!IsWhiteSpace(TakeCodePoint(&next))) break;
    rest = next;
  }
  return text.size() - rest.size();
}

}  // namespace

void AddedTokens::Trie::Add(absl::string_view content, int32_t index) {
  uint32_t node = 0;
  for (const char c : content) {
    const uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c);
    const auto [child, is_new] = children.try_emplace(key, static_cast<uint32_t>(token.size()));
    node = child->second;
    if (is_new) token.push_back(-1);
  }
  token[node] = index;
  begins[static_cast<uint8_t>(content.front())] = true;
}

int32_t AddedTokens::Trie::LongestAt(absl::string_view text) const {
  int32_t longest = -1;
  uint32_t node = 0;
  for (const char c : text) {
    const auto child = children.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c));
    if (child == children.end()) break;
    node = child->second;
    if (token[node] >= 0) longest = token[node];
  }
  return longest;
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (tokens_[i].content.empty()) continue;
    (tokens_[i].normalized ? normalized_ : raw_).Add(tokens_[i].content, static_cast<int32_t>(i));
  }
}

absl::Status AddedTokens::Split(absl::string_view text, PartFunction on_part) const {
  return SplitBy(raw_, text, [&](int32_t id, absl::string_view part) {
    return id >= 0 ? on_part(id, part) : SplitBy(normalized_, part, on_part);
  });
}

// Follows the library step by step, also where a token's white space reaches into the token before or after it.
absl::Status AddedTokens::SplitBy(const Trie& trie, absl::string_view text, PartFunction on_part) const {
  size_t done = 0;
  size_t white_begin = 0, white_end = 0;  // the run of white space last measured for an rstrip
  for (size_t at = 0; !trie.empty() && at < text.size();) {
    const int32_t index = trie.begins[static_cast<uint8_t>(text[at])] ? trie.LongestAt(text.substr(at)) : -1;
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    size_t begin = at;
    size_t end = at + token.content.size();
    at = end;
    if (token.single_word && !StandsAlone(text.substr(0, begin), text.substr(end))) continue;
    if (token.lstrip && done < begin) begin -= TrailingWhiteSpace(text.substr(done, begin - done));
    if (token.lstrip && done > begin) begin = done;
    if (token.rstrip) {
      if (end < white_begin || end > white_end) {
        white_begin = end;
        white_end = end + LeadingWhiteSpace(text.substr(end));
      }
      end = white_end;
    }
    if (begin >= end) continue;  // all of it is white space that the token before took
    if (done < begin) KOMPAKT_RETURN_IF_ERROR(on_part(-1, text.substr(done, begin - done)));
    KOMPAKT_RETURN_IF_ERROR(on_part(token.id, text.substr(begin, end - begin)));
    done = end;
  }
  return done < text.size() ? on_part(-1, text.substr(done)) : absl::OkStatus();
}

}  // namespace kompakt
