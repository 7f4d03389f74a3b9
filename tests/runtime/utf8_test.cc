#include "runtime/utf8.h"

#include <gtest/gtest.h>

#include <random>

namespace kompakt {
namespace {

const std::string kBad = "\uFFFD";

TEST(Utf8, ReplacesEachMaximalIllFormedSubpartByOneCharacter) {
  const std::pair<std::string, std::string> table[] = {
      {"", ""},
      {"plain", "plain"},
      {"\xC3\xA9\xE4\xB8\x96\xF0\x9F\x99\x82", "\xC3\xA9\xE4\xB8\x96\xF0\x9F\x99\x82"},
      {"\x80", kBad},
      {"\xC0\xAF", kBad + kBad},                        // overlong
      {"\xE0\x80\xAF", kBad + kBad + kBad},             // overlong
      {"\xED\xA0\x80", kBad + kBad + kBad},             // surrogate
      {"\xF4\x90\x80\x80", kBad + kBad + kBad + kBad},  // beyond U+10FFFF
      {"\xF5\x80", kBad + kBad},
      {"\xF0\x9F\x99", kBad},  // the text ends
      {"\xF0\x9F\x99z", kBad + "z"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBFz", kBad + kBad + kBad + kBad + "z"},  // Unicode, table 3-8
      {std::string("\0\xFF\0", 3), std::string("\0", 1) + kBad + std::string("\0", 1)}};
  for (const auto& [bytes, text] : table) {
    EXPECT_EQ(Utf8WithReplacement(bytes), text);
    EXPECT_EQ(IsWellFormedUtf8(bytes), bytes == text);
  }
}

TEST(Utf8, EveryScalarValueSurvivesTheRoundTrip) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, &text);
    ASSERT_TRUE(IsWellFormedUtf8(text)) << static_cast<uint32_t>(c);
    absl::string_view rest = text;
    ASSERT_EQ(TakeCodePoint(&rest), c);
    ASSERT_TRUE(rest.empty());
  }
}

TEST(Utf8Stream, HoldsBackOnlyWhatMayBecomeACharacter) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Append("a\xF0\x9F"), "a");
  EXPECT_EQ(stream.Append("\x99"), "");
  EXPECT_EQ(stream.Append("\x82z"), "\xF0\x9F\x99\x82z");
  EXPECT_EQ(stream.Append("\xE4"), "");
  EXPECT_EQ(stream.Append("\xFF"), kBad + kBad);
  EXPECT_EQ(stream.Append("\xE4\xB8"), "");
  EXPECT_EQ(stream.Flush(), kBad);
  EXPECT_EQ(stream.Flush(), "");
}

TEST(Utf8Stream, GivesTheSameTextHoweverTheBytesAreCut) {
  std::mt19937 random(11);
  static constexpr uint8_t kBytes[] = {'a', 0x80, 0x9F, 0xA0, 0xBF, 0xC2, 0xE0, 0xE4, 0xED, 0xF0, 0xF4, 0xFF};
  for (int round = 0; round < 20000; ++round) {
    std::string bytes(random() % 12, ' ');
    for (char& c : bytes) c = static_cast<char>(kBytes[random() % sizeof(kBytes)]);
    Utf8Stream stream;
    std::string text;
    for (size_t at = 0; at < bytes.size();) {
      const size_t count = 1 + random() % 3;
      text += stream.Append(absl::string_view(bytes).substr(at, count));
      at += count;
    }
    ASSERT_EQ(text + stream.Flush(), Utf8WithReplacement(bytes)) << "round " << round;
  }
}

}  // namespace
}  // namespace kompakt
