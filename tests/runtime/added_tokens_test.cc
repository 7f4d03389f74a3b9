#include "runtime/added_tokens.h"

#include <gmock/gmock.h>

#include <string>
#include <utility>
#include <vector>

namespace kompakt {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;
using Parts = std::vector<std::pair<int32_t, std::string>>;

Parts Split(std::vector<AddedToken> tokens, const std::string& text) {
  Parts parts;
  const absl::Status status = AddedTokens(std::move(tokens)).Split(text, [&parts](int32_t id, absl::string_view part) {
    parts.emplace_back(id, std::string(part));
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return parts;
}

AddedToken Token(int32_t id, const std::string& content) {
  AddedToken token;
  token.id = id;
  token.content = content;
  return token;
}

TEST(AddedTokens, AreFoundLeftmostAndLongest) {
  EXPECT_THAT(Split({Token(1, "ab"), Token(2, "abcd"), Token(3, "bcdef")}, "xabcdefabc"),
              ElementsAre(Pair(-1, "x"), Pair(2, "abcd"), Pair(-1, "ef"), Pair(1, "ab"), Pair(-1, "c")));
}

TEST(AddedTokens, AreNotFoundInPlainText) {
  EXPECT_THAT(Split({Token(1, "<a>")}, "<a <b>"), ElementsAre(Pair(-1, "<a <b>")));
  EXPECT_THAT(Split({}, "text"), ElementsAre(Pair(-1, "text")));
  EXPECT_THAT(Split({Token(1, "<a>"), Token(2, "")}, ""), ElementsAre());
}

TEST(AddedTokens, ThatAreNotNormalizedComeFirst) {
  AddedToken normalized = Token(1, "a<b");
  normalized.normalized = true;
  EXPECT_THAT(Split({normalized, Token(2, "<b>")}, "a<b>a<b"),
              ElementsAre(Pair(-1, "a"), Pair(2, "<b>"), Pair(1, "a<b")));
}

TEST(AddedTokens, TakeWhiteSpaceWithThemWhereTheyStrip) {
  AddedToken left = Token(1, "<l>"), right = Token(2, "<r>");
  left.lstrip = true;
  right.rstrip = true;
  EXPECT_THAT(Split({left, right}, "a \u3000<l> b <r>\t\n c"),
              ElementsAre(Pair(-1, "a"), Pair(1, " \u3000<l>"), Pair(-1, " b "), Pair(2, "<r>\t\n "), Pair(-1, "c")));
  // White space between the two goes to the first.
  EXPECT_THAT(Split({left, right}, "<r>  <l>"), ElementsAre(Pair(2, "<r>  "), Pair(1, "<l>")));
}

TEST(AddedTokens, OfSingleWordsWantNoWordCharacterBesideThem) {
  AddedToken word = Token(1, "foo");
  word.single_word = true;
  EXPECT_THAT(Split({word}, "foo,foo"), ElementsAre(Pair(1, "foo"), Pair(-1, ","), Pair(1, "foo")));
  for (const std::string text : {"food", "xfoo", "foo_", "éfoo", "foo\u0301", "foo9", "foo\u200d", "Ⅷfoo"}) {
    EXPECT_THAT(Split({word}, text), ElementsAre(Pair(-1, text)));
  }
}

TEST(AddedTokens, AreFoundInLinearTimeWhereWhiteSpaceAddsUp) {
  AddedToken blank = Token(1, " "), other = Token(2, "\t");
  blank.lstrip = other.rstrip = true;
  std::string text;
  for (int i = 0; i < 100000; ++i) text += i % 2 == 0 ? "\t" : " ";
  int parts = 0;
  const absl::Status status = AddedTokens({blank, other}).Split(text, [&parts](int32_t, absl::string_view) {
    ++parts;
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_GT(parts, 0);
}

}  // namespace
}  // namespace kompakt
