// The conversion job on synthetic models: what it writes is what the source holds, for any number of threads.
#include "quant/convert.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "format/packed_reader.h"
#include "format/packed_source.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/encoder.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"
#include "tests/fixtures/synthetic_source.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

QuantRecipe Recipe(const std::string& name, const std::vector<std::string>& overrides = {}) {
  auto recipe = QuantRecipe::Builtin(name);
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  for (const std::string& flag : overrides) {
    const absl::Status status = recipe->AddOverride(flag);
    EXPECT_TRUE(status.ok()) << status;
  }
  return *std::move(recipe);
}

// Experts native INT4, shared experts F16, o_proj F32, the rest as DeepSeek-V3: every exact form.
SyntheticOptions EveryForm(uint64_t seed = 1) {
  SyntheticOptions options;
  options.arch = SmallV3Arch();
  options.seed = seed;
  options.assets = SmallAssets();
  options.notices = {"made up"};
  options.form = [](const TensorInfo& tensor) {
    if (tensor.role == TensorRole::kOProj) return FormatId::kF32;
    if (tensor.role == TensorRole::kInputNorm) return FormatId::kF16;
    switch (InfoOf(tensor.role).tensor_class) {
      case TensorClass::kRoutedExpert:
        return FormatId::kInt4G32;
      case TensorClass::kSharedExpert:
        return FormatId::kF16;
      default:
        return DefaultForm(tensor);
    }
  };
  return options;
}

SyntheticOptions LikeV3(uint64_t seed = 1) {
  SyntheticOptions options;
  options.arch = SmallV3Arch();
  options.seed = seed;
  options.assets = SmallAssets();
  return options;
}

absl::StatusOr<ConvertReport> RunConvert(const TensorSource& source, const QuantRecipe& recipe, const std::string& path,
                                         ConvertOptions options = {}) {
  return Convert(source, recipe, path, options, PosixFileSystem());
}

std::shared_ptr<const PackedReader> MustOpen(const std::string& path) {
  auto reader = PackedReader::Open(path);
  EXPECT_TRUE(reader.ok()) << reader.status();
  return reader.ok() ? *reader : nullptr;
}

void ExpectSameStoredRows(const StoredRows& a, const StoredRows& b, const std::string& name) {
  EXPECT_EQ(a.format, b.format) << name;
  EXPECT_TRUE(a.elements == b.elements) << name;
  EXPECT_TRUE(a.block_scales == b.block_scales) << name;
  EXPECT_TRUE(a.group_scales == b.group_scales) << name;
}

TEST(Convert, LosslessKeepsEveryCodeAndScaleOfEveryStoredForm) {
  const ScratchFolder folder;
  for (const SyntheticOptions& options : {EveryForm(), LikeV3()}) {
    const SyntheticSource source(options);
    const std::string path = folder / "model.kpk";
    const auto report = RunConvert(source, Recipe("lossless"), path, {.threads = 2, .force = true});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_THAT(report->errors, testing::IsEmpty());
    const auto reader = MustOpen(path);
    ASSERT_NE(reader, nullptr);
    EXPECT_THAT(reader->Verify(1, nullptr), testing::IsEmpty());
    const auto packed = OpenPackedSource(reader);
    ASSERT_TRUE(packed.ok()) << packed.status();
    for (const TensorInfo& tensor : source.schema().tensors()) {
      const auto expected = source.ReadStored(tensor, 0, tensor.rows);
      const auto found = (*packed)->ReadStored(tensor, 0, tensor.rows);
      ASSERT_TRUE(expected.ok() && found.ok()) << tensor.Name() << " " << found.status();
      ExpectSameStoredRows(*expected, *found, tensor.Name());
    }
  }
}

TEST(Convert, TheManifestTellsSourceRecipeNoticesAndForms) {
  const ScratchFolder folder;
  const SyntheticSource source(EveryForm());
  const auto report = RunConvert(source, Recipe("q4"), folder / "model.kpk");
  ASSERT_TRUE(report.ok()) << report.status();
  const auto reader = MustOpen(folder / "model.kpk");
  ASSERT_NE(reader, nullptr);
  const Manifest& m = reader->manifest();
  EXPECT_EQ(m.recipe(), Recipe("q4").ToText());
  EXPECT_EQ(m.assets().SerializeAsString(), source.assets().SerializeAsString());
  ASSERT_EQ(m.provenance().source_files_size(), 1);
  EXPECT_EQ(m.provenance().source_files(0).xxh3(), (*source.Files())[0].xxh3());
  EXPECT_EQ(m.provenance().tool_version(), "kompakt " KOMPAKT_VERSION);
  EXPECT_THAT(m.provenance().notices(), testing::ElementsAre("made up"));
  const PackedLayout::Place up = reader->layout().Find(TensorRole::kExpertUp, 1);
  const PartEntry& part = m.extents(static_cast<int>(up.extent)).parts(static_cast<int>(up.part));
  EXPECT_EQ(part.format(), "int4_g32") << "a native 4-bit tensor is not quantized twice";
  EXPECT_TRUE(part.exact());
  EXPECT_EQ(part.source_dtype(), "int4_g32");
}

