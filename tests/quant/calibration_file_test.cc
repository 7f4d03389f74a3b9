// What a calibration file must be to be believed, and what a conversion makes of it.
#include "quant/calibration_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "format/checksum.h"
#include "quant/importance.h"
#include "tests/converters/status_matchers.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_source.h"
#include "tests/quant/calibration_model.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

constexpr size_t kHeaderBytes = 104;
constexpr size_t kRowBytes = 80;
constexpr size_t kNameBytes = 16;  // "random" and "ids", padded

class CalibrationFileTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = folder_.path() + "/a.kcal";
    CalibrateInto(path_, *RandomModel(MicroArch()), SomeIds(MicroArch(), 20), 8, true);
    std::ifstream in(path_, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(in), {});
  }

  // Opens these bytes and reads everything in them.
  absl::Status ReadAll(const std::string& bytes) const {
    const std::string path = folder_.path() + "/b.kcal";
    std::ofstream(path, std::ios::binary) << bytes;
    const auto file = CalibrationFile::Open(PosixFileSystem(), path);
    if (!file.ok()) return file.status();
    for (size_t r = 0; r < (*file)->rows().size(); ++r) {
      std::vector<float> triangle;
      if (!(*file)->rows()[r].has_matrix) continue;
      if (absl::Status s = (*file)->ReadMatrix(static_cast<int64_t>(r), &triangle); !s.ok()) return s;
    }
    return absl::OkStatus();
  }

  // With a header that is right about the bytes it covers.
  static std::string Sealed(std::string bytes) {
    uint64_t rows = 0;
    std::memcpy(&rows, bytes.data() + 80, sizeof(rows));
    const uint64_t zero = 0;
    std::memcpy(bytes.data() + 16, &zero, sizeof(zero));
    const size_t covered = std::min(bytes.size(), kHeaderBytes + kNameBytes + static_cast<size_t>(rows) * kRowBytes);
    const uint64_t xxh3 = Xxh3(bytes.substr(0, covered));
    std::memcpy(bytes.data() + 16, &xxh3, sizeof(xxh3));
    return bytes;
  }

  template <typename T>
  std::string With(size_t offset, T value) const {
    std::string bytes = bytes_;
    std::memcpy(bytes.data() + offset, &value, sizeof(value));
    return Sealed(std::move(bytes));
  }

  const ScratchFolder folder_;
  std::string path_;
  std::string bytes_;
};

TEST_F(CalibrationFileTest, AnyByteThatChangesIsFound) {
  ASSERT_THAT(ReadAll(bytes_), IsOk());
  ASSERT_EQ(Sealed(bytes_), bytes_);
  for (size_t i = 0; i < bytes_.size(); i += i < 2000 ? 1 : 7) {
    std::string bytes = bytes_;
    bytes[i] = static_cast<char>(bytes[i] ^ 0x10);
    EXPECT_FALSE(ReadAll(bytes).ok()) << "byte " << i << " of " << bytes_.size();
  }
}

TEST_F(CalibrationFileTest, AnyLengthButItsOwnIsRefused) {
  for (size_t n = 0; n < bytes_.size(); n += n < 300 ? 1 : 97) {
    EXPECT_FALSE(ReadAll(bytes_.substr(0, n)).ok()) << n << " bytes";
  }
  EXPECT_THAT(ReadAll(bytes_.substr(0, 50)), Fails(absl::StatusCode::kDataLoss, {"104", "50"}));
  EXPECT_THAT(ReadAll(bytes_ + "x"), Fails(absl::StatusCode::kDataLoss, {"b.kcal", std::to_string(bytes_.size())}));
  EXPECT_THAT(ReadAll("{}"), Fails(absl::StatusCode::kFailedPrecondition, {"b.kcal", "calibration"}));
  EXPECT_THAT(ReadAll(""), Fails(absl::StatusCode::kFailedPrecondition, {"calibration"}));
}

