#include "validate/baseline.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "converters/checkpoint.h"
#include "format/file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/exact_store.h"
#include "tests/fixtures/scratch_folder.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

std::vector<float> RandomLogits(size_t n, uint32_t seed, float scale) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> logits(n);
  for (float& x : logits) x = normal(rng);
  return logits;
}

BaselineToken RoundTrip(const std::vector<float>& logits, int32_t next) {
  const RecordShape shape{static_cast<int64_t>(logits.size())};
  std::vector<uint8_t> record(shape.bytes());
  WriteRecord(shape, logits, next, absl::MakeSpan(record));
  BaselineToken token;
  const absl::Status read = ReadRecord(shape, record, &token);
  EXPECT_TRUE(read.ok()) << read;
  return token;
}

TEST(BaselineRecord, TakesAtMost300BytesForEveryVocabularyUpToHalfAMillion) {
  EXPECT_EQ(RecordShape{129280}.bytes(), 16u + 128 + 136);
  EXPECT_EQ(RecordShape{163840}.bytes(), 16u + 128 + 144);
  for (const int64_t vocab : {1, 2, 63, 64, 65, 320, 102400, 129280, 163840, 524288}) {
    EXPECT_LE(RecordShape{vocab}.bytes(), 300u) << vocab;
  }
}

TEST(BaselineRecord, KeepsTheMostLikelyTokensAndTheMassOfTheOthers) {
  for (const size_t vocab : {1u, 2u, 7u, 64u, 65u, 4096u}) {
    const std::vector<float> logits = RandomLogits(vocab, 11, 3);
    const BaselineToken token = RoundTrip(logits, 0);
    double total = 0;
    for (const float x : logits) total += std::exp(static_cast<double>(x));
    double mass = std::exp(token.log_rest);
    ASSERT_EQ(std::ssize(token.ids), std::min<int64_t>(64, static_cast<int64_t>(vocab)));
    for (size_t i = 0; i < token.ids.size(); ++i) {
      const double exact = static_cast<double>(logits[static_cast<size_t>(token.ids[i])]) - std::log(total);
      // Half a step of the code, and what F32 loses in the two ends.
      EXPECT_NEAR(token.log_p[i], exact, 20.0 / 65535 / 2 + 1e-5) << vocab << " token " << i;
      mass += std::exp(token.log_p[i]);
    }
    EXPECT_NEAR(mass, 1, 1e-9) << vocab;
    EXPECT_NEAR(token.nll, std::log(total) - static_cast<double>(logits[0]), 1e-5) << vocab;
    EXPECT_EQ(std::isinf(token.log_rest), vocab <= 64) << vocab;
  }
}

TEST(BaselineRecord, DivergesByALowerBoundThatIsTightWhereTheRestIsSmall) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const std::vector<float> p = RandomLogits(1000, seed, seed % 2 == 0 ? 1.0f : 6.0f);
    std::vector<float> q = RandomLogits(1000, seed + 1000, 0.1f);
    for (size_t i = 0; i < q.size(); ++i) q[i] += p[i];
    const BaselineToken token = RoundTrip(p, 5);
    const TokenDivergence full = Diverge(p, q, 5);
    const TokenDivergence bound = DivergeFromBaseline(token, q, 5);
    // Rounding of the codes may lift it by their error times the difference of the logs.
    EXPECT_LE(bound.kl, full.kl + 2e-5) << seed;
    EXPECT_GT(bound.kl, 0) << seed;
    if (std::exp(token.log_rest) < 0.01) {
      EXPECT_GT(bound.kl, 0.9 * full.kl - 1e-5) << seed;
    }
    EXPECT_NEAR(bound.nll_p, full.nll_p, 1e-5);
    EXPECT_NEAR(bound.nll_q, full.nll_q, 1e-9);
    EXPECT_EQ(bound.same_top, full.same_top);
  }
}

TEST(BaselineRecord, IsNothingAgainstItself) {
  const std::vector<float> p = RandomLogits(500, 3, 4);
  EXPECT_LT(DivergeFromBaseline(RoundTrip(p, 1), p, 1).kl, 1e-8);
}

