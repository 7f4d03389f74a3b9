// QuantRecipe: which role in which layer gets which format, and why. A recipe is an ordered list of rules; the last
// rule that matches a tensor wins. Its text form (docs/quantization.md, "Recipe files") is what --recipe FILE reads and
// what the manifest keeps.
#pragma once

#include <string>
#include "absl/strings/string_view.h"
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/block_format.h"
#include "format/tensor_source.h"

namespace kompakt {

// `pattern` is a glob (* and ?) matched against the role name ("mlp.experts.down_proj") and against the upstream name
// without expert number and ".weight" ("model.layers.3.mlp.experts.down_proj"). `source` as format keeps the exact
// upstream form.
struct RecipeRule {
  std::string pattern;
  bool keep_source = false;
  FormatId format = FormatId::kF32;  // unless keep_source
  std::string reason;
};

class QuantRecipe {
 public:
  // "lossless", "q8" or "q4". kInvalidArgument with "did you mean" otherwise.
  static absl::StatusOr<QuantRecipe> Builtin(absl::string_view name);
  // The text form: one "pattern = format  # reason" per line. kInvalidArgument naming `origin` and the line.
  static absl::StatusOr<QuantRecipe> Parse(absl::string_view text, absl::string_view origin);
  // Appends the rule of a --tensor PATTERN=FORMAT flag.
  absl::Status AddOverride(absl::string_view flag);

  std::string ToText() const;

  struct Choice {
    FormatId format;
    bool exact;          // the source's codes and scales bit for bit
    std::string reason;  // for plan: why this format
    StoredForm form;     // of the source
  };
  // One choice per tensor of source.schema(). Rules of the house that no recipe can break: vectors, router and
  // correction bias keep their source form (the bias at F32); native low-bit tensors are kept unless an override names
  // them; kv_b_proj has 8 bits or more. kInvalidArgument for a rule that matches no tensor of the model.
  absl::StatusOr<std::vector<Choice>> Resolve(const TensorSource& source) const;

 private:
  std::vector<RecipeRule> rules_;
  size_t override_begin_ = 0;
};

}  // namespace kompakt
