#include "runtime/chat.h"

#include <gmock/gmock.h>

#include "tests/runtime/tokenizer_fixtures.h"

namespace kompakt {
namespace {

using ::testing::HasSubstr;

const ChatFamily& Family(const std::string& name) {
  const auto family = ChatFamilyByName(name);
  EXPECT_TRUE(family.ok()) << family.status();
  return **family;
}

std::vector<ChatMessage> MessagesOf(const nlohmann::json& list) {
  std::vector<ChatMessage> messages;
  for (const auto& node : list) {
    ChatMessage message;
    message.role = node["role"];
    if (!node["content"].is_null()) message.content = node["content"].get<std::string>();
    message.reasoning_content = node.value("reasoning_content", "");
    for (const auto& call : node.value("tool_calls", nlohmann::json::array())) {
      message.tool_calls.push_back({call["type"], call["function"]["name"], call["function"]["arguments"]});
    }
    messages.push_back(message);
  }
  return messages;
}

std::vector<ChatMessage> Says(const std::string& role, const std::string& content) {
  return {{.role = role, .content = content}};
}

Thinking ThinkingOf(const nlohmann::json& node) {
  return node.is_null() ? Thinking::kAuto : node.get<bool>() ? Thinking::kOn : Thinking::kOff;
}

int CountMatchingLines(const std::string& path) {
  int lines = 0;
  for (const auto& line : ReadJsonLines(path)) {
    const auto text =
        Family(line["family"])
            .render(MessagesOf(line["messages"]), line["add_generation_prompt"], ThinkingOf(line["thinking"]));
    if (!text.ok()) {
      ADD_FAILURE() << line["family"] << ": " << text.status();
      continue;
    }
    if (!line.contains("alt_text") || *text != line["alt_text"].get<std::string>()) {
      EXPECT_EQ(*text, line["text"].get<std::string>()) << line["family"];
    }
    if (line.contains("ids")) {
      EXPECT_EQ(MustEncode(GoldenTokenizer("deepseek-v3"), *text), line["ids"].get<std::vector<int32_t>>());
    }
    ++lines;
  }
  return lines;
}

TEST(Chat, RendersEveryGoldenConversation) { EXPECT_EQ(CountMatchingLines("chat/chat.jsonl"), 452); }

TEST(Chat, RendersToolCallsAsTheV3TemplateDoes) { EXPECT_GT(CountMatchingLines("chat/chat-tools.jsonl"), 10); }

TEST(Chat, OpensAThoughtExactlyWhereTheRenderedPromptDoes) {
  const std::vector<ChatMessage> question = Says("user", "1+1=?");
  for (const ChatFamily& family : AllChatFamilies()) {
    for (const Thinking thinking : {Thinking::kAuto, Thinking::kOn, Thinking::kOff}) {
      const auto text = family.render(question, true, thinking);
      if (family.think_begin.empty()) {
        EXPECT_EQ(text.ok(), thinking != Thinking::kOn) << family.name;
        EXPECT_FALSE(family.opens_thought(thinking)) << family.name;
        continue;
      }
      ASSERT_TRUE(text.ok()) << text.status();
      const size_t begin = text->rfind(std::string(family.think_begin));
      const size_t end = text->rfind(std::string(family.think_end));
      const bool open = begin != std::string::npos && (end == std::string::npos || end < begin);
      EXPECT_EQ(family.opens_thought(thinking), open) << family.name << ": " << *text;
    }
  }
}

TEST(Chat, EndsThePromptOfAModelThatAlwaysThinksWithAnEmptyThoughtWhenItShouldNot) {
  const std::vector<ChatMessage> question = Says("user", "hi");
  EXPECT_THAT(*Family("deepseek-r1").render(question, true, Thinking::kOff),
              HasSubstr("<｜Assistant｜><think>\n\n</think>\n\n"));
  EXPECT_THAT(*Family("kimi-k2-thinking").render(question, true, Thinking::kOff),
              HasSubstr("assistant<|im_middle|><think></think>"));
}

TEST(Chat, MoonlightIsToldToBeHelpful) {
  EXPECT_EQ(*Family("moonlight").render(Says("user", "hi"), true, Thinking::kAuto),
            "<|im_system|>system<|im_middle|>You are a helpful assistant<|im_end|>"
            "<|im_user|>user<|im_middle|>hi<|im_end|><|im_assistant|>assistant<|im_middle|>");
}

TEST(Chat, RefusesConversationsThatATemplateDoesNotKnow) {
  const ChatMessage user = {.role = "user", .content = "hi"};
  const ChatMessage call = {.role = "assistant", .tool_calls = {{"function", "f", "{}"}}};
  struct Case {
    const char* family;
    std::vector<ChatMessage> messages;
    const char* message;
  };
  for (const Case& c : std::vector<Case>{
           {"deepseek-v3", {}, "at least one message"},
           {"deepseek-v3", {user, {.role = "wizard", .content = "hm"}}, "message 1: unknown role \"wizard\""},
           {"deepseek-v3", {{.role = "user"}}, "message 0: a message of the role user needs content"},
           {"deepseek-v3", {user, {.role = "assistant"}}, "message 1: a message of the role assistant needs content"},
           {"deepseek-v2", {user, call}, "message 1: tools are not supported by the chat family deepseek-v2"},
           {"kimi-k2", {user, {.role = "tool", .content = "1"}}, "tools are not supported by the chat family kimi-k2"},
           {"deepseek-v4", {user, user}, "message 1: two user messages in a row"}}) {
    const auto text = Family(c.family).render(c.messages, true, Thinking::kAuto);
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(text.status().message()), HasSubstr(c.message));
  }
}

TEST(Chat, EveryFamilyRefusesAnUnknownRoleAndRendersAPlainQuestion) {
  for (const ChatFamily& family : AllChatFamilies()) {
    EXPECT_FALSE(family.render(Says("robot", "x"), true, Thinking::kAuto).ok()) << family.name;
    const auto text = family.render(Says("user", "x"), true, Thinking::kAuto);
    EXPECT_TRUE(text.ok()) << family.name << ": " << text.status();
  }
}

TEST(ChatFamilyByName, SuggestsTheNearestName) {
  EXPECT_EQ((*ChatFamilyByName("deepseek-v3.1"))->name, "deepseek-v3.1");
  const auto unknown = ChatFamilyByName("deepsek-r1");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("did you mean deepseek-r1?"));
}