TEST_F(CalibrationFileTest, FieldsThatContradictEachOtherAreRefused) {
  constexpr size_t kRow = kHeaderBytes + kNameBytes;  // the first row of the directory
  const auto refused = [&](const std::string& bytes, absl::StatusCode code, const char* what) {
    const absl::Status status = ReadAll(bytes);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  };
  constexpr auto kDamaged = absl::StatusCode::kDataLoss;
  refused(With(8, uint32_t{2}), absl::StatusCode::kUnimplemented, "version 1");
  refused(With(12, uint32_t{0xfffffff0}), kDamaged, "do not fit");
  refused(With(24, uint32_t{5000}), kDamaged, "contradict");
  refused(With(28, uint32_t{40}), kDamaged, "contradict");
  refused(With(64, uint64_t{0}), kDamaged, "contradict");  // tokens
  refused(With(64, ~uint64_t{0}), kDamaged, "contradict");
  refused(With(72, uint64_t{0}), kDamaged, "contradict");   // context
  refused(With(80, ~uint64_t{0}), kDamaged, "do not fit");  // rows
  refused(With(80, uint64_t{1} << 60), kDamaged, "do not fit");
  refused(With(80, uint64_t{1}), kDamaged, "expected its data");
  refused(With(88, uint64_t{5}), kDamaged, "expected 5 bytes");
  refused(With(96, uint64_t{1}), kDamaged, "contradict");
  refused(With(kRow, 'x'), kDamaged, "input 0");
  refused(With(kRow + 31, 'x'), kDamaged, "input 0");
  refused(With(kRow + 32, int32_t{-1}), kDamaged, "contradict");  // layer
  refused(With(kRow + 32, int32_t{1} << 30), kDamaged, "contradict");
  refused(With(kRow + 36, int32_t{0}), kDamaged, "contradict");   // expert
  refused(With(kRow + 40, uint32_t{0}), kDamaged, "contradict");  // width
  refused(With(kRow + 40, ~uint32_t{0}), kDamaged, "contradict");
  refused(With(kRow + 40, uint32_t{1} << 26), kDamaged, "expected its data");
  refused(With(kRow + 44, uint32_t{0}), kDamaged, "contradict");  // flags: a checksum without moments
  refused(With(kRow + 44, uint32_t{2}), kDamaged, "contradict");
  refused(With(kRow + 48, ~uint64_t{0}), kDamaged, "contradict");  // tokens
  refused(With(kRow + 48, uint64_t{0}), kDamaged, "mean square");
  refused(With(kRow + 56, uint64_t{8}), kDamaged, "expected its data");
  refused(With(kRow + 64, uint64_t{8}), kDamaged, "expected XXH3");
  refused(With(kRow + 72, uint64_t{8}), kDamaged, "expected XXH3");
  // The second row made to be the first once more.
  std::string twice = bytes_;
  const std::string first = twice.substr(kRow, 40);
  twice.replace(kRow + kRowBytes, 40, first);
  refused(Sealed(twice), kDamaged, "");
}

TEST_F(CalibrationFileTest, ValuesMustBeFiniteAndNotNegative) {
  uint64_t offset = 0;
  uint32_t width = 0;
  std::memcpy(&offset, bytes_.data() + kHeaderBytes + kNameBytes + 56, sizeof(offset));
  std::memcpy(&width, bytes_.data() + kHeaderBytes + kNameBytes + 40, sizeof(width));
  for (const float value : {-1.0f, std::nanf(""), INFINITY}) {
    std::string bytes = bytes_;
    std::memcpy(bytes.data() + offset + 4, &value, sizeof(value));
    const uint64_t xxh3 = Xxh3(bytes.substr(offset, width * sizeof(float)));
    std::memcpy(bytes.data() + kHeaderBytes + kNameBytes + 64, &xxh3, sizeof(xxh3));
    EXPECT_THAT(ReadAll(Sealed(bytes)), Fails(absl::StatusCode::kDataLoss, {"channel 1", "mean square"})) << value;
  }
}

