#include "quant/recipe.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "format/near_names.h"
#include "format/status.h"
#include "quant/encoder.h"

namespace kompakt {
namespace {

// Matrices that no rule may put below 8 bits, and why.
constexpr double kLeastBits = 8;
struct Guarded {
  TensorRole role;
  absl::string_view reason;
};
constexpr Guarded kGuarded[] = {
    {TensorRole::kKvBProj, "the absorbed attention matrices are made from it"},
    {TensorRole::kIndexQB, "it decides which tokens attention sees"},
    {TensorRole::kIndexK, "it decides which tokens attention sees"},
    {TensorRole::kIndexWeights, "it decides which tokens attention sees"},
};

// Glob: * any run, ? any one byte. Linear in practice: only the last * is ever returned to.
bool Matches(absl::string_view pattern, absl::string_view name) {
  size_t p = 0;
  size_t n = 0;
  size_t star = absl::string_view::npos;
  size_t resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n]) && pattern[p] != '*') {
      ++p;
      ++n;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (star != absl::string_view::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

// The upstream name without ".weight", and without the number of an expert, since experts share their format.
std::string PatternName(const TensorInfo& tensor) {
  std::string name(absl::StripSuffix(tensor.Name(), ".weight"));
  if (tensor.expert < 0) return name;
  const std::string number = absl::StrCat(".experts.", tensor.expert, ".");
  if (const size_t at = name.find(number); at != std::string::npos) name.replace(at, number.size(), ".experts.");
  return name;
}

bool MatchesTensor(absl::string_view pattern, const ArchSpec& arch, const TensorInfo& tensor) {
  return Matches(pattern, RoleLabel(arch, tensor.role, tensor.layer)) || Matches(pattern, PatternName(tensor));
}

bool IsProtected(const TensorInfo& tensor) { return tensor.is_vector() || tensor.role == TensorRole::kRouter; }

absl::string_view FormatText(const RecipeRule& rule) {
  return rule.keep_source ? absl::string_view("source") : FormatOf(rule.format).name;
}

std::string RuleName(const RecipeRule& rule) { return absl::StrCat("\"", rule.pattern, " = ", FormatText(rule), "\""); }

std::string ReasonOf(const RecipeRule& rule) { return rule.reason.empty() ? "rule " + RuleName(rule) : rule.reason; }

// All tensors of one role in one layer: what shares a choice.
struct Unit {
  const TensorInfo* first = nullptr;
  StoredForm form;     // of the first
  bool alike = true;   // all have the same exact format
  bool native = true;  // all are native low-bit
  std::vector<size_t> tensors;
  std::vector<StoredForm> forms;
};

absl::StatusOr<std::vector<Unit>> UnitsOf(const TensorSource& source) {
  const absl::Span<const TensorInfo> tensors = source.schema().tensors();
  std::vector<Unit> units;
  std::map<std::pair<int32_t, TensorRole>, size_t> index;
  for (size_t i = 0; i < tensors.size(); ++i) {
    KOMPAKT_ASSIGN_OR_RETURN(StoredForm form, source.Form(tensors[i]));
    const auto [at, is_new] = index.try_emplace({tensors[i].layer, tensors[i].role}, units.size());
    if (is_new) {
      units.emplace_back();
      units.back().first = &tensors[i];
      units.back().form = form;
    }
    Unit& unit = units[at->second];
    unit.alike = unit.alike && form.exact_format == unit.form.exact_format && form.decoded == unit.form.decoded;
    unit.native = unit.native && form.native_low_bit;
    unit.tensors.push_back(i);
    unit.forms.push_back(std::move(form));
  }
  return units;
}

struct Decision {
  FormatId format = FormatId::kF32;
  bool exact = false;
  std::string reason;
};

Decision KeepSource(const Unit& unit, std::string reason) {
  if (!unit.alike) {
    return {FormatId::kF32, false, absl::StrCat("the experts' source forms differ: as F32 values; ", reason)};
  }
  if (unit.form.decoded) return {FormatId::kF32, false, absl::StrCat("as its F32 values; ", reason)};
  return {unit.form.exact_format, true, std::move(reason)};
}

Decision DecideProtected(const Unit& unit, const RecipeRule* rule) {
  const std::string reason = rule == nullptr ? "always as upstream stores it" : ReasonOf(*rule);
  if (unit.first->role == TensorRole::kRouterBias) {
    const bool exact = unit.form.exact_format == FormatId::kF32 && !unit.form.decoded;
    return {FormatId::kF32, exact, exact ? reason : "the correction bias is always f32"};
  }
  if (rule != nullptr && !rule->keep_source && rule->format == FormatId::kF32 &&
      unit.form.exact_format != FormatId::kF32) {
    return {FormatId::kF32, false, reason};
  }
  return KeepSource(unit, reason);
}

absl::StatusOr<Decision> DecideMatrix(const ArchSpec& arch, const Unit& unit, const RecipeRule& rule,
                                      bool is_override) {
  if (rule.keep_source) return KeepSource(unit, ReasonOf(rule));
  if (unit.native && !is_override) {
    return KeepSource(unit, absl::StrCat("already low-bit upstream, never quantized twice; the recipe's ",
                                         FormatText(rule), " is for other sources"));
  }
  if (unit.alike && !unit.form.decoded && rule.format == unit.form.exact_format) {
    return Decision{rule.format, true, ReasonOf(rule)};
  }
  const BlockFormat& format = FormatOf(rule.format);
  for (const Guarded& guarded : kGuarded) {
    if (unit.first->role != guarded.role || format.bits_per_weight >= kLeastBits) continue;
    return UsageError("rule ", RuleName(rule), " puts ", unit.first->Name(), " below 8 bits; ", guarded.reason,
                      ", so it has 8 bits or more: add ", RoleLabel(arch, guarded.role, unit.first->layer),
                      "=q8_g32 after that rule");
  }
  if (FindEncoder(rule.format) == nullptr) {
    return UsageError("rule ", RuleName(rule), ": ", format.name, " only holds upstream codes, and ",
                      unit.first->Name(), " is stored as ", unit.form.dtype);
  }
  return Decision{rule.format, false, ReasonOf(rule)};
}

bool BelowLeastBits(TensorRole role, FormatId format) {
  return FormatOf(format).bits_per_weight < kLeastBits &&
         std::any_of(std::begin(kGuarded), std::end(kGuarded), [&](const Guarded& g) { return g.role == role; });
}

// A protected tensor may be asked to become its source form or f32, nothing else.
bool Allowed(const RecipeRule& rule, const Unit& unit) {
  if (rule.keep_source || rule.format == FormatId::kF32) return true;
  return unit.first->role != TensorRole::kRouterBias && unit.alike && !unit.form.decoded &&
         rule.format == unit.form.exact_format;
}

absl::Status NoMatch(const RecipeRule& rule, const ArchSpec& arch, const std::vector<Unit>& units) {
  std::set<std::string> labels;
  for (const Unit& unit : units) labels.insert(RoleLabel(arch, unit.first->role, unit.first->layer));
  const std::vector<absl::string_view> names(labels.begin(), labels.end());
  return UsageError("pattern \"", rule.pattern, "\" matches no tensor of this model", DidYouMean(rule.pattern, names));
}

bool MatchesSomeRole(absl::string_view pattern) {
  return std::any_of(AllRoles().begin(), AllRoles().end(), [&](const RoleInfo& role) {
    return Matches(pattern, role.name) || Matches(pattern, absl::StrCat(kMtpPrefix, role.name));
  });
}

}  // namespace

absl::StatusOr<std::vector<QuantRecipe::Choice>> QuantRecipe::Resolve(const TensorSource& source) const {
  KOMPAKT_ASSIGN_OR_RETURN(std::vector<Unit> units, UnitsOf(source));

  // Which rule wins, and whether each rule can mean anything.
  constexpr size_t kNone = static_cast<size_t>(-1);
  std::vector<size_t> winner(units.size(), kNone);
  for (size_t r = 0; r < rules_.size(); ++r) {
    const RecipeRule& rule = rules_[r];
    std::vector<size_t> matched;
    bool means_matrices = false;
    for (size_t u = 0; u < units.size(); ++u) {
      if (!MatchesTensor(rule.pattern, source.schema().arch(), *units[u].first)) continue;
      matched.push_back(u);
      means_matrices = means_matrices || !IsProtected(*units[u].first);
    }
    const bool is_override = r >= override_begin_;
    if (matched.empty() && (is_override || !MatchesSomeRole(rule.pattern)))
      return NoMatch(rule, source.schema().arch(), units);
    for (const size_t u : matched) {
      const Unit& unit = units[u];
      if (!IsProtected(*unit.first) || Allowed(rule, unit)) {
        winner[u] = r;
      } else if (!means_matrices) {
        return UsageError("rule ", RuleName(rule), ": ", unit.first->Name(),
                          unit.first->is_vector() ? " is a vector" : " is the router", " and keeps its source form (",
                          unit.form.dtype, ") or becomes f32; it is small, and ", "everything behind it depends on it");
      }
    }
  }

  std::vector<Choice> choices(source.schema().tensors().size());
  for (size_t u = 0; u < units.size(); ++u) {
    Unit& unit = units[u];
    const RecipeRule* rule = winner[u] == kNone ? nullptr : &rules_[winner[u]];
    Decision decision;
    if (IsProtected(*unit.first)) {
      decision = DecideProtected(unit, rule);
    } else if (rule == nullptr) {
      decision = KeepSource(unit, "no rule of the recipe matches");
    } else {
      KOMPAKT_ASSIGN_OR_RETURN(decision,
                               DecideMatrix(source.schema().arch(), unit, *rule, winner[u] >= override_begin_));
    }
    for (size_t i = 0; i < unit.tensors.size(); ++i) {
      choices[unit.tensors[i]] = {decision.format, decision.exact, decision.reason, std::move(unit.forms[i])};
    }
  }
  return choices;
}

bool QuantRecipe::IsOverridden(const ArchSpec& arch, const TensorInfo& tensor) const {
  return std::any_of(rules_.begin() + static_cast<ptrdiff_t>(override_begin_), rules_.end(),
                     [&](const RecipeRule& rule) { return MatchesTensor(rule.pattern, arch, tensor); });
}

absl::StatusOr<std::vector<FormatChoices>> FormatChoicesOf(const TensorSource& source) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<Unit> units, UnitsOf(source));
  std::vector<FormatChoices> all;
  for (const Unit& unit : units) {
    FormatChoices choices;
    choices.first = *unit.first;
    choices.tensors = std::ssize(unit.tensors);
    const Decision kept = IsProtected(*unit.first) ? DecideProtected(unit, nullptr) : KeepSource(unit, "");
    choices.kept = kept.format;
    choices.kept_exactly = kept.exact;
    for (const BlockFormat& format : AllFormats()) {
      if (format.exact || IsProtected(*unit.first) || unit.native || FindEncoder(format.id) == nullptr ||
          BelowLeastBits(unit.first->role, format.id)) {
        continue;
      }
      choices.lossy.push_back(format.id);
    }
    all.push_back(std::move(choices));
  }
  return all;
}

}  // namespace kompakt
