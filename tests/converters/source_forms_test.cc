// Every stored form decodes to what the definition of the form says, computed here from the bytes written; damaged
// values are found and named.
#include "converters/source_forms.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "converters/checkpoint.h"
#include "tests/converters/status_matchers.h"
#include "tests/converters/temp_folder.h"
#include "tests/converters/test_checkpoint.h"

namespace kompakt {
namespace {

constexpr auto kCorrupt = absl::StatusCode::kDataLoss;
constexpr float kInf = std::numeric_limits<float>::infinity();

const char kQB[] = "model.layers.0.self_attn.q_b_proj.weight";
const char kExpert[] = "model.layers.1.mlp.experts.2.gate_proj.weight";

template <typename T>
T ElementOf(const TestTensor& tensor, int64_t index) {
  T value;
  std::memcpy(&value, tensor.data.data() + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

class SourceFormsTest : public testing::Test {
 protected:
  // Dimensions that are no multiple of 128, on both sides of it.
  void SetUp() override {
    checkpoint_.config["hidden_size"] = 200;
    checkpoint_.config["moe_intermediate_size"] = 160;
    checkpoint_.config["q_lora_rank"] = 136;
    checkpoint_.config["num_attention_heads"] = 6;
    checkpoint_.FillTensors();
  }

  void WriteAndOpen() {
    checkpoint_.Write(folder_.path());
    auto source = OpenCheckpoint(folder_.path());
    ASSERT_THAT(source, IsOk());
    source_ = *std::move(source);
  }

  const TensorInfo& At(TensorRole role, int64_t layer, int64_t expert = -1) {
    return source_->schema().tensors()[static_cast<size_t>(source_->schema().Find(role, layer, expert))];
  }

  absl::Status ReadF32(const TensorInfo& t) {
    std::vector<float> out(static_cast<size_t>(t.elements()));
    return source_->ReadF32(t, 0, t.rows, absl::MakeSpan(out));
  }

  // Holds the values read in every way against `expected(row, col)`: F32 whole and in odd pieces, stored form whole
  // and in pieces of 128 rows.
  template <typename Expected>
  void ExpectValues(const TensorInfo& t, Expected expected) {
    for (const int64_t step : {t.rows, int64_t{7}}) {
      for (int64_t begin = 0; begin < t.rows; begin += step) {
        const int64_t end = std::min(t.rows, begin + step);
        std::vector<float> out(static_cast<size_t>((end - begin) * t.cols));
        ASSERT_THAT(source_->ReadF32(t, begin, end, absl::MakeSpan(out)), IsOk());
        Compare(t, begin, end, out, expected);
      }
    }
    for (const int64_t step : {(t.rows + 127) / 128 * 128, int64_t{128}}) {
      for (int64_t begin = 0; begin < t.rows; begin += step) {
        const int64_t end = std::min(t.rows, begin + step);
        const auto stored = source_->ReadStored(t, begin, end);
        ASSERT_THAT(stored, IsOk());
        std::vector<float> out(static_cast<size_t>((end - begin) * t.cols));
        DecodeStoredRows(*stored, absl::MakeSpan(out));
        Compare(t, begin, end, out, expected);
      }
    }
  }

  template <typename Expected>
  void Compare(const TensorInfo& t, int64_t begin, int64_t end, const std::vector<float>& out, Expected expected) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < t.cols; ++c) {
        ASSERT_EQ(out[static_cast<size_t>((r - begin) * t.cols + c)], expected(r, c))
            << t.Name() << " [" << r << ", " << c << "] of a piece from row " << begin;
      }
    }
  }

