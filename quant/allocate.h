// Allocate: the recipe with the least estimated damage whose tensors take at most a given number of bytes.
//
//     damage = sum over roles and layers of weight x error
// weight: quant/error_weight.h; error: relative squared error of the format (FormatNoise), 0 for what is kept as
// upstream has it. Every lossy format of the table takes part. The experts of a layer are chosen together, since their
// records are padded together; gate and up get one format.
//
// Method: per choice the lower convex hull of (bytes, damage); its segments, over all choices by damage saved per byte,
// are taken until the next does not fit (the optimum for that many bytes, by Lagrange's multiplier). What is left is
// filled greedily with what saves most per byte and fits; or the segment is taken after all, and what was taken last is
// given back. Both are tried for 0, 1/2048, 2/2048, ... of the bytes of the segment that did not fit, as far as the
// budget goes, and the best is taken: so a larger budget never gives more damage. The result is never above the budget,
// to the byte.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/tensor_source.h"
#include "quant/error_weight.h"
#include "quant/importance.h"
#include "quant/recipe.h"

namespace kompakt {

// What calibration leaves of the damage, roughly: docs/quantization.md, "With error feedback".
inline constexpr double kWeightedShare = 0.7;
inline constexpr double kFeedbackShare = 0.4;

struct AllocationRequest {
  uint64_t budget_bytes = 0;             // of tensor data: PackedLayout::tensor_bytes
  std::vector<MeasuredWeight> measured;  // empty: the built-in table alone
  std::vector<std::string> overrides;    // --tensor PATTERN=FORMAT: are obeyed, and count against the budget
  // Of the conversion (null: data-free): matrices whose inputs it knows lose less than others, kWeightedShare or with
  // second moments kFeedbackShare of the error. Null too when `measured` was measured with it: it is in those weights.
  const Importance* importance = nullptr;
};

struct Allocation {
  QuantRecipe recipe;  // names the format of every role, with a reason per line
  uint64_t tensor_bytes = 0;
  double damage = 0;
};

// kResourceExhausted when the smallest choice is above the budget: it says what that takes.
absl::StatusOr<Allocation> Allocate(const TensorSource& source, const AllocationRequest& request);

// Relative squared error of a lossy format on Gaussian weights, as its encoder makes it with the default search:
// measured on 16 x 2048 of them and rounded to 0.01 dB, so that no machine's logarithm can change a choice. Trained
// matrices differ from it by about 0.1 dB (docs/quantization.md, "Measured error").
double FormatNoise(FormatId format);

}  // namespace kompakt
