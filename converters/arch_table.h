// The architectures that config.json may name: one row each. A new one is a new row here and, where its tensors
// differ, new rows in the role table of format/model_schema.cc.
#pragma once

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "format/arch_spec.pb.h"

namespace kompakt {

enum class IndexerKind : uint8_t {
  kNone,
  kHalfSplit,   // element j rotates with j + qk_rope_head_dim / 2, unless indexer_rope_interleave says otherwise
  kInterleave,  // adjacent pairs rotate, unless indexer_rope_interleave says otherwise
};

struct ArchRow {
  absl::string_view architecture;                // architectures[0]
  std::array<absl::string_view, 2> model_types;  // accepted; the first stands in when config.json has none
  // The one router scoring of this family. Configurations written by transformers leave it out, because the
  // architecture implies it.
  RouterScoring scoring_func;
  // The selection methods of this family; the second may be unspecified.
  std::array<TopkMethod, 2> topk_methods;
  // True: topk_methods[0] stands in when config.json has no topk_method.
  bool topk_method_implied;
  bool scale_after_norm;  // MoeSpec.scale_after_norm
  IndexerKind indexer;
  bool needs_latent;  // the name is shared with a model without MLA, so that kv_lora_rank decides
};

absl::Span<const ArchRow> SupportedArchitectures();

// Null when there is no such row.
const ArchRow* FindArchitecture(absl::string_view architecture);
const ArchRow* FindArchitectureByModelType(absl::string_view model_type);

// Why an architecture without a row is refused: a dense model, a relative that this version does not know, or a
// stranger. kUnimplemented, naming it and the supported ones.
absl::Status RefuseArchitecture(absl::string_view architecture, absl::string_view file);

// The spelling of config.json: "sigmoid", "noaux_tc", ...; "" for the unspecified value.
absl::string_view ScoringName(RouterScoring scoring);
absl::string_view TopkMethodName(TopkMethod method);

}  // namespace kompakt
