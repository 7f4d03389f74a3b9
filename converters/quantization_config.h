// What the configuration says about how the files are quantized: quantization_config or compression_config of
// config.json, "quantization" of Mistral's params.json, hf_quant_config.json of ModelOpt. It only guides: how a tensor
// is stored is decided by the dtypes and companions that the files hold, as far as they can.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "converters/json_fields.h"

namespace kompakt {

enum class QuantMethod : uint8_t { kNone, kFp8, kCompressedTensors, kGptq, kAwq, kModelopt, kMistral };

// Rows and columns that share one FP8 scale, 0 for all of them: {0, 0} per tensor, {1, 0} per row, {128, 128} per
// block.
struct Fp8Scales {
  int64_t block_rows = 0;
  int64_t block_cols = 0;
};

struct SourceQuantization {
  QuantMethod method = QuantMethod::kNone;
  // The arrangements of FP8 scales that occur. Empty: not said, so it follows from the shapes.
  std::vector<Fp8Scales> fp8_scales;
  // scale_fmt "ue8m0": every FP8 scale is a power of two.
  bool power_of_two_scales = false;
  // Integer codes: the widths and group sizes in columns that occur, 0 for one scale per row. Empty: not said.
  std::vector<int64_t> int_bits;
  std::vector<int64_t> int_groups;
  bool asymmetric = false;  // every integer form of the configuration has zero points
  bool gptq_v2 = false;     // zero points are stored as they are, not minus one
  bool act_order = false;   // GPTQ: columns have an index of groups
};

// kUnimplemented naming the value for a method, format or strategy that is not read; kDataLoss for a malformed one.
absl::StatusOr<SourceQuantization> ParseQuantization(const JsonFields& config);

// hf_quant_config.json, which ModelOpt writes beside a config.json that says nothing. `file` names it in messages.
absl::StatusOr<SourceQuantization> ParseHfQuantConfig(absl::string_view text, absl::string_view file);

}  // namespace kompakt
