// config.json of an upstream checkpoint as ArchSpec. Every field that changes the result must be there, in its type;
// what this program would compute differently is refused by name.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "converters/json_fields.h"
#include "converters/quantization_config.h"
#include "format/arch_spec.pb.h"

namespace kompakt {

struct UpstreamConfig {
  ArchSpec arch;  // has passed ValidateArchSpec
  SourceQuantization quantization;
  std::vector<std::string> warnings;  // suspicions.h
};

// `file` names the text in messages. kUnimplemented: an architecture, rope type, scoring function, top-k method or
// quantization that is not supported. kDataLoss: not JSON, a field missing or of the wrong type. kFailedPrecondition:
// values that contradict each other or lie out of range.
absl::StatusOr<UpstreamConfig> ParseConfig(absl::string_view text, absl::string_view file);

// The indexer of DeepSeek-V3.2 and GLM-5 from its index_... keys. `interleave`: how its keys rotate where
// indexer_rope_interleave does not say.
absl::StatusOr<IndexerSpec> ParseIndexer(const JsonFields& config, bool interleave);

// The rotary embedding from rope_scaling and rope_theta, or from rope_parameters as transformers 5 writes it.
absl::StatusOr<RopeSpec> ParseRope(const JsonFields& config);

}  // namespace kompakt
