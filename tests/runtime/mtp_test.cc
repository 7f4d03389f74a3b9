// The MTP layer against goldens, from the checkpoint and from packed files.
#include "runtime/mtp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "converters/checkpoint.h"
#include "quant/convert.h"
#include "runtime/exact_store.h"
#include "runtime/session.h"
#include "tests/converters/status_matchers.h"
#include "tests/converters/temp_folder.h"
#include "tests/runtime/golden_file.h"

namespace kompakt {
namespace {

struct Golden {
  explicit Golden(const std::string& checkpoint)
      : path(CheckpointFolder(checkpoint) + "/golden_mtp.safetensors"), ids(GoldenInts(path, "ids")) {}
  std::string path;
  std::vector<int32_t> ids;
};

// Both sides compute in F32 with different orders of summation; 1e-4 of the range, as for the main model.
void ExpectWithinRange(absl::Span<const float> got, absl::Span<const float> want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  const auto [least, largest] = std::minmax_element(want.begin(), want.end());
  const double bound = 1e-4 * (static_cast<double>(*largest) - static_cast<double>(*least));
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_LE(std::fabs(static_cast<double>(got[i]) - static_cast<double>(want[i])), bound)
        << what << ": value " << i << " is " << got[i] << ", expected " << want[i];
  }
}

absl::StatusOr<MtpTrace> TraceOf(const std::shared_ptr<const Model>& model, const std::vector<int32_t>& ids) {
  auto session = *Session::Create(model, std::ssize(ids));
  ForwardTrace trace;
  EXPECT_THAT(session->Forward(ids, Session::Logits::kNone, &trace), IsOk());
  const size_t last = ids.size() * static_cast<size_t>(model->arch().hidden_size());
  return TraceMtp(*model, ids, absl::MakeConstSpan(trace.hidden).last(last));
}

std::shared_ptr<const WeightStore> PackedWith(const std::string& recipe, const std::string& checkpoint,
                                              const std::string& path) {
  const auto source = *OpenCheckpoint(CheckpointFolder(checkpoint), {.keep_mtp = true});
  EXPECT_THAT(Convert(*source, *QuantRecipe::Builtin(recipe), path, {.threads = 2}, PosixFileSystem()), IsOk());
  return PackedWeights(*PackedReader::Open(path));
}

class Mtp : public testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Checkpoints, Mtp, testing::Values("v3", "glm5"));

TEST_P(Mtp, MatchesTheGoldenFromALosslessFileOnEveryKernelSet) {
  const Golden golden(GetParam());
  const TempFolder folder;
  const auto weights = PackedWith("lossless", GetParam(), folder.File("m.kpk"));
  std::vector<float> of_threads;
  for (const KernelSet* kernels : AvailableKernelSets()) {
    for (const int threads : {1, 3}) {
      const auto model = *Model::Load(weights, {.threads = threads, .kernels = kernels});
      ASSERT_EQ(model->binding().mtp.size(), 1u);
      const auto trace = TraceOf(model, golden.ids);
      ASSERT_THAT(trace, IsOk());
      ExpectWithinRange(trace->input, GoldenFloats(golden.path, "mtp_input"), "mtp_input");
      ExpectWithinRange(trace->layer_out, GoldenFloats(golden.path, "mtp_layer_out"), "mtp_layer_out");
      ExpectWithinRange(trace->logits, GoldenFloats(golden.path, "mtp_logits"), "mtp_logits");
      EXPECT_EQ(trace->router_ids, GoldenInts(golden.path, "router_ids"));
      ExpectWithinRange(trace->router_weights, GoldenFloats(golden.path, "router_weights"), "router_weights");
      if (threads == 1) {
        of_threads = trace->logits;
      } else {
        EXPECT_EQ(trace->logits, of_threads) << kernels->name;
      }
    }
  }
}

TEST_P(Mtp, TheCheckpointItselfGivesTheBitsOfALosslessFile) {
  const Golden golden(GetParam());
  const TempFolder folder;
  const auto packed = *Model::Load(PackedWith("lossless", GetParam(), folder.File("m.kpk")), {.threads = 2});
  const auto source = *OpenCheckpoint(CheckpointFolder(GetParam()), {.keep_mtp = true});
  const auto exact = *Model::Load(*LoadExactWeights(*source, GetParam(), 2), {.threads = 2});
  EXPECT_EQ(TraceOf(exact, golden.ids)->logits, TraceOf(packed, golden.ids)->logits);
}

TEST_P(Mtp, EightBitsChangeTheLogitsLittle) {
  const Golden golden(GetParam());
  const TempFolder folder;
  const auto lossless = *Model::Load(PackedWith("lossless", GetParam(), folder.File("a.kpk")), {.threads = 2});
  const auto q8 = *Model::Load(PackedWith("q8", GetParam(), folder.File("b.kpk")), {.threads = 2});
  // Of the same hidden states, so that only the MTP layer, embedding and head differ.
  auto session = *Session::Create(lossless, std::ssize(golden.ids));
  ForwardTrace trace;
  ASSERT_THAT(session->Forward(golden.ids, Session::Logits::kNone, &trace), IsOk());
  const size_t last = golden.ids.size() * static_cast<size_t>(lossless->arch().hidden_size());
  const auto hidden = absl::MakeConstSpan(trace.hidden).last(last);
  const MtpTrace a = *TraceMtp(*lossless, golden.ids, hidden);
  const MtpTrace b = *TraceMtp(*q8, golden.ids, hidden);
  double error = 0, energy = 0;
  for (size_t i = 0; i < a.input.size(); ++i) {
    error += std::pow(static_cast<double>(a.input[i]) - static_cast<double>(b.input[i]), 2);
    energy += std::pow(static_cast<double>(a.input[i]), 2);
  }
  // The projection at 8 bits: -46 dB of its own, and as much from the embedding.
  EXPECT_LT(10 * std::log10(error / energy), -38);
  EXPECT_GT(error, 0);
}

TEST(MtpRefusals, NameWhatIsMissing) {
  const auto without = ExactModel("v3", nullptr);
  const std::vector<int32_t> ids = {1, 2, 3};
  const std::vector<float> hidden(3 * 192);
  EXPECT_THAT(TraceMtp(*without, ids, hidden), Fails(absl::StatusCode::kFailedPrecondition, {"v3", "MTP layer"}));
  const auto source = *OpenCheckpoint(CheckpointFolder("v3"), {.keep_mtp = true});
  const auto model = *Model::Load(*LoadExactWeights(*source, "v3", 2), {.threads = 2});
  EXPECT_THAT(TraceMtp(*model, {1}, absl::MakeSpan(hidden).first(192)),
              Fails(absl::StatusCode::kInvalidArgument, {"at least 2"}));
  EXPECT_THAT(TraceMtp(*model, ids, absl::MakeSpan(hidden).first(100)),
              Fails(absl::StatusCode::kInvalidArgument, {"100"}));
  EXPECT_THAT(TraceMtp(*model, {1, 99999, 2}, hidden), Fails(absl::StatusCode::kInvalidArgument, {"99999"}));
  EXPECT_THAT(OpenCheckpoint(CheckpointFolder("v2lite"), {.keep_mtp = true}),
              Fails(absl::StatusCode::kFailedPrecondition, {"config.json", "num_nextn_predict_layers"}));
}

}  // namespace
}  // namespace kompakt
