#include "converters/quantization_config.h"

#include <algorithm>
#include <string>

#include "converters/json.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr int64_t kMaxBlock = int64_t{1} << 20;

absl::Status Refuse(const JsonFields& fields, absl::string_view key, absl::string_view supported) {
  const nlohmann::json* value = fields.Find(key);
  return UnsupportedError(fields.where(), ": unsupported ", key, " ",
                          value == nullptr ? std::string("null") : JsonExcerpt(*value), "; expected ", supported);
}

absl::StatusOr<SourceQuantization> ParseFp8(const JsonFields& fields) {
  SourceQuantization quantization;
  KOMPAKT_ASSIGN_OR_RETURN(const std::string fmt, fields.TextOr("fmt", "e4m3"));
  if (fmt != "e4m3") return Refuse(fields, "fmt", "\"e4m3\"");
  const nlohmann::json* block = fields.Find("weight_block_size");
  if (block == nullptr) return Refuse(fields, "weight_block_size", "two integers, such as [128, 128]");
  const auto is_side = [](const nlohmann::json& n) {
    return n.is_number_unsigned() && n.get<uint64_t>() >= 1 && n.get<uint64_t>() <= uint64_t{kMaxBlock};
  };
  if (!block->is_array() || block->size() != 2 || !is_side((*block)[0]) || !is_side((*block)[1])) {
    return fields.Unexpected("weight_block_size", "two positive integers");
  }
  quantization.block_rows = (*block)[0].get<int64_t>();
  quantization.block_cols = (*block)[1].get<int64_t>();
  KOMPAKT_ASSIGN_OR_RETURN(const std::string scale_fmt, fields.TextOr("scale_fmt", "float"));
  if (scale_fmt != "float" && scale_fmt != "ue8m0") return Refuse(fields, "scale_fmt", "\"ue8m0\" or none");
  quantization.power_of_two_scales = scale_fmt == "ue8m0";
  return quantization;
}

// One entry of config_groups; appends its group size.
absl::Status ParseInt4Group(const JsonFields& group, std::vector<int64_t>* sizes) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::string format, group.TextOr("format", "pack-quantized"));
  if (format != "pack-quantized") return Refuse(group, "format", "\"pack-quantized\"");
  if (!group.Has("weights")) return absl::OkStatus();  // quantizes activations only
  KOMPAKT_ASSIGN_OR_RETURN(const JsonFields weights, group.Object("weights"));
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t bits, weights.Int("num_bits"));
  if (bits != 4) return Refuse(weights, "num_bits", "4");
  KOMPAKT_ASSIGN_OR_RETURN(const std::string type, weights.TextOr("type", "int"));
  if (type != "int") return Refuse(weights, "type", "\"int\"");
  KOMPAKT_ASSIGN_OR_RETURN(const bool symmetric, weights.BoolOr("symmetric", true));
  if (!symmetric) return Refuse(weights, "symmetric", "true");
  // actorder as "group" or "dynamic" shuffles columns through weight_g_idx; "weight" and "static" do not.
  const nlohmann::json* order = weights.Find("actorder");
  if (order != nullptr && *order != "weight" && *order != "static" && *order != false) {
    return Refuse(weights, "actorder", "null, \"weight\" or \"static\"");
  }
  KOMPAKT_ASSIGN_OR_RETURN(const std::string strategy, weights.Text("strategy"));
  if (strategy == "channel") {
    sizes->push_back(0);
    return absl::OkStatus();
  }
  if (strategy != "group") return Refuse(weights, "strategy", "\"group\" or \"channel\"");
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t size, weights.Int("group_size"));
  if (size < 1 || size > kMaxBlock) return weights.Unexpected("group_size", "a positive integer");
  sizes->push_back(size);
  return absl::OkStatus();
}

absl::StatusOr<SourceQuantization> ParseCompressedTensors(const JsonFields& fields) {
  SourceQuantization quantization;
  if (fields.Has("sparsity_config")) {
    KOMPAKT_ASSIGN_OR_RETURN(const JsonFields sparsity, fields.Object("sparsity_config"));
    KOMPAKT_ASSIGN_OR_RETURN(const std::string sparse_format, sparsity.TextOr("format", "dense"));
    if (sparse_format != "dense") return Refuse(sparsity, "format", "\"dense\"");
  }
  KOMPAKT_ASSIGN_OR_RETURN(const std::string format, fields.Text("format"));
  if (format == "dense") return quantization;
  if (format != "pack-quantized") return Refuse(fields, "format", "\"pack-quantized\" or \"dense\"");
  KOMPAKT_ASSIGN_OR_RETURN(const JsonFields groups, fields.Object("config_groups"));
  for (const auto& [name, value] : fields.Find("config_groups")->items()) {
    KOMPAKT_ASSIGN_OR_RETURN(const JsonFields group, groups.Object(name));
    KOMPAKT_RETURN_IF_ERROR(ParseInt4Group(group, &quantization.int4_groups));
  }
  return quantization;
}

}  // namespace

absl::StatusOr<SourceQuantization> ParseQuantization(const JsonFields& config) {
  const absl::string_view key = config.Has("quantization_config") ? "quantization_config" : "compression_config";
  if (!config.Has(key)) return SourceQuantization();
  KOMPAKT_ASSIGN_OR_RETURN(const JsonFields fields, config.Object(key));
  KOMPAKT_ASSIGN_OR_RETURN(const std::string method, fields.Text("quant_method"));
  if (method == "fp8") return ParseFp8(fields);
  if (method == "compressed-tensors") return ParseCompressedTensors(fields);
  return Refuse(fields, "quant_method", "\"fp8\" or \"compressed-tensors\"");
}

}  // namespace kompakt
