// DeepSeek's chat templates. Every quirk is the vendor's: tests/data/chat holds what their templates give.
#include "absl/strings/str_cat.h"
#include "format/status.h"
#include "runtime/chat_family.h"

namespace kompakt {
namespace {

constexpr absl::string_view kBos = "<｜begin▁of▁sentence｜>";
constexpr absl::string_view kEos = "<｜end▁of▁sentence｜>";
constexpr absl::string_view kUser = "<｜User｜>";
constexpr absl::string_view kAssistant = "<｜Assistant｜>";
constexpr absl::string_view kThink = "<think>";
constexpr absl::string_view kEndThink = "</think>";

bool Is(const ChatMessage& message, absl::string_view role) { return message.role == role; }

absl::string_view Content(const ChatMessage& message) { return *message.content; }

// The conversation of V2.5 and R1 from behind the system text: `answer` gives what is kept of a stored answer.
template <typename Answer>
std::string Turns(ChatMessages messages, const Answer& answer) {
  std::string text;
  for (const ChatMessage& message : messages) {
    if (Is(message, "user")) absl::StrAppend(&text, kUser, Content(message));
    if (Is(message, "assistant")) absl::StrAppend(&text, kAssistant, answer(Content(message)), kEos);
  }
  return text;
}

std::string V3ToolCall(const ChatToolCall& call) {
  return absl::StrCat("<｜tool▁call▁begin｜>", call.type, "<｜tool▁sep｜>", call.name, "\n```json\n", call.arguments,
                      "\n```<｜tool▁call▁end｜>");
}

// V3.2 and V4: a user turn ends by opening the answer, inside a thought only after the last user message. Reasoning is
// kept only from there on.
std::string ThoughtfulTurns(ChatMessages messages, bool add_generation_prompt, bool thinking) {
  size_t last_user = messages.size();
  for (size_t i = 0; i < messages.size(); ++i) {
    if (Is(messages[i], "user")) last_user = i;
  }
  std::string text(kBos);
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (Is(message, "system")) absl::StrAppend(&text, Content(message));
    if (Is(message, "user")) {
      absl::StrAppend(&text, kUser, Content(message));
      if (i + 1 == messages.size() && !add_generation_prompt) continue;
      absl::StrAppend(&text, kAssistant, thinking && i == last_user ? kThink : kEndThink);
    }
    if (Is(message, "assistant")) {
      if (thinking && last_user < i) absl::StrAppend(&text, message.reasoning_content, kEndThink);
      absl::StrAppend(&text, Content(message), kEos);
    }
  }
  return text;
}

}  // namespace

absl::StatusOr<std::string> RenderDeepSeekV2(ChatMessages messages, bool add_generation_prompt, Thinking thinking) {
  KOMPAKT_RETURN_IF_ERROR(CheckMessages(messages, thinking, {.family = "deepseek-v2"}));
  std::string text(kBos);
  for (const ChatMessage& message : messages) {
    if (Is(message, "system")) absl::StrAppend(&text, Content(message), "\n\n");
    if (Is(message, "user")) absl::StrAppend(&text, "User: ", Content(message), "\n\n");
    if (Is(message, "assistant")) absl::StrAppend(&text, "Assistant: ", Content(message), kEos);
  }
  if (add_generation_prompt) absl::StrAppend(&text, "Assistant:");
  return text;
}

absl::StatusOr<std::string> RenderDeepSeekV25(ChatMessages messages, bool add_generation_prompt, Thinking thinking) {
  KOMPAKT_RETURN_IF_ERROR(CheckMessages(messages, thinking, {.family = "deepseek-v2.5"}));
  return absl::StrCat(kBos, JoinedSystemMessages(messages, "\n\n"),
                      Turns(messages, [](absl::string_view answer) { return answer; }),
                      add_generation_prompt ? kAssistant : "");
}

