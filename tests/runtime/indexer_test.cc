// Sparse attention over the tokens that an indexer selects: when it is exactly dense, and what a damaged indexer does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/session.h"
#include "tests/converters/status_matchers.h"
#include "tests/runtime/golden_file.h"

namespace kompakt {
namespace {

// The weights of another store with another hyper-parameter or one value of one vector replaced.
class Changed : public WeightStore {
 public:
  Changed(const WeightStore& whole, const ArchSpec& arch) : whole_(whole), schema_(*ModelSchema::Create(arch)) {}

  const std::string& origin() const override { return whole_.origin(); }
  const ModelSchema& schema() const override { return schema_; }
  absl::StatusOr<MatrixView> Matrix(const TensorInfo& tensor) const override { return whole_.Matrix(tensor); }
  absl::StatusOr<std::vector<float>> Vector(const TensorInfo& tensor) const override {
    absl::StatusOr<std::vector<float>> values = whole_.Vector(tensor);
    if (values.ok() && tensor.role == role && tensor.layer == 1) values->at(5) = NAN;
    return values;
  }
  TensorRole role = TensorRole::kEmbedTokens;  // the vector that gets a NaN in layer 1; none

 private:
  const WeightStore& whole_;
  ModelSchema schema_;
};

class Indexer : public testing::TestWithParam<const KernelSet*> {
 protected:
  std::shared_ptr<const Model> WithArch(const std::string& checkpoint, const ArchSpec& arch) {
    base_ = ExactModel(checkpoint, GetParam());
    return *Model::Load(std::make_shared<Changed>(base_->weights(), arch), {.threads = 2, .kernels = GetParam()});
  }
  std::shared_ptr<const Model> base_;
};

INSTANTIATE_TEST_SUITE_P(Sets, Indexer, testing::ValuesIn(AvailableKernelSets().begin(), AvailableKernelSets().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(Indexer, UpToIndexTopkTokensTheResultIsThatOfDenseAttentionBitForBit) {
  for (const char* const name : {"v32", "glm5"}) {
    const auto sparse = ExactModel(name, GetParam());
    ArchSpec arch = sparse->arch();
    arch.set_attention(ATTENTION_MLA);
    arch.clear_indexer();
    const auto dense = WithArch(name, arch);
    const std::vector<int32_t> ids = GoldenInts(CheckpointFolder(name) + "/golden.safetensors", "ids");
    const auto top_k = static_cast<size_t>(sparse->arch().indexer().index_topk());
    ASSERT_LT(top_k + 1, ids.size());
    auto a = *Session::Create(sparse, std::ssize(ids));
    auto b = *Session::Create(dense, std::ssize(ids));
    for (const size_t n : {top_k - 2, size_t{1}, size_t{1}}) {
      const auto part = absl::MakeSpan(ids).subspan(static_cast<size_t>(a->position()), n);
      EXPECT_EQ(a->Forward(part, Session::Logits::kAll)->logits, b->Forward(part, Session::Logits::kAll)->logits)
          << name << " up to position " << a->position();
    }
    // The next token is the first that does not see everything.
    const auto part = absl::MakeSpan(ids).subspan(top_k, 1);
    EXPECT_NE(a->Forward(part, Session::Logits::kAll)->logits, b->Forward(part, Session::Logits::kAll)->logits) << name;
  }
}

TEST_P(Indexer, LargeIndexTopkIsDenseAttentionForTheWholeText) {
  ArchSpec arch = ExactModel("v32", GetParam())->arch();
  arch.mutable_indexer()->set_index_topk(48);
  const auto wide = WithArch("v32", arch);
  arch.set_attention(ATTENTION_MLA);
  arch.clear_indexer();
  const auto dense = WithArch("v32", arch);
  const std::vector<int32_t> ids = GoldenInts(CheckpointFolder("v32") + "/golden.safetensors", "ids");
  ASSERT_EQ(ids.size(), 48u);
  EXPECT_EQ((*Session::Create(wide, 48))->Forward(ids, Session::Logits::kAll)->logits,
            (*Session::Create(dense, 48))->Forward(ids, Session::Logits::kAll)->logits);
}

TEST_P(Indexer, OnlyLayersWithAnIndexerKeepItsKeys) {
  const auto model = ExactModel("glm5", GetParam());
  ASSERT_EQ(model->arch().indexer().shared_size(), 4);
  const auto session = *Session::Create(model, 100);
  const uint64_t latent = 4u * (44u + 12u), keys = 2u * 30u;
  EXPECT_EQ(session->cache_bytes(), 100u * (latent + keys) * sizeof(float));
}

TEST_P(Indexer, RewindForgetsItsKeysToo) {
  const auto model = ExactModel("v32", GetParam());
  const std::vector<int32_t> ids = GoldenInts(CheckpointFolder("v32") + "/golden.safetensors", "ids");
  auto session = *Session::Create(model, 48);
  ASSERT_THAT(session->Forward(absl::MakeSpan(ids).first(30), Session::Logits::kNone), IsOk());
  const std::vector<float> once = session->Forward(absl::MakeSpan(ids).last(18), Session::Logits::kAll)->logits;
  ASSERT_THAT(session->Rewind(20), IsOk());
  const std::vector<int32_t> other(28, 7);
  ASSERT_THAT(session->Forward(other, Session::Logits::kNone), IsOk());
  ASSERT_THAT(session->Rewind(20), IsOk());
  ASSERT_THAT(session->Forward(absl::MakeSpan(ids).subspan(20, 10), Session::Logits::kNone), IsOk());
  EXPECT_EQ(session->Forward(absl::MakeSpan(ids).last(18), Session::Logits::kAll)->logits, once);
}

TEST_P(Indexer, AScoreThatIsNotFiniteStopsTheModelAndNamesTheLayer) {
  base_ = ExactModel("v32", GetParam());
  for (const TensorRole role : {TensorRole::kIndexKNorm, TensorRole::kIndexKNormBias}) {
    auto weights = std::make_shared<Changed>(base_->weights(), base_->arch());
    weights->role = role;
    const auto model = *Model::Load(weights, {.threads = 2, .kernels = GetParam()});
    const std::vector<int32_t> ids(20, 9);
    EXPECT_THAT((*Session::Create(model, 20))->Forward(ids, Session::Logits::kLast),
                Fails(absl::StatusCode::kDataLoss, {"v32", "layer 1", "indexer", "position"}));
  }
}

}  // namespace
}  // namespace kompakt
