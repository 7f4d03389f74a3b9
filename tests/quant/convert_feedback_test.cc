// Conversions with error feedback: the same bytes however the work is cut, derived again by verify, a smaller error
// where it counts, and channels in an order that keeps the function.
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "format/packed_reader.h"
#include "format/packed_source.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/convert.h"
#include "quant/source_check.h"
#include "tests/converters/status_matchers.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"
#include "tests/fixtures/synthetic_source.h"
#include "tests/quant/calibration_model.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

constexpr absl::string_view kLow = "* = q4_g32\nself_attn.kv_b_proj = q8_g32\nself_attn.indexer.w* = q8_g32\n";

QuantRecipe Recipe(absl::string_view head) {
  auto recipe = QuantRecipe::Parse(absl::StrCat(head, "\n", kLow), "test");
  EXPECT_THAT(recipe, IsOk());
  return *std::move(recipe);
}

// A model of random weights, and what goes into its matrices on 300 tokens.
class ConvertFeedback : public testing::TestWithParam<ArchSpec> {
 protected:
  void SetUp() override {
    options_.arch = GetParam();
    options_.assets = SmallAssets();
    source_ = std::make_unique<SyntheticSource>(options_);
    const auto model = RandomModel(options_.arch);
    CalibrateInto(folder_ / "h.kcal", *model, SomeIds(options_.arch, 300), 60, true);
    CalibrateInto(folder_ / "m.kcal", *model, SomeIds(options_.arch, 300), 60, false);
    moments_ = Opened("h.kcal");
    means_ = Opened("m.kcal");
  }

  std::shared_ptr<const Importance> Opened(const std::string& name) const {
    const auto importance = Importance::Create(OpenedCalibration(folder_ / name), source_->schema(), source_->assets());
    EXPECT_THAT(importance, IsOk());
    return *importance;
  }

  std::vector<uint8_t> Converted(const std::string& name, const QuantRecipe& recipe, ConvertOptions options) const {
    options.importance = moments_.get();
    const auto report = Convert(*source_, recipe, folder_ / name, options, PosixFileSystem());
    EXPECT_THAT(report, IsOk());
    return report.ok() && report->unfinished_shares.empty() ? ReadWholeFile(folder_ / name) : std::vector<uint8_t>();
  }

  // [rows, cols] of a matrix in a packed file.
  std::vector<float> Decoded(const PackedReader& file, const TensorInfo& tensor) const {
    const PackedLayout::Place place = file.layout().Find(tensor.role, tensor.layer);
    const ExtentPart& part =
        file.layout().extents()[static_cast<size_t>(place.extent)].parts[static_cast<size_t>(place.part)];
    const auto blob = file.RecordBytes(place.extent, std::max<int64_t>(tensor.expert, 0))
                          .subspan(part.offset_in_record, part.blob.total_bytes);
    const BlockFormat& format = FormatOf(part.format);
    const auto* scales = reinterpret_cast<const float*>(blob.data() + part.blob.side_offset);
    const int64_t tiles = (tensor.cols + kTileCols - 1) / kTileCols;
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    for (int64_t r = 0; r < tensor.rows; ++r) {
      for (int64_t c = 0; c < tensor.cols; c += kTileCols) {
        DecodedTile tile;
        const int64_t index = r / kTileRows * tiles + c / kTileCols;
        format.decode_tile(blob.data() + static_cast<uint64_t>(index) * format.tile_bytes,
                           scales + r / kTileRows * kTileRows, &tile);
        for (int64_t k = c; k < std::min(tensor.cols, c + kTileCols); ++k) {
          values[static_cast<size_t>(r * tensor.cols + k)] = tile.w[r % kTileRows][k - c];
        }
      }
    }
    return values;
  }

  std::vector<float> Original(const TensorInfo& tensor) const {
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    EXPECT_THAT(source_->ReadF32(tensor, 0, tensor.rows, absl::MakeSpan(values)), IsOk());
    return values;
  }

