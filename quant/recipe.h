// QuantRecipe: which role in which layer gets which format, and why. A recipe is an ordered list of rules; the last
// rule that matches a tensor wins. Its text form (docs/quantization.md, "Recipe files") is what --recipe FILE reads and
// what the manifest keeps: parsing it and resolving again gives the same choices.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "format/block_format.h"
#include "format/tensor_source.h"
#include "quant/search_effort.h"

namespace kompakt {

// `pattern` is a glob (* and ?) matched against the role name ("mlp.experts.down_proj"; in an MTP layer with "mtp."
// before it) and against the upstream name
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
  // "lossless", "q8", "q6", "q5", "q4" or "q3". kInvalidArgument with "did you mean" otherwise.
  static absl::StatusOr<QuantRecipe> Builtin(absl::string_view name);
  static absl::Span<const absl::string_view> BuiltinNames();
  // The text form: one "pattern = format  # reason" per line; rules after a line "[overrides]" are overrides.
  // kInvalidArgument naming `origin` and the line.
  static absl::StatusOr<QuantRecipe> Parse(absl::string_view text, absl::string_view origin);
  // Appends the rule of a --tensor PATTERN=FORMAT flag, as an override.
  absl::Status AddOverride(absl::string_view flag);

  // How thoroughly the encoders look for scales; the line "[scale-search fast]" of the text form. Not written when it
  // is the default.
  SearchEffort scale_search() const { return scale_search_; }
  void set_scale_search(SearchEffort effort) { scale_search_ = effort; }

  // Error feedback: the damping of the second moments (quant/feedback_plan.h), which the calibration then must have;
  // nullopt: none. The line "[error-feedback 0.01]" or "[error-feedback off]" of the text form.
  absl::optional<double> error_feedback() const { return damping_; }
  // Whether the text says so, one way or the other.
  bool names_error_feedback() const { return names_error_feedback_; }
  // "off", or the damping: kInvalidArgument for what is neither.
  absl::Status SetErrorFeedback(absl::string_view text);

  std::string ToText() const;
  absl::Span<const RecipeRule> rules() const { return rules_; }
  // rules()[override_begin()..] are overrides.
  size_t override_begin() const { return override_begin_; }

  struct Choice {
    FormatId format;
    // True: the source's codes and scales bit for bit (ReadStored + PackTiles). False: made from ReadF32 by the
    // format's Encoder; f32 then still holds the source's values exactly, and bf16 and f16 do where nothing had to be
    // rounded.
    bool exact;
    std::string reason;  // for plan: why this format
    StoredForm form;     // of the source
  };
  // One choice per tensor of source.schema(). Rules of the house that no recipe can break:
  //   * vectors and the router keep their source form or become f32; the correction bias is always f32
  //   * native low-bit tensors are kept unless an override names them
  //   * kv_b_proj and the matrices of an indexer have 8 bits or more, unless that is how the source stores them
  //   * fp8_b128, int4_g32, mxfp4 and nvfp4 only where the source is that
  //   * the experts of a layer share one format per role: where their source forms differ, keeping them means f32
  // kInvalidArgument where a rule asks for what these forbid (a pattern that also matches ordinary matrices is taken as
  // not meaning vectors and router), for an override that matches no tensor of the model, and for any other rule that
  // matches neither a tensor of the model nor a role that some model has.
  absl::StatusOr<std::vector<Choice>> Resolve(const TensorSource& source) const;

  // Whether an override matches the tensors of this role and layer.
  bool IsOverridden(const ArchSpec& arch, const TensorInfo& tensor) const;

 private:
  std::vector<RecipeRule> rules_;
  size_t override_begin_ = 0;
  SearchEffort scale_search_ = SearchEffort::kDefault;
  bool names_error_feedback_ = false;
  absl::optional<double> damping_;
};

// What a rule may make of the tensors of one role in one layer, which share a format: the rules of the house, as lists.
struct FormatChoices {
  TensorInfo first;             // of these tensors
  int64_t tensors = 0;          // how many they are
  FormatId kept;                // what `source` means for them
  bool kept_exactly = false;    // its values are the source's; else as F32
  std::vector<FormatId> lossy;  // what they may be encoded in; empty where only `source` is left
};
// In the order of the schema, by the first tensor of each.
absl::StatusOr<std::vector<FormatChoices>> FormatChoicesOf(const TensorSource& source);

}  // namespace kompakt