absl::StatusOr<const ChatFamily*> FamilyOfTemplate(const std::string& architecture,
                                                   const nlohmann::json& chat_template) {
  ArchSpec arch;
  arch.set_architecture(architecture);
  return ChatFamilyOf(arch,
                      AssetsOf({{"tokenizer_config.json", nlohmann::json({{"chat_template", chat_template}}).dump()}}));
}

TEST(ChatFamilyOf, IsFoundByWhatTheTemplateWrites) {
  // Only the parts of the vendors' templates that tell them apart.
  const std::tuple<const char*, const char*, const char*> table[] = {
      {"DeepseekV2ForCausalLM",
       "{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n\n' }}{% elif message['role'] == "
       "'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}{% endif %}",
       "deepseek-v2"},
      {"DeepseekV2ForCausalLM", "{{'<｜User｜>' + message['content']}}{{'<｜Assistant｜>'}}", "deepseek-v2.5"},
      {"DeepseekV3ForCausalLM", "{{'<｜User｜>' + message['content']}}{{'<｜Assistant｜>'}}", "deepseek-v3"},
      {"DeepseekV3ForCausalLM",
       "{{'<｜User｜>'}}{% set content = content.split('</think>')[-1] %}{{'<｜Assistant｜><think>\\n'}}",
       "deepseek-r1"},
      {"DeepseekV3ForCausalLM",
       "{{'<｜User｜>'}}{% if not thinking %}{{'<｜Assistant｜></think>'}}{% else %}{{'<think>'}}{% endif %}",
       "deepseek-v3.1"},
      {"DeepseekV32ForCausalLM", "{{'<｜User｜>'}}{{'<｜Assistant｜>'}}thinking</think><｜DSML｜function_calls>",
       "deepseek-v3.2"},
      {"DeepseekV4ForCausalLM", "{{'<｜User｜>'}}{{'<｜Assistant｜>'}}thinking</think><｜DSML｜tool_calls>",
       "deepseek-v4"},
      {"DeepseekV3ForCausalLM", "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant", "kimi-k2"},
      {"DeepseekV3ForCausalLM", "<|im_system|>system<|im_middle|>You are Kimi<think></think>", "kimi-k2-thinking"},
      {"DeepseekV3ForCausalLM", "<|im_system|>system<|im_middle|>You are a helpful assistant<|im_end|>", "moonlight"}};
  for (const auto& [architecture, text, name] : table) {
    for (const nlohmann::json& node :
         {nlohmann::json(text),
          nlohmann::json({{{"name", "tool_use"}, {"template", "no"}}, {{"name", "default"}, {"template", text}}})}) {
      const auto family = FamilyOfTemplate(architecture, node);
      ASSERT_TRUE(family.ok()) << name << ": " << family.status();
      EXPECT_EQ((*family)->name, name);
    }
  }
}

