// What rounded activations cost: the divergence of the fast path from the reference path on the same packed weights, of
// the trained checkpoint on a text.
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "converters/checkpoint.h"
#include "format/file_system.h"
#include "format/packed_reader.h"
#include "quant/convert.h"
#include "quant/recipe.h"
#include "runtime/tokenizer.h"
#include "tests/fixtures/scratch_folder.h"
#include "validate/compare.h"

namespace kompakt {
namespace {

constexpr char kFolder[] = KOMPAKT_TEST_DATA "/checkpoints/tiny-v3";
// Of the text. The reference path is slow: it judges the portable one, which then judges what is rounded.
constexpr size_t kTextBytes = 6000;
constexpr size_t kReferenceBytes = 2000;

class ActivationPrecision : public testing::Test {
 protected:
  void Pack(const char* recipe) {
    const auto source = OpenCheckpoint(kFolder);
    ASSERT_TRUE(source.ok()) << source.status();
    const std::string path = folder_ / "model.kpk";
    const auto converted = Convert(**source, *QuantRecipe::Builtin(recipe), path, {.threads = 2}, PosixFileSystem());
    ASSERT_TRUE(converted.ok()) << converted.status();
    file_ = *PackedReader::Open(path);
  }

  std::shared_ptr<const Model> Load(const KernelSet* kernels, absl::string_view act) const {
    return *Model::Load(PackedWeights(file_),
                        {.threads = 2, .kernels = kernels, .act = *ActivationPolicy::FromName(act)});
  }

  // Of the best set with that policy, from the set `expected` in F32.
  double MeanKl(absl::string_view act, absl::string_view expected, size_t text_bytes) const {
    std::ifstream text(KOMPAKT_TEST_DATA "/text/eval.txt", std::ios::binary);
    std::ostringstream all;
    all << text.rdbuf();
    const auto tokenizer = *Tokenizer::Create(file_->manifest().assets());
    const std::vector<int32_t> ids = *tokenizer->Encode(all.str().substr(0, text_bytes));
    const auto comparison =
        Compare(Load(*KernelSetByName(expected), "f32"), Load(nullptr, act), ids, std::nullopt,
                {.context = 256, .most_chunks = 0, .progress = nullptr, .original_logits = nullptr});
    EXPECT_TRUE(comparison.ok()) << comparison.status();
    EXPECT_GT(comparison->divergence.tokens_scored, 200);
    return comparison->divergence.kl.mean();
  }

  ScratchFolder folder_;
  std::shared_ptr<const PackedReader> file_;
};

// The bounds are those that the program promises (README.md); int8 costs as much as 8-bit weights do, mostly in single
// tokens whose router decides otherwise.
TEST_F(ActivationPrecision, CostsWhatItMayOnQuantizedWeights) {
  Pack("q4");
  EXPECT_LE(MeanKl("f32", "reference", kReferenceBytes), 1e-8);
  EXPECT_LE(MeanKl("int16", "portable", kTextBytes), 1e-6);
  EXPECT_LE(MeanKl("auto", "portable", kTextBytes), 1e-4);
  EXPECT_LE(MeanKl("int8", "portable", kTextBytes), 5e-4);
}

TEST_F(ActivationPrecision, CostsNothingWhereWeightsAreFloats) {
  Pack("lossless");
  EXPECT_LE(MeanKl("auto", "reference", kReferenceBytes), 1e-5);
}

}  // namespace
}  // namespace kompakt
