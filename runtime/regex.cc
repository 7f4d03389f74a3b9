#include "runtime/regex.h"

#include <oniguruma.h>

#include "format/status.h"

namespace kompakt {
namespace {

// A search may take this many steps back, plus kStepsPerByte for each byte of the text. Patterns that are linear in the
// text stay far below; 5e7 steps take half a second.
constexpr unsigned long kFreeSteps = 50'000'000;
constexpr unsigned long kStepsPerByte = 64;

// And remember this many places to go back to, some 30 bytes each. A greedy repetition remembers one per character.
constexpr unsigned int kFreePlaces = 1'000'000;
constexpr unsigned int kMostPlaces = 1'000'000'000;

// Patterns of known tokenizers that take quadratic time on long runs, and what finds the same matches in linear time.
// \s+$ (DeepSeek-V2) tries every start inside a run of white space that something else follows; but where any start in
// a run succeeds its first one does, and no second match lies in the same run, since the first reaches the last $ in
// it.
struct Equivalent {
  absl::string_view given, linear;
};
constexpr Equivalent kEquivalents[] = {{R"(\s+$)", R"((?<!\s)\s+$)"}};

absl::string_view LinearEquivalent(absl::string_view pattern) {
  for (const Equivalent& row : kEquivalents) {
    if (row.given == pattern) return row.linear;
  }
  return pattern;
}

void InitializeOnce() {
  static const int result = [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    return onig_initialize(encodings, 1);
  }();
  static_cast<void>(result);
}

std::string Reason(int code, OnigErrorInfo* info) {
  OnigUChar message[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int length =
      info == nullptr ? onig_error_code_to_str(message, code) : onig_error_code_to_str(message, code, info);
  return std::string(reinterpret_cast<const char*>(message), length < 0 ? 0 : static_cast<size_t>(length));
}

size_t CodePointBytes(unsigned char lead) { return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

}  // namespace

struct Regex::Scratch::State {
  OnigRegion* region = nullptr;
  OnigMatchParam* param = nullptr;
};

Regex::Scratch::Scratch() : state_(std::make_unique<State>()) {
  InitializeOnce();
  state_->region = onig_region_new();
  state_->param = onig_new_match_param();
  if (state_->param != nullptr) onig_initialize_match_param(state_->param);
}

Regex::Scratch::~Scratch() {
  if (state_->region != nullptr) onig_region_free(state_->region, 1);
  if (state_->param != nullptr) onig_free_match_param(state_->param);
}

void Regex::Free::operator()(re_pattern_buffer* regex) const { onig_free(regex); }

absl::StatusOr<Regex> Regex::Create(absl::string_view pattern) {
  InitializeOnce();
  Regex regex(pattern);
  const absl::string_view compiled = LinearEquivalent(pattern);
  const auto* begin = reinterpret_cast<const OnigUChar*>(compiled.data());
  OnigErrorInfo info;
  regex_t* raw = nullptr;
  const int code = onig_new(&raw, begin, begin + compiled.size(), ONIG_OPTION_NONE, ONIG_ENCODING_UTF8,
                            ONIG_SYNTAX_ONIGURUMA, &info);
  if (code != ONIG_NORMAL) {
    return CorruptError("pattern \"", regex.pattern_, "\" does not compile: ", Reason(code, &info));
  }
  regex.regex_.reset(raw);
  return regex;
}

absl::Status Regex::ForEachMatch(absl::string_view text, Scratch& scratch,
                                 absl::FunctionRef<absl::Status(size_t begin, size_t end)> on_match) const {
  OnigRegion* region = scratch.state_->region;
  OnigMatchParam* param = scratch.state_->param;
  if (region == nullptr || param == nullptr) return absl::ResourceExhaustedError("no memory for a pattern search");
  const unsigned long limit = kFreeSteps + kStepsPerByte * static_cast<unsigned long>(text.size());
  const unsigned int places =
      text.size() < kMostPlaces / 4 ? kFreePlaces + 4 * static_cast<unsigned int>(text.size()) : kMostPlaces;

  const auto* begin = reinterpret_cast<const OnigUChar*>(text.data());
  const OnigUChar* end = begin + text.size();
  size_t from = 0;
  size_t last_end = text.size() + 1;  // of the match before; none yet
  // Where the last match ends at the end of the text, only an empty one could follow, which would not count.
  while (from <= text.size() && last_end != text.size()) {
    // Set anew for every search: on_match may have used the same scratch for another text.
    onig_set_retry_limit_in_match_of_match_param(param, limit);
    onig_set_retry_limit_in_search_of_match_param(param, limit);
    onig_set_match_stack_limit_size_of_match_param(param, places);
    const int at = onig_search_with_param(regex_.get(), begin, end, begin + from, end, region, ONIG_OPTION_NONE, param);
    if (at == ONIG_MISMATCH) return absl::OkStatus();
    if (at == ONIGERR_MEMORY) return absl::ResourceExhaustedError("no memory for a pattern search");
    if (at < 0) {
      return UnsupportedError("pattern \"", pattern_, "\" cannot be searched in a text of ", text.size(),
                              " bytes: ", Reason(at, nullptr));
    }
    const size_t match_begin = static_cast<size_t>(region->beg[0]);
    const size_t match_end = static_cast<size_t>(region->end[0]);
    if (match_begin < from || match_end < match_begin) {  // \\K inside a look-around can do that
      return UnsupportedError("pattern \"", pattern_, "\" matches text outside of where it was searched");
    }
    if (match_begin == match_end && match_end == last_end) {
      from += from < text.size() ? CodePointBytes(static_cast<unsigned char>(text[from])) : 1;
      continue;
    }
    KOMPAKT_RETURN_IF_ERROR(on_match(match_begin, match_end));
    from = match_end;
    last_end = match_end;
  }
  return absl::OkStatus();
}

}  // namespace kompakt
