// ActivationPolicy: how precisely each kind of matrix sees what it multiplies (kernels/activation.h).
//
// The router and the scores of an indexer choose between discrete things, so the router always gets F32, and the
// matrices of an indexer at least kInt16 where anything is rounded at all.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "format/model_schema.h"
#include "kernels/activation.h"

namespace kompakt {

class ActivationPolicy {
 public:
  enum class Kind : uint8_t {
    kF32,    // nothing is rounded
    kInt8,   // one precision for every matrix
    kInt16,  // likewise
    kAuto,   // kInt16 where the rounding hurts most and costs no time, kInt8 elsewhere (docs/benchmarks.md)
  };

  constexpr ActivationPolicy() = default;  // kF32
  constexpr explicit ActivationPolicy(Kind kind) : kind_(kind) {}
  // "f32", "int8", "int16", "auto". kInvalidArgument with a "did you mean".
  static absl::StatusOr<ActivationPolicy> FromName(absl::string_view name);

  Kind kind() const { return kind_; }
  absl::string_view name() const;
  // Of what the matrix of that role multiplies.
  ActPrecision Of(TensorRole role) const;

 private:
  Kind kind_ = Kind::kF32;
};

}  // namespace kompakt
