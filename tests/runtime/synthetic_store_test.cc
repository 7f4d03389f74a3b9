// Models of random weights, rows of random values, and what a pass costs.
#include "runtime/synthetic_store.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "format/status.h"
#include "runtime/pass_cost.h"
#include "runtime/session.h"
#include "tests/fixtures/small_arch.h"

namespace kompakt {
namespace {

std::vector<FormatId> AllAs(const ModelSchema& schema, FormatId format) {
  return std::vector<FormatId>(schema.tensors().size(), format);
}

std::shared_ptr<const WeightStore> Make(const ArchSpec& arch, FormatId format, int threads = 2) {
  const ModelSchema schema = *ModelSchema::Create(arch);
  auto store = MakeSyntheticWeights(schema, AllAs(schema, format), "synthetic", threads, [](uint64_t, uint64_t) {});
  EXPECT_TRUE(store.ok()) << store.status();
  return *store;
}

TEST(SyntheticWeights, AreTheSameWhateverTheThreads) {
  const auto one = Make(SmallV3Arch(), FormatId::kQ4G16, 1);
  const auto three = Make(SmallV3Arch(), FormatId::kQ4G16, 3);
  for (const TensorInfo& info : one->schema().tensors()) {
    if (info.is_vector()) {
      EXPECT_EQ(*one->Vector(info), *three->Vector(info)) << info.Name();
      continue;
    }
    const MatrixView a = *one->Matrix(info), b = *three->Matrix(info);
    EXPECT_EQ(std::memcmp(a.data, b.data, a.layout.total_bytes), 0) << info.Name();
  }
}

TEST(SyntheticWeights, HaveTheSizeThatKeepsSums) {
  for (const BlockFormat& format : AllFormats()) {
    const auto store = Make(SmallV3Arch(), format.id);
    const TensorInfo& info = store->schema().tensors()[0];
    const MatrixView m = *store->Matrix(info);
    std::vector<float> values(static_cast<size_t>(info.elements()));
    DecodeRows(m, 0, info.rows, absl::MakeSpan(values));
    double squares = 0;
    for (const float v : values) squares += static_cast<double>(v) * static_cast<double>(v);
    const double rms = std::sqrt(squares / static_cast<double>(values.size()) * static_cast<double>(info.cols));
    // Scales of mxfp4 are powers of two.
    const double factor = format.id == FormatId::kMxfp4 ? 1.5 : 1.1;
    EXPECT_GT(rms, 1 / factor) << format.name;
    EXPECT_LT(rms, factor) << format.name;
  }
}

TEST(SyntheticWeights, RunInEveryFormatAtAnyDepth) {
  for (const ArchSpec& arch : {SmallV3Arch(), SmallV32Arch()}) {
    for (const BlockFormat& format : AllFormats()) {
      const auto model = *Model::Load(Make(arch, format.id), {.threads = 2});
      const auto session = *Session::Create(model, 120);
      ASSERT_TRUE(session->AppendRandomRows(100).ok());
      EXPECT_EQ(session->position(), 100);
      const auto output = session->Forward({1, 2, 3}, Session::Logits::kLast);
      ASSERT_TRUE(output.ok()) << format.name << ": " << output.status();
      for (const float logit : output->logits) ASSERT_TRUE(std::isfinite(logit)) << format.name;
      EXPECT_EQ(session->AppendRandomRows(18).code(), absl::StatusCode::kInvalidArgument);
      EXPECT_EQ(session->AppendRandomRows(-1).code(), absl::StatusCode::kInvalidArgument);
    }
  }
}

TEST(PassCost, OfOneTokenIsEveryMatrixOnceAndTheChosenExperts) {
  const ArchSpec arch = SmallV3Arch();
  const auto store = Make(arch, FormatId::kBf16);
  const auto model = *Model::Load(store, {});
  double bytes = 0;
  int64_t elements = 0;
  for (const TensorInfo& info : store->schema().tensors()) {
    if (info.is_vector() || info.layer >= arch.num_hidden_layers() || info.role == TensorRole::kEmbedTokens) continue;
    if (info.expert >= arch.moe().num_experts_per_tok()) continue;  // as many as any others
    bytes += static_cast<double>(store->Matrix(info)->layout.total_bytes);
    elements += info.elements();
  }
  const MatrixView embed = model->binding().embed;
  bytes += static_cast<double>(embed.layout.total_bytes) / static_cast<double>(embed.shape.rows);
  const PassCost cost = CostOfPass(model->binding(), 10, 1);
  EXPECT_NEAR(cost.weight_bytes, bytes, 1e-6 * bytes);
  // 11 rows are seen, by 3 heads of 24 + 8 and 20 values in 3 layers.
  EXPECT_DOUBLE_EQ(cost.products, 2.0 * static_cast<double>(elements) + 2.0 * 11 * 3 * (24 + 8 + 20) * 3);
}

TEST(PassCost, OfManyTokensReadsEveryExpertOnce) {
  const auto model = *Model::Load(Make(SmallV3Arch(), FormatId::kQ8G32), {});
  const PassCost one = CostOfPass(model->binding(), 0, 1);
  const PassCost many = CostOfPass(model->binding(), 0, 1000);
  EXPECT_LT(many.weight_bytes, 3 * one.weight_bytes + 1000 * 200);
  EXPECT_GT(many.weight_bytes, one.weight_bytes);
  EXPECT_GT(many.products, 500 * one.products);
}

}  // namespace
}  // namespace kompakt
