// Error weights: how much a relative squared error in a tensor is taken to hurt the model. The allocator minimises the
// sum of weight x error; `kompakt sensitivity` measures weights, and this table stands in where nothing was measured
// (docs/quantization.md, "Fitting an amount of tensor data").
//
// Tensors are weighed by class: roles that do the same thing and are measured together. A class' weight is that of all
// its layers together, so that the two matrices outside of the layers can be compared with them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "format/arch_spec.pb.h"
#include "format/model_schema.h"

namespace kompakt {

struct WeightClass {
  absl::string_view name;  // "experts.gate_up": in sensitivity files and in recipes
  std::vector<TensorRole> roles;
  double weight;             // of one role in all layers at once; no unit, only ratios matter
  absl::string_view reason;  // for recipes
};
absl::Span<const WeightClass> AllWeightClasses();
// Null for vectors and the router, which no recipe may quantize. MTP layers are a class of their own.
const WeightClass* WeightClassOf(const ArchSpec& arch, TensorRole role, int64_t layer);

// Whether a layer is in the first or last eighth of the main model's layers, where errors hurt more: in the first they
// pass through all others, in the last nothing corrects them.
bool IsOuterLayer(const ArchSpec& arch, int64_t layer);
inline constexpr double kOuterFactor = 2;

// What was measured for one class in a band of layers.
struct MeasuredWeight {
  std::string weight_class;
  int64_t first_layer = -1;  // -1 .. -1 outside of the layers
  int64_t last_layer = -1;
  double weight = 0;  // damage per relative squared error, of one role in one layer
};

// The weight of one role in one layer: as measured where a band covers it; else from the table, in the units of what
// was measured. A measured weight below 1/50 of the table's counts as that: no tensor is free.
class ErrorWeights {
 public:
  // `measured` may be empty.
  ErrorWeights(const ArchSpec& arch, std::vector<MeasuredWeight> measured);
  // 0 for what has no class.
  double Of(TensorRole role, int64_t layer) const;

 private:
  double FromTable(const WeightClass& weight_class, int64_t layer) const;

  ArchSpec arch_;
  std::vector<MeasuredWeight> measured_;
  double unit_ = 1;  // median of measured / table
};

}  // namespace kompakt
