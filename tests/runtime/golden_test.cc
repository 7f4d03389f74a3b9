// Every architecture variant against an independent implementation, with every kernel set: logits, hidden states and
// routing, whether a text is run at once, token by token or in pieces.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "runtime/session.h"
#include "tests/runtime/golden_file.h"

namespace kompakt {
namespace {

// Both sides compute in F32 with different orders of summation; the bound is the one that a wrong constant, a missing
// mscale or a swapped pair exceeds by orders of magnitude.
constexpr double kOfRange = 1e-4;

// All of `got` within kOfRange times the range of `want`. `what` names the values.
void ExpectWithinRange(absl::Span<const float> got, absl::Span<const float> want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  const auto [least, largest] = std::minmax_element(want.begin(), want.end());
  const double bound = kOfRange * (static_cast<double>(*largest) - static_cast<double>(*least));
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::fabs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    ASSERT_LE(error, bound) << what << ": value " << i << " is " << got[i] << ", expected " << want[i];
    worst = std::max(worst, error);
  }
  testing::Test::RecordProperty(what, std::to_string(worst / bound * kOfRange));
}

struct Variant {
  std::string checkpoint;
  const KernelSet* kernels;
};

std::vector<Variant> AllVariants() {
  std::vector<Variant> variants;
  for (const KernelSet* kernels : AvailableKernelSets()) {
    for (const char* name : {"v2lite", "v2", "v3", "moonlight", "glmflash", "kimi", "v32", "glm5"})
      variants.push_back({name, kernels});
  }
  return variants;
}

class Golden : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    path_ = CheckpointFolder(GetParam().checkpoint) + "/golden.safetensors";
    ids_ = GoldenInts(path_, "ids");
    model_ = ExactModel(GetParam().checkpoint, GetParam().kernels);
    ASSERT_NE(model_, nullptr);
  }

  // Logits of the whole text, run in pieces of `piece` tokens.
  std::vector<float> LogitsInPieces(size_t piece) {
    auto session = *Session::Create(model_, std::ssize(ids_));
    std::vector<float> logits;
    for (size_t begin = 0; begin < ids_.size(); begin += piece) {
      const auto part = absl::MakeSpan(ids_).subspan(begin, piece);
      const auto output = session->Forward(part, Session::Logits::kAll);
      EXPECT_TRUE(output.ok()) << output.status();
      if (!output.ok()) return {};
      logits.insert(logits.end(), output->logits.begin(), output->logits.end());
    }
    return logits;
  }

  std::string path_;
  std::vector<int32_t> ids_;
  std::shared_ptr<const Model> model_;
};

INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::ValuesIn(AllVariants()), [](const auto& info) {
  return info.param.checkpoint + "_" + std::string(info.param.kernels->name);
});

TEST_P(Golden, LogitsMatchHoweverTheTextIsCut) {
  const std::vector<float> want = GoldenFloats(path_, "logits");
  ExpectWithinRange(LogitsInPieces(ids_.size()), want, "prefill");
  ExpectWithinRange(LogitsInPieces(1), want, "decode");
  ExpectWithinRange(LogitsInPieces(7), want, "pieces_of_7");
}

TEST_P(Golden, HiddenStatesAndRoutingMatch) {
  const ArchSpec& arch = model_->arch();
  const auto tokens = ids_.size();
  auto session = *Session::Create(model_, std::ssize(ids_));
  ForwardTrace trace;
  ASSERT_TRUE(session->Forward(ids_, Session::Logits::kNone, &trace).ok());

  const std::vector<float> hidden = GoldenFloats(path_, "hidden");
  ASSERT_EQ(trace.hidden.size(), hidden.size());
  const size_t per_layer = tokens * static_cast<size_t>(arch.hidden_size());
  for (size_t l = 0; l <= static_cast<size_t>(arch.num_hidden_layers()); ++l) {
    ExpectWithinRange(absl::MakeSpan(trace.hidden).subspan(l * per_layer, per_layer),
                      absl::MakeSpan(hidden).subspan(l * per_layer, per_layer), "hidden_" + std::to_string(l));
  }
  EXPECT_EQ(trace.router_ids, GoldenInts(path_, "router_ids"));
  const std::vector<float> weights = GoldenFloats(path_, "router_weights");
  ASSERT_EQ(trace.router_weights.size(), weights.size());
  // 1e-5 of a score, in the unit that the model multiplies it by: docs/decisions/003-router-weight-bound.md.
  const auto bound = static_cast<float>(1e-5 * std::max(1.0, arch.moe().routed_scaling_factor()));
  for (size_t i = 0; i < weights.size(); ++i) {
    ASSERT_LE(std::fabs(trace.router_weights[i] - weights[i]), bound)
        << "choice " << i << " weighs " << trace.router_weights[i] << ", expected " << weights[i];
  }
}

