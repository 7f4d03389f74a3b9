// The render functions behind the rows of chat_table.cc, one file per vendor, and what they share.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/chat.h"

namespace kompakt {

using ChatMessages = absl::Span<const ChatMessage>;

// What a template can take beyond system, user and assistant messages with content.
struct ChatShape {
  absl::string_view family;
  bool tools = false;   // the role tool, and assistant messages that call tools
  bool thinks = false;  // Thinking::kOn
};

// kInvalidArgument naming the first message that does not fit.
absl::Status CheckMessages(ChatMessages messages, Thinking thinking, const ChatShape& shape);

// What follows the first or the last `marker` in `text`; all of it where there is none.
absl::string_view AfterFirst(absl::string_view text, absl::string_view marker);
absl::string_view AfterLast(absl::string_view text, absl::string_view marker);

// All system messages, with `separator` between them.
std::string JoinedSystemMessages(ChatMessages messages, absl::string_view separator);

absl::StatusOr<std::string> RenderDeepSeekV2(ChatMessages messages, bool add_generation_prompt, Thinking thinking);
absl::StatusOr<std::string> RenderDeepSeekV25(ChatMessages messages, bool add_generation_prompt, Thinking thinking);
absl::StatusOr<std::string> RenderDeepSeekV3(ChatMessages messages, bool add_generation_prompt, Thinking thinking);
absl::StatusOr<std::string> RenderDeepSeekR1(ChatMessages messages, bool add_generation_prompt, Thinking thinking);
absl::StatusOr<std::string> RenderDeepSeekV31(ChatMessages messages, bool add_generation_prompt, Thinking thinking);
absl::StatusOr<std::string> RenderDeepSeekV32(ChatMessages messages, bool add_generation_prompt, Thinking thinking);
absl::StatusOr<std::string> RenderDeepSeekV4(ChatMessages messages, bool add_generation_prompt, Thinking thinking);
absl::StatusOr<std::string> RenderKimiK2(ChatMessages messages, bool add_generation_prompt, Thinking thinking);
absl::StatusOr<std::string> RenderKimiK2Thinking(ChatMessages messages, bool add_generation_prompt, Thinking thinking);
absl::StatusOr<std::string> RenderMoonlight(ChatMessages messages, bool add_generation_prompt, Thinking thinking);

}  // namespace kompakt
