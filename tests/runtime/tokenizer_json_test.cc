#include "runtime/tokenizer_json.h"

#include <gmock/gmock.h>

#include <functional>

#include "tests/runtime/tokenizer_fixtures.h"

namespace kompakt {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json Plain() { return ByteTokenizerJson(ByteLevelStep()); }

// The bytes, then "ab" = 256, "abc" = 257, and merges for both.
json WithMerges() {
  json file = Plain();
  file["model"]["vocab"]["ab"] = 256;
  file["model"]["vocab"]["abc"] = 257;
  file["model"]["merges"] = {"a b", "ab c"};
  return file;
}

json Added(int id, const std::string& content) { return {{"id", id}, {"content", content}, {"special", true}}; }

struct Refusal {
  const char* name;
  std::function<void(json&)> change;
  absl::StatusCode code;
  const char* message;
};

constexpr absl::StatusCode kUnsupported = absl::StatusCode::kUnimplemented;
constexpr absl::StatusCode kCorrupt = absl::StatusCode::kDataLoss;

const Refusal kRefusals[] = {
    {"another model", [](json& f) { f["model"]["type"] = "WordPiece"; }, kUnsupported, "model: WordPiece"},
    {"unigram",
     [](json& f) {
       f["model"] = {{"type", "Unigram"}, {"vocab", json::array({json::array({"a", -1.5})})}};
     },
     kUnsupported, "model: Unigram"},
    {"no model", [](json& f) { f.erase("model"); }, kCorrupt, "model: expected an object"},
    {"dropout", [](json& f) { f["model"]["dropout"] = 0.1; }, kUnsupported, "model.dropout"},
    {"prefix", [](json& f) { f["model"]["continuing_subword_prefix"] = "##"; }, kUnsupported,
     "model.continuing_subword_prefix"},
    {"suffix", [](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }, kUnsupported, "model.end_of_word_suffix"},
    {"unk_token where a byte is missing",
     [](json& f) {
       f["model"]["vocab"].erase("a");
       f["model"]["merges"] = json::array();
       f["model"]["unk_token"] = "b";
     },
     kUnsupported, "model.unk_token"},
    {"byte_fallback where a byte is missing",
     [](json& f) {
       f["model"]["vocab"].erase("a");
       f["model"]["merges"] = json::array();
       f["model"]["byte_fallback"] = true;
     },
     kUnsupported, "model.byte_fallback"},
    {"a normalizer",
     [](json& f) {
       f["normalizer"] = {{"type", "NFC"}};
     },
     kUnsupported, "normalizer: NFC"},
    {"a normalizer in a sequence",
     [](json& f) {
       f["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "Prepend"}}}}};
     },
     kUnsupported, "normalizer: Prepend"},
    {"a pre-tokenizer step", [](json& f) { f["pre_tokenizer"]["type"] = "Metaspace"; }, kUnsupported, "Metaspace"},
    {"another decoder", [](json& f) { f["decoder"]["type"] = "Fuse"; }, kUnsupported, "decoder: Fuse"},
    {"no decoder", [](json& f) { f.erase("decoder"); }, kUnsupported, "decoder: none"},
    {"no vocabulary", [](json& f) { f["model"].erase("vocab"); }, kCorrupt, "model.vocab"},
    {"an empty vocabulary",
     [](json& f) {
       f["model"]["vocab"] = json::object();
       f["model"]["merges"] = json::array();
     },
     kCorrupt, "model.vocab"},
    {"a negative id", [](json& f) { f["model"]["vocab"]["zz"] = -1; }, kCorrupt, "the id of \"zz\" is -1"},
    {"an id beyond reason", [](json& f) { f["model"]["vocab"]["zz"] = 1000000000; }, kCorrupt, "1000000000"},
    {"an id of 64 bits", [](json& f) { f["model"]["vocab"]["zz"] = 18446744073709551615u; }, kCorrupt, "\"zz\""},
    {"a fraction for an id", [](json& f) { f["model"]["vocab"]["zz"] = 1.5; }, kCorrupt, "\"zz\" is a fraction"},
    {"a string for an id", [](json& f) { f["model"]["vocab"]["zz"] = "5"; }, kCorrupt, "\"zz\" is a string"},
    {"two tokens of one id", [](json& f) { f["model"]["vocab"]["zz"] = 97; }, kCorrupt, "the id 97 stands for"},
    {"a merge of an unknown part", [](json& f) { f["model"]["merges"].push_back("a zz"); }, kCorrupt,
     "model.merges[2]: \"a\" + \"zz\": \"zz\" is not in the vocabulary"},
    {"a merge into an unknown token", [](json& f) { f["model"]["merges"].push_back("x y"); }, kCorrupt,
     "\"xy\" is not in the vocabulary"},
    {"a merge of one part", [](json& f) { f["model"]["merges"].push_back("ab"); }, kCorrupt, "model.merges[2]"},
    {"a merge of three parts", [](json& f) { f["model"]["merges"].push_back("a b c"); }, kCorrupt, "model.merges[2]"},
    {"a pair of three",
     [](json& f) {
       f["model"]["merges"].push_back({"a", "b", "c"});
     },
     kCorrupt, "model.merges[2]"},
    {"a pair of one", [](json& f) { f["model"]["merges"].push_back({"a"}); }, kCorrupt, "model.merges[2]"},
    {"a merge that is a number", [](json& f) { f["model"]["merges"].push_back(5); }, kCorrupt, "model.merges"},
    {"merges that are an object", [](json& f) { f["model"]["merges"] = json::object(); }, kCorrupt, "model.merges"},
    {"added tokens that are no list", [](json& f) { f["added_tokens"] = 5; }, kCorrupt, "added_tokens"},
    {"an added token without id",
     [](json& f) {
       f["added_tokens"] = {{{"content", "x"}}};
     },
     kCorrupt, "added_tokens[0].id"},
    {"an added token without content",
     [](json& f) {
       f["added_tokens"] = {{{"id", 300}}};
     },
     kCorrupt, "added_tokens[0].content"},
    {"an added token with the id of another", [](json& f) { f["added_tokens"] = json::array({Added(97, "<x>")}); },
     kCorrupt, "the id 97 stands for \"a\" and for \"<x>\""},
    {"an added token with another id than in the vocabulary",
     [](json& f) { f["added_tokens"] = json::array({Added(300, "ab")}); }, kCorrupt, "\"ab\" has the ids 256 and 300"},
    {"an added token longer than any",
     [](json& f) { f["added_tokens"] = json::array({Added(300, std::string(2000, 'x'))}); }, kUnsupported,
     "2000 bytes"}};

TEST(TokenizerFromJson, RefusesWhatItCannotDoExactly) {
  ASSERT_TRUE(TokenizerFromJson(WithMerges().dump()).ok()) << "the file before it is changed";
  for (const Refusal& refusal : kRefusals) {
    json file = WithMerges();
    refusal.change(file);
    const auto tokenizer = TokenizerFromJson(file.dump());
    EXPECT_EQ(tokenizer.status().code(), refusal.code) << refusal.name << ": " << tokenizer.status();
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("tokenizer.json: ")) << refusal.name;
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(refusal.message)) << refusal.name;
  }
}

