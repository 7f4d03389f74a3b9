#include "converters/quantization_config.h"

#include <algorithm>

#include "absl/strings/match.h"
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

template <typename T>
void AddOnce(T value, std::vector<T>* values) {
  if (std::find(values->begin(), values->end(), value) == values->end()) values->push_back(value);
}

// [rows, cols] under `key`.
absl::StatusOr<Fp8Scales> ParseBlock(const JsonFields& fields, absl::string_view key) {
  const nlohmann::json* block = fields.Find(key);
  const auto is_side = [](const nlohmann::json& n) {
    return n.is_number_unsigned() && n.get<uint64_t>() >= 1 && n.get<uint64_t>() <= uint64_t{kMaxBlock};
  };
  if (block == nullptr || !block->is_array() || block->size() != 2 || !is_side((*block)[0]) || !is_side((*block)[1])) {
    return fields.Unexpected(key, "two positive integers");
  }
  return Fp8Scales{(*block)[0].get<int64_t>(), (*block)[1].get<int64_t>()};
}

// quant_method "fp8": blocks where it names any, else one scale per tensor or row, as the files say.
absl::StatusOr<SourceQuantization> ParseFp8(const JsonFields& fields) {
  SourceQuantization quantization;
  quantization.method = QuantMethod::kFp8;
  KOMPAKT_ASSIGN_OR_RETURN(const std::string fmt, fields.TextOr("fmt", "e4m3"));
  if (fmt != "e4m3") return Refuse(fields, "fmt", "\"e4m3\"");
  if (fields.Has("weight_block_size")) {
    KOMPAKT_ASSIGN_OR_RETURN(const Fp8Scales block, ParseBlock(fields, "weight_block_size"));
    quantization.fp8_scales = {block};
  } else {
    quantization.fp8_scales = {{0, 0}, {1, 0}};
  }
  KOMPAKT_ASSIGN_OR_RETURN(const std::string scale_fmt, fields.TextOr("scale_fmt", "float"));
  if (scale_fmt != "float" && scale_fmt != "ue8m0") return Refuse(fields, "scale_fmt", "\"ue8m0\" or none");
  quantization.power_of_two_scales = scale_fmt == "ue8m0";
  return quantization;
}

absl::StatusOr<int64_t> ParseGroupSize(const JsonFields& fields) {
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t size, fields.Int("group_size"));
  if (size == -1) return 0;
  if (size < 1 || size > kMaxBlock) return fields.Unexpected("group_size", "a positive integer");
  return size;
}

// ---- compressed-tensors

constexpr absl::string_view kFormats =
    "\"pack-quantized\", \"float-quantized\", \"naive-quantized\", \"nvfp4-pack-quantized\", "
    "\"mxfp4-pack-quantized\", \"mixed-precision\" or \"dense\"";

absl::Status ParseIntWeights(const JsonFields& weights, SourceQuantization* out, bool* any_symmetric) {
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t bits, weights.Int("num_bits"));
  if (bits != 4 && bits != 8) return Refuse(weights, "num_bits", "4 or 8");
  KOMPAKT_ASSIGN_OR_RETURN(const std::string type, weights.TextOr("type", "int"));
  if (type != "int") return Refuse(weights, "type", "\"int\"");
  KOMPAKT_ASSIGN_OR_RETURN(const bool symmetric, weights.BoolOr("symmetric", true));
  *any_symmetric = *any_symmetric || symmetric;
  const nlohmann::json* order = weights.Find("actorder");
  // "group" and its old name true and "dynamic" shuffle columns through weight_g_idx; "weight" and "static" do not.
  const bool known = order == nullptr || order->is_boolean() || *order == "weight" || *order == "static" ||
                     *order == "group" || *order == "dynamic";
  if (!known) return Refuse(weights, "actorder", "null, \"weight\" or \"group\"");
  AddOnce(bits, &out->int_bits);
  KOMPAKT_ASSIGN_OR_RETURN(const std::string strategy, weights.Text("strategy"));
  if (strategy == "channel") {
    AddOnce(int64_t{0}, &out->int_groups);
    return absl::OkStatus();
  }
  if (strategy != "group") return Refuse(weights, "strategy", "\"group\" or \"channel\"");
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t size, ParseGroupSize(weights));
  AddOnce(size, &out->int_groups);
  return absl::OkStatus();
}