  ScratchFolder folder_;
  SyntheticOptions options_;
  std::unique_ptr<SyntheticSource> source_;
  std::shared_ptr<const Importance> moments_, means_;
};

TEST_P(ConvertFeedback, TheBytesDoNotDependOnThreadsPartsOrInterruptions) {
  const QuantRecipe recipe = Recipe("[error-feedback 0.01]");
  const std::vector<uint8_t> first = Converted("1.kpk", recipe, {.threads = 1});
  ASSERT_FALSE(first.empty());
  EXPECT_TRUE(Converted("4.kpk", recipe, {.threads = 4}) == first);
  for (int64_t part = 0; part < 3; ++part) {
    ConvertOptions options;
    options.threads = 2;
    options.share = {part, 3};
    Converted("parts.kpk", recipe, options);
  }
  EXPECT_TRUE(ReadWholeFile(folder_ / "parts.kpk") == first);

  // Stopped over and over, at the next step each time.
  std::atomic<bool> interrupted = false;
  bool finished = false;
  for (int steps = 1; !finished && steps < 200; ++steps) {
    interrupted = false;
    ConvertOptions options;
    options.importance = moments_.get();
    options.interrupted = &interrupted;
    int left = 2;
    options.progress = [&](uint64_t, uint64_t) { interrupted = --left < 0; };
    const auto report = Convert(*source_, recipe, folder_ / "stopped.kpk", options, PosixFileSystem());
    finished = report.ok();
    if (!finished) {
      EXPECT_EQ(report.status().code(), absl::StatusCode::kCancelled) << report.status();
    }
  }
  EXPECT_TRUE(finished && ReadWholeFile(folder_ / "stopped.kpk") == first);
  EXPECT_FALSE(Converted("off.kpk", Recipe("[error-feedback off]"), {}) == first);
  EXPECT_FALSE(Converted("damped.kpk", Recipe("[error-feedback 0.1]"), {}) == first);
}

TEST_P(ConvertFeedback, VerifyDerivesEveryTensorAgain) {
  Converted("m.kpk", Recipe("[error-feedback 0.01]"), {.threads = 2});
  const auto file = PackedReader::Open(folder_ / "m.kpk");
  ASSERT_THAT(file, IsOk());
  const auto check = CheckAgainstSource(**file, *source_, 0, 2, nullptr, moments_.get());
  ASSERT_THAT(check, IsOk());
  EXPECT_THAT(check->differences, testing::IsEmpty());
  EXPECT_EQ(check->tensors_checked, std::ssize(source_->schema().tensors()));
  SyntheticOptions other = options_;
  other.seed = 2;
  other.header_seed = 1;
  const auto differs = CheckAgainstSource(**file, SyntheticSource(other), 0, 2, nullptr, moments_.get());
  ASSERT_THAT(differs, IsOk());
  EXPECT_FALSE(differs->differences.empty());
}

// What an error costs on the calibration's inputs: sum over rows of e S e^T, for the columns as the source has them.
double Cost(const std::vector<float>& e, int64_t cols, const std::vector<float>& triangle) {
  double cost = 0;
  for (size_t row = 0; row < e.size(); row += static_cast<size_t>(cols)) {
    size_t at = 0;
    for (int64_t i = 0; i < cols; ++i) {
      for (int64_t j = i; j < cols; ++j, ++at) {
        cost += (i == j ? 1 : 2) * static_cast<double>(e[row + static_cast<size_t>(i)]) *
                static_cast<double>(e[row + static_cast<size_t>(j)]) * static_cast<double>(triangle[at]);
      }
    }
  }
  return cost;
}