  TempFolder folder_;
  TestCheckpoint checkpoint_ = TestCheckpoint::Tiny();
  std::unique_ptr<TensorSource> source_;
};

TEST_F(SourceFormsTest, PlainDtypesAreKept) {
  const std::vector<float> values = {0.5f, -3.0f, 1.0f / 1024, 7.0f};
  std::vector<float> all;
  for (int i = 0; i < 144 * 136; ++i) all.push_back(values[static_cast<size_t>(i % 4)]);
  for (const TestTensor& tensor :
       {F32Tensor({144, 136}, all), F16Tensor({144, 136}, all), Bf16Tensor({144, 136}, all)}) {
    checkpoint_.at(kQB) = tensor;
    WriteAndOpen();
    const TensorInfo& t = At(TensorRole::kQBProj, 0);
    const auto form = source_->Form(t);
    ASSERT_THAT(form, IsOk());
    EXPECT_EQ(std::string(FormatOf(form->exact_format).name), tensor.dtype == Dtype::kF32   ? "f32"
                                                              : tensor.dtype == Dtype::kF16 ? "f16"
                                                                                            : "bf16");
    EXPECT_EQ(form->stored_bytes, tensor.data.size());
    ExpectValues(t, [&](int64_t r, int64_t c) { return values[static_cast<size_t>((r * 136 + c) % 4)]; });
  }
}

TEST_F(SourceFormsTest, CorrectionBiasKeepsTheDtypeOfTheFile) {
  checkpoint_.at("model.layers.1.mlp.gate.e_score_correction_bias") = Bf16Tensor({4}, {2.0f, 2.0f, 2.015625f, 2.5f});
  WriteAndOpen();
  const TensorInfo& t = At(TensorRole::kRouterBias, 1);
  EXPECT_EQ(source_->Form(t)->exact_format, FormatId::kBf16);
  std::vector<float> out(4);
  ASSERT_THAT(source_->ReadF32(t, 0, 1, absl::MakeSpan(out)), IsOk());
  EXPECT_EQ(out, (std::vector<float>{2.0f, 2.0f, 2.015625f, 2.5f}));
}

TEST_F(SourceFormsTest, Fp8BlocksOfEverySizeDecode) {
  const std::vector<std::pair<int64_t, int64_t>> blocks = {{128, 128}, {256, 128}, {128, 384},
                                                           {64, 128},  {100, 24},  {1, 1}};
  for (const auto& block : blocks) {
    const int64_t rows = block.first;
    const int64_t cols = block.second;
    SCOPED_TRACE(absl::StrCat(rows, " x ", cols));
    checkpoint_.MakeFp8(kQB, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols));
    checkpoint_.config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {rows, cols}}};
    WriteAndOpen();
    const TensorInfo& t = At(TensorRole::kQBProj, 0);
    ASSERT_EQ(t.rows, 144);
    ASSERT_EQ(t.cols, 136);
    const auto form = source_->Form(t);
    const bool exact = rows % 128 == 0 && cols % 128 == 0;
    EXPECT_EQ(form->decoded, !exact);
    EXPECT_EQ(form->exact_format, exact ? FormatId::kFp8B128 : FormatId::kF32);
    const TestTensor& weight = checkpoint_.at(kQB);
    const TestTensor& scale = checkpoint_.at(std::string(kQB) + "_scale_inv");
    EXPECT_EQ(form->stored_bytes, weight.data.size() + scale.data.size());
    const int64_t scale_cols = static_cast<int64_t>(scale.shape[1]);
    ExpectValues(t, [&](int64_t r, int64_t c) {
      return Fp8E4m3ToF32(ElementOf<uint8_t>(weight, r * 136 + c)) *
             ElementOf<float>(scale, r / rows * scale_cols + c / cols);
    });
  }
}

TEST_F(SourceFormsTest, Int4GroupsOfEverySizeAndScaleDtypeDecode) {
  struct Case {
    uint64_t group;
    Dtype dtype;
    bool exact;
  };
  // F16 scales between 0.01 and 0.1 have 11 significant bits and do not fit BF16's 8.
  for (const Case& c : std::vector<Case>{{32, Dtype::kBf16, true},
                                         {64, Dtype::kBf16, true},
                                         {96, Dtype::kBf16, true},
                                         {200, Dtype::kBf16, true},
                                         {16, Dtype::kBf16, false},
                                         {40, Dtype::kBf16, false},
                                         {32, Dtype::kF16, false},
                                         {32, Dtype::kF32, false}}) {
    SCOPED_TRACE(absl::StrCat("group ", c.group, ", ", InfoOf(c.dtype).name));
    checkpoint_.FillTensors();
    checkpoint_.MakeInt4(kExpert, c.group, c.dtype);
    checkpoint_.config["quantization_config"] = nlohmann::json::parse(
        R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"group_0":{"weights":
            {"num_bits":4,"type":"int","symmetric":true,"strategy":"group"}}}})");
    checkpoint_.config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] = c.group;
    WriteAndOpen();
    checkpoint_.config.erase("quantization_config");
    const TensorInfo& t = At(TensorRole::kExpertGate, 1, 2);
    const auto form = source_->Form(t);
    ASSERT_THAT(form, IsOk());
    EXPECT_EQ(form->decoded, !c.exact);
    EXPECT_EQ(form->native_low_bit, c.exact);
    const std::string stem = "model.layers.1.mlp.experts.2.gate_proj.weight_";
    const TestTensor& packed = checkpoint_.at(stem + "packed");
    const TestTensor& scale = checkpoint_.at(stem + "scale");
    const int64_t groups = static_cast<int64_t>(scale.shape[1]);
    ExpectValues(t, [&](int64_t row, int64_t col) {
      const uint32_t word = ElementOf<uint32_t>(packed, row * 25 + col / 8);
      const float code = static_cast<float>(static_cast<int>((word >> (4 * (col % 8))) & 15u) - 8);
      const int64_t at = row * groups + col / static_cast<int64_t>(c.group);
      const float s = c.dtype == Dtype::kF32   ? ElementOf<float>(scale, at)
                      : c.dtype == Dtype::kF16 ? F16ToF32(ElementOf<uint16_t>(scale, at))
                                               : Bf16ToF32(ElementOf<uint16_t>(scale, at));
      return code * s;
    });
  }
}

