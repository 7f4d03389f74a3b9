// The tokenizers and golden lines that several tests read.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "runtime/byte_level.h"
#include "runtime/tokenizer.h"
#include "runtime/utf8.h"

namespace kompakt {

inline std::string ReadTestFile(const std::string& path) {
  std::ifstream in(std::string(KOMPAKT_TEST_DATA) + "/" + path, std::ios::binary);
  EXPECT_TRUE(in.good()) << "cannot read tests/data/" << path;
  std::stringstream content;
  content << in.rdbuf();
  return content.str();
}

// One JSON value per LF-separated line.
inline std::vector<nlohmann::json> ReadJsonLines(const std::string& path) {
  std::vector<nlohmann::json> lines;
  const std::string content = ReadTestFile(path);
  for (size_t at = 0; at < content.size();) {
    const size_t end = std::min(content.find('\n', at), content.size());
    if (end > at) lines.push_back(nlohmann::json::parse(content.substr(at, end - at)));
    at = end + 1;
  }
  return lines;
}

inline ModelAssets AssetsOf(const std::vector<std::pair<std::string, std::string>>& files) {
  ModelAssets assets;
  for (const auto& [name, content] : files) {
    AssetFile* file = assets.add_files();
    file->set_name(name);
    file->set_content(content);
  }
  return assets;
}

// A tokenizer.json whose vocabulary is the 256 bytes (id = byte) and no merges, with this pre-tokenizer.
inline nlohmann::json ByteTokenizerJson(const nlohmann::json& pre_tokenizer) {
  nlohmann::json vocab;
  for (int byte = 0; byte < 256; ++byte) vocab[ByteLevelCharacter(static_cast<uint8_t>(byte))] = byte;
  return {{"added_tokens", nlohmann::json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", pre_tokenizer},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
}

inline nlohmann::json ByteLevelStep(bool add_prefix_space = false, bool use_regex = false) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"use_regex", use_regex}};
}

inline nlohmann::json SplitStep(const std::string& regex, const std::string& behavior = "Isolated",
                                bool invert = false) {
  return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", behavior}, {"invert", invert}};
}

inline nlohmann::json SequenceOf(const std::vector<nlohmann::json>& steps) {
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

inline std::unique_ptr<Tokenizer> TokenizerOf(const std::string& tokenizer_json) {
  auto tokenizer = Tokenizer::Create(AssetsOf({{"tokenizer.json", tokenizer_json}}));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

// By the name of the goldens: "deepseek-v3" or "small". Loaded once.
inline const Tokenizer& GoldenTokenizer(const std::string& name) {
  static const Tokenizer* const v3 = TokenizerOf(ReadTestFile("tokenizers/deepseek-v3/tokenizer.json")).release();
  static const Tokenizer* const small = TokenizerOf(ReadTestFile("checkpoints/tiny-v3/tokenizer.json")).release();
  return name == "small" ? *small : *v3;
}

inline std::vector<int32_t> MustEncode(const Tokenizer& tokenizer, const std::string& text, bool parse_special = true) {
  auto ids = tokenizer.Encode(text, parse_special);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *std::move(ids) : std::vector<int32_t>();
}

// Well-formed UTF-8 in which everything that pre-tokenizers look at is frequent.
inline std::string RandomText(std::mt19937& random, size_t characters) {
  static constexpr char32_t kFrequent[] = {
      'a',   'b',    'T',    'h',    'e',    's',    't',     'r',     'v',     'l',    'd',   'm',
      '0',   '7',    ' ',    ' ',    '\t',   '\n',   '\r',    '\'',    '"',     '.',    ',',   '!',
      '<',   '|',    '>',    '_',    '-',    0,      0xA0,    0xE9,    0x301,   0x3B1,  0x5D0, 0x905,
      0x94D, 0x2028, 0x2160, 0x3000, 0x3042, 0x30AB, 0x4E16,  0x9FA5,  0x9FA6,  0x85,   0x7F,  0xAD,
      0xB2,  0x200D, 0x2581, 0xFF5C, 0xFF01, 0xFFFD, 0x10330, 0x1F642, 0x1F1E9, 0x1D7D9};
  std::string text;
  for (size_t i = 0; i < characters; ++i) {
    char32_t character = kFrequent[random() % (sizeof(kFrequent) / sizeof(kFrequent[0]))];
    if (random() % 8 == 0) character = static_cast<char32_t>(random() % 0x110000);
    if (character >= 0xD800 && character < 0xE000) character = 0xE000;
    AppendUtf8(character, &text);
  }
  return text;
}

}  // namespace kompakt