TEST_P(ConvertFeedback, ErrorsCostLessAndChannelsKeepTheFunction) {
  const QuantRecipe recipe = Recipe("[error-feedback 0.01]");
  Converted("on.kpk", recipe, {.threads = 2});
  Converted("off.kpk", Recipe("[error-feedback off]"), {.threads = 2});
  const auto on = PackedReader::Open(folder_ / "on.kpk");
  const auto off = PackedReader::Open(folder_ / "off.kpk");
  ASSERT_THAT(on, IsOk());
  ASSERT_THAT(off, IsOk());
  const auto plan = PlanConversion(*source_, recipe, 1, 0, moments_.get());
  ASSERT_THAT(plan, IsOk());
  std::map<TensorRole, std::pair<double, double>> costs;
  int reordered = 0;
  for (const TensorInfo& tensor : source_->schema().tensors()) {
    const int64_t input = plan->feedback->InputOf(tensor);
    if (input < 0) continue;
    const int64_t cols = tensor.cols;
    std::vector<float> with = Decoded(**on, tensor);
    std::vector<float> without = Decoded(**off, tensor);
    const std::vector<float> original = Original(tensor);
    // Back in the order of the source.
    const bool rows = plan->feedback->ReordersRows(tensor);
    if (rows || plan->feedback->ReordersColumns(tensor)) {
      ++reordered;
      const auto order = plan->feedback->OrderOf(tensor);
      ASSERT_THAT(order, IsOk());
      EXPECT_EQ(std::set<int32_t>(order->begin(), order->end()).size(),
                static_cast<size_t>(rows ? tensor.rows : tensor.cols));
      const std::vector<float> stored = with;
      for (int64_t r = 0; r < tensor.rows; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          const int64_t to_row = rows ? (*order)[static_cast<size_t>(r)] : r;
          const int64_t to_col = rows ? c : (*order)[static_cast<size_t>(c)];
          with[static_cast<size_t>(to_row * cols + to_col)] = stored[static_cast<size_t>(r * cols + c)];
        }
      }
    }
    double error = 0, square = 0;
    for (size_t i = 0; i < original.size(); ++i) {
      with[i] -= original[i];
      without[i] -= original[i];
      error += static_cast<double>(with[i]) * static_cast<double>(with[i]);
      square += static_cast<double>(original[i]) * static_cast<double>(original[i]);
    }
    // Four bits leave -23 dB; feedback spends some of that. A row or column at another one's place would leave +3 dB.
    EXPECT_TRUE(error < 0.1 * square) << tensor.Name() << ": " << 10 * std::log10(error / square) << " dB";
    std::vector<float> triangle;
    ASSERT_THAT(moments_->file().ReadMatrix(input, &triangle), IsOk());
    costs[tensor.role].first += Cost(with, cols, triangle);
    costs[tensor.role].second += Cost(without, cols, triangle);
  }
  const MoeSpec& moe = options_.arch.moe();
  EXPECT_EQ(reordered, 3 * (1 + 2 * ((moe.n_shared_experts() > 0 ? 1 : 0) + moe.n_routed_experts())));
  for (const auto& [role, cost] : costs) {
    EXPECT_TRUE(cost.first < 0.9 * cost.second) << InfoOf(role).name << ": " << cost.first << " of " << cost.second;
  }
}

TEST_P(ConvertFeedback, ThePlanCountsTheFactorsAndRefusesWhatCannotBe) {
  const auto with = PlanConversion(*source_, Recipe("[error-feedback 0.01]"), 2, 0, moments_.get());
  const auto without = PlanConversion(*source_, Recipe("[error-feedback off]"), 2, 0, moments_.get());
  ASSERT_THAT(with, IsOk());
  ASSERT_THAT(without, IsOk());
  EXPECT_EQ(without->feedback, nullptr);
  int64_t widest = 0;
  for (const TensorInfo& tensor : source_->schema().tensors()) {
    if (with->feedback->InputOf(tensor) >= 0) widest = std::max(widest, tensor.cols);
  }
  EXPECT_GT(with->memory.peak_bytes,
            without->memory.peak_bytes + 2 * FeedbackFactor::BytesWhileMade(widest) + FeedbackFactor::BytesFor(widest));
  EXPECT_EQ(with->tensor_bytes, without->tensor_bytes);
  const absl::Status bare = PlanConversion(*source_, Recipe("[error-feedback 0.01]"), 2).status();
  EXPECT_EQ(bare.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(bare.message()), HasSubstr("needs a calibration with second moments"));
  const absl::Status means = PlanConversion(*source_, Recipe("[error-feedback 0.01]"), 2, 0, means_.get()).status();
  EXPECT_EQ(means.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(means.message()), HasSubstr("m.kcal holds no second moments"));
}