TEST(ChatFamilyOf, IsThatOfV3ForTheTrainedFixture) {
  ArchSpec arch;
  arch.set_architecture("DeepseekV3ForCausalLM");
  for (const char* config :
       {"checkpoints/tiny-v3/tokenizer_config.json", "tokenizers/deepseek-v3/tokenizer_config.json"}) {
    const auto family = ChatFamilyOf(arch, AssetsOf({{"tokenizer_config.json", ReadTestFile(config)}}));
    ASSERT_TRUE(family.ok()) << family.status();
    EXPECT_EQ((*family)->name, "deepseek-v3");
  }
}

TEST(ChatFamilyOf, PrefersTheTemplateFile) {
  const auto family = ChatFamilyOf(
      ArchSpec(), AssetsOf({{"chat_template.jinja", "<|im_middle|>You are Kimi"},
                            {"tokenizer_config.json", R"({"chat_template": "<｜User｜><｜Assistant｜>"})"}}));
  ASSERT_TRUE(family.ok()) << family.status();
  EXPECT_EQ((*family)->name, "kimi-k2");
}

TEST(ChatFamilyOf, KnowsTheModelsThatComeWithoutATemplate) {
  ArchSpec v32;
  v32.set_model_type("deepseek_v32");
  EXPECT_EQ((*ChatFamilyOf(v32, ModelAssets()))->name, "deepseek-v3.2");
  const ModelAssets v4 = AssetsOf({{"tokenizer.json", R"({"added_tokens": [{"content": "<｜latest_reminder｜>"}]})"}});
  EXPECT_EQ((*ChatFamilyOf(ArchSpec(), v4))->name, "deepseek-v4");
}

TEST(ChatFamilyOf, SaysWhatToDoWhereNoFamilyFits) {
  const auto glm = FamilyOfTemplate("Glm4MoeLiteForCausalLM", "[gMASK]<sop><|user|>\n<|assistant|><think></think>");
  EXPECT_EQ(glm.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(glm.status().message()), HasSubstr("Glm4MoeLiteForCausalLM"));
  EXPECT_THAT(std::string(glm.status().message()), HasSubstr("plain prompt"));
  EXPECT_THAT(std::string(glm.status().message()), HasSubstr("deepseek-v3.1"));
  const auto none = ChatFamilyOf(ArchSpec(), ModelAssets());
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("brings no chat template"));
}

TEST(ChatFamilyOf, IsCorruptWhereTheConfigIs) {
  const auto family = ChatFamilyOf(ArchSpec(), AssetsOf({{"tokenizer_config.json", "{\"chat_template\": "}}));
  EXPECT_EQ(family.status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace kompakt
