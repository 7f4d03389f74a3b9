// The text form of recipes, and the built-in ones.
#include <algorithm>
#include <array>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "format/near_names.h"
#include "format/status.h"
#include "quant/feedback_plan.h"
#include "quant/recipe.h"

namespace kompakt {
namespace {

constexpr absl::string_view kSource = "source";
constexpr absl::string_view kOverrides = "[overrides]";
constexpr absl::string_view kScaleSearch = "[scale-search ";
constexpr absl::string_view kErrorFeedback = "[error-feedback ";
constexpr absl::string_view kOff = "off";
constexpr size_t kMostPatternBytes = 200;
constexpr size_t kMostRules = 10000;

// The one place where the recipes of this program are written. Why: docs/quantization.md, "Recipes".
constexpr absl::string_view kLossless = "* = source  # every tensor as upstream stores it\n";
constexpr absl::string_view kEight =
    "* = source  # norms, router and biases: small, and everything depends on them\n"
    "embed_tokens = q8_g32  # 8 bits: below the noise of any measurement\n"
    "lm_head = q8_g32  # 8 bits: below the noise of any measurement\n"
    "self_attn.*proj* = q8_g32  # 8 bits: below the noise of any measurement\n"
    "self_attn.indexer.w* = q8_g32  # 8 bits: below the noise of any measurement\n"
    "self_attn.indexer.weights_proj = source  # small, and upstream leaves it unquantized too\n"
    "mlp.*_proj = q8_g32  # 8 bits: below the noise of any measurement\n"
    "mtp.* = q8_g32  # 8 bits: below the noise of any measurement\n";
// What every token passes through, and behind the rules for the routed experts what only drafts.
constexpr absl::string_view kEveryToken =
    "* = source  # norms, router and biases: small, and everything depends on them\n"
    "embed_tokens = q8_g32  # one row is read per token: 8 bits cost no time\n"
    "lm_head = q8_g32  # its error reaches the logits directly\n"
    "self_attn.*proj* = q8_g32  # used by every token in every layer, few parameters\n"
    "self_attn.indexer.w* = q8_g32  # decides which tokens attention sees\n"
    "self_attn.indexer.weights_proj = source  # small, and upstream leaves it unquantized too\n"
    "mlp.gate_proj = q8_g32  # dense layers: used by every token, few of them, and first in the model\n"
    "mlp.up_proj = q8_g32  # dense layers: used by every token, few of them, and first in the model\n"
    "mlp.down_proj = q8_g32  # dense layers: used by every token, few of them, and first in the model\n"
    "mlp.shared_experts.*_proj = q8_g32  # used by every token, few parameters\n";
constexpr absl::string_view kDrafts = "mtp.* = q8_g32  # only drafts, but a wrong draft costs a step: 8 bits\n";

struct BuiltinRecipe {
  absl::string_view name;
  absl::string_view every_token;
  absl::string_view experts;
  absl::string_view drafts;
};
constexpr BuiltinRecipe kBuiltins[] = {
    {"lossless", kLossless, "", ""},
    {"q8", kEight, "", ""},
    {"q6", kEveryToken, "mlp.experts.*_proj = q6_g32  # nearly all parameters of the model, each used by few tokens\n",
     kDrafts},
    {"q5", kEveryToken,
     "mlp.experts.*_proj = q5_g32  # nearly all parameters of the model, each used by few tokens\n"
     "mlp.experts.down_proj = q6_g32  # writes into the residual stream, and its inputs have outliers\n",
     kDrafts},
    {"q4", kEveryToken,
     "mlp.experts.*_proj = q4_g32  # nearly all parameters of the model, each used by few tokens\n"
     "mlp.experts.down_proj = q4_g16  # writes into the residual stream, and its inputs have outliers\n",
     kDrafts},
    {"q3", kEveryToken,
     "mlp.experts.*_proj = q3_g16  # nearly all parameters of the model, each used by few tokens\n"
     "mlp.experts.down_proj = q4_g32  # writes into the residual stream, and its inputs have outliers\n",
     kDrafts},
    {"q2", kEveryToken,
     "mlp.experts.*_proj = q2_g16  # nearly all parameters of the model, each used by few tokens\n"
     "mlp.experts.down_proj = q3_g16  # writes into the residual stream, and its inputs have outliers\n",
     kDrafts},
};

bool IsPatternByte(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || absl::StrContains("_.*?-", absl::string_view(&c, 1));
}

// Nothing but printable ASCII reaches a message or the manifest.
std::string Printable(absl::string_view text) {
  std::string out(text.substr(0, kMostPatternBytes));
  for (char& c : out) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return out;
}

// "PATTERN = FORMAT"; the reason is the caller's.
absl::StatusOr<RecipeRule> ParseRule(absl::string_view text) {
  const size_t equals = text.find('=');
  if (equals == absl::string_view::npos) {
    return UsageError("expected PATTERN=FORMAT, found \"", Printable(text), "\"");
  }
  const absl::string_view pattern = absl::StripAsciiWhitespace(text.substr(0, equals));
  const absl::string_view format = absl::StripAsciiWhitespace(text.substr(equals + 1));
  if (pattern.empty()) return UsageError("expected PATTERN=FORMAT, found nothing before the \"=\"");
  if (pattern.size() > kMostPatternBytes) {
    return UsageError("a pattern has at most ", kMostPatternBytes, " characters, found ", pattern.size());
  }
  const auto bad = std::find_if_not(pattern.begin(), pattern.end(), IsPatternByte);
  if (bad != pattern.end()) {
    return UsageError("pattern \"", Printable(pattern), "\" holds \"", Printable(absl::string_view(&*bad, 1)),
                      "\"; expected letters, digits, _ . - and the wildcards * and ?");
  }
  RecipeRule rule;
  rule.pattern = std::string(pattern);
  if (format == kSource) {
    rule.keep_source = true;
    return rule;
  }
  const absl::StatusOr<FormatId> id = FormatFromName(format);
  if (!id.ok()) {
    std::vector<absl::string_view> names = {kSource};
    for (const BlockFormat& known : AllFormats()) names.push_back(known.name);
    return UsageError("unknown number format \"", Printable(format), "\"", DidYouMean(format, names));
  }
  rule.format = *id;
  return rule;
}

std::string RuleText(const RecipeRule& rule) {
  const absl::string_view format = rule.keep_source ? kSource : FormatOf(rule.format).name;
  return absl::StrCat(rule.pattern, " = ", format, rule.reason.empty() ? "" : "  # ", rule.reason, "\n");
}

}  // namespace

absl::Span<const absl::string_view> QuantRecipe::BuiltinNames() {
  static constexpr auto kNames = [] {
    std::array<absl::string_view, std::size(kBuiltins)> names;
    for (size_t i = 0; i < names.size(); ++i) names[i] = kBuiltins[i].name;
    return names;
  }();
  return kNames;
}

absl::StatusOr<QuantRecipe> QuantRecipe::Builtin(absl::string_view name) {
  for (const BuiltinRecipe& builtin : kBuiltins) {
    if (builtin.name != name) continue;
    return Parse(absl::StrCat(builtin.every_token, builtin.experts, builtin.drafts), builtin.name);
  }
  return UsageError("unknown recipe \"", Printable(name), "\"", DidYouMean(name, BuiltinNames()));
}

absl::StatusOr<QuantRecipe> QuantRecipe::Parse(absl::string_view text, absl::string_view origin) {
  QuantRecipe recipe;
  bool overrides = false;
  bool scale_search = false;
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const absl::string_view body = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (body.empty()) continue;
    const std::string where = absl::StrCat(origin, ":", number);
    if (body == kOverrides) {
      if (overrides) return WithContext(UsageError("a second ", kOverrides), where);
      overrides = true;
      continue;
    }
    if (absl::StartsWith(body, kScaleSearch) && absl::EndsWith(body, "]")) {
      if (scale_search) return WithContext(UsageError("a second ", kScaleSearch, "...]"), where);
      scale_search = true;
      const absl::string_view name = body.substr(kScaleSearch.size(), body.size() - kScaleSearch.size() - 1);
      const absl::StatusOr<SearchEffort> effort = EffortFromName(absl::StripAsciiWhitespace(name));
      if (!effort.ok()) return WithContext(effort.status(), where);
      recipe.scale_search_ = *effort;
      continue;
    }
    if (absl::StartsWith(body, kErrorFeedback) && absl::EndsWith(body, "]")) {
      if (recipe.names_error_feedback_) return WithContext(UsageError("a second ", kErrorFeedback, "...]"), where);
      const absl::string_view value = body.substr(kErrorFeedback.size(), body.size() - kErrorFeedback.size() - 1);
      const absl::Status set = recipe.SetErrorFeedback(absl::StripAsciiWhitespace(value));
      if (!set.ok()) return WithContext(set, where);
      continue;
    }
    absl::StatusOr<RecipeRule> rule = ParseRule(body);
    if (!rule.ok()) return WithContext(rule.status(), where);
    if (const size_t hash = line.find('#'); hash != absl::string_view::npos) {
      rule->reason = Printable(absl::StripAsciiWhitespace(line.substr(hash + 1)));
    }
    if (recipe.rules_.size() == kMostRules) {
      return WithContext(UsageError("a recipe has at most ", kMostRules, " rules"), where);
    }
    recipe.rules_.push_back(*std::move(rule));
    if (!overrides) recipe.override_begin_ = recipe.rules_.size();
  }
  if (recipe.override_begin_ == 0) return UsageError(origin, ": expected at least one rule \"pattern = format\"");
  return recipe;
}