TEST(TokenizerFromJson, RefusesWhatIsNotJson) {
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += "{\"a\":";
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("null"), std::string("{} x"), deep,
        std::string(100000, '['), std::string("{\"a\": \"\\ud800\"}"), std::string("{\"a\": \"\xff\"}"),
        WithMerges().dump().substr(0, 1000)}) {
    EXPECT_EQ(TokenizerFromJson(text).status().code(), kCorrupt) << text.substr(0, 40);
  }
}

TEST(TokenizerFromJson, RefusesATokenWithTwoIds) {
  std::string text = WithMerges().dump();
  const std::string entry = "\"ab\":256";
  text.replace(text.find(entry), entry.size(), "\"ab\":256,\"ab\":300");
  EXPECT_THAT(std::string(TokenizerFromJson(text).status().message()), HasSubstr("\"ab\" has the ids 256 and 300"));
}

TEST(TokenizerFromJson, TakesMergesAsStringsOrAsPairs) {
  json pairs = WithMerges();
  pairs["model"]["merges"] = json::array({json::array({"a", "b"}), json::array({"ab", "c"})});
  for (const json& file : {WithMerges(), pairs}) {
    EXPECT_THAT(MustEncode(*TokenizerOf(file.dump()), "xabcab"), ElementsAre('x', 257, 256));
  }
}

TEST(TokenizerFromJson, AcceptsUnknownTokensWhereEveryByteHasOne) {
  json file = WithMerges();
  file["model"]["unk_token"] = "a";
  file["model"]["byte_fallback"] = true;
  EXPECT_THAT(MustEncode(*TokenizerOf(file.dump()), "abc\n"), ElementsAre(257, '\n'));
}

