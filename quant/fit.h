// Fit: the best recipe whose file, KV cache and working memory stay within a budget.
//
// Recipes form a ladder from best to smallest (docs/quantization.md, "Fitting a budget"). The best step that fits is
// taken; what is left of the budget goes to single layers, which get the next better step: first and last layers before
// those in the middle. More budget never gives a smaller file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/tensor_source.h"
#include "quant/importance.h"
#include "quant/recipe.h"
#include "runtime/footprint.h"

namespace kompakt {

struct FitRequest {
  uint64_t budget_bytes = 0;
  int64_t context = 4096;  // tokens of the KV cache
  int threads = 1;         // of the program that will run the file
  CacheFormat cache_format = CacheFormat::kF32;
  const Importance* importance = nullptr;  // of the conversion: its checksum is in the file
  std::vector<std::string> overrides;      // --tensor PATTERN=FORMAT: hold on every step
  // What the recipe says besides: its text is in the file too.
  absl::optional<SearchEffort> scale_search = absl::nullopt;
  std::string error_feedback = "";  // as QuantRecipe::SetErrorFeedback; empty: not named
};

struct FitResult {
  QuantRecipe recipe;
  std::string chosen;  // for people: "q4, with 5 of 26 layers at q8"
  uint64_t file_bytes = 0;
  Footprint footprint;
};

// kResourceExhausted when not even the smallest step fits: it says what that needs.
absl::StatusOr<FitResult> FitRecipe(const TensorSource& source, const FitRequest& request);

}  // namespace kompakt