absl::Status QuantRecipe::AddOverride(absl::string_view flag) {
  absl::StatusOr<RecipeRule> rule = ParseRule(flag);
  if (!rule.ok()) return WithContext(rule.status(), "--tensor");
  if (rules_.size() == kMostRules) return UsageError("--tensor: a recipe has at most ", kMostRules, " rules");
  rule->reason = "asked for on the command line";
  rules_.push_back(*std::move(rule));
  return absl::OkStatus();
}

absl::Status QuantRecipe::SetErrorFeedback(absl::string_view text) {
  double damping = 0;
  if (text != kOff &&
      (!absl::SimpleAtod(text, &damping) || !(damping >= kLeastDamping) || !(damping <= kMostDamping))) {
    return UsageError("error feedback: expected off, or a damping from ", kLeastDamping, " to ", kMostDamping,
                      ", found \"", Printable(text), "\"");
  }
  names_error_feedback_ = true;
  damping_.reset();
  // As it will be written.
  if (text != kOff && absl::SimpleAtod(absl::StrCat(damping), &damping)) damping_ = damping;
  return absl::OkStatus();
}

std::string QuantRecipe::ToText() const {
  std::string text;
  if (scale_search_ != SearchEffort::kDefault) {
    absl::StrAppend(&text, kScaleSearch, EffortName(scale_search_), "]\n");
  }
  if (names_error_feedback_) {
    absl::StrAppend(&text, kErrorFeedback,
                    damping_.has_value() ? absl::StrCat(*damping_, "]  # damping of the calibration's second moments\n")
                                         : "off]  # as asked for\n");
  }
  for (size_t i = 0; i < rules_.size(); ++i) {
    if (i == override_begin_) absl::StrAppend(&text, kOverrides, "\n");
    text += RuleText(rules_[i]);
  }
  return text;
}

}  // namespace kompakt
