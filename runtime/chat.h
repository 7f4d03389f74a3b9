// Chat templates by family: a table (chat_table.cc), one row per family, one render function each.
#pragma once

#include <optional>
#include <string>
#include "absl/strings/string_view.h"
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/arch_spec.pb.h"
#include "format/manifest.pb.h"

namespace kompakt {

struct ChatToolCall {
  std::string type;       // "function"
  std::string name;
  std::string arguments;  // JSON text
};

struct ChatMessage {
  std::string role;  // system, user, assistant, tool
  std::optional<std::string> content;
  std::string reasoning_content;
  std::vector<ChatToolCall> tool_calls;
};

enum class Thinking { kAuto, kOn, kOff };

struct ChatFamily {
  absl::string_view name;  // "deepseek-v3", "deepseek-r1", "deepseek-v3.1", "kimi-k2", ...
  // What ends a thought in the answer; empty where the family does not think.
  absl::string_view think_begin, think_end;
  // Does the rendered prompt leave the model inside a thought?
  bool (*opens_thought)(Thinking thinking);
  std::string (*render)(absl::Span<const ChatMessage> messages, bool add_generation_prompt, Thinking thinking);
};

absl::Span<const ChatFamily> AllChatFamilies();
absl::StatusOr<const ChatFamily*> ChatFamilyByName(absl::string_view name);  // kInvalidArgument, did you mean
// The family of a model, from its architecture and its own template; kUnimplemented when none fits.
absl::StatusOr<const ChatFamily*> ChatFamilyOf(const ArchSpec& arch, const ModelAssets& assets);

}  // namespace kompakt
