// Chat templates by family: a table (chat_table.cc), one row per family, one render function each.
//
// The rendered text begins with BOS where the family wants one, so it is encoded with Tokenizer::Encode as it is.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "format/arch_spec.pb.h"
#include "format/manifest.pb.h"

namespace kompakt {

struct ChatToolCall {
  std::string type;  // "function"
  std::string name;
  std::string arguments;  // JSON text
};

struct ChatMessage {
  std::string role;                                   // system, user, assistant, tool
  std::optional<std::string> content = std::nullopt;  // absent only in an assistant message that calls tools
  std::string reasoning_content = {};                 // kept where the family's template keeps it
  std::vector<ChatToolCall> tool_calls = {};
};

// kAuto is what the family's own template does when nobody says: deepseek-r1 and kimi-k2-thinking think, deepseek-v3.1,
// -v3.2 and -v4 answer at once.
enum class Thinking { kAuto, kOn, kOff };

struct ChatFamily {
  absl::string_view name;  // "deepseek-v3", "deepseek-r1", "deepseek-v3.1", "kimi-k2", ...
  // What brackets a thought in the answer; empty where the family does not think.
  absl::string_view think_begin, think_end;
  // Does a prompt that ends with a user message leave the model inside a thought?
  bool (*opens_thought)(Thinking thinking);
  // kInvalidArgument naming the message: a role or shape that the family's template does not know, or Thinking::kOn
  // where the family does not think. Families whose models always think (deepseek-r1, kimi-k2-thinking) answer kOff by
  // ending the prompt with an empty thought.
  absl::StatusOr<std::string> (*render)(absl::Span<const ChatMessage> messages, bool add_generation_prompt,
                                        Thinking thinking);
};

absl::Span<const ChatFamily> AllChatFamilies();
absl::StatusOr<const ChatFamily*> ChatFamilyByName(absl::string_view name);  // kInvalidArgument, did you mean
// The family of a model, from its own template, its added tokens and its architecture; kUnimplemented when none fits.
absl::StatusOr<const ChatFamily*> ChatFamilyOf(const ArchSpec& arch, const ModelAssets& assets);

}  // namespace kompakt
