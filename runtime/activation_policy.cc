#include "runtime/activation_policy.h"

#include <array>

#include "absl/strings/str_join.h"
#include "format/near_names.h"
#include "format/status.h"

namespace kompakt {
namespace {

// In the order of Kind.
constexpr std::array<absl::string_view, 4> kNames = {"f32", "int8", "int16", "auto"};

bool IsIndexer(TensorRole role) {
  return role == TensorRole::kIndexQB || role == TensorRole::kIndexK || role == TensorRole::kIndexWeights;
}

// Experts are most of a prompt's work, and the least sensitive, all but the down matrix of the shared ones; what kInt16
// costs everywhere else is hidden behind the memory when decoding (docs/benchmarks.md, "Activations").
ActPrecision AutoOf(TensorRole role) {
  switch (role) {
    case TensorRole::kExpertGate:
    case TensorRole::kExpertUp:
    case TensorRole::kExpertDown:
    case TensorRole::kSharedGate:
    case TensorRole::kSharedUp:
      return ActPrecision::kInt8;
    default:
      return ActPrecision::kInt16;
  }
}

}  // namespace

absl::StatusOr<ActivationPolicy> ActivationPolicy::FromName(absl::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return ActivationPolicy(static_cast<Kind>(i));
  }
  return UsageError("precision of activations: expected ", absl::StrJoin(kNames, ", "), ", found \"", name, "\"",
                    DidYouMean(name, kNames));
}

absl::string_view ActivationPolicy::name() const { return kNames[static_cast<size_t>(kind_)]; }

ActPrecision ActivationPolicy::Of(TensorRole role) const {
  if (kind_ == Kind::kF32 || role == TensorRole::kRouter) return ActPrecision::kF32;
  if (kind_ == Kind::kInt16 || IsIndexer(role)) return ActPrecision::kInt16;
  return kind_ == Kind::kInt8 ? ActPrecision::kInt8 : AutoOf(role);
}

}  // namespace kompakt