absl::StatusOr<std::string> RenderDeepSeekV3(ChatMessages messages, bool add_generation_prompt, Thinking thinking) {
  KOMPAKT_RETURN_IF_ERROR(CheckMessages(messages, thinking, {.family = "deepseek-v3", .tools = true}));
  std::string text = absl::StrCat(kBos, JoinedSystemMessages(messages, "\n\n"));
  // The template never resets the first two: only the first call of a conversation opens a list of calls, and only the
  // first result a list of results.
  bool any_call = false, any_output = false;
  bool after_tool = false;
  for (const ChatMessage& message : messages) {
    if (Is(message, "user")) {
      after_tool = false;
      absl::StrAppend(&text, kUser, Content(message));
    } else if (Is(message, "assistant") && !message.content.has_value()) {
      after_tool = false;
      for (const ChatToolCall& call : message.tool_calls) {
        if (!any_call) {
          absl::StrAppend(&text, kAssistant, "<｜tool▁calls▁begin｜>", V3ToolCall(call));
        } else {
          absl::StrAppend(&text, "\n", V3ToolCall(call), "<｜tool▁calls▁end｜>", kEos);
        }
        any_call = true;
      }
    } else if (Is(message, "assistant")) {
      absl::StrAppend(&text, after_tool ? "<｜tool▁outputs▁end｜>" : kAssistant, Content(message), kEos);
      after_tool = false;
    } else if (Is(message, "tool")) {
      after_tool = true;
      absl::StrAppend(&text, any_output ? "\n" : "<｜tool▁outputs▁begin｜>", "<｜tool▁output▁begin｜>",
                      Content(message), "<｜tool▁output▁end｜>");
      any_output = true;
    }
  }
  if (after_tool) absl::StrAppend(&text, "<｜tool▁outputs▁end｜>");
  if (add_generation_prompt && !after_tool) absl::StrAppend(&text, kAssistant);
  return text;
}

absl::StatusOr<std::string> RenderDeepSeekR1(ChatMessages messages, bool add_generation_prompt, Thinking thinking) {
  KOMPAKT_RETURN_IF_ERROR(CheckMessages(messages, thinking, {.family = "deepseek-r1", .thinks = true}));
  std::string text =
      absl::StrCat(kBos, JoinedSystemMessages(messages, "\n\n"),
                   Turns(messages, [](absl::string_view answer) { return AfterLast(answer, kEndThink); }));
  if (add_generation_prompt) absl::StrAppend(&text, kAssistant, kThink, "\n");
  if (add_generation_prompt && thinking == Thinking::kOff) absl::StrAppend(&text, "\n", kEndThink, "\n\n");
  return text;
}

absl::StatusOr<std::string> RenderDeepSeekV31(ChatMessages messages, bool add_generation_prompt, Thinking thinking) {
  KOMPAKT_RETURN_IF_ERROR(CheckMessages(messages, thinking, {.family = "deepseek-v3.1", .thinks = true}));
  std::string text = absl::StrCat(kBos, JoinedSystemMessages(messages, "\n\n"));
  bool after_user = false;
  for (const ChatMessage& message : messages) {
    if (Is(message, "user")) {
      absl::StrAppend(&text, kUser, Content(message));
      after_user = true;
    }
    if (Is(message, "assistant")) {
      if (after_user) absl::StrAppend(&text, kAssistant, kEndThink);
      absl::StrAppend(&text, AfterFirst(Content(message), kEndThink), kEos);
      after_user = false;
    }
  }
  if (add_generation_prompt && after_user) {
    absl::StrAppend(&text, kAssistant, thinking == Thinking::kOn ? kThink : kEndThink);
  }
  return text;
}

absl::StatusOr<std::string> RenderDeepSeekV32(ChatMessages messages, bool add_generation_prompt, Thinking thinking) {
  KOMPAKT_RETURN_IF_ERROR(CheckMessages(messages, thinking, {.family = "deepseek-v3.2", .thinks = true}));
  return ThoughtfulTurns(messages, add_generation_prompt, thinking == Thinking::kOn);
}

absl::StatusOr<std::string> RenderDeepSeekV4(ChatMessages messages, bool add_generation_prompt, Thinking thinking) {
  KOMPAKT_RETURN_IF_ERROR(CheckMessages(messages, thinking, {.family = "deepseek-v4", .thinks = true}));
  for (size_t i = 1; i < messages.size(); ++i) {
    if (Is(messages[i], "user") && Is(messages[i - 1], "user")) {
      return UsageError("message ", i, ": two user messages in a row are not supported by the chat family deepseek-v4");
    }
  }
  return ThoughtfulTurns(messages, add_generation_prompt, thinking == Thinking::kOn);
}

}  // namespace kompakt