// What the errors in the file claim, computed again from the source and the decoded file.
TEST(Convert, TheErrorStatisticsAreThoseOfTheFile) {
  const ScratchFolder folder;
  const SyntheticSource source(LikeV3());
  const auto report = RunConvert(source, Recipe("q4"), folder / "model.kpk", {.threads = 2});
  ASSERT_TRUE(report.ok()) << report.status();
  const auto reader = MustOpen(folder / "model.kpk");
  ASSERT_NE(reader, nullptr);
  int checked = 0;
  for (const TensorInfo& tensor : source.schema().tensors()) {
    if (tensor.is_vector()) continue;
    const PackedLayout::Place place = reader->layout().Find(tensor.role, tensor.layer);
    const PartEntry& part =
        reader->manifest().extents(static_cast<int>(place.extent)).parts(static_cast<int>(place.part));
    if (part.exact()) continue;
    std::vector<float> expected(static_cast<size_t>(tensor.elements())), found(expected.size());
    ASSERT_TRUE(source.ReadF32(tensor, 0, tensor.rows, absl::MakeSpan(expected)).ok());
    DecodeRows(*reader->Matrix(tensor), 0, tensor.rows, absl::MakeSpan(found));
    double error = 0, weight = 0, worst = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double difference = static_cast<double>(found[i]) - static_cast<double>(expected[i]);
      error += difference * difference;
      weight += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
      worst = std::max(worst, std::abs(difference));
    }
    const ErrorStats& stats = part.stats(std::max(tensor.expert, 0));
    // Sums of a few thousand doubles in another order.
    // Up to 128 terms are summed in F32: at most 128 roundings of 2^-24 each, and they partly cancel.
    EXPECT_NEAR(stats.sum_squared_error(), error, 1e-6 * error) << tensor.Name();
    EXPECT_NEAR(stats.sum_squared_weight(), weight, 1e-6 * weight) << tensor.Name();
    EXPECT_NEAR(stats.max_abs_error(), worst, 1e-6 * worst) << tensor.Name();
    ++checked;
  }
  EXPECT_GT(checked, 30);
  // Gaussian weights in 4 bits lose about 23 dB, in 8 bits about 45 (docs/quantization.md).
  ASSERT_THAT(report->errors, testing::Not(testing::IsEmpty()));
  for (const ConvertReport::ClassError& e : report->errors) {
    EXPECT_LT(e.nmse_db, e.format == "q8_g32" ? -38 : -18) << e.tensor_class << " " << e.format;
    EXPECT_GT(e.nmse_db, e.format == "q8_g32" ? -60 : -35) << e.tensor_class << " " << e.format;
    EXPECT_GT(e.max_abs_error, 0);
    EXPECT_GT(e.parameters, 0);
  }
}

TEST(Convert, TheBytesDoNotDependOnTheNumberOfThreads) {
  const ScratchFolder folder;
  const SyntheticSource source(LikeV3());
  std::vector<uint8_t> first;
  for (const int threads : {1, 2, 3, 16}) {
    const std::string path = folder / absl::StrCat(threads, ".kpk");
    const auto report = RunConvert(source, Recipe("q4"), path, {.threads = threads});
    ASSERT_TRUE(report.ok()) << report.status();
    const std::vector<uint8_t> bytes = ReadWholeFile(path);
    if (first.empty()) first = bytes;
    EXPECT_TRUE(bytes == first) << threads << " threads";
  }
}

// A source whose data must not be touched.
class HeadersOnly : public SyntheticSource {
 public:
  using SyntheticSource::SyntheticSource;
  absl::StatusOr<StoredRows> ReadStored(const TensorInfo&, int64_t, int64_t, Xxh3Stream*) const override {
    return Touched();
  }
  absl::Status ReadF32(const TensorInfo&, int64_t, int64_t, absl::Span<float>, Xxh3Stream*) const override {
    return Touched();
  }

 private:
  static absl::Status Touched() {
    ADD_FAILURE() << "a plan read data";
    return absl::InternalError("touched");
  }
};

TEST(PlanConversion, ReadsHeadersOnlyAndKnowsTheSizeToTheByte) {
  const ScratchFolder folder;
  for (const char* name : {"lossless", "q8", "q6", "q5", "q4", "q3", "q2"}) {
    for (const SyntheticOptions& options : {EveryForm(), LikeV3()}) {
      const HeadersOnly headers(options);
      const auto plan = PlanConversion(headers, Recipe(name), 2);
      ASSERT_TRUE(plan.ok()) << plan.status();
      const SyntheticSource source(options);
      const auto report = RunConvert(source, Recipe(name), folder / "model.kpk", {.force = true});
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_EQ(plan->file_bytes, std::filesystem::file_size(folder / "model.kpk")) << name;
      EXPECT_EQ(report->file_bytes, plan->file_bytes);
      int64_t parameters = 0, tensors = 0;
      for (const ConversionPlan::Line& line : plan->lines) {
        parameters += line.parameters;
        tensors += line.tensors;
        EXPECT_NE(line.reason, "") << line.role;
        EXPECT_GT(line.packed_bytes, 0u);
      }
      EXPECT_EQ(parameters, source.schema().parameter_count());
      EXPECT_EQ(tensors, static_cast<int64_t>(source.schema().tensors().size()));
      EXPECT_EQ(plan->parameters, parameters);
    }
  }
}