TEST_F(CalibrationFileTest, IsForOneArchitectureAndTokenizer) {
  const auto file = OpenedCalibration(path_);
  EXPECT_THAT(file->CheckModel(*ModelSchema::Create(MicroArch()), SmallAssets()), IsOk());
  ArchSpec with_mtp = MicroArch();
  with_mtp.set_mtp_layers(1);
  EXPECT_THAT(file->CheckModel(*ModelSchema::Create(with_mtp), SmallAssets()), IsOk());
  EXPECT_THAT(file->CheckModel(*ModelSchema::Create(SmallV3Arch()), SmallAssets()),
              Fails(absl::StatusCode::kFailedPrecondition, {"a.kcal", "another model", "random"}));
  ModelAssets other = SmallAssets();
  for (AssetFile& asset : *other.mutable_files()) asset.set_content(asset.content() + " ");
  EXPECT_THAT(file->CheckModel(*ModelSchema::Create(MicroArch()), other),
              Fails(absl::StatusCode::kFailedPrecondition, {"a.kcal", "another tokenizer"}));
}

TEST_F(CalibrationFileTest, EveryMatrixHasAnImportanceOfMeanOneAndNoZero) {
  const ModelSchema schema = *ModelSchema::Create(MicroArch());
  const auto importance = Importance::Create(OpenedCalibration(path_), schema, SmallAssets());
  ASSERT_THAT(importance, IsOk());
  for (const TensorInfo& tensor : schema.tensors()) {
    const auto a = (*importance)->Of(tensor);
    ASSERT_THAT(a, IsOk());
    if (tensor.is_vector() || tensor.role == TensorRole::kRouter || tensor.role == TensorRole::kEmbedTokens) {
      EXPECT_TRUE(a->empty()) << tensor.Name();
      continue;
    }
    ASSERT_EQ(std::ssize(*a), tensor.cols) << tensor.Name();
    double sum = 0;
    for (const float v : *a) {
      EXPECT_GE(v, 1.0f / 2048) << tensor.Name();
      sum += static_cast<double>(v);
    }
    EXPECT_NEAR(sum / static_cast<double>(tensor.cols), 1, 1e-5) << tensor.Name();
  }
  const auto gate =
      *(*importance)->Of(schema.tensors()[static_cast<size_t>(schema.Find(TensorRole::kExpertGate, 1, 1))]);
  const auto up = *(*importance)->Of(schema.tensors()[static_cast<size_t>(schema.Find(TensorRole::kExpertUp, 1, 1))]);
  EXPECT_EQ(gate, up);
}

TEST(BlendImportance, ManyTokensCountForThemselvesAndFewForTheOthers) {
  const std::vector<float> own = {4, 0, 8, 4}, layer = {0.5f, 1.5f, 0.5f, 1.5f};
  EXPECT_THAT(BlendImportance(own, 0, layer), testing::ElementsAreArray(layer));
  EXPECT_THAT(BlendImportance(own, 0, {}), testing::Each(1.0f));
  EXPECT_THAT(BlendImportance({0, 0, 0}, 100, {}), testing::Each(1.0f));
  const std::vector<float> half = BlendImportance(own, kPriorTokens, layer);
  const std::vector<double> expected = {0.75, 0.75, 1.25, 1.25};
  for (size_t c = 0; c < 4; ++c) EXPECT_NEAR(static_cast<double>(half[c]), expected[c], 1e-6) << c;
  const std::vector<float> sure = BlendImportance(own, 1e12, layer);
  EXPECT_NEAR(static_cast<double>(sure[1]), kLeastImportance, 1e-5);
  EXPECT_NEAR(static_cast<double>(sure[2]), 2, 1e-2);
}

TEST(CalibrationRows, ExpertMatricesAreKeptWhileALayersFitIntoAGibibyte) {
  ArchSpec arch = MicroArch();
  const auto count = [](const ArchSpec& a, TensorRole role) {
    int64_t matrices = 0;
    for (const CalibrationRow& row : CalibrationRows(*ModelSchema::Create(a), true)) {
      matrices += row.role == role && row.has_matrix ? 1 : 0;
    }
    return matrices;
  };
  EXPECT_EQ(count(arch, TensorRole::kExpertDown), 2);
  EXPECT_EQ(count(arch, TensorRole::kExpertGate), 0);
  arch.mutable_moe()->set_moe_intermediate_size(16384);
  EXPECT_EQ(count(arch, TensorRole::kExpertDown), 0);
  arch.mutable_moe()->set_n_shared_experts(0);
  EXPECT_EQ(count(arch, TensorRole::kExpertGate), 1);
}

}  // namespace
}  // namespace kompakt
