#include "runtime/tokenizer.h"

#include <gmock/gmock.h>

#include "tests/runtime/tokenizer_fixtures.h"

namespace kompakt {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

class TokenizerGoldens : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Both, TokenizerGoldens, ::testing::Values("deepseek-v3", "small"),
                         [](const auto& info) { return info.param == "small" ? "Small" : "DeepSeekV3"; });

TEST_P(TokenizerGoldens, EncodeAndDecodeAsTheUpstreamLibraryDoes) {
  const Tokenizer& tokenizer = GoldenTokenizer(GetParam());
  const auto lines = ReadJsonLines("tokenizers/goldens/" + GetParam() + ".jsonl");
  ASSERT_EQ(lines.size(), 295u);
  for (const auto& line : lines) {
    const std::string text = line["text"];
    const Ids ids = line["ids"].get<Ids>();
    EXPECT_EQ(MustEncode(tokenizer, text), ids) << line["text"];
    EXPECT_EQ(tokenizer.Decode(ids), line["decoded"].get<std::string>());
    if (line.contains("decoded_skip_special")) {
      EXPECT_EQ(tokenizer.Decode(ids, true), line["decoded_skip_special"].get<std::string>());
    } else {
      EXPECT_EQ(tokenizer.Decode(ids, true), text);
    }
  }
}

TEST_P(TokenizerGoldens, EncodeALongMixedText) {
  const Tokenizer& tokenizer = GoldenTokenizer(GetParam());
  const auto golden = nlohmann::json::parse(ReadTestFile("tokenizers/goldens/big." + GetParam() + ".json"));
  const std::string text = ReadTestFile("tokenizers/goldens/big.txt");
  ASSERT_EQ(text.size(), golden["bytes"].get<size_t>());
  EXPECT_EQ(MustEncode(tokenizer, text), golden["ids"].get<Ids>());
  EXPECT_EQ(tokenizer.Decode(golden["ids"].get<Ids>()), text);
}

TEST_P(TokenizerGoldens, StreamTheSamePieces) {
  const Tokenizer& tokenizer = GoldenTokenizer(GetParam());
  const auto lines = ReadJsonLines("tokenizers/goldens/streaming." + GetParam() + ".jsonl");
  ASSERT_EQ(lines.size(), 112u);
  for (const auto& line : lines) {
    StreamDecoder decoder(tokenizer);
    const Ids ids = line["ids"].get<Ids>();
    std::vector<std::string> pieces;
    for (const int32_t id : ids) pieces.push_back(decoder.Next(id));
    EXPECT_EQ(pieces, line["pieces"].get<std::vector<std::string>>()) << line["kind"];
    EXPECT_EQ(decoder.Flush(), line["flush"].get<std::string>()) << line["kind"];
    EXPECT_EQ(decoder.Flush(), "");
    EXPECT_EQ(tokenizer.Decode(ids), line["text"].get<std::string>()) << line["kind"];
    const auto& without_special = line.contains("text_skip_special") ? line["text_skip_special"] : line["text"];
    EXPECT_EQ(tokenizer.Decode(ids, true), without_special.get<std::string>()) << line["kind"];
    StreamDecoder skipping(tokenizer, true);
    std::string streamed;
    for (const int32_t id : ids) streamed += skipping.Next(id);
    EXPECT_EQ(streamed + skipping.Flush(), without_special.get<std::string>()) << line["kind"];
  }
}

// The field "text" of these lines holds lone surrogates, which are not JSON for us; it comes before "library_error".
TEST(Tokenizer, EncodesTextWhoseLoneSurrogatesWereReplaced) {
  std::istringstream lines(ReadTestFile("tokenizers/goldens/surrogates.jsonl"));
  int compared = 0;
  for (std::string line; std::getline(lines, line); ++compared) {
    const size_t text = line.find("\"text\": ");
    const size_t next = line.find("\"library_error\"");
    ASSERT_TRUE(text != std::string::npos && next != std::string::npos && text < next) << line;
    const auto golden = nlohmann::json::parse(line.erase(text, next - text));
    const std::string replaced = golden["text_if_replaced"];
    EXPECT_EQ(MustEncode(GoldenTokenizer(golden["tokenizer"]), replaced), golden["ids_if_replaced"].get<Ids>())
        << replaced;
  }
  EXPECT_GT(compared, 10);
}

TEST(Tokenizer, EncodesAsTheReferenceTableOfV3Says) {
  const std::pair<std::string, Ids> table[] = {
      {"Hello, world!", {19923, 14, 2058, 3}},
      {"  hello   world\n\n  x", {223, 44388, 262, 2058, 271, 223, 1527}},
      {"don't you're", {20385, 1664, 440, 4750}},
      {"12345678 3.14159", {6895, 18009, 2597, 223, 21, 16, 9926, 3318}},
      {"こんにちは世界 hello世界", {4549, 7245, 2298, 12457, 2841, 3427, 44388, 3427}},
      {"a\r\nb\t\tc", {67, 204, 201, 68, 200, 28544}},
      {"!foo ?bar ++i", {3, 40897, 4054, 6515, 16571, 75}},
      {"émoji 🙂🙂 test", {619, 7129, 7063, 68139, 80300, 227, 1950}},
      {"x=1;if(a){b}", {90, 31, 19, 29, 394, 6036, 29000, 68, 95}},
      {"\u00A0x\u3000y", {2162, 90, 18524, 91}},
      {"Ⅷ½² n", {23603, 103, 23951, 1628, 313}},
      {"Hello! 毕老师！1 + 1 = 2 ĠÑĤÐ²ÑĬÑĢ",
       {19923, 3,   223,   5464, 5008, 1175,  19,   940,   223, 19,  438,   223, 20,
        6113,  257, 76589, 131,  100,  76032, 1628, 76589, 131, 108, 76589, 131, 98}}};
  for (const auto& [text, ids] : table) EXPECT_EQ(MustEncode(GoldenTokenizer("deepseek-v3"), text), ids) << text;
}