TEST_P(Golden, TraceInPiecesHasTheSameChoices) {
  auto session = *Session::Create(model_, std::ssize(ids_));
  const std::vector<int32_t> want = GoldenInts(path_, "router_ids");
  const auto k = static_cast<size_t>(model_->arch().moe().num_experts_per_tok());
  const size_t moe_layers = want.size() / k / ids_.size();
  for (size_t begin = 0; begin < ids_.size(); begin += 5) {
    const auto part = absl::MakeSpan(ids_).subspan(begin, 5);
    ForwardTrace trace;
    ASSERT_TRUE(session->Forward(part, Session::Logits::kNone, &trace).ok());
    ASSERT_EQ(trace.router_ids.size(), moe_layers * part.size() * k);
    for (size_t l = 0; l < moe_layers; ++l) {
      EXPECT_TRUE(std::equal(trace.router_ids.begin() + static_cast<int64_t>(l * part.size() * k),
                             trace.router_ids.begin() + static_cast<int64_t>((l + 1) * part.size() * k),
                             want.begin() + static_cast<int64_t>((l * ids_.size() + begin) * k)))
          << "MoE layer " << l << ", tokens from " << begin;
    }
  }
}

TEST_P(Golden, LogitsDoNotDependOnTheThreadCount) {
  const std::vector<float> two = LogitsInPieces(13);
  for (const int threads : {1, 5}) {
    model_ = ExactModel(GetParam().checkpoint, GetParam().kernels, threads);
    EXPECT_EQ(LogitsInPieces(13), two) << threads << " threads";
  }
}

class Trained : public testing::TestWithParam<const KernelSet*> {};

INSTANTIATE_TEST_SUITE_P(Models, Trained, testing::ValuesIn(AvailableKernelSets().begin(), AvailableKernelSets().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(Trained, LongTextMatchesBeyondTheOriginalContextLength) {
  const std::string path = CheckpointFolder("tiny-v3") + "/golden_long.safetensors";
  const std::vector<int32_t> ids = GoldenInts(path, "ids");
  const std::vector<int32_t> positions = GoldenInts(path, "positions");
  const std::vector<float> want = GoldenFloats(path, "logits");
  const auto model = ExactModel("tiny-v3", GetParam());
  ASSERT_NE(model, nullptr);
  const auto vocab = static_cast<size_t>(model->arch().vocab_size());
  auto session = *Session::Create(model, std::ssize(ids));
  const auto output = session->Forward(ids, Session::Logits::kAll);
  ASSERT_TRUE(output.ok()) << output.status();
  for (size_t i = 0; i < positions.size(); ++i) {
    ExpectWithinRange(absl::MakeSpan(output->logits).subspan(static_cast<size_t>(positions[i]) * vocab, vocab),
                      absl::MakeSpan(want).subspan(i * vocab, vocab), "position_" + std::to_string(positions[i]));
  }
  // The last token once more, over the cached 1,999, in the absorbed form.
  ASSERT_EQ(positions.back(), std::ssize(ids) - 1);
  ASSERT_TRUE(session->Rewind(std::ssize(ids) - 1).ok());
  const auto last = session->Forward(absl::MakeSpan(ids).last(1), Session::Logits::kLast);
  ASSERT_TRUE(last.ok()) << last.status();
  ExpectWithinRange(last->logits, absl::MakeSpan(want).last(vocab), "decoded_last");
}

TEST_P(Trained, GreedyTextIsTheReferenceText) {
  std::ifstream file(CheckpointFolder("tiny-v3") + "/reference.json");
  std::stringstream text;
  text << file.rdbuf();
  const nlohmann::json reference = nlohmann::json::parse(text.str());
  const auto model = ExactModel("tiny-v3", GetParam());
  ASSERT_NE(model, nullptr);
  ASSERT_FALSE(reference["greedy"].empty());
  for (const auto& sample : reference["greedy"]) {
    // One text shows it for the slow set.
    if (GetParam()->name == "reference" && &sample != &reference["greedy"].front()) break;
    const auto prompt = sample["prompt_ids"].get<std::vector<int32_t>>();
    const auto want = sample["greedy_ids"].get<std::vector<int32_t>>();
    auto session = *Session::Create(model, std::ssize(prompt) + std::ssize(want));
    auto output = session->Forward(prompt, Session::Logits::kLast);
    std::vector<int32_t> got;
    while (output.ok()) {
      const auto best = std::max_element(output->logits.begin(), output->logits.end());
      got.push_back(static_cast<int32_t>(best - output->logits.begin()));
      if (got.size() == want.size()) break;
      output = session->Forward(absl::MakeSpan(got).last(1), Session::Logits::kLast);
    }
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ(got, want) << sample["prompt"];
  }
}

}  // namespace
}  // namespace kompakt
