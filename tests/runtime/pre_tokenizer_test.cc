#include "runtime/pre_tokenizer.h"

#include <gmock/gmock.h>

#include "tests/runtime/tokenizer_fixtures.h"

namespace kompakt {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Pieces = std::vector<std::string>;

Pieces Split(const nlohmann::json& node, const std::string& text) {
  Pieces pieces;
  const auto pre_tokenizer = PreTokenizer::FromJson(node);
  EXPECT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
  if (!pre_tokenizer.ok()) return pieces;
  Regex::Scratch scratch;
  const absl::Status status = pre_tokenizer->Split(text, scratch, [&pieces](absl::string_view piece) {
    pieces.emplace_back(piece);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return pieces;
}

Pieces SplitBy(const nlohmann::json& step, const std::string& text) {
  return Split(SequenceOf({step, ByteLevelStep()}), text);
}

TEST(PreTokenizer, SplitsInEveryBehavior) {
  const std::string text = "the-final--countdown";
  EXPECT_THAT(SplitBy(SplitStep("-", "Removed"), text), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(SplitBy(SplitStep("-", "Isolated"), text), ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(SplitBy(SplitStep("-", "MergedWithPrevious"), text), ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(SplitBy(SplitStep("-", "MergedWithNext"), text), ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(SplitBy(SplitStep("-", "Contiguous"), text), ElementsAre("the", "-", "final", "--", "countdown"));
}

TEST(PreTokenizer, SwapsMatchesAndGapsWhenInverted) {
  const std::string text = "ab-c--";
  EXPECT_THAT(SplitBy(SplitStep("-", "Removed", true), text), ElementsAre("-", "-", "-"));
  EXPECT_THAT(SplitBy(SplitStep("-", "Isolated", true), text), ElementsAre("ab", "-", "c", "-", "-"));
  EXPECT_THAT(SplitBy(SplitStep("-", "MergedWithPrevious", true), text), ElementsAre("ab", "-c", "-", "-"));
  EXPECT_THAT(SplitBy(SplitStep("-", "MergedWithNext", true), text), ElementsAre("ab-", "c-", "-"));
}

TEST(PreTokenizer, TakesAStringPatternLiterally) {
  nlohmann::json step = SplitStep("", "Isolated");
  step["pattern"] = {{"String", "[a.]+"}};
  EXPECT_THAT(SplitBy(step, "xaa[a.]+y"), ElementsAre("xaa", "[a.]+", "y"));
}

TEST(PreTokenizer, SplitsDigitsOneByOneOrInRuns) {
  EXPECT_THAT(SplitBy({{"type", "Digits"}, {"individual_digits", true}}, "a12٣Ⅷb"),
              ElementsAre("a", "1", "2", "٣", "Ⅷ", "b"));
  EXPECT_THAT(SplitBy({{"type", "Digits"}, {"individual_digits", false}}, "a12٣Ⅷb"), ElementsAre("a", "12٣Ⅷ", "b"));
}

TEST(PreTokenizer, SplitsAsGpt2DidWhereByteLevelSaysSo) {
  EXPECT_THAT(Split(ByteLevelStep(false, true), "don't we're  x1 !?\n"),
              ElementsAre("don", "'t", " we", "'re", " ", " x", "1", " !?", "\n"));
  EXPECT_THAT(Split(ByteLevelStep(true, true), "a b"), ElementsAre(" a", " b"));
  EXPECT_THAT(Split(ByteLevelStep(true, false), " a b"), ElementsAre(" a b"));
}

TEST(PreTokenizer, PutsASpaceBeforeEveryPieceThatReachesByteLevel) {
  EXPECT_THAT(Split(SequenceOf({SplitStep("-"), ByteLevelStep(true)}), "a- b"), ElementsAre(" a", " -", " b"));
}

TEST(PreTokenizer, MakesNoPieceOfNothing) {
  EXPECT_THAT(Split(ByteLevelStep(true, true), ""), ElementsAre());
  EXPECT_THAT(SplitBy(SplitStep("x*"), "xxa"), ElementsAre("xx", "a"));
  EXPECT_THAT(SplitBy(SplitStep(""), "aé🙂"), ElementsAre("a", "é", "🙂"));
}

TEST(PreTokenizer, LooksAroundInsideThePieceOnly) {
  // (?!\S) does not see the x that the first step has split off.
  EXPECT_THAT(Split(SequenceOf({SplitStep("x"), SplitStep(R"(\s+(?!\S)|\s)"), ByteLevelStep()}), "  x  y"),
              ElementsAre("  ", "x", " ", " ", "y"));
}

TEST(PreTokenizer, SplitsAsV3Does) {
  const auto v3 = nlohmann::json::parse(ReadTestFile("tokenizers/deepseek-v3/tokenizer.json"))["pre_tokenizer"];
  EXPECT_THAT(Split(v3, "!foo"), ElementsAre("!foo"));
  EXPECT_THAT(Split(v3, "don't"), ElementsAre("don", "'t"));
  EXPECT_THAT(Split(v3, "a\tc"), ElementsAre("a", "\tc"));
  EXPECT_THAT(Split(v3, "x 12345678"), ElementsAre("x", " ", "123", "456", "78"));
  EXPECT_THAT(Split(v3, "かな漢字カナ a"), ElementsAre("かな漢字カナ", " a"));
  EXPECT_THAT(Split(v3, "Ⅷ½²"), ElementsAre("Ⅷ½²"));
  EXPECT_THAT(Split(v3, "a \n\n  b"), ElementsAre("a", " \n\n", " ", " b"));
}

// The chain of V2, V2-Lite, V2.5 and Coder-V2. Ranges of cased letters, first and last.
constexpr char32_t kV2Letters[][2] = {
    {0x41, 0x5A},       {0x61, 0x7A},       {0xB5, 0xB5},       {0xC0, 0xD6},       {0xD8, 0xF6},
    {0xF8, 0x1BA},      {0x1BC, 0x1BF},     {0x1C4, 0x293},     {0x295, 0x2AF},     {0x370, 0x373},
    {0x376, 0x376},     {0x377, 0x377},     {0x37B, 0x37D},     {0x37F, 0x37F},     {0x386, 0x386},
    {0x388, 0x38A},     {0x38C, 0x38C},     {0x38E, 0x3A1},     {0x3A3, 0x3F5},     {0x3F7, 0x481},
    {0x48A, 0x52F},     {0x531, 0x556},     {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},
    {0x1C90, 0x1CBA},   {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},   {0x1D79, 0x1D9A},
    {0x1E00, 0x1F15},   {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},   {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},
    {0x1F59, 0x1F59},   {0x1F5B, 0x1F5B},   {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},
    {0x1FB6, 0x1FBC},   {0x1FBE, 0x1FBE},   {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},
    {0x1FD6, 0x1FDB},   {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},   {0x2102, 0x2102},
    {0x2107, 0x2107},   {0x210A, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211D},   {0x2124, 0x2124},
    {0x2126, 0x2126},   {0x2128, 0x2128},   {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},
    {0x213C, 0x213F},   {0x2145, 0x2149},   {0x214E, 0x214E},   {0x2183, 0x2184},   {0x2C00, 0x2C7B},
    {0x2C7E, 0x2CE4},   {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF3},   {0xA640, 0xA66D},   {0xA680, 0xA69B},
    {0xA722, 0xA76F},   {0xA771, 0xA787},   {0xA78B, 0xA78E},   {0xAB70, 0xABBF},   {0xFB00, 0xFB06},
    {0xFB13, 0xFB17},   {0xFF21, 0xFF3A},   {0xFF41, 0xFF5A},   {0x10400, 0x1044F}, {0x104B0, 0x104D3},
    {0x104D8, 0x104FB}, {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943}};

nlohmann::json V2Chain() {
  std::string letters;
  for (const auto& range : kV2Letters) {
    AppendUtf8(range[0], &letters);
    letters.push_back('-');
    AppendUtf8(range[1], &letters);
  }
  return SequenceOf({SplitStep("[\r\n]"),
                     SplitStep("\\s?[" + letters + "]+"),
                     SplitStep("\\s?[!-/:-~！-／：-～‘-‟　-。]+"),
                     SplitStep("\\s+$"),
                     SplitStep("[一-龥ࠀ-一가-퟿]+"),
                     {{"type", "Digits"}, {"individual_digits", true}},
                     ByteLevelStep()});
}

TEST(PreTokenizer, SplitsAsV2Does) {
  const nlohmann::json v2 = V2Chain();
  EXPECT_THAT(Split(v2, "don't"), ElementsAre("don", "'", "t"));
  EXPECT_THAT(Split(v2, "héllo"), ElementsAre("h", "é", "llo"));
  EXPECT_THAT(Split(v2, "naïve café ΑΒΓ"), ElementsAre("na", "ï", "ve", " caf", "é", " ΑΒΓ"));
  EXPECT_THAT(Split(v2, "a\r\nb"), ElementsAre("a", "\r", "\n", "b"));
  EXPECT_THAT(Split(v2, "12345 abc"), ElementsAre("1", "2", "3", "4", "5", " abc"));
  EXPECT_THAT(Split(v2, "Hello, world!"), ElementsAre("Hello", ",", " world", "!"));
  EXPECT_THAT(Split(v2, "  x  "), ElementsAre(" ", " x", "  "));
  EXPECT_THAT(Split(v2, "こんにちは世界"), ElementsAre("こんにちは世界"));
  EXPECT_THAT(Split(v2, "한국어 。"), ElementsAre("한국어", " ", "。"));  // the fifth step takes U+3002 too
}

TEST(PreTokenizer, FindsTrailingWhiteSpaceInLinearTime) {
  // 200,000 blanks before a digit: trying every start would take 2e10 steps.
  const std::string blanks(200000, ' ');
  EXPECT_THAT(Split(V2Chain(), blanks + "1"), ElementsAre(blanks, "1"));
  EXPECT_THAT(Split(V2Chain(), blanks), ElementsAre(blanks));
}

TEST(PreTokenizer, FindsTheSameTrailingWhiteSpaceInAnyText) {
  // (?:\s)+$ means the same, but is searched as it is written.
  std::mt19937 random(5);
  static constexpr char kCharacters[] = {' ', ' ', '\n', '\t', 'a', '\r'};
  for (int round = 0; round < 5000; ++round) {
    std::string text(random() % 12, ' ');
    for (char& c : text) c = kCharacters[random() % sizeof(kCharacters)];
    ASSERT_EQ(SplitBy(SplitStep(R"(\s+$)"), text), SplitBy(SplitStep(R"((?:\s)+$)"), text)) << "round " << round;
  }
}

TEST(PreTokenizer, FailsRatherThanGuessWhereAPatternBacktracksWithoutEnd) {
  const auto pre_tokenizer = PreTokenizer::FromJson(SequenceOf({SplitStep("(a|aa)+b"), ByteLevelStep()}));
  ASSERT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
  Regex::Scratch scratch;
  const absl::Status status =
      pre_tokenizer->Split(std::string(60, 'a'), scratch, [](absl::string_view) { return absl::OkStatus(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("(a|aa)+b"));
}

TEST(PreTokenizer, RefusesWhatItDoesNotKnowByName) {
  struct Case {
    nlohmann::json node;
    absl::StatusCode code;
    const char* message;
  };
  nlohmann::json two_patterns = SplitStep("a");
  two_patterns["pattern"]["String"] = "b";
  nlohmann::json no_behavior = SplitStep("a");
  no_behavior.erase("behavior");
  for (const Case& c : std::vector<Case>{
           {nullptr, absl::StatusCode::kUnimplemented, "pre_tokenizer: none"},
           {{{"type", "Metaspace"}}, absl::StatusCode::kUnimplemented, "Metaspace"},
           {SequenceOf({SplitStep("a"), {{"type", "Whitespace"}}}), absl::StatusCode::kUnimplemented,
            "pre_tokenizer.pretokenizers[1]: the step Whitespace"},
           {SequenceOf({ByteLevelStep(), SplitStep("a")}), absl::StatusCode::kUnimplemented, "Split after ByteLevel"},
           {SplitStep("a"), absl::StatusCode::kUnimplemented, "no ByteLevel step"},
           {SequenceOf(std::vector<nlohmann::json>(100000, SplitStep("a"))), absl::StatusCode::kUnimplemented,
            "pre_tokenizer.pretokenizers[100]: more than 100 steps"},
           {SplitStep("a", "Sideways"), absl::StatusCode::kUnimplemented, "Sideways"},
           {SplitStep("(a"), absl::StatusCode::kDataLoss, "does not compile"},
           {two_patterns, absl::StatusCode::kDataLoss, "pre_tokenizer.pattern"},
           {no_behavior, absl::StatusCode::kDataLoss, "pre_tokenizer.behavior: expected a string"},
           {{{"type", "Digits"}}, absl::StatusCode::kDataLoss, "individual_digits"},
           {{{"type", "ByteLevel"}, {"use_regex", true}}, absl::StatusCode::kDataLoss, "add_prefix_space"},
           {{{"type", "Sequence"}}, absl::StatusCode::kDataLoss, "pretokenizers: expected an array"},
           {{{"type", 5}}, absl::StatusCode::kDataLoss, "pre_tokenizer.type: expected a string"},
           {"Split", absl::StatusCode::kDataLoss, "pre_tokenizer.type"}}) {
    const auto pre_tokenizer = PreTokenizer::FromJson(c.node);
    EXPECT_EQ(pre_tokenizer.status().code(), c.code) << c.message;
    EXPECT_THAT(std::string(pre_tokenizer.status().message()), HasSubstr(c.message));
  }
}

}  // namespace
}  // namespace kompakt
