#include "runtime/tiktoken.h"

#include <gmock/gmock.h>

#include <map>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "runtime/regex.h"
#include "tests/runtime/tokenizer_fixtures.h"

namespace kompakt {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The byte strings of the small tokenizer's vocabulary as ranks: ids 3 to 4091, single bytes first.
const std::vector<std::string>& Ranks() {
  static const auto* const ranks = [] {
    auto* list = new std::vector<std::string>;
    const Tokenizer& small = GoldenTokenizer("small");
    for (int32_t id = 3; id < 4092; ++id) list->emplace_back(small.TokenBytes(id));
    return list;
  }();
  return *ranks;
}

std::string ModelOf(const std::vector<std::string>& tokens) {
  std::string model;
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    absl::StrAppend(&model, absl::Base64Escape(tokens[rank]), " ", rank, "\n");
  }
  return model;
}

int64_t FirstSpecial() { return static_cast<int64_t>(Ranks().size()); }

json ConfigOf() {
  const auto token = [](const char* content) { return json({{"content", content}, {"special", true}}); };
  const auto key = [](int64_t offset) { return absl::StrCat(FirstSpecial() + offset); };
  return {{"tokenizer_class", "TikTokenTokenizer"},
          {"added_tokens_decoder",
           {{key(0), token("[BOS]")},
            {key(1), token("[EOS]")},
            {key(2), token("<|im_end|>")},
            {key(3), token("<|im_user|>")},
            {key(17), token("<|im_middle|>")},
            {key(255), {{"content", "[PAD]"}, {"special", false}}}}}};
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const std::string& model, const json& config) {
  return Tokenizer::Create(AssetsOf({{"tiktoken.model", model}, {"tokenizer_config.json", config.dump()}}));
}

const Tokenizer& Synthetic() {
  static const Tokenizer* const tokenizer = [] {
    auto created = Create(ModelOf(Ranks()), ConfigOf());
    EXPECT_TRUE(created.ok()) << created.status();
    return created->release();
  }();
  return *tokenizer;
}

// Kimi's and Moonlight's alternatives, in order, as published.
std::string Pattern() {
  const std::string upper = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]])";
  const std::string lower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]])";
  const std::string before = R"([^\r\n\p{L}\p{N}]?)";
  const std::string after = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
  return "[\\p{Han}]+|" + before + upper + "*" + lower + "+" + after + "|" + before + upper + "+" + lower + "*" +
         after + R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

