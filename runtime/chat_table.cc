#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "format/status.h"
#include "runtime/chat_family.h"
#include "runtime/json_field.h"

namespace kompakt {
namespace {

using nlohmann::json;

bool Never(Thinking) { return false; }
bool WhenOn(Thinking thinking) { return thinking == Thinking::kOn; }
bool UnlessOff(Thinking thinking) { return thinking != Thinking::kOff; }

constexpr ChatFamily kFamilies[] = {
    {"deepseek-v2", "", "", Never, RenderDeepSeekV2},
    {"deepseek-v2.5", "", "", Never, RenderDeepSeekV25},
    {"deepseek-v3", "", "", Never, RenderDeepSeekV3},
    {"deepseek-r1", "<think>", "</think>", UnlessOff, RenderDeepSeekR1},
    {"deepseek-v3.1", "<think>", "</think>", WhenOn, RenderDeepSeekV31},
    {"deepseek-v3.2", "<think>", "</think>", WhenOn, RenderDeepSeekV32},
    {"deepseek-v4", "<think>", "</think>", WhenOn, RenderDeepSeekV4},
    {"kimi-k2", "", "", Never, RenderKimiK2},
    {"kimi-k2-thinking", "<think>", "</think>", Never, RenderKimiK2Thinking},
    {"moonlight", "", "", Never, RenderMoonlight},
};

// Letters to insert, delete or replace.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row.back();
}

std::string FamilyNames() {
  std::string names;
  for (const ChatFamily& family : kFamilies) absl::StrAppend(&names, names.empty() ? "" : ", ", family.name);
  return names;
}

const std::string* FindAsset(const ModelAssets& assets, absl::string_view name) {
  for (const AssetFile& file : assets.files()) {
    if (file.name() == name) return &file.content();
  }
  return nullptr;
}

// The model's own template: chat_template.jinja, or chat_template of tokenizer_config.json, which may be a list of
// named ones. Empty where there is none.
absl::StatusOr<std::string> TemplateOf(const ModelAssets& assets) {
  if (const std::string* jinja = FindAsset(assets, "chat_template.jinja")) return *jinja;
  const std::string* text = FindAsset(assets, "tokenizer_config.json");
  if (text == nullptr) return std::string();
  const json config = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return CorruptError("tokenizer_config.json: expected a JSON object");
  const json& node = FieldOrNull(config, "chat_template");
  if (node.is_string()) return node.get<std::string>();
  std::string chosen;
  if (!node.is_array()) return chosen;
  for (const json& named : node) {
    const json& content = FieldOrNull(named, "template");
    if (!content.is_string()) continue;
    if (chosen.empty() || FieldOrNull(named, "name") == "default") chosen = content.get<std::string>();
  }
  return chosen;
}

// What tells the families apart is the text their templates write. Empty: none of ours.
absl::string_view FamilyOfTemplate(absl::string_view text, const ArchSpec& arch) {
  const auto has = [text](absl::string_view part) { return absl::StrContains(text, part); };
  if (has("<|im_middle|>")) {
    if (has("</think>")) return "kimi-k2-thinking";
    return has("You are Kimi") ? "kimi-k2" : "moonlight";
  }
  if (has("<｜User｜>") && has("<｜Assistant｜>")) {
    if (has("｜DSML｜")) return has("tool_calls>") || has("｜latest_reminder｜") ? "deepseek-v4" : "deepseek-v3.2";
    if (has("</think>") && has("thinking")) return "deepseek-v3.1";
    if (has("<think>") || has("</think>")) return "deepseek-r1";
    return absl::StrContains(arch.architecture(), "V2") ? "deepseek-v2.5" : "deepseek-v3";
  }
  if (has("User: ") && has("Assistant:") && has("eos_token")) return "deepseek-v2";
  return "";
}

// V3.2 and V4 come without a template; their architecture, or a token that only V4 has, tells them.
absl::string_view FamilyWithoutTemplate(const ArchSpec& arch, const ModelAssets& assets) {
  if (absl::StartsWith(arch.model_type(), "deepseek_v4")) return "deepseek-v4";
  if (arch.model_type() == "deepseek_v32") return "deepseek-v3.2";
  const std::string* tokenizer = FindAsset(assets, "tokenizer.json");
  if (tokenizer != nullptr && absl::StrContains(*tokenizer, "\"<｜latest_reminder｜>\"")) return "deepseek-v4";
  return "";
}

}  // namespace

absl::Span<const ChatFamily> AllChatFamilies() { return kFamilies; }

absl::StatusOr<const ChatFamily*> ChatFamilyByName(absl::string_view name) {
  const ChatFamily* nearest = kFamilies;
  for (const ChatFamily& family : kFamilies) {
    if (family.name == name) return &family;
    if (EditDistance(name, family.name) < EditDistance(name, nearest->name)) nearest = &family;
  }
  return UsageError("unknown chat family \"", name, "\"; did you mean ", nearest->name, "? There are ", FamilyNames());
}

absl::StatusOr<const ChatFamily*> ChatFamilyOf(const ArchSpec& arch, const ModelAssets& assets) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::string text, TemplateOf(assets));
  const absl::string_view name = text.empty() ? FamilyWithoutTemplate(arch, assets) : FamilyOfTemplate(text, arch);
  if (!name.empty()) return ChatFamilyByName(name);
  return UnsupportedError(
      text.empty() ? "this model brings no chat template" : "this model's chat template is not known", " (",
      arch.architecture(), "); give a plain prompt instead, or name a chat family: ", FamilyNames());
}

}  // namespace kompakt