absl::Status ParseFloatWeights(const JsonFields& weights, SourceQuantization* out) {
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t bits, weights.Int("num_bits"));
  if (bits != 8) return Refuse(weights, "num_bits", "8");
  KOMPAKT_ASSIGN_OR_RETURN(const std::string type, weights.Text("type"));
  if (type != "float") return Refuse(weights, "type", "\"float\"");
  KOMPAKT_ASSIGN_OR_RETURN(const std::string strategy, weights.Text("strategy"));
  if (strategy == "tensor") {
    out->fp8_scales.push_back({0, 0});
  } else if (strategy == "channel") {
    out->fp8_scales.push_back({1, 0});
  } else if (strategy == "block") {
    KOMPAKT_ASSIGN_OR_RETURN(const Fp8Scales block, ParseBlock(weights, "block_structure"));
    out->fp8_scales.push_back(block);
  } else {
    return Refuse(weights, "strategy", "\"tensor\", \"channel\" or \"block\"");
  }
  return absl::OkStatus();
}

absl::Status ParseFp4Weights(const JsonFields& weights, int64_t group) {
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t bits, weights.Int("num_bits"));
  if (bits != 4) return Refuse(weights, "num_bits", "4");
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t size, weights.IntOr("group_size", group));
  if (size != group) return Refuse(weights, "group_size", absl::StrCat(group));
  return absl::OkStatus();
}

absl::Status ParseConfigGroup(const JsonFields& group, absl::string_view format_of_all, SourceQuantization* out,
                              bool* any_symmetric) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::string format, group.TextOr("format", format_of_all));
  if (!group.Has("weights")) return absl::OkStatus();  // quantizes activations only
  KOMPAKT_ASSIGN_OR_RETURN(const JsonFields weights, group.Object("weights"));
  if (format == "pack-quantized") return ParseIntWeights(weights, out, any_symmetric);
  if (format == "float-quantized" || format == "naive-quantized") return ParseFloatWeights(weights, out);
  if (format == "nvfp4-pack-quantized") return ParseFp4Weights(weights, 16);
  if (format == "mxfp4-pack-quantized") return ParseFp4Weights(weights, 32);
  return Refuse(group, "format", kFormats);
}

absl::StatusOr<SourceQuantization> ParseCompressedTensors(const JsonFields& fields) {
  SourceQuantization quantization;
  quantization.method = QuantMethod::kCompressedTensors;
  if (fields.Has("sparsity_config")) {
    KOMPAKT_ASSIGN_OR_RETURN(const JsonFields sparsity, fields.Object("sparsity_config"));
    KOMPAKT_ASSIGN_OR_RETURN(const std::string sparse_format, sparsity.TextOr("format", "dense"));
    if (sparse_format != "dense") return Refuse(sparsity, "format", "\"dense\"");
  }
  KOMPAKT_ASSIGN_OR_RETURN(const std::string format, fields.Text("format"));
  if (format == "dense") return quantization;
  if (!absl::StrContains(kFormats, absl::StrCat("\"", format, "\""))) return Refuse(fields, "format", kFormats);
  KOMPAKT_ASSIGN_OR_RETURN(const JsonFields groups, fields.Object("config_groups"));
  bool any_symmetric = false;
  for (const auto& [name, value] : fields.Find("config_groups")->items()) {
    KOMPAKT_ASSIGN_OR_RETURN(const JsonFields group, groups.Object(name));
    KOMPAKT_RETURN_IF_ERROR(ParseConfigGroup(group, format, &quantization, &any_symmetric));
  }
  quantization.asymmetric = !quantization.int_bits.empty() && !any_symmetric;
  return quantization;
}

// ---- GPTQ and AWQ

absl::StatusOr<SourceQuantization> ParseGptq(const JsonFields& fields) {
  SourceQuantization quantization;
  quantization.method = QuantMethod::kGptq;
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t bits, fields.Int("bits"));
  if (bits != 4 && bits != 8) return Refuse(fields, "bits", "4 or 8");
  quantization.int_bits = {bits};
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t size, ParseGroupSize(fields));
  quantization.int_groups = {size};
  const absl::string_view key = fields.Has("checkpoint_format") ? "checkpoint_format" : "format";
  if (const nlohmann::json* format = fields.Find(key); format != nullptr) {
    if (*format != "gptq" && *format != "gptq_v2") return Refuse(fields, key, "\"gptq\" or \"gptq_v2\"");
    quantization.gptq_v2 = *format == "gptq_v2";
  }
  KOMPAKT_ASSIGN_OR_RETURN(quantization.act_order, fields.BoolOr("desc_act", false));
  KOMPAKT_ASSIGN_OR_RETURN(const bool marlin, fields.BoolOr("is_marlin_format", false));
  if (marlin) return Refuse(fields, "is_marlin_format", "false");
  // Modules that are left alone begin with "-:"; any other rule would give some their own bits or groups.
  if (const nlohmann::json* dynamic = fields.Find("dynamic"); dynamic != nullptr && dynamic->is_object()) {
    for (const auto& [pattern, rule] : dynamic->items()) {
      if (!absl::StartsWith(pattern, "-:")) return Refuse(fields, "dynamic", "only modules that are not quantized");
    }
  }
  return quantization;
}

