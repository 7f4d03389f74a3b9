// Moonshot's chat templates: Kimi K2, K2-Thinking, Moonlight.
#include "absl/strings/str_cat.h"
#include "format/status.h"
#include "runtime/chat_family.h"

namespace kompakt {
namespace {

constexpr absl::string_view kKimiSystem = "You are Kimi, an AI assistant created by Moonshot AI.";
constexpr absl::string_view kMoonlightSystem = "You are a helpful assistant";
constexpr absl::string_view kEmptyThought = "<think></think>";

std::string Turn(absl::string_view role, absl::string_view content) {
  return absl::StrCat("<|im_", role, "|>", role, "<|im_middle|>", content, "<|im_end|>");
}

// `answer_prefix` comes before every stored answer.
std::string Render(ChatMessages messages, bool add_generation_prompt, absl::string_view default_system,
                   absl::string_view answer_prefix) {
  std::string text;
  if (messages.front().role != "system") text = Turn("system", default_system);
  for (const ChatMessage& message : messages) {
    const absl::string_view prefix = message.role == "assistant" ? answer_prefix : "";
    absl::StrAppend(&text, Turn(message.role, absl::StrCat(prefix, *message.content)));
  }
  if (add_generation_prompt) absl::StrAppend(&text, "<|im_assistant|>assistant<|im_middle|>");
  return text;
}

}  // namespace

absl::StatusOr<std::string> RenderKimiK2(ChatMessages messages, bool add_generation_prompt, Thinking thinking) {
  KOMPAKT_RETURN_IF_ERROR(CheckMessages(messages, thinking, {.family = "kimi-k2"}));
  return Render(messages, add_generation_prompt, kKimiSystem, "");
}

absl::StatusOr<std::string> RenderMoonlight(ChatMessages messages, bool add_generation_prompt, Thinking thinking) {
  KOMPAKT_RETURN_IF_ERROR(CheckMessages(messages, thinking, {.family = "moonlight"}));
  return Render(messages, add_generation_prompt, kMoonlightSystem, "");
}

// Without tool calls every stored answer is history, whose thoughts are dropped.
absl::StatusOr<std::string> RenderKimiK2Thinking(ChatMessages messages, bool add_generation_prompt, Thinking thinking) {
  KOMPAKT_RETURN_IF_ERROR(CheckMessages(messages, thinking, {.family = "kimi-k2-thinking", .thinks = true}));
  std::string text = Render(messages, add_generation_prompt, kKimiSystem, kEmptyThought);
  if (add_generation_prompt && thinking == Thinking::kOff) absl::StrAppend(&text, kEmptyThought);
  return text;
}

}  // namespace kompakt
