// Tokenizer and chat files of any content, and any text. Sections are separated by NUL bytes; the first byte says
// which:
//   j  tokenizer.json, text
//   t  tiktoken.model, tokenizer_config.json, text
//   c  tokenizer_config.json, and an answer to split
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "runtime/answer_stream.h"
#include "runtime/chat.h"
#include "runtime/tokenizer.h"

namespace {

using kompakt::ModelAssets;

// Up to the next NUL byte; the last section takes everything.
std::string TakeSection(absl::string_view* input, bool last) {
  const size_t end = last ? input->size() : std::min(input->find('\0'), input->size());
  std::string section(input->substr(0, end));
  input->remove_prefix(std::min(end + 1, input->size()));
  return section;
}

void AddFile(const char* name, std::string content, ModelAssets* assets) {
  kompakt::AssetFile* file = assets->add_files();
  file->set_name(name);
  file->set_content(std::move(content));
}

void Check(bool holds) {
  if (!holds) std::abort();
}

void UseTokenizer(const ModelAssets& assets, const std::string& text) {
  const auto tokenizer = kompakt::Tokenizer::Create(assets);
  if (!tokenizer.ok()) return;
  for (const bool parse_special : {true, false}) {
    const auto ids = (*tokenizer)->Encode(text, parse_special);
    if (!ids.ok()) continue;
    kompakt::StreamDecoder decoder(**tokenizer);
    std::string streamed;
    for (const int32_t id : *ids) {
      Check(id >= 0 && id < (*tokenizer)->size() && !(*tokenizer)->TokenBytes(id).empty());
      streamed += decoder.Next(id);
    }
    Check(streamed + decoder.Flush() == (*tokenizer)->Decode(*ids));
  }
}

void UseChat(const ModelAssets& assets, const std::string& answer) {
  const auto found = kompakt::ChatFamilyOf(kompakt::ArchSpec(), assets);
  const kompakt::ChatFamily& family = found.ok() ? **found : kompakt::AllChatFamilies()[3];
  std::vector<kompakt::ChatMessage> messages(1);
  messages[0].role = "user";
  messages[0].content = answer;
  const auto prompt = family.render(messages, true, kompakt::Thinking::kAuto);
  Check(prompt.ok() && prompt->find(answer) != std::string::npos);

  // Bytes as tokens: id = byte.
  static const kompakt::Tokenizer* const bytes = [] {
    std::string model;
    for (int byte = 0; byte < 256; ++byte) {
      const char c = static_cast<char>(byte);
      model += absl::Base64Escape(absl::string_view(&c, 1)) + " " + std::to_string(byte) + "\n";
    }
    ModelAssets files;
    AddFile("tiktoken.model", model, &files);
    AddFile("tokenizer_config.json", R"({"added_tokens_decoder": {"256": {"content": "</think>"}}})", &files);
    return kompakt::Tokenizer::Create(files).value().release();
  }();
  kompakt::AnswerSplitter splitter(*bytes, family, answer.size() % 2 == 0);
  for (const char c : answer) splitter.Next(static_cast<uint8_t>(c));
  splitter.Flush();
  Check(splitter.thought_tokens() + splitter.answer_tokens() == static_cast<int64_t>(answer.size()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  absl::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  ModelAssets assets;
  switch (data[0]) {
    case 'j':
      AddFile("tokenizer.json", TakeSection(&input, false), &assets);
      UseTokenizer(assets, TakeSection(&input, true));
      break;
    case 't':
      AddFile("tiktoken.model", TakeSection(&input, false), &assets);
      AddFile("tokenizer_config.json", TakeSection(&input, false), &assets);
      UseTokenizer(assets, TakeSection(&input, true));
      break;
    case 'c':
      AddFile("tokenizer_config.json", TakeSection(&input, false), &assets);
      UseChat(assets, TakeSection(&input, true));
      break;
    default:
      break;
  }
  return 0;
}
