#include "converters/arch_table.h"

#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr TopkMethod kNoMethod = TOPK_METHOD_UNSPECIFIED;

constexpr ArchRow kRows[] = {
    // DeepSeek-V2, V2-Lite, V2.5, Coder-V2
    {"DeepseekV2ForCausalLM",
     {"deepseek_v2", ""},
     ROUTER_SCORING_SOFTMAX,
     {TOPK_GREEDY, TOPK_GROUP_LIMITED_GREEDY},
     false,
     false,
     IndexerKind::kNone,
     false},
    // DeepSeek-V3, R1, V3.1, Moonlight; Kimi-K2 under its own model_type
    {"DeepseekV3ForCausalLM",
     {"deepseek_v3", "kimi_k2"},
     ROUTER_SCORING_SIGMOID,
     {TOPK_NOAUX_TC, kNoMethod},
     true,
     true,
     IndexerKind::kNone,
     false},
    // GLM-4.7-Flash
    {"Glm4MoeLiteForCausalLM",
     {"glm4_moe_lite", ""},
     ROUTER_SCORING_SIGMOID,
     {TOPK_NOAUX_TC, kNoMethod},
     true,
     true,
     IndexerKind::kNone,
     false},
    // DeepSeek-V3.2 and V3.2-Exp
    {"DeepseekV32ForCausalLM",
     {"deepseek_v32", ""},
     ROUTER_SCORING_SIGMOID,
     {TOPK_NOAUX_TC, kNoMethod},
     true,
     true,
     IndexerKind::kHalfSplit,
     false},
    // GLM-5, 5.1, 5.2
    {"GlmMoeDsaForCausalLM",
     {"glm_moe_dsa", ""},
     ROUTER_SCORING_SIGMOID,
     {TOPK_NOAUX_TC, kNoMethod},
     true,
     true,
     IndexerKind::kInterleave,
     false},
    // The first upload of DeepSeek-V2 was called so; DeepSeekMoE-16B, which has no MLA, still is.
    {"DeepseekForCausalLM",
     {"deepseek", "deepseek_v2"},
     ROUTER_SCORING_SOFTMAX,
     {TOPK_GREEDY, TOPK_GROUP_LIMITED_GREEDY},
     false,
     false,
     IndexerKind::kNone,
     true},
};

// Dense models: the R1 distills and what else is often tried.
constexpr absl::string_view kDense[] = {
    "Qwen2ForCausalLM",  "Qwen3ForCausalLM",  "LlamaForCausalLM", "MistralForCausalLM", "GemmaForCausalLM",
    "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Phi3ForCausalLM",  "GPT2LMHeadModel",    "GPTNeoXForCausalLM",
};

// Relatives with MLA or a DeepSeek router whose attention, residual stream or tensor names differ.
constexpr absl::string_view kRelatives[] = {
    "DeepseekV4ForCausalLM",
    "DeepseekV41ForCausalLM",
    "KimiK25ForConditionalGeneration",
    "KimiVLForConditionalGeneration",
    "KimiLinearForCausalLM",
    "MistralLarge3ForCausalLM",
    "Mistral4ForCausalLM",
    "DeepseekVLV2ForCausalLM",
    "DeepseekOCRForCausalLM",
    "YoutuForCausalLM",
    "LongcatFlashForCausalLM",
    "Glm4MoeForCausalLM",
};

std::string SupportedList() {
  std::string list;
  for (const ArchRow& row : kRows) absl::StrAppend(&list, list.empty() ? "" : ", ", row.architecture);
  return list;
}

template <size_t n>
bool Contains(const absl::string_view (&names)[n], absl::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

}  // namespace

absl::Span<const ArchRow> SupportedArchitectures() { return kRows; }

const ArchRow* FindArchitecture(absl::string_view architecture) {
  for (const ArchRow& row : kRows) {
    if (row.architecture == architecture) return &row;
  }
  return nullptr;
}

const ArchRow* FindArchitectureByModelType(absl::string_view model_type) {
  for (const ArchRow& row : kRows) {
    for (const absl::string_view known : row.model_types) {
      if (!known.empty() && known == model_type) return &row;
    }
  }
  return nullptr;
}

absl::Status RefuseArchitecture(absl::string_view architecture, absl::string_view file) {
  if (Contains(kDense, architecture)) {
    return UnsupportedError(file, ": architecture \"", architecture,
                            "\" is a dense model, not DeepSeek MLA/MoE (the R1 distills are dense Qwen2 and Llama "
                            "models); supported: ",
                            SupportedList());
  }
  if (Contains(kRelatives, architecture)) {
    return UnsupportedError(file, ": architecture \"", architecture,
                            "\" is a relative that this version does not support; supported: ", SupportedList());
  }
  return UnsupportedError(file, ": unknown architecture \"", architecture, "\"; supported: ", SupportedList());
}

absl::string_view ScoringName(RouterScoring scoring) {
  switch (scoring) {
    case ROUTER_SCORING_SOFTMAX:
      return "softmax";
    case ROUTER_SCORING_SIGMOID:
      return "sigmoid";
    default:
      return "";
  }
}

absl::string_view TopkMethodName(TopkMethod method) {
  switch (method) {
    case TOPK_GREEDY:
      return "greedy";
    case TOPK_GROUP_LIMITED_GREEDY:
      return "group_limited_greedy";
    case TOPK_NOAUX_TC:
      return "noaux_tc";
    default:
      return "";
  }
}

}  // namespace kompakt