absl::StatusOr<SourceQuantization> ParseAwq(const JsonFields& fields) {
  SourceQuantization quantization;
  quantization.method = QuantMethod::kAwq;
  const absl::string_view bits_key = fields.Has("bits") ? "bits" : "w_bit";
  KOMPAKT_ASSIGN_OR_RETURN(const int64_t bits, fields.Int(bits_key));
  if (bits != 4) return Refuse(fields, bits_key, "4");
  quantization.int_bits = {4};
  if (fields.Has("group_size")) {
    KOMPAKT_ASSIGN_OR_RETURN(const int64_t size, ParseGroupSize(fields));
    quantization.int_groups = {size};
  }
  KOMPAKT_ASSIGN_OR_RETURN(const std::string version, fields.TextOr("version", "gemm"));
  if (!absl::EqualsIgnoreCase(version, "gemm")) return Refuse(fields, "version", "\"gemm\"");
  KOMPAKT_ASSIGN_OR_RETURN(const bool zero_point, fields.BoolOr("zero_point", true));
  if (!zero_point) return Refuse(fields, "zero_point", "true");
  return quantization;
}

// ---- ModelOpt and Mistral

// The dtypes say all the rest.
absl::StatusOr<SourceQuantization> ParseModelopt(const JsonFields& fields) {
  SourceQuantization quantization;
  quantization.method = QuantMethod::kModelopt;
  KOMPAKT_ASSIGN_OR_RETURN(const std::string algorithm, fields.Text("quant_algo"));
  constexpr absl::string_view kKnown[] = {"NVFP4", "W4A16_NVFP4",    "FP8", "FP8_PB_WO", "FP8_PER_CHANNEL_PER_TOKEN",
                                          "MXFP4", "MIXED_PRECISION"};
  if (std::find(std::begin(kKnown), std::end(kKnown), algorithm) == std::end(kKnown)) {
    return Refuse(fields, "quant_algo", "\"NVFP4\", \"MXFP4\" or \"FP8\"");
  }
  const bool nvfp4 = absl::EndsWith(algorithm, "NVFP4");
  if (nvfp4) {
    KOMPAKT_ASSIGN_OR_RETURN(const int64_t size, fields.IntOr("group_size", 16));
    if (size != 16) return Refuse(fields, "group_size", "16");
  }
  return quantization;
}

absl::StatusOr<SourceQuantization> ParseMistral(const JsonFields& fields) {
  SourceQuantization quantization;
  quantization.method = QuantMethod::kMistral;
  KOMPAKT_ASSIGN_OR_RETURN(const std::string format, fields.Text("qformat_weight"));
  if (format != "fp8_e4m3") return Refuse(fields, "qformat_weight", "\"fp8_e4m3\"");
  quantization.fp8_scales = {{0, 0}};
  return quantization;
}

}  // namespace

absl::StatusOr<SourceQuantization> ParseQuantization(const JsonFields& config) {
  if (config.Has("quantization") && !config.Has("quantization_config")) {
    KOMPAKT_ASSIGN_OR_RETURN(const JsonFields fields, config.Object("quantization"));
    return ParseMistral(fields);
  }
  const absl::string_view key = config.Has("quantization_config") ? "quantization_config" : "compression_config";
  if (!config.Has(key)) return SourceQuantization();
  KOMPAKT_ASSIGN_OR_RETURN(const JsonFields fields, config.Object(key));
  KOMPAKT_ASSIGN_OR_RETURN(const std::string method, fields.Text("quant_method"));
  if (method == "fp8") return ParseFp8(fields);
  if (method == "compressed-tensors") return ParseCompressedTensors(fields);
  if (method == "gptq") return ParseGptq(fields);
  if (method == "awq") return ParseAwq(fields);
  if (method == "modelopt" || method == "modelopt_fp4") return ParseModelopt(fields);
  return Refuse(fields, "quant_method", "\"fp8\", \"compressed-tensors\", \"gptq\", \"awq\" or \"modelopt\"");
}

absl::StatusOr<SourceQuantization> ParseHfQuantConfig(absl::string_view text, absl::string_view file) {
  KOMPAKT_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, file));
  if (!json.is_object()) return CorruptError(file, ": expected an object, found ", JsonKind(json));
  const JsonFields config(json, std::string(file));
  KOMPAKT_ASSIGN_OR_RETURN(const JsonFields fields, config.Object("quantization"));
  if (!fields.Has("quant_algo")) return SourceQuantization();
  return ParseModelopt(fields);
}

}  // namespace kompakt