TEST(BaselineRecord, RefusesWhatNoDistributionIs) {
  const RecordShape shape{300};
  std::vector<uint8_t> good(shape.bytes());
  WriteRecord(shape, RandomLogits(300, 2, 3), 4, absl::MakeSpan(good));
  const auto with = [&](auto change) {
    std::vector<uint8_t> bad = good;
    change(bad);
    BaselineToken token;
    return ReadRecord(shape, bad, &token);
  };
  const auto put = [](std::vector<uint8_t>& bytes, size_t at, float value) {
    std::memcpy(bytes.data() + at, &value, sizeof(value));
  };
  EXPECT_TRUE(with([](auto&) {}).ok());
  for (const size_t field : {0u, 4u, 8u, 12u}) {
    for (const float value : {std::nanf(""), INFINITY, -INFINITY}) {
      EXPECT_EQ(with([&](auto& b) { put(b, field, value); }).code(), absl::StatusCode::kDataLoss) << field;
    }
  }
  EXPECT_EQ(with([&](auto& b) { put(b, 4, -1); }).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(with([&](auto& b) { put(b, 0, 3); }).code(), absl::StatusCode::kDataLoss);  // more than all probability
  EXPECT_EQ(with([&](auto& b) { b[16] = 0xff, b[17] = 0xff; }).code(), absl::StatusCode::kDataLoss);  // not descending
  const absl::Status all_ones = with([&](auto& b) { std::fill(b.begin() + 16 + 128, b.end(), uint8_t{0xff}); });
  EXPECT_THAT(std::string(all_ones.message()), HasSubstr("an id below 300, found 511"));
  const absl::Status twice = with([&](auto& b) { std::fill(b.begin() + 16 + 128, b.end(), uint8_t{0}); });
  EXPECT_THAT(std::string(twice.message()), HasSubstr("twice"));
}

// A model and a text for whole files.
class BaselineFile : public testing::Test {
 protected:
  static constexpr int64_t kContext = 16;

  void SetUp() override {
    const std::string folder = KOMPAKT_TEST_DATA "/checkpoints/v2lite";
    const auto source = OpenCheckpoint(folder);
    ASSERT_TRUE(source.ok()) << source.status();
    const auto weights = LoadExactWeights(**source, folder, 2);
    ASSERT_TRUE(weights.ok()) << weights.status();
    weights_ = *weights;
    for (int64_t i = 0; i < 3 * kContext; ++i) ids_.push_back(static_cast<int32_t>((i * i * 7 + 3 * i + 11) % 320));
    auto chunks = ScoredChunks::Create(ids_, 0, kContext);
    ASSERT_TRUE(chunks.ok()) << chunks.status();
    chunks_ = *std::move(chunks);
    path_ = folder_ / "x.baseline";
  }

  std::shared_ptr<const Model> Load(const char* kernels) const {
    const auto set = KernelSetByName(kernels);
    EXPECT_TRUE(set.ok()) << set.status();
    const auto model = Model::Load(weights_, {.threads = 2, .kernels = *set});
    EXPECT_TRUE(model.ok()) << model.status();
    return *model;
  }

  BaselineHeader Header() const {
    BaselineHeader header;
    header.model = "v2lite";
    header.text = "squares";
    header.model_xxh3 = 1;
    header.tokenizer_xxh3 = 2;
    header.text_xxh3 = 3;
    header.ids_xxh3 = IdsXxh3(chunks_);
    header.tensor_bytes = 4;
    header.parameters = 5;
    header.vocab = 320;
    header.context = kContext;
    header.chunks = chunks_.count();
    return header;
  }

  void Save() {
    auto writer = BaselineWriter::Create(PosixFileSystem(), path_, Header());
    ASSERT_TRUE(writer.ok()) << writer.status();
    const absl::Status saved = SaveBaseline(Load("portable"), chunks_, **writer, nullptr);
    ASSERT_TRUE(saved.ok()) << saved;
    EXPECT_FALSE(PosixFileSystem().Exists(path_ + ".partial"));
  }

  std::string Bytes() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  void Put(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }

  // What opening and reading all of it says.
  absl::Status ReadAll() const {
    const auto reader = BaselineReader::Open(PosixFileSystem(), path_);
    if (!reader.ok()) return reader.status();
    std::vector<BaselineToken> tokens;
    for (int64_t i = 0; i < (*reader)->header().chunks; ++i) {
      if (const absl::Status read = (*reader)->ReadChunk(i, &tokens); !read.ok()) return read;
    }
    return absl::OkStatus();
  }

  ScratchFolder folder_;
  std::string path_;
  std::shared_ptr<const WeightStore> weights_;
  std::vector<int32_t> ids_;
  ScoredChunks chunks_;
};

TEST_F(BaselineFile, StandsForTheModelThatItWasMadeFrom) {
  Save();
  const auto reader = BaselineReader::Open(PosixFileSystem(), path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_TRUE(BaselineReader::IsBaseline(PosixFileSystem(), path_));
  const BaselineHeader& header = (*reader)->header();
  EXPECT_EQ(header.model, "v2lite");
  EXPECT_EQ(header.text, "squares");
  EXPECT_EQ(header.model_xxh3, 1u);
  EXPECT_EQ(header.tensor_bytes, 4u);
  EXPECT_EQ(header.parameters, 5);
  EXPECT_EQ(header.chunks, 3);

  const auto itself = CompareWithBaseline(**reader, Load("portable"), chunks_, nullptr);
  ASSERT_TRUE(itself.ok()) << itself.status();
  EXPECT_LT(itself->divergence.kl.mean(), 1e-8);
  EXPECT_EQ(itself->divergence.same_top_share(), 1);
  EXPECT_TRUE(itself->layers.empty());
  ASSERT_TRUE(itself->baseline_rest.has_value());
  EXPECT_GT(itself->baseline_rest->mean(), 0);

  // Another summation order: everything but KL is what Compare finds.
  CompareOptions options;
  options.context = kContext;
  const auto full = Compare(Load("portable"), Load("reference"), ids_, 0, options);
  ASSERT_TRUE(full.ok()) << full.status();
  const auto bound = CompareWithBaseline(**reader, Load("reference"), chunks_, nullptr);
  ASSERT_TRUE(bound.ok()) << bound.status();
  EXPECT_EQ(bound->divergence.tokens_scored, full->divergence.tokens_scored);
  // A record keeps the negative log-likelihood, here about 11, as F32: half an ulp of it is 5e-7.
  EXPECT_NEAR(bound->divergence.perplexity_p() / full->divergence.perplexity_p(), 1, 5e-7);
  EXPECT_NEAR(bound->divergence.perplexity_q(), full->divergence.perplexity_q(), 1e-9);
}

TEST_F(BaselineFile, DamageOfAnyByteIsFound) {
  Save();
  const std::string good = Bytes();
  // All of the header and its names; of the records every 13th byte, a number prime to their length.
  for (size_t i = 0; i < good.size(); i += i < 160 ? 1 : 13) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    Put(bad);
    EXPECT_FALSE(ReadAll().ok()) << "byte " << i;
  }
  Put(good);
  EXPECT_TRUE(ReadAll().ok());
}

TEST_F(BaselineFile, ATruncatedOrLongerFileIsRefused) {
  Save();
  const std::string good = Bytes();
  for (const size_t keep :
       {size_t{0}, size_t{5}, size_t{100}, size_t{112}, size_t{127}, good.size() / 2, good.size() - 1}) {
    Put(good.substr(0, keep));
    EXPECT_EQ(BaselineReader::Open(PosixFileSystem(), path_).status().code(), absl::StatusCode::kDataLoss) << keep;
  }
  Put(good + "x");
  EXPECT_EQ(BaselineReader::Open(PosixFileSystem(), path_).status().code(), absl::StatusCode::kDataLoss);
  Put(std::string(500, 'x'));
  EXPECT_EQ(BaselineReader::Open(PosixFileSystem(), path_).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(BaselineReader::IsBaseline(PosixFileSystem(), path_));
  std::string other = good;
  other[8] = 2;
  Put(other);
  EXPECT_EQ(BaselineReader::Open(PosixFileSystem(), path_).status().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(BaselineFile, AnotherTextTokenizerOrCutIsRefusedByName) {
  Save();
  const auto reader = BaselineReader::Open(PosixFileSystem(), path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto why = [&](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    return std::string(status.message());
  };
  EXPECT_TRUE((*reader)->CheckSameText(320, 9, 3, chunks_).ok());
  EXPECT_THAT(why((*reader)->CheckSameText(321, 2, 3, chunks_)), HasSubstr("vocabulary of 320"));
  EXPECT_THAT(why((*reader)->CheckSameText(320, 2, 4, chunks_)), HasSubstr("another text"));
  EXPECT_THAT(why((*reader)->CheckSameText(320, 2, 3, *ScoredChunks::Create(ids_, 0, 24))), HasSubstr("of 24"));
  std::vector<int32_t> other = ids_;
  other[7] ^= 1;
  EXPECT_THAT(why((*reader)->CheckSameText(320, 2, 3, *ScoredChunks::Create(other, 0, kContext))),
              HasSubstr("another tokenizer"));
}

TEST_F(BaselineFile, NothingIsLeftOfOneThatWasStopped) {
  {
    auto writer = BaselineWriter::Create(PosixFileSystem(), path_, Header());
    ASSERT_TRUE(writer.ok()) << writer.status();
    const absl::Status stopped =
        SaveBaseline(Load("portable"), chunks_, **writer, [](int64_t done, int64_t) { return done < 2; });
    EXPECT_EQ(stopped.code(), absl::StatusCode::kCancelled);
  }
  EXPECT_FALSE(PosixFileSystem().Exists(path_));
  EXPECT_FALSE(PosixFileSystem().Exists(path_ + ".partial"));
}

}  // namespace
}  // namespace kompakt