TEST(Tokenizer, FindsAddedTokensUnlessAskedNotTo) {
  const Tokenizer& v3 = GoldenTokenizer("deepseek-v3");
  EXPECT_THAT(MustEncode(v3, "<｜begin▁of▁sentence｜><｜User｜>hello<｜Assistant｜>"),
              ElementsAre(0, 128803, 33310, 128804));
  const Ids plain = MustEncode(v3, "<｜User｜>hello", false);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 128803), 0);
  EXPECT_EQ(v3.Decode(plain), "<｜User｜>hello");
}

TEST(Tokenizer, KnowsItsTokensByIdAndByText) {
  const Tokenizer& v3 = GoldenTokenizer("deepseek-v3");
  EXPECT_EQ(v3.size(), 128815);
  EXPECT_EQ(v3.TokenBytes(19923), "Hello");
  EXPECT_EQ(v3.TokenBytes(44388), " hello");
  EXPECT_EQ(v3.IdOf(" hello"), 44388);
  EXPECT_EQ(v3.TokenBytes(0), "<｜begin▁of▁sentence｜>");
  EXPECT_EQ(v3.IdOf("<｜end▁of▁sentence｜>"), 1);
  EXPECT_EQ(v3.IdOf("<｜User｜>"), 128803);
  EXPECT_EQ(v3.IdOf("no such token"), -1);
  EXPECT_TRUE(v3.IsSpecial(1));
  EXPECT_FALSE(v3.IsSpecial(128803));
  EXPECT_FALSE(v3.IsSpecial(19923));
}

TEST(Tokenizer, HasNothingForIdsOutsideItsVocabulary) {
  const Tokenizer& v3 = GoldenTokenizer("deepseek-v3");
  for (const int32_t id : {-1, 128815, 129279, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(v3.TokenBytes(id), "") << id;
    EXPECT_FALSE(v3.IsSpecial(id)) << id;
  }
  EXPECT_EQ(v3.Decode({19923, 129000, -5, 14}), "Hello,");
}

TEST(Tokenizer, ReplacesIllFormedBytesBeforeEncoding) {
  const Tokenizer& v3 = GoldenTokenizer("deepseek-v3");
  for (const auto& [bytes, replaced] : std::vector<std::pair<std::string, std::string>>{
           {"a\xFF", "a\uFFFD"}, {"\xE4\xB8", "\uFFFD"}, {"x\xED\xA0\x80y", "x\uFFFD\uFFFD\uFFFDy"}}) {
    EXPECT_EQ(MustEncode(v3, bytes), MustEncode(v3, replaced));
  }
}

TEST(Tokenizer, EncodesNulLikeAnyOtherCharacter) {
  const Tokenizer& v3 = GoldenTokenizer("deepseek-v3");
  const std::string text("a\0b\0\0", 5);
  EXPECT_EQ(v3.Decode(MustEncode(v3, text)), text);
}

TEST_P(TokenizerGoldens, DecodeWhatTheyEncoded) {
  const Tokenizer& tokenizer = GoldenTokenizer(GetParam());
  std::mt19937 random(20240607);
  for (int round = 0; round < 300; ++round) {
    const std::string text = RandomText(random, random() % 80);
    for (const bool parse_special : {true, false}) {
      const Ids ids = MustEncode(tokenizer, text, parse_special);
      ASSERT_EQ(tokenizer.Decode(ids), text) << "round " << round;
      for (const int32_t id : ids) ASSERT_TRUE(id >= 0 && id < tokenizer.size()) << id;
    }
  }
}

TEST_P(TokenizerGoldens, StreamWhatTheyDecode) {
  const Tokenizer& tokenizer = GoldenTokenizer(GetParam());
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    Ids ids(random() % 60);
    for (int32_t& id : ids) {
      id = static_cast<int32_t>(random() % (static_cast<uint32_t>(tokenizer.size()) + 10));
      // Ids of single bytes come first in the vocabulary: they make ill-formed text.
      if (random() % 2 == 0) id %= 260;
    }
    for (const bool skip_special : {true, false}) {
      StreamDecoder decoder(tokenizer, skip_special);
      std::string streamed;
      for (const int32_t id : ids) {
        const std::string piece = decoder.Next(id);
        ASSERT_TRUE(IsWellFormedUtf8(piece));
        streamed += piece;
      }
      ASSERT_EQ(streamed + decoder.Flush(), tokenizer.Decode(ids, skip_special)) << "round " << round;
    }
  }
}

TEST(Tokenizer, IsNotFoundInAssetsWithoutOne) {
  const auto tokenizer = Tokenizer::Create(AssetsOf({{"config.json", "{}"}}));
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("tokenizer.json"));
}

}  // namespace
}  // namespace kompakt