std::vector<std::string> NaivePieces(const std::string& text) {
  std::vector<std::string> pieces;
  const auto regex = Regex::Create(Pattern());
  EXPECT_TRUE(regex.ok()) << regex.status();
  Regex::Scratch scratch;
  size_t done = 0;
  const absl::Status status = regex->ForEachMatch(text, scratch, [&](size_t begin, size_t end) {
    EXPECT_EQ(begin, done) << "a gap";
    pieces.push_back(text.substr(begin, end - begin));
    done = end;
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return pieces;
}

// A whole piece that is a token is that token; else the adjacent pair of lowest rank is joined, again and again.
std::vector<int32_t> NaiveEncode(const std::string& text) {
  static const auto* const rank_of = [] {
    auto* map = new std::map<std::string, int32_t>;
    for (const std::string& token : Ranks()) map->emplace(token, static_cast<int32_t>(map->size()));
    return map;
  }();
  std::vector<int32_t> ids;
  for (const std::string& piece : NaivePieces(text)) {
    if (const auto whole = rank_of->find(piece); whole != rank_of->end()) {
      ids.push_back(whole->second);
      continue;
    }
    std::vector<std::string> parts;
    for (const char c : piece) parts.emplace_back(1, c);
    while (true) {
      int32_t best = INT32_MAX;
      size_t at = 0;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto pair = rank_of->find(parts[i] + parts[i + 1]);
        if (pair == rank_of->end() || pair->second >= best) continue;
        best = pair->second;
        at = i;
      }
      if (best == INT32_MAX) break;
      parts[at] += parts[at + 1];
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    for (const std::string& part : parts) ids.push_back(rank_of->at(part));
  }
  return ids;
}

TEST(Tiktoken, SplitsAsKimiDoes) {
  EXPECT_THAT(NaivePieces("Hello worldFoo don't HE'LL"), ElementsAre("Hello", " world", "Foo", " don't", " HE'LL"));
  EXPECT_THAT(NaivePieces("漢字かな 12345 x"), ElementsAre("漢字", "かな", " ", "123", "45", " x"));
  EXPECT_THAT(NaivePieces("a  b\n\n c!?\n"), ElementsAre("a", " ", " b", "\n\n", " c", "!?\n"));
}

TEST(Tiktoken, EncodesAsANaiveImplementationDoes) {
  std::mt19937 random(99);
  std::string big = ReadTestFile("tokenizers/goldens/big.txt").substr(0, 4000);
  big = Utf8WithReplacement(big);
  EXPECT_EQ(MustEncode(Synthetic(), big), NaiveEncode(big));
  for (int round = 0; round < 500; ++round) {
    const std::string text = RandomText(random, random() % 60);
    ASSERT_EQ(MustEncode(Synthetic(), text, false), NaiveEncode(text)) << "round " << round;
    ASSERT_EQ(Synthetic().Decode(MustEncode(Synthetic(), text)), text) << "round " << round;
  }
}

TEST(Tiktoken, NamesItsSpecialTokensFromTheConfigAndTheRestByNumber) {
  const Tokenizer& tokenizer = Synthetic();
  const int32_t first = static_cast<int32_t>(FirstSpecial());
  EXPECT_EQ(tokenizer.size(), FirstSpecial() + 256);
  EXPECT_EQ(tokenizer.IdOf("[BOS]"), first);
  EXPECT_EQ(tokenizer.TokenBytes(first + 2), "<|im_end|>");
  EXPECT_EQ(tokenizer.TokenBytes(first + 100), absl::StrCat("<|reserved_token_", first + 100, "|>"));
  EXPECT_TRUE(tokenizer.IsSpecial(first + 100));
  EXPECT_FALSE(tokenizer.IsSpecial(first + 255));
  EXPECT_FALSE(tokenizer.IsSpecial(5));
  const std::vector<int32_t> ids = MustEncode(tokenizer, "<|im_user|>user<|im_middle|>hi<|im_end|>");
  EXPECT_EQ(ids.front(), first + 3);
  EXPECT_EQ(ids.back(), first + 2);
  EXPECT_EQ(tokenizer.Decode(ids), "<|im_user|>user<|im_middle|>hi<|im_end|>");
  EXPECT_EQ(tokenizer.Decode(ids, true), "userhi");
  EXPECT_EQ(MustEncode(tokenizer, "<|im_user|>", false), NaiveEncode("<|im_user|>"));
}

TEST(Tiktoken, AcceptsCrLfAndEmptyLines) {
  std::string model = "\n";
  for (const char c : ModelOf(Ranks())) {
    if (c == '\n') model += "\r";
    model += c;
  }
  const auto tokenizer = Create(model + "\r\n", ConfigOf());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(MustEncode(**tokenizer, "hello"), MustEncode(Synthetic(), "hello"));
}

TEST(Tiktoken, RefusesMalformedFilesNamingThePlace) {
  const std::string model = ModelOf(Ranks());
  const std::string next = absl::StrCat(Ranks().size());
  std::vector<std::string> repeated = Ranks();
  repeated.back() = "a";
  json no_names = ConfigOf();
  no_names.erase("added_tokens_decoder");
  json low = ConfigOf(), twice = ConfigOf(), other_class = ConfigOf(), huge = ConfigOf(), word = ConfigOf();
  low["added_tokens_decoder"]["5"] = {{"content", "<x>"}};
  huge["added_tokens_decoder"]["2000000000"] = {{"content", "<x>"}};
  word["added_tokens_decoder"]["five"] = {{"content", "<x>"}};
  twice["added_tokens_decoder"][absl::StrCat(FirstSpecial() + 9)] = {{"content", "[BOS]"}};
  other_class["tokenizer_class"] = "QWenTokenizer";
  struct Case {
    std::string model;
    json config;
    absl::StatusCode code;
    const char* message;
  };
  const absl::StatusCode corrupt = absl::StatusCode::kDataLoss;
  for (const Case& c : std::vector<Case>{
           {model + "eHh4eHg=\n", ConfigOf(), corrupt, "tiktoken.model: line 4090: expected base64"},
           {model + "!!!! " + next + "\n", ConfigOf(), corrupt, "tiktoken.model: line 4090: expected base64"},
           {model + " " + next + "\n", ConfigOf(), corrupt, "tiktoken.model: line 4090: expected base64"},
           {model + "eHh4eHg= five\n", ConfigOf(), corrupt, "tiktoken.model: line 4090: expected a rank"},
           {model + "eHh4eHg= -1\n", ConfigOf(), corrupt, "tiktoken.model: line 4090: expected a rank"},
           {model + "eHh4eHg= 99999999999999999999\n", ConfigOf(), corrupt, "line 4090: expected a rank"},
           {model + "eHh4eHg= 2000000000\n", ConfigOf(), corrupt, "the largest rank is 2000000000"},
           {model + "eHh4eHg= 7\n", ConfigOf(), corrupt, "the rank 7 appears twice"},
           {ModelOf(repeated), ConfigOf(), corrupt, "have the same token"},
           {"", ConfigOf(), corrupt, "tiktoken.model: the largest rank is -1"},
           {ModelOf({"b"}), ConfigOf(), corrupt, "has no token"},
           {model, json::array(), corrupt, "tokenizer_config.json: expected a JSON object"},
           {model, no_names, corrupt, "tokenizer_config.json: added_tokens_decoder: expected an object"},
           {model, low, corrupt, "added_tokens_decoder[\"5\"]: expected an id after the 4089 ranks"},
           {model, huge, corrupt, "added_tokens_decoder[\"2000000000\"]"},
           {model, word, corrupt, "added_tokens_decoder[\"five\"]"},
           {model, twice, corrupt, "\"[BOS]\" names two ids"},
           {model, other_class, absl::StatusCode::kUnimplemented, "tokenizer_class QWenTokenizer"}}) {
    const auto tokenizer = Create(c.model, c.config);
    EXPECT_EQ(tokenizer.status().code(), c.code) << c.message << ": " << tokenizer.status();
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(c.message));
  }
}

TEST(Tiktoken, NeedsTheConfigThatNamesItsSpecialTokens) {
  const auto tokenizer = Tokenizer::Create(AssetsOf({{"tiktoken.model", ModelOf(Ranks())}}));
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("tokenizer_config.json"));
}

}  // namespace
}  // namespace kompakt
