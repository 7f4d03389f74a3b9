#include "runtime/chat_family.h"

#include "absl/strings/str_cat.h"
#include "format/status.h"

namespace kompakt {
namespace {

absl::Status CheckMessage(const ChatMessage& message, const ChatShape& shape) {
  const bool is_assistant = message.role == "assistant";
  const bool is_tool = message.role == "tool";
  if (message.role != "system" && message.role != "user" && !is_assistant && !is_tool) {
    return UsageError("unknown role \"", message.role, "\"; expected system, user, assistant or tool");
  }
  if (!shape.tools && (is_tool || !message.tool_calls.empty())) {
    return UsageError("tools are not supported by the chat family ", shape.family);
  }
  if (!message.tool_calls.empty() && (!is_assistant || message.content.has_value())) {
    return UsageError("tool calls stand only in an assistant message without content");
  }
  if (!message.content.has_value() && message.tool_calls.empty()) {
    return UsageError("a message of the role ", message.role, " needs content");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckMessages(ChatMessages messages, Thinking thinking, const ChatShape& shape) {
  if (thinking == Thinking::kOn && !shape.thinks)
    return UsageError("the chat family ", shape.family, " does not think");
  if (messages.empty()) return UsageError("a conversation needs at least one message");
  for (size_t i = 0; i < messages.size(); ++i) {
    const absl::Status status = CheckMessage(messages[i], shape);
    if (!status.ok()) return WithContext(status, absl::StrCat("message ", i));
  }
  return absl::OkStatus();
}

absl::string_view AfterFirst(absl::string_view text, absl::string_view marker) {
  const size_t at = text.find(marker);
  return at == absl::string_view::npos ? text : text.substr(at + marker.size());
}

absl::string_view AfterLast(absl::string_view text, absl::string_view marker) {
  const size_t at = text.rfind(marker);
  return at == absl::string_view::npos ? text : text.substr(at + marker.size());
}

std::string JoinedSystemMessages(ChatMessages messages, absl::string_view separator) {
  std::string joined;
  bool first = true;
  for (const ChatMessage& message : messages) {
    if (message.role != "system") continue;
    absl::StrAppend(&joined, first ? "" : separator, *message.content);
    first = false;
  }
  return joined;
}

}  // namespace kompakt