TEST(TokenizerFromJson, DropsBytesThatHaveNoToken) {
  json file = WithMerges();
  file["model"]["vocab"].erase("x");
  EXPECT_THAT(MustEncode(*TokenizerOf(file.dump()), "axb"), ElementsAre(256));
}

TEST(TokenizerFromJson, EmitsWholePiecesWhereMergesAreIgnored) {
  json file = WithMerges();
  file["model"]["vocab"]["xyz"] = 258;
  EXPECT_THAT(MustEncode(*TokenizerOf(file.dump()), "xyz"), ElementsAre('x', 'y', 'z'));
  file["model"]["ignore_merges"] = true;
  EXPECT_THAT(MustEncode(*TokenizerOf(file.dump()), "xyz"), ElementsAre(258));
}

TEST(TokenizerFromJson, MergesTheLowestRankFirstAndTheLeftmostOfEquals) {
  json file = Plain();
  json& vocab = file["model"]["vocab"];
  for (const char* token : {"ab", "bc", "aa", "aab"}) vocab[token] = vocab.size();
  file["model"]["merges"] = {"b c", "a b", "a a", "aa b"};
  const auto tokenizer = TokenizerOf(file.dump());
  EXPECT_THAT(MustEncode(*tokenizer, "abc"), ElementsAre('a', vocab["bc"].get<int>()));
  EXPECT_THAT(MustEncode(*tokenizer, "aaa"), ElementsAre(vocab["aa"].get<int>(), 'a'));
  EXPECT_THAT(MustEncode(*tokenizer, "aab"), ElementsAre('a', vocab["ab"].get<int>()));
}

TEST(TokenizerFromJson, AllowsHolesBetweenIds) {
  json file = WithMerges();
  file["added_tokens"] = json::array({Added(1000, "<end>")});
  const auto tokenizer = TokenizerOf(file.dump());
  EXPECT_EQ(tokenizer->size(), 1001);
  EXPECT_THAT(MustEncode(*tokenizer, "a<end>"), ElementsAre('a', 1000));
  EXPECT_EQ(tokenizer->TokenBytes(999), "");
  EXPECT_TRUE(tokenizer->IsSpecial(1000));
}

TEST(TokenizerFromJson, DecodesTokensOutsideTheAlphabetAsTheyAreWritten) {
  json file = WithMerges();
  file["model"]["vocab"]["<｜x｜> y"] = 258;
  const auto tokenizer = TokenizerOf(file.dump());
  EXPECT_EQ(tokenizer->TokenBytes(258), "<｜x｜> y");
  EXPECT_EQ(tokenizer->Decode({256, 258}), "ab<｜x｜> y");
}

// The plain rule, one merge at a time.
std::vector<int32_t> NaiveMerge(const json& file, const std::string& text) {
  std::vector<std::string> parts;
  for (const char c : text) parts.emplace_back(1, c);
  const auto& merges = file["model"]["merges"];
  for (bool merged = true; merged;) {
    merged = false;
    for (const std::string merge : merges) {
      const std::string left = merge.substr(0, merge.find(' ')), right = merge.substr(merge.find(' ') + 1);
      for (size_t i = 0; i + 1 < parts.size() && !merged; ++i) {
        if (parts[i] != left || parts[i + 1] != right) continue;
        parts[i] += right;
        parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        merged = true;
      }
      if (merged) break;
    }
  }
  std::vector<int32_t> ids;
  for (const std::string& part : parts) ids.push_back(file["model"]["vocab"][part].get<int32_t>());
  return ids;
}

TEST(TokenizerFromJson, MergesAsThePlainRuleDoesWhereEveryTokenHasOneMerge) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    json file = Plain();
    json& vocab = file["model"]["vocab"];
    std::vector<std::string> tokens = {"a", "b", "c"};
    for (int i = 0; i < 12; ++i) {
      const std::string left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
      if (vocab.contains(left + right)) continue;
      vocab[left + right] = vocab.size();
      tokens.push_back(left + right);
      file["model"]["merges"].push_back(left + " " + right);
    }
    const auto tokenizer = TokenizerOf(file.dump());
    for (int i = 0; i < 20; ++i) {
      std::string text(random() % 30, 'a');
      for (char& c : text) c = static_cast<char>('a' + random() % 3);
      ASSERT_EQ(MustEncode(*tokenizer, text), NaiveMerge(file, text)) << text << " " << file["model"]["merges"];
    }
  }
}

}  // namespace
}  // namespace kompakt