TEST(Convert, ProgressGoesToTheAnnouncedTotal) {
  const ScratchFolder folder;
  const SyntheticSource source(LikeV3());
  uint64_t last = 0, total = 0;
  ConvertOptions options;
  options.threads = 3;
  options.progress = [&](uint64_t done, uint64_t of) {
    EXPECT_GT(done, last);
    last = done;
    total = of;
  };
  ASSERT_TRUE(RunConvert(source, Recipe("q8"), folder / "model.kpk", options).ok());
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, PlanConversion(source, Recipe("q8"), 1)->tensor_bytes);
}

TEST(Convert, ALosslessPackedFileConvertsToTheSameWeightsAsItsSource) {
  const ScratchFolder folder;
  const SyntheticSource source(LikeV3());
  ASSERT_TRUE(RunConvert(source, Recipe("lossless"), folder / "lossless.kpk").ok());
  const auto packed = OpenPackedSource(MustOpen(folder / "lossless.kpk"));
  ASSERT_TRUE(packed.ok()) << packed.status();
  ASSERT_TRUE(RunConvert(**packed, Recipe("q4"), folder / "again.kpk").ok());
  ASSERT_TRUE(RunConvert(source, Recipe("q4"), folder / "direct.kpk").ok());
  const auto again = MustOpen(folder / "again.kpk");
  const auto direct = MustOpen(folder / "direct.kpk");
  ASSERT_TRUE(again != nullptr && direct != nullptr);
  for (size_t e = 0; e < direct->layout().extents().size(); ++e) {
    for (int64_t r = 0; r < direct->layout().extents()[e].record_count; ++r) {
      const int64_t extent = static_cast<int64_t>(e);
      EXPECT_TRUE(again->RecordBytes(extent, r) == direct->RecordBytes(extent, r)) << "extent " << e << " record " << r;
    }
  }
  EXPECT_EQ(again->manifest().provenance().source_files(0).name(), "lossless.kpk");
}

TEST(OpenPackedSource, RefusesAFileThatIsAlreadyQuantized) {
  const ScratchFolder folder;
  const SyntheticSource source(LikeV3());
  ASSERT_TRUE(RunConvert(source, Recipe("q8"), folder / "q8.kpk").ok());
  const auto packed = OpenPackedSource(MustOpen(folder / "q8.kpk"));
  EXPECT_EQ(packed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(packed.status().message()),
              HasSubstr("model.embed_tokens.weight is q8_g32, made from bf16 with loss"));
}

TEST(OpenPackedSource, ADamagedRecordIsNamedWhenItIsRead) {
  const ScratchFolder folder;
  const SyntheticSource source(LikeV3());
  const std::string path = folder / "lossless.kpk";
  ASSERT_TRUE(RunConvert(source, Recipe("lossless"), path).ok());
  std::vector<uint8_t> bytes = ReadWholeFile(path);
  const auto layout = MustOpen(path)->layout();
  const PackedLayout::Place place = layout.Find(TensorRole::kExpertUp, 2);
  bytes[layout.extents()[static_cast<size_t>(place.extent)].record_offset(3) + 99] ^= 2;
  WriteWholeFile(path, bytes);
  const auto packed = OpenPackedSource(MustOpen(path));
  ASSERT_TRUE(packed.ok()) << packed.status();
  const auto report = RunConvert(**packed, Recipe("q4"), folder / "q4.kpk", {.threads = 2});
  EXPECT_EQ(report.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("layer 2 expert 3 is damaged"));
  EXPECT_FALSE(std::filesystem::exists(folder / "q4.kpk"));
}

// A source in which one weight is not a number.
class WithNan : public SyntheticSource {
 public:
  using SyntheticSource::SyntheticSource;
  absl::Status ReadF32(const TensorInfo& tensor, int64_t row_begin, int64_t row_end, absl::Span<float> out,
                       Xxh3Stream* source_bytes) const override {
    const absl::Status status = SyntheticSource::ReadF32(tensor, row_begin, row_end, out, source_bytes);
    if (tensor.role == TensorRole::kLmHead && row_begin == 256) out[5] = std::nanf("");
    return status;
  }
};

TEST(Convert, AWeightThatIsNotANumberEndsTheConversionByName) {
  const ScratchFolder folder;
  const WithNan source(LikeV3());
  const auto report = RunConvert(source, Recipe("q8"), folder / "model.kpk", {.threads = 2});
  EXPECT_EQ(report.status().code(), absl::StatusCode::kDataLoss) << report.status();
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("lm_head.weight, rows from 256"));
  EXPECT_FALSE(std::filesystem::exists(folder / "model.kpk"));
}

}  // namespace
}  // namespace kompakt
