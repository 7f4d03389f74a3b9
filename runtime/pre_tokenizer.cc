#include "runtime/pre_tokenizer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "format/status.h"
#include "runtime/json_field.h"

namespace kompakt {
namespace {

// GPT-2's split, which ByteLevel applies when use_regex is true.
constexpr absl::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Splitting recurses once per step; known tokenizers have up to seven.
constexpr size_t kMostSteps = 100;

struct Range {
  size_t begin, end;
  bool is_match;
};

// Every character that means something in Oniguruma's syntax gets a backslash.
std::string Quoted(absl::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (absl::string_view(R"(\.+*?()|[]{}^$#&-~)").find(c) != absl::string_view::npos) pattern.push_back('\\');
    pattern.push_back(c);
  }
  return pattern;
}

// Joins neighbours as MergedWithPrevious does: a match joins what is before it, unless that is a match too.
std::vector<Range> MergedWithPrevious(const std::vector<Range>& ranges) {
  std::vector<Range> merged;
  bool previous_match = false;
  for (const Range& range : ranges) {
    if (range.is_match && !previous_match && !merged.empty()) {
      merged.back().end = range.end;
    } else {
      merged.push_back(range);
    }
    previous_match = range.is_match;
  }
  return merged;
}

// The mirror image: seen from the end, a match joins what is after it, unless that is a match too.
std::vector<Range> MergedWithNext(const std::vector<Range>& ranges) {
  std::vector<Range> merged;
  bool previous_match = false;
  for (size_t i = ranges.size(); i-- > 0;) {
    if (ranges[i].is_match && !previous_match && !merged.empty()) {
      merged.back().begin = ranges[i].begin;
    } else {
      merged.push_back(ranges[i]);
    }
    previous_match = ranges[i].is_match;
  }
  return std::vector<Range>(merged.rbegin(), merged.rend());
}

std::vector<Range> Contiguous(const std::vector<Range>& ranges) {
  std::vector<Range> merged;
  bool previous_match = false;
  for (const Range& range : ranges) {
    if (range.is_match == previous_match && !merged.empty()) {
      merged.back().end = range.end;
    } else {
      merged.push_back(range);
    }
    previous_match = range.is_match;
  }
  return merged;
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const nlohmann::json& node) {
  PreTokenizer out;
  if (node.is_null()) return UnsupportedError("pre_tokenizer: none; only byte-level tokenizers are supported");
  KOMPAKT_RETURN_IF_ERROR(AppendSteps(node, "pre_tokenizer", &out));
  if (!out.ends_in_byte_level_) {
    return UnsupportedError("pre_tokenizer: no ByteLevel step; only byte-level tokenizers are supported");
  }
  return out;
}

absl::StatusOr<PreTokenizer> PreTokenizer::FromPattern(absl::string_view pattern) {
  PreTokenizer out;
  KOMPAKT_RETURN_IF_ERROR(AppendPattern(pattern, Behavior::kIsolated, false, "pattern", &out));
  return out;
}

absl::Status PreTokenizer::AppendSteps(const nlohmann::json& node, const std::string& path, PreTokenizer* out) {
  KOMPAKT_ASSIGN_OR_RETURN(const absl::string_view type, StringField(node, "type", path));
  if (type == "Sequence") {
    KOMPAKT_ASSIGN_OR_RETURN(const nlohmann::json* steps, ArrayField(node, "pretokenizers", path));
    for (size_t i = 0; i < steps->size(); ++i) {
      KOMPAKT_RETURN_IF_ERROR(AppendSteps((*steps)[i], absl::StrCat(path, ".pretokenizers[", i, "]"), out));
    }
    return absl::OkStatus();
  }
  if (out->ends_in_byte_level_) {
    return UnsupportedError(path, ": ", type, " after ByteLevel is not supported; ByteLevel must be the last step");
  }
  if (type == "Split") return AppendSplit(node, path, out);
  if (type == "Digits") {
    KOMPAKT_ASSIGN_OR_RETURN(const bool individual, BoolField(node, "individual_digits", path));
    return AppendPattern(R"(\p{N})", individual ? Behavior::kIsolated : Behavior::kContiguous, false, path, out);
  }
  if (type == "ByteLevel") {
    KOMPAKT_ASSIGN_OR_RETURN(const bool prefix_space, BoolField(node, "add_prefix_space", path));
    KOMPAKT_ASSIGN_OR_RETURN(const bool use_regex, BoolField(node, "use_regex", path, true));
    if (prefix_space) out->prefix_space_before_ = out->steps_.size();
    if (use_regex) KOMPAKT_RETURN_IF_ERROR(AppendPattern(kGpt2Pattern, Behavior::kIsolated, false, path, out));
    out->ends_in_byte_level_ = true;
    return absl::OkStatus();
  }
  return UnsupportedError(path, ": the step ", type, " is not supported; Sequence, Split, Digits and ByteLevel are");
}

absl::Status PreTokenizer::AppendSplit(const nlohmann::json& node, const std::string& path, PreTokenizer* out) {
  static constexpr std::pair<absl::string_view, Behavior> kBehaviors[] = {
      {"Removed", Behavior::kRemoved},
      {"Isolated", Behavior::kIsolated},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  KOMPAKT_ASSIGN_OR_RETURN(const absl::string_view name, StringField(node, "behavior", path));
  KOMPAKT_ASSIGN_OR_RETURN(const bool invert, BoolField(node, "invert", path, false));
  const auto pattern = node.find("pattern");
  const bool one_kind = pattern != node.end() && pattern->is_object() && pattern->size() == 1 &&
                        pattern->begin().value().is_string() &&
                        (pattern->begin().key() == "Regex" || pattern->begin().key() == "String");
  if (!one_kind) return CorruptError(path, ".pattern: expected {\"Regex\": text} or {\"String\": text}");
  const std::string text = pattern->begin().value().get<std::string>();
  for (const auto& [known, behavior] : kBehaviors) {
    if (known != name) continue;
    return AppendPattern(pattern->begin().key() == "Regex" ? text : Quoted(text), behavior, invert, path, out);
  }
  return UnsupportedError(path, ": the Split behavior ", name, " is not supported");
}

absl::Status PreTokenizer::AppendPattern(absl::string_view pattern, Behavior behavior, bool invert,
                                         const std::string& path, PreTokenizer* out) {
  if (out->steps_.size() == kMostSteps) return UnsupportedError(path, ": more than ", kMostSteps, " steps");
  auto regex = Regex::Create(pattern);
  if (!regex.ok()) return WithContext(regex.status(), path);
  out->steps_.push_back({*std::move(regex), behavior, invert});
  return absl::OkStatus();
}

absl::Status PreTokenizer::Split(absl::string_view text, Regex::Scratch& scratch, PieceFunction on_piece) const {
  return RunFrom(0, text, scratch, on_piece);
}

absl::Status PreTokenizer::RunFrom(size_t step, absl::string_view text, Regex::Scratch& scratch,
                                   PieceFunction on_piece) const {
  if (text.empty()) return absl::OkStatus();
  std::string with_space;
  if (step == prefix_space_before_ && text.front() != ' ') {
    with_space = absl::StrCat(" ", text);
    text = with_space;
  }
  if (step == steps_.size()) return on_piece(text);
  const Step& split = steps_[step];
  if (split.behavior != Behavior::kIsolated && split.behavior != Behavior::kRemoved) {
    return RunMerging(step, text, scratch, on_piece);
  }
  // Removed drops the matches, or the gaps where `invert` swaps the two.
  const bool keep_matches = split.behavior == Behavior::kIsolated || split.invert;
  const bool keep_gaps = split.behavior == Behavior::kIsolated || !split.invert;
  size_t done = 0;
  KOMPAKT_RETURN_IF_ERROR(split.regex.ForEachMatch(text, scratch, [&](size_t begin, size_t end) {
    if (keep_gaps) {
      KOMPAKT_RETURN_IF_ERROR(RunFrom(step + 1, text.substr(done, begin - done), scratch, on_piece));
    }
    done = end;
    return keep_matches ? RunFrom(step + 1, text.substr(begin, end - begin), scratch, on_piece) : absl::OkStatus();
  }));
  return keep_gaps ? RunFrom(step + 1, text.substr(done), scratch, on_piece) : absl::OkStatus();
}

absl::Status PreTokenizer::RunMerging(size_t step, absl::string_view text, Regex::Scratch& scratch,
                                      PieceFunction on_piece) const {
  const Step& split = steps_[step];
  std::vector<Range> ranges;
  size_t done = 0;
  KOMPAKT_RETURN_IF_ERROR(split.regex.ForEachMatch(text, scratch, [&](size_t begin, size_t end) {
    if (begin > done) ranges.push_back({done, begin, split.invert});
    ranges.push_back({begin, end, !split.invert});
    done = end;
    return absl::OkStatus();
  }));
  if (done < text.size()) ranges.push_back({done, text.size(), split.invert});
  ranges = split.behavior == Behavior::kMergedWithPrevious ? MergedWithPrevious(ranges)
           : split.behavior == Behavior::kMergedWithNext   ? MergedWithNext(ranges)
                                                           : Contiguous(ranges);
  for (const Range& range : ranges) {
    KOMPAKT_RETURN_IF_ERROR(RunFrom(step + 1, text.substr(range.begin, range.end - range.begin), scratch, on_piece));
  }
  return absl::OkStatus();
}

}  // namespace kompakt
