#include <cmath>
#include <optional>
#include <string>

#include "converters/config.h"
#include "converters/json.h"
#include "format/status.h"

namespace kompakt {
namespace {

absl::Status CheckWholeRotation(const JsonFields& fields) {
  KOMPAKT_ASSIGN_OR_RETURN(const double part, fields.NumberOr("partial_rotary_factor", 1.0));
  if (part == 1.0) return absl::OkStatus();
  return UnsupportedError(fields.where(), ": partial_rotary_factor: expected 1, found ", part);
}

// The values that DeepSeek's code, vLLM and transformers agree on when a key is absent; factor and the original length
// have no such value.
absl::StatusOr<YarnSpec> ParseYarn(const JsonFields& block) {
  YarnSpec yarn;
  KOMPAKT_ASSIGN_OR_RETURN(const double factor, block.Number("factor"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t original, block.Int("original_max_position_embeddings"));
  KOMPAKT_ASSIGN_OR_RETURN(const double beta_fast, block.NumberOr("beta_fast", 32));
  KOMPAKT_ASSIGN_OR_RETURN(const double beta_slow, block.NumberOr("beta_slow", 1));
  KOMPAKT_ASSIGN_OR_RETURN(const double mscale, block.NumberOr("mscale", 1));
  KOMPAKT_ASSIGN_OR_RETURN(const double mscale_all_dim, block.NumberOr("mscale_all_dim", 0));
  // Both change the frequencies or the softmax scale in a way that no model of this family uses.
  if (block.Has("attention_factor")) {
    return UnsupportedError(block.where(), ": attention_factor: expected none, found ",
                            JsonExcerpt(*block.Find("attention_factor")));
  }
  KOMPAKT_ASSIGN_OR_RETURN(const bool truncate, block.BoolOr("truncate", true));
  if (!truncate) return UnsupportedError(block.where(), ": truncate: expected true, found false");
  yarn.set_factor(factor);
  yarn.set_original_max_position_embeddings(original);
  yarn.set_beta_fast(beta_fast);
  yarn.set_beta_slow(beta_slow);
  yarn.set_mscale(mscale);
  yarn.set_mscale_all_dim(mscale_all_dim);
  return yarn;
}

absl::StatusOr<std::string> RopeType(const JsonFields& block) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::string old_spelling, block.TextOr("type", ""));
  KOMPAKT_ASSIGN_OR_RETURN(const std::string new_spelling, block.TextOr("rope_type", old_spelling));
  if (!old_spelling.empty() && old_spelling != new_spelling) {
    return absl::FailedPreconditionError(
        absl::StrCat(block.where(), ": type \"", old_spelling, "\" contradicts rope_type \"", new_spelling, "\""));
  }
  return new_spelling;
}

// The YaRN part of `rope_scaling` or `rope_parameters`; none for plain rotation.
absl::StatusOr<std::optional<YarnSpec>> ParseScaling(const JsonFields& block) {
  KOMPAKT_RETURN_IF_ERROR(CheckWholeRotation(block));
  KOMPAKT_ASSIGN_OR_RETURN(const std::string type, RopeType(block));
  if (type == "default" || (type.empty() && !block.Has("factor"))) return std::optional<YarnSpec>();
  if (type.empty()) return block.Unexpected("rope_type", "\"yarn\" or \"default\" beside factor");
  if (type != "yarn") {
    return UnsupportedError(block.where(), ": unsupported rope type \"", type, "\"; expected \"yarn\" or \"default\"");
  }
  KOMPAKT_ASSIGN_OR_RETURN(YarnSpec yarn, ParseYarn(block));
  return std::optional<YarnSpec>(std::move(yarn));
}

bool SameYarn(const std::optional<YarnSpec>& a, const std::optional<YarnSpec>& b) {
  if (a.has_value() != b.has_value()) return false;
  return !a.has_value() || a->SerializeAsString() == b->SerializeAsString();
}

}  // namespace

absl::StatusOr<RopeSpec> ParseRope(const JsonFields& config) {
  KOMPAKT_RETURN_IF_ERROR(CheckWholeRotation(config));
  KOMPAKT_ASSIGN_OR_RETURN(const bool interleave, config.BoolOr("rope_interleave", true));
  if (!interleave) {
    return UnsupportedError(config.where(), ": rope_interleave: expected true (adjacent pairs rotate), found false");
  }

  std::optional<double> theta;
  std::optional<std::optional<YarnSpec>> yarn;
  const auto take_theta = [&](const JsonFields& fields) -> absl::Status {
    if (!fields.Has("rope_theta")) return absl::OkStatus();
    KOMPAKT_ASSIGN_OR_RETURN(const double found, fields.Number("rope_theta"));
    if (theta.has_value() && *theta != found) {
      return absl::FailedPreconditionError(
          absl::StrCat(fields.where(), ": rope_theta: found ", found, " here and ", *theta, " elsewhere"));
    }
    theta = found;
    return absl::OkStatus();
  };
  KOMPAKT_RETURN_IF_ERROR(take_theta(config));
  for (const absl::string_view key : {"rope_scaling", "rope_parameters"}) {
    if (!config.Has(key)) continue;
    KOMPAKT_ASSIGN_OR_RETURN(const JsonFields block, config.Object(key));
    KOMPAKT_RETURN_IF_ERROR(take_theta(block));
    KOMPAKT_ASSIGN_OR_RETURN(std::optional<YarnSpec> scaling, ParseScaling(block));
    if (yarn.has_value() && !SameYarn(*yarn, scaling)) {
      return absl::FailedPreconditionError(
          absl::StrCat(config.where(), ": rope_scaling and rope_parameters contradict each other"));
    }
    yarn = std::move(scaling);
  }
  if (!theta.has_value()) return config.Unexpected("rope_theta", "a number here or in rope_parameters");

  RopeSpec rope;
  rope.set_rope_theta(*theta);
  if (yarn.has_value() && yarn->has_value()) *rope.mutable_yarn() = **yarn;
  return rope;
}

}  // namespace kompakt