TEST_P(ConvertFeedback, WhatIsKeptKeepsItsOrder) {
  // Gate as upstream has it: then nothing of that FFN may move.
  QuantRecipe recipe = Recipe("[error-feedback 0.01]");
  for (const char* flag : {"mlp.experts.gate_proj=source", "mlp.gate_proj=source"}) {
    ASSERT_THAT(recipe.AddOverride(flag), IsOk());
  }
  const auto plan = PlanConversion(*source_, recipe, 1, 0, moments_.get());
  ASSERT_THAT(plan, IsOk());
  for (const TensorInfo& tensor : source_->schema().tensors()) {
    const bool shared = InfoOf(tensor.role).tensor_class == TensorClass::kSharedExpert;
    EXPECT_EQ(plan->feedback->ReordersRows(tensor) || plan->feedback->ReordersColumns(tensor), shared) << tensor.Name();
  }
}

ArchSpec WithoutSharedExperts() {
  ArchSpec arch = SmallV3Arch();
  arch.mutable_moe()->set_n_shared_experts(0);
  return arch;
}

std::string NameOfArch(const testing::TestParamInfo<ArchSpec>& info) {
  constexpr const char* kNames[] = {"V3", "V2Lite", "WithoutSharedExperts"};
  return kNames[info.index];
}

INSTANTIATE_TEST_SUITE_P(Archs, ConvertFeedback,
                         testing::Values(SmallV3Arch(), SmallV2LiteArch(), WithoutSharedExperts()), NameOfArch);

TEST(BlendMoments, FewTokensGiveADiagonalAndManyTheirOwn) {
  const std::vector<float> own = {4, 2, 0, 8, 4, 0};  // rows (4 2 0), (8 4), (0)
  std::vector<float> h = own;
  BlendMoments(absl::MakeSpan(h), 3, 0, {}, 0.5);
  EXPECT_THAT(h, testing::ElementsAre(1.5f, 0, 0, 1.5f, 0, 1.5f));
  h = own;
  BlendMoments(absl::MakeSpan(h), 3, kPriorTokens, std::vector<float>{3, 0, 0}, 0.25);
  EXPECT_THAT(
      h, testing::ElementsAre(0.5f + 1.5f + 0.25f, 0.25f, 0, 1.25f, 0.5f, static_cast<float>(kLeastImportance + 0.25)));
}

TEST(FactorCache, MakesEachOnceAndKeepsTheLastUnused) {
  FactorCache cache;
  int made = 0;
  const auto get = [&](int64_t key) {
    const auto factor = cache.Get(key, [&] {
      ++made;
      return FeedbackFactor::FromMatrix(std::vector<float>{1}, 1);
    });
    EXPECT_THAT(factor, IsOk());
    return factor.ok() ? *factor : nullptr;
  };
  FactorCache::Shared one = get(1);
  EXPECT_EQ(get(1), one);
  EXPECT_EQ(made, 1);
  one.reset();
  FactorCache::Shared two = get(2);
  two.reset();
  get(1);  // unused, but the last
  EXPECT_EQ(made, 2);
  get(3);
  get(2);  // two was dropped when three was made, for one was used after it
  EXPECT_EQ(made, 4);
  const auto fails = [&] { return cache.Get(9, [] { return absl::CancelledError("stopped"); }); };
  EXPECT_EQ(fails().status().code(), absl::StatusCode::kCancelled);
  EXPECT_NE(get(9), nullptr);
}

}  // namespace
}  // namespace kompakt