TEST_F(SourceFormsTest, F16ScalesThatAreBf16ValuesStayExact) {
  checkpoint_.MakeInt4(kExpert, 40, Dtype::kF16);
  TestTensor& scale = checkpoint_.at("model.layers.1.mlp.experts.2.gate_proj.weight_scale");
  // One scale per row: a single group, whatever its width.
  scale = F16Tensor({160, 1}, std::vector<float>(160, 0.09375f));
  WriteAndOpen();
  const TensorInfo& t = At(TensorRole::kExpertGate, 1, 2);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { EXPECT_FALSE(source_->Form(t)->decoded); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(source_->ReadStored(t, 0, 128)->group_scales[3], F32ToBf16(0.09375f));
}

TEST_F(SourceFormsTest, FusedExpertsAreTheSameTensors) {
  const TestCheckpoint plain = checkpoint_;
  std::string gate_up;
  std::string down;
  for (int e = 0; e < 4; ++e) {
    const std::string stem = absl::StrCat("model.layers.1.mlp.experts.", e, ".");
    gate_up += checkpoint_.Take(stem + "gate_proj.weight").data;
    gate_up += checkpoint_.Take(stem + "up_proj.weight").data;
    down += checkpoint_.Take(stem + "down_proj.weight").data;
  }
  checkpoint_.tensors["model.layers.1.mlp.experts.gate_up_proj"] = {Dtype::kBf16, {4, 320, 200}, gate_up};
  checkpoint_.tensors["model.layers.1.mlp.experts.down_proj"] = {Dtype::kBf16, {4, 200, 160}, down};
  WriteAndOpen();
  for (const TensorRole role : {TensorRole::kExpertGate, TensorRole::kExpertUp, TensorRole::kExpertDown}) {
    for (int e = 0; e < 4; ++e) {
      const TensorInfo& t = At(role, 1, e);
      EXPECT_EQ(source_->Form(t)->stored_bytes, static_cast<uint64_t>(t.elements()) * 2);
      const TestTensor& original = plain.tensors.at(t.Name());
      ExpectValues(t, [&](int64_t r, int64_t c) { return Bf16ToF32(ElementOf<uint16_t>(original, r * t.cols + c)); });
    }
  }
  checkpoint_.at("model.layers.1.mlp.experts.down_proj").shape = {4, 160, 200};
  checkpoint_.Write(folder_.path());
  EXPECT_THAT(OpenCheckpoint(folder_.path()),
              Fails(absl::StatusCode::kFailedPrecondition,
                    {"model.layers.1.mlp.experts.down_proj", "expected shape [4, 200, 160], found [4, 160, 200]"}));
}

TEST_F(SourceFormsTest, FusedFp8ExpertsTakeTheirOwnScales) {
  for (int e = 0; e < 4; ++e) {
    for (const char* part : {"gate", "up", "down"}) {
      checkpoint_.Take(absl::StrCat("model.layers.1.mlp.experts.", e, ".", part, "_proj.weight"));
    }
  }
  const std::string gate_up = "model.layers.1.mlp.experts.gate_up_proj";
  const std::string down = "model.layers.1.mlp.experts.down_proj";
  checkpoint_.tensors[gate_up] = {Dtype::kBf16, {4, 320, 200}, ""};
  checkpoint_.tensors[down] = {Dtype::kBf16, {4, 200, 160}, ""};
  checkpoint_.MakeFp8(gate_up);
  checkpoint_.MakeFp8(down);
  WriteAndOpen();
  for (int e = 0; e < 4; ++e) {
    for (const TensorRole role : {TensorRole::kExpertGate, TensorRole::kExpertUp}) {
      const int64_t first = role == TensorRole::kExpertUp ? 160 : 0;
      const TensorInfo& t = At(role, 1, e);
      // The up rows begin at row 160 of the fused matrix, inside its second block of 128.
      EXPECT_EQ(source_->Form(t)->decoded, first != 0);
      ExpectValues(t, [&](int64_t r, int64_t c) {
        return Fp8E4m3ToF32(ElementOf<uint8_t>(checkpoint_.at(gate_up), (e * 320 + first + r) * 200 + c)) *
               ElementOf<float>(checkpoint_.at(gate_up + "_scale_inv"), (e * 3 + (first + r) / 128) * 2 + c / 128);
      });
    }
    const TensorInfo& t = At(TensorRole::kExpertDown, 1, e);
    EXPECT_EQ(source_->Form(t)->exact_format, FormatId::kFp8B128);
    ExpectValues(t, [&](int64_t r, int64_t c) {
      return Fp8E4m3ToF32(ElementOf<uint8_t>(checkpoint_.at(down), (e * 200 + r) * 160 + c)) *
             ElementOf<float>(checkpoint_.at(down + "_scale_inv"), (e * 2 + r / 128) * 2 + c / 128);
    });
  }
}

// ---- damage that only the data shows

TEST_F(SourceFormsTest, NanCodeIsNamedWithItsPlace) {
  checkpoint_.MakeFp8(kQB);
  for (const char nan : {'\x7f', '\xff'}) {
    checkpoint_.at(kQB).data[130 * 136 + 7] = nan;
    WriteAndOpen();
    const TensorInfo& t = At(TensorRole::kQBProj, 0);
    const auto file = SafetensorsFile::Open(folder_.File("model.safetensors"));
    const uint64_t byte = file->FileOffset(*file->Find(kQB), 130 * 136 + 7);
    const auto expected = Fails(kCorrupt, {"model.safetensors", kQB, "[130, 7]", absl::StrCat("byte ", byte, " "),
                                           nan == '\x7f' ? "NaN 0x7F" : "NaN 0xFF"});
    EXPECT_THAT(ReadF32(t), expected);
    EXPECT_THAT(source_->ReadStored(t, 128, 144), expected);
    EXPECT_THAT(source_->ReadStored(t, 0, 128), IsOk());
  }
}

TEST_F(SourceFormsTest, ScalesThatAreNotFiniteAndPositiveAreNamed) {
  checkpoint_.MakeFp8(kQB);
  for (const float bad : {0.0f, -1.0f, kInf, std::numeric_limits<float>::quiet_NaN(), 3e38f}) {
    checkpoint_.at(std::string(kQB) + "_scale_inv") = F32Tensor({2, 2}, {1, 1, 1, bad});
    WriteAndOpen();
    const TensorInfo& t = At(TensorRole::kQBProj, 0);
    EXPECT_THAT(ReadF32(t),
                Fails(kCorrupt, {"model.safetensors", "q_b_proj.weight_scale_inv [1, 1]", "byte", "scale"}));
    EXPECT_THAT(source_->ReadStored(t, 128, 144), Fails(kCorrupt, {"q_b_proj.weight_scale_inv [1, 1]"}));
  }
}

TEST_F(SourceFormsTest, Int4ScalesThatAreNotFiniteAndPositiveAreNamed) {
  checkpoint_.MakeInt4(kExpert, 40, Dtype::kBf16);
  const std::string name = "model.layers.1.mlp.experts.2.gate_proj.weight_scale";
  for (const float bad : {0.0f, -1.0f, kInf}) {
    std::vector<float> scales(160 * 5, 0.5f);
    scales[17 * 5 + 4] = bad;
    checkpoint_.at(name) = Bf16Tensor({160, 5}, scales);
    WriteAndOpen();
    EXPECT_THAT(ReadF32(At(TensorRole::kExpertGate, 1, 2)), Fails(kCorrupt, {name + " [17, 4]", "finite positive"}));
  }
}

TEST_F(SourceFormsTest, Ue8m0ScalesMustBePowersOfTwo) {
  checkpoint_.MakeFp8(kQB);
  checkpoint_.config["quantization_config"] = {
      {"quant_method", "fp8"}, {"weight_block_size", {128, 128}}, {"scale_fmt", "ue8m0"}};
  TestTensor& scale = checkpoint_.at(std::string(kQB) + "_scale_inv");
  scale = F32Tensor({2, 2}, {1, 0.25f, 0x1p-127f, 0x1p-20f});
  WriteAndOpen();
  EXPECT_THAT(ReadF32(At(TensorRole::kQBProj, 0)), IsOk());
  scale = F32Tensor({2, 2}, {1, 0.75f, 1, 1});
  WriteAndOpen();
  EXPECT_THAT(ReadF32(At(TensorRole::kQBProj, 0)), Fails(kCorrupt, {"scale_inv [0, 1]", "power of two", "0.75"}));
}

TEST_F(SourceFormsTest, NonFiniteWeightsAreNamedWithTheirPlace) {
  std::vector<float> values(144 * 136, 1.0f);
  for (const float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
    values[143 * 136 + 135] = bad;
    for (const TestTensor& tensor :
         {F32Tensor({144, 136}, values), F16Tensor({144, 136}, values), Bf16Tensor({144, 136}, values)}) {
      checkpoint_.at(kQB) = tensor;
      WriteAndOpen();
      const TensorInfo& t = At(TensorRole::kQBProj, 0);
      const auto expected = Fails(kCorrupt, {"model.safetensors", kQB, "[143, 135]", "byte", "finite weight"});
      EXPECT_THAT(ReadF32(t), expected);
      EXPECT_THAT(source_->ReadStored(t, 128, 144), expected);
    }
  }
  checkpoint_.FillTensors();
  checkpoint_.at("model.layers.1.mlp.gate.e_score_correction_bias") = F32Tensor({4}, {1, 2, kInf, 3});
  WriteAndOpen();
  EXPECT_THAT(ReadF32(At(TensorRole::kRouterBias, 1)), Fails(kCorrupt, {"e_score_correction_bias [2]", "inf"}));
}

TEST_F(SourceFormsTest, WeightShapeThatContradictsTheModel) {
  checkpoint_.MakeInt4(kExpert, 40, Dtype::kBf16);
  TestTensor& shape = checkpoint_.at("model.layers.1.mlp.experts.2.gate_proj.weight_shape");
  shape = {Dtype::kI32, {2}, BytesOf(std::vector<int32_t>{160, 200})};
  WriteAndOpen();
  EXPECT_THAT(ReadF32(At(TensorRole::kExpertGate, 1, 2)), IsOk());
  shape = {Dtype::kI64, {2}, BytesOf(std::vector<int64_t>{160, 199})};
  WriteAndOpen();
  EXPECT_THAT(ReadF32(At(TensorRole::kExpertGate, 1, 2)),
              Fails(kCorrupt, {"gate_proj.weight_shape", "expected (160, 200), found (160, 199)"}));
}

TEST_F(SourceFormsTest, CallsThatCannotBeAreRefused) {
  WriteAndOpen();
  const TensorInfo& t = At(TensorRole::kQBProj, 0);
  std::vector<float> out(136);
  constexpr auto kUsage = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(source_->ReadF32(t, 144, 145, absl::MakeSpan(out)), Fails(kUsage, {kQB, "[144, 145) of 144"}));
  EXPECT_THAT(source_->ReadF32(t, 3, 3, {}), Fails(kUsage, {kQB}));
  EXPECT_THAT(source_->ReadF32(t, 0, 2, absl::MakeSpan(out)), Fails(kUsage, {kQB, "272"}));
  EXPECT_THAT(source_->ReadStored(t, 64, 65), Fails(kUsage, {kQB, "multiple of 128"}));
  TensorInfo stranger = t;
  stranger.layer = 9;
  EXPECT_THAT(source_->Form(stranger), Fails(kUsage, {"no tensor"}));
}

}  // namespace
}  // namespace kompakt
