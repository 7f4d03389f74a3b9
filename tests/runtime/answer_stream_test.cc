#include "runtime/answer_stream.h"

#include <gmock/gmock.h>

#include "tests/runtime/tokenizer_fixtures.h"

namespace kompakt {
namespace {

// The trained fixture's tokenizer has <think> and </think> as tokens; spelled, the same characters
// come in ordinary tokens of a byte each.
const Tokenizer& Small() { return GoldenTokenizer("small"); }

const ChatFamily& Family(const std::string& name) { return **ChatFamilyByName(name); }

struct Split {
  std::string thought, answer;
  int64_t thought_tokens = 0, answer_tokens = 0;
  bool ended_in_thought = false;
};

Split SplitIds(const std::vector<int32_t>& ids, const std::string& family, bool in_thought) {
  AnswerSplitter splitter(Small(), Family(family), in_thought);
  Split split;
  const auto take = [&split](const std::vector<AnswerPiece>& pieces) {
    for (const AnswerPiece& piece : pieces) {
      EXPECT_FALSE(piece.text.empty());
      EXPECT_TRUE(IsWellFormedUtf8(piece.text));
      (piece.is_thought ? split.thought : split.answer) += piece.text;
    }
  };
  for (const int32_t id : ids) take(splitter.Next(id));
  split.ended_in_thought = splitter.in_thought();
  take(splitter.Flush());
  split.thought_tokens = splitter.thought_tokens();
  split.answer_tokens = splitter.answer_tokens();
  EXPECT_EQ(split.thought_tokens + split.answer_tokens, static_cast<int64_t>(ids.size()));
  return split;
}

std::vector<int32_t> ByteIds(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(Small().IdOf(std::string(1, c)));
  return ids;
}

Split SplitTokens(const std::string& text, const std::string& family, bool in_thought) {
  return SplitIds(MustEncode(Small(), text), family, in_thought);
}

Split SplitBytes(const std::string& text, const std::string& family, bool in_thought) {
  return SplitIds(ByteIds(text), family, in_thought);
}

TEST(AnswerSplitter, TellsThoughtFromAnswerHoweverTheMarkersArrive) {
  struct Case {
    const char* text;
    bool in_thought;
    const char* thought;
    const char* answer;
  };
  const Case cases[] = {{"<think>hm, 1+1</think>\n\n2", false, "hm, 1+1", "\n\n2"},
                        {"\n <think>hm</think>2", false, "hm", "2"},
                        {"hm, 1+1</think>\n\n2", true, "hm, 1+1", "\n\n2"},
                        {"<think>\nhm</think>2", true, "\nhm", "2"},  // the model repeats what the prompt wrote
                        {"\nhm</think>2", true, "\nhm", "2"},
                        {"<think></think>2", false, "", "2"},
                        {"just an answer", false, "", "just an answer"},
                        {"  just an answer", false, "", "  just an answer"},
                        {"<thin ice", false, "", "<thin ice"},
                        {"<", false, "", "<"},
                        {"", false, "", ""},
                        {"   ", false, "", "   "},
                        {"a < b </ c </think", true, "a < b </ c </think", ""},
                        {"a </</think>b", true, "a </", "b"},
                        {"hm</think>a</think>b", true, "hm", "a</think>b"},
                        {"héé 🙂</think>é🙂", true, "héé 🙂", "é🙂"},
                        {"never ends", true, "never ends", ""}};
  for (const Case& c : cases) {
    for (const bool spelled : {false, true}) {
      const Split split =
          spelled ? SplitBytes(c.text, "deepseek-r1", c.in_thought) : SplitTokens(c.text, "deepseek-r1", c.in_thought);
      EXPECT_EQ(split.thought, c.thought) << c.text << (spelled ? " (spelled)" : "");
      EXPECT_EQ(split.answer, c.answer) << c.text << (spelled ? " (spelled)" : "");
    }
  }
}

TEST(AnswerSplitter, TakesTheCharactersOfAMarkerInsideAnAnswerForText) {
  EXPECT_EQ(SplitBytes("The tag <think> opens it.", "deepseek-r1", false).answer, "The tag <think> opens it.");
}

TEST(AnswerSplitter, TakesTheTokenInsideAnAnswerForAThought) {
  const Split split = SplitTokens("Well. <think>hm</think>Done", "deepseek-r1", false);
  EXPECT_EQ(split.thought, "hm");
  EXPECT_EQ(split.answer, "Well. Done");
  // Also where held text looked like the beginning of a marker.
  std::vector<int32_t> ids = ByteIds("<thi");
  ids.push_back(Small().IdOf("<think>"));
  ids.push_back(Small().IdOf("x"));
  EXPECT_EQ(SplitIds(ids, "deepseek-r1", false).answer, "<thi");
  EXPECT_EQ(SplitIds(ids, "deepseek-r1", false).thought, "x");
}

TEST(AnswerSplitter, CountsTheTokensOfThoughtsWithTheirMarkers) {
  std::vector<int32_t> ids = {Small().IdOf("<think>"), Small().IdOf("x"), Small().IdOf("y"), Small().IdOf("</think>"),
                              Small().IdOf("z")};
  EXPECT_EQ(SplitIds(ids, "deepseek-r1", false).thought_tokens, 4);
  ids.erase(ids.begin());
  EXPECT_EQ(SplitIds(ids, "deepseek-r1", true).thought_tokens, 3);
  EXPECT_EQ(SplitBytes("<think>ab</think>cd", "deepseek-r1", false).thought_tokens, 17);
  EXPECT_EQ(SplitBytes("<tea>", "deepseek-r1", false).answer_tokens, 5);
}

TEST(AnswerSplitter, SaysThatAThoughtDidNotEnd) {
  EXPECT_TRUE(SplitTokens("<think>hm", "deepseek-r1", false).ended_in_thought);
  EXPECT_FALSE(SplitTokens("<think>hm</think>", "deepseek-r1", false).ended_in_thought);
  EXPECT_FALSE(SplitTokens("hm", "deepseek-r1", false).ended_in_thought);
}

TEST(AnswerSplitter, LeavesTextAloneWhereTheFamilyDoesNotThink) {
  EXPECT_EQ(SplitTokens("<think>hm</think>2", "deepseek-v3", false).answer, "<think>hm</think>2");
}

TEST(AnswerSplitter, LeavesOutOtherSpecialTokens) {
  EXPECT_EQ(SplitTokens("hm</think>2<｜end▁of▁sentence｜>", "deepseek-r1", true).answer, "2");
}

TEST(AnswerSplitter, HandsOutAThoughtWhileItGrows) {
  AnswerSplitter splitter(Small(), Family("deepseek-r1"), true);
  const auto pieces = splitter.Next(Small().IdOf("x"));
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_TRUE(pieces[0].is_thought);
  EXPECT_EQ(pieces[0].text, "x");
}

TEST(AnswerSplitter, ReplacesHalfACharacterBeforeAMarker) {
  std::vector<int32_t> ids = {Small().IdOf("\xC3"), Small().IdOf("</think>"), Small().IdOf("\xC3")};
  const Split split = SplitIds(ids, "deepseek-r1", true);
  EXPECT_EQ(split.thought, "\uFFFD");
  EXPECT_EQ(split.answer, "\uFFFD");
}

}  // namespace
}  // namespace kompakt
