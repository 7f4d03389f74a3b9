// Files of every stored form with something wrong in them: each fault is found and named with its file and tensor.
// GPTQ of 8 bits, of which no golden exists, and values that are unusual but right are here as well.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "converters/decode_lanes.h"
#include "converters/element_reads.h"
#include "converters/json.h"
#include "converters/quantization_config.h"
#include "converters/source_forms.h"
#include "tests/converters/safetensors_writer.h"
#include "tests/converters/status_matchers.h"
#include "tests/converters/temp_folder.h"
#include "tests/converters/test_checkpoint.h"

namespace kompakt {
namespace {

constexpr char kFolder[] = KOMPAKT_TEST_DATA "/sources/";
constexpr auto kCorrupt = absl::StatusCode::kDataLoss;
constexpr auto kContradiction = absl::StatusCode::kFailedPrecondition;
constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;

// A golden in memory, to be damaged, written and bound again.
class SourceDamage : public testing::Test {
 protected:
  void Load(const std::string& name) {
    const auto json = ParseJson(ReadFile(kFolder + name + ".config.json"), name);
    ASSERT_THAT(json, IsOk());
    const auto quantization = ParseQuantization(JsonFields(*json, name));
    ASSERT_THAT(quantization, IsOk());
    quantization_ = *quantization;
    const auto shards = ShardSet::OpenFile(kFolder + name + ".safetensors");
    ASSERT_THAT(shards, IsOk());
    tensors_.clear();
    for (const SafetensorsEntry& entry : shards->shards()[0]->entries()) {
      std::string data(entry.bytes(), '\0');
      ASSERT_THAT(
          shards->shards()[0]->Read(entry, 0, absl::MakeSpan(reinterpret_cast<uint8_t*>(data.data()), data.size())),
          IsOk());
      tensors_[entry.name] = {entry.dtype, entry.shape, data};
    }
    module_ = QuantizedModules(*shards, quantization_).back();
    pristine_ = tensors_;
  }

  TestTensor& At(const std::string& suffix) {
    EXPECT_EQ(tensors_.count(module_ + suffix), 1u) << module_ << suffix;
    return tensors_[module_ + suffix];
  }
  void Drop(const std::string& suffix) { EXPECT_EQ(tensors_.erase(module_ + suffix), 1u) << suffix; }
  template <typename T>
  void Put(const std::string& suffix, size_t index, T value) {
    std::memcpy(At(suffix).data.data() + index * sizeof(T), &value, sizeof(T));
  }

  // Binds the module of the damaged tensors and reads all of it; forgets the damage.
  absl::Status Read() {
    WriteFile(folder_.File("damaged.safetensors"), SafetensorsBytes(tensors_));
    tensors_ = pristine_;
    auto shards = ShardSet::OpenFile(folder_.File("damaged.safetensors"));
    if (!shards.ok()) return shards.status();
    shards_ = std::make_unique<ShardSet>(*std::move(shards));
    auto bound = BindModule({shards_.get(), &quantization_, module_, std::nullopt});
    if (!bound.ok()) return bound.status();
    bound_ = *std::move(bound);
    const StoredTensor& tensor = *bound_.tensor;
    values_.assign(static_cast<size_t>(tensor.rows() * tensor.cols()), 0);
    const absl::Status status = tensor.ReadF32(0, tensor.rows(), absl::MakeSpan(values_), nullptr);
    EXPECT_EQ(tensor.ReadStored(0, tensor.rows(), nullptr).status().code(), status.code()) << "both reads find it";
    return status;
  }

  void ExpectFault(absl::StatusCode code, const std::string& suffix, std::vector<std::string> parts) {
    parts.push_back(absl::StrCat("damaged.safetensors: tensor ", module_, suffix));
    EXPECT_THAT(Read(), Fails(code, parts));
  }

  void ExpectMissing(const std::string& suffix) {
    Drop(suffix);
    EXPECT_THAT(Read(), Fails(kContradiction, {"damaged.safetensors", module_ + suffix, "none"}));
  }

  void ExpectWrongShapeAndDtype(const std::string& suffix) {
    TestTensor& shape = At(suffix);
    shape.shape.push_back(1);
    shape.shape.push_back(1);
    shape.shape.push_back(1);
    ExpectFault(kContradiction, suffix, {"found"});
    TestTensor& dtype = At(suffix);
    dtype.data.resize(dtype.data.size() / (InfoOf(dtype.dtype).bits / 8));
    dtype.dtype = Dtype::kF8E5M2;
    EXPECT_THAT(Read(), testing::AnyOf(Fails(kContradiction, {module_ + suffix, "F8_E5M2"}),
                                       Fails(kUnsupported, {module_ + suffix, "F8_E5M2"})));
  }

  TempFolder folder_;
  SourceQuantization quantization_;
  TestTensors tensors_;
  TestTensors pristine_;
  std::string module_;
  std::unique_ptr<ShardSet> shards_;
  BoundModule bound_;
  std::vector<float> values_;
};

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST_F(SourceDamage, Mxfp4) {
  for (const auto& [name, codes, scale] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"mxfp4-v4", ".weight", ".scale"}, {"mxfp4-ct", ".weight_packed", ".weight_scale"}}) {
    SCOPED_TRACE(name);
    Load(name);
    EXPECT_THAT(Read(), IsOk());
    Put<uint8_t>(scale, 1, 0xff);
    ExpectFault(kCorrupt, scale, {"[0, 1]", "NaN"});
    Put<uint8_t>(scale, 1, 253);
    ExpectFault(kCorrupt, scale, {"[0, 1]", "at most 0xFC, found 0xFD"});
    ExpectMissing(scale);
    ExpectWrongShapeAndDtype(scale);
    At(codes).shape[0] /= 2;
    At(codes).data.resize(At(codes).data.size() / 2);
    ExpectFault(kContradiction, scale, {"expected shape", "found"});
  }
}

TEST_F(SourceDamage, Nvfp4) {
  for (const auto& [name, codes, tensor_scale] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"nvfp4-modelopt", ".weight", ".weight_scale_2"}, {"nvfp4-ct", ".weight_packed", ".weight_global_scale"}}) {
    SCOPED_TRACE(name);
    Load(name);
    EXPECT_THAT(Read(), IsOk());
    for (const int bad : {0x7f, 0x80, 0x81, 0xff}) {
      Put(".weight_scale", 13, static_cast<uint8_t>(bad));
      ExpectFault(kCorrupt, ".weight_scale", {"[1, 1]", "not negative", "found the E4M3 code"});
    }
    Put<uint8_t>(".weight_scale", 13, 0);
    EXPECT_THAT(Read(), IsOk()) << "a group of zeros";
    for (const float bad : {0.0f, -1.0f, kNan, std::numeric_limits<float>::infinity()}) {
      Put<float>(tensor_scale, 0, bad);
      ExpectFault(kCorrupt, tensor_scale, {"finite positive scale"});
    }
    // Passes the largest F32 value with the largest code and scale.
    Put<float>(tensor_scale, 0, tensor_scale == ".weight_scale_2" ? 1e36f : 1e-36f);
    ExpectFault(kCorrupt, tensor_scale, {"expected a", "found"});
    ExpectMissing(tensor_scale);
    ExpectMissing(".weight_scale");
    ExpectWrongShapeAndDtype(".weight_scale");
    At(tensor_scale) = F32Tensor({2}, {1, 1});
    ExpectFault(kContradiction, tensor_scale, {"expected one value, found shape [2]"});
  }
}

TEST_F(SourceDamage, Gptq) {
  Load("gptq4-v1-actorder");
  EXPECT_THAT(Read(), IsOk());
  for (const int32_t bad : {-1, 3, 1 << 30}) {
    Put<int32_t>(".g_idx", 5, bad);
    ExpectFault(kCorrupt, ".g_idx", {"[5]", "expected a group below 3", absl::StrCat("found ", bad)});
  }
  for (const float bad : {0.0f, -1.0f, kNan, std::numeric_limits<float>::infinity()}) {
    Put<uint16_t>(".scales", 136 + 4, F32ToF16(bad));
    ExpectFault(kCorrupt, ".scales", {"[1, 4]", "finite positive scale"});
  }
  ExpectMissing(".qzeros");
  ExpectMissing(".scales");
  ExpectMissing(".g_idx");  // desc_act is true
  for (const char* suffix : {".qzeros", ".scales", ".g_idx", ".qweight"}) ExpectWrongShapeAndDtype(suffix);
  quantization_.int_groups = {128};
  ExpectFault(kContradiction, ".scales", {"expected shape [2, 136] for groups of 128 columns, found [3, 136]"});
  Load("gptq4-v1-actorder");
  quantization_ = SourceQuantization();
  ExpectFault(kUnsupported, ".qweight", {"GPTQ or AWQ", "quant_method"});
}

TEST_F(SourceDamage, Awq) {
  Load("awq4-gemm");
  EXPECT_THAT(Read(), IsOk());
  Put<uint16_t>(".scales", 3, F32ToF16(0));
  ExpectFault(kCorrupt, ".scales", {"[0, 3]", "finite positive scale"});
  ExpectMissing(".qzeros");
  ExpectMissing(".scales");
  for (const char* suffix : {".qzeros", ".scales", ".qweight"}) ExpectWrongShapeAndDtype(suffix);
  tensors_[module_ + ".g_idx"] = {Dtype::kI32, {192}, std::string(192 * 4, '\0')};
  ExpectFault(kContradiction, ".g_idx", {"no activation order"});
}

TEST_F(SourceDamage, PackQuantized) {
  Load("ct-int4-asym");
  EXPECT_THAT(Read(), IsOk());
  ExpectMissing(".weight_zero_point");  // symmetric is false
  ExpectMissing(".weight_scale");
  ExpectMissing(".weight_shape");
  for (const char* suffix : {".weight_zero_point", ".weight_scale", ".weight_shape"}) ExpectWrongShapeAndDtype(suffix);
  for (const int64_t bad : {int64_t{0}, int64_t{-5}, int64_t{1} << 62}) {
    Put<int64_t>(".weight_shape", 1, bad);
    ExpectFault(kContradiction, ".weight_shape", {"expected two positive sizes"});
  }
  Put<int64_t>(".weight_shape", 1, 193);
  ExpectFault(kContradiction, ".weight_packed", {"expected shape [136, 25] for INT4, found [136, 24]"});
  Put<uint16_t>(".weight_scale", 8, 0);
  ExpectFault(kCorrupt, ".weight_scale", {"[1, 2]", "finite positive scale"});
  Load("ct-int4-gidx");
  EXPECT_THAT(Read(), IsOk());
  Put<int32_t>(".weight_g_idx", 0, 3);
  ExpectFault(kCorrupt, ".weight_g_idx", {"[0]", "expected a group below 3, found 3"});
  ExpectWrongShapeAndDtype(".weight_g_idx");
}

TEST_F(SourceDamage, Fp8) {
  Load("fp8-channel-ct");
  EXPECT_THAT(Read(), IsOk());
  Put<float>(".weight_scale", 9, -0.5f);
  ExpectFault(kCorrupt, ".weight_scale", {"[9, 0]", "finite positive scale, found -0.5"});
  ExpectMissing(".weight_scale");
  ExpectWrongShapeAndDtype(".weight_scale");
  Load("fp8-block-ue8m0-e8m0");
  Put<uint8_t>(".scale", 1, 0xff);
  ExpectFault(kCorrupt, ".scale", {"[1, 0]", "finite positive scale"});
  Put<uint8_t>(".weight", 300, 0x7f);
  ExpectFault(kCorrupt, ".weight", {"[2, 44]", "NaN 0x7F"});
}

TEST_F(SourceDamage, ASecondFormOfTheSameWeight) {
  Load("ct-int4-sym");
  tensors_[module_ + ".weight"] = Bf16Tensor({2, 2}, {1, 2, 3, 4});
  EXPECT_THAT(Read(), Fails(kContradiction, {module_ + ".weight_packed", "second form", module_ + ".weight"}));
}

// ---- unusual but right

// An independent reading of the layout: bit b of the matrix's bit string, element by element.
uint32_t Field(const std::string& words, size_t word, int bit, int bits) {
  uint32_t value = 0;
  for (int i = 0; i < bits; ++i) {
    const size_t at = word * 32 + static_cast<size_t>(bit + i);
    value |= static_cast<uint32_t>((static_cast<uint8_t>(words[at / 8]) >> (at % 8)) & 1) << i;
  }
  return value;
}

TEST_F(SourceDamage, Gptq8BitDecodesByItsDefinition) {
  constexpr int64_t kRows = 36;
  constexpr int64_t kCols = 96;
  for (const bool v2 : {false, true}) {
    for (const bool order : {false, true}) {
      SCOPED_TRACE(absl::StrCat("v2 ", v2, ", act-order ", order));
      NamedNumbers numbers("gptq8");
      std::vector<uint32_t> codes(kCols / 4 * kRows);
      std::vector<uint32_t> zeros(3 * kRows / 4);
      std::vector<float> scales;
      std::vector<int32_t> index;
      for (uint32_t& word : codes) word = numbers.Next() ^ (numbers.Next() << 1);
      for (uint32_t& word : zeros) word = (numbers.Next() ^ (numbers.Next() << 1)) & 0x7f7f7f7fu;
      for (int64_t i = 0; i < 3 * kRows; ++i) scales.push_back(numbers.Uniform(0.001f, 0.1f));
      for (int32_t c = 0; c < kCols; ++c) index.push_back(order ? c * 7 % 3 : c / 32);
      module_ = "m";
      tensors_.clear();
      tensors_["m.qweight"] = {Dtype::kI32, {kCols / 4, kRows}, BytesOf(codes)};
      tensors_["m.qzeros"] = {Dtype::kI32, {3, kRows / 4}, BytesOf(zeros)};
      tensors_["m.scales"] = F16Tensor({3, kRows}, scales);
      tensors_["m.g_idx"] = {Dtype::kI32, {kCols}, BytesOf(index)};
      pristine_ = tensors_;
      quantization_ = SourceQuantization();
      quantization_.method = QuantMethod::kGptq;
      quantization_.int_bits = {8};
      quantization_.int_groups = {32};
      quantization_.gptq_v2 = v2;
      ASSERT_THAT(Read(), IsOk());
      EXPECT_TRUE(bound_.tensor->Form()->decoded);
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < kCols; ++c) {
          const auto code = Field(pristine_["m.qweight"].data, static_cast<size_t>(c / 4 * kRows + r),
                                  static_cast<int>(c % 4 * 8), 8);
          const int64_t g = index[static_cast<size_t>(c)];
          const auto zero = Field(pristine_["m.qzeros"].data, static_cast<size_t>(g * kRows / 4 + r / 4),
                                  static_cast<int>(r % 4 * 8), 8);
          const double scale = static_cast<double>(F16ToF32(F32ToF16(scales[static_cast<size_t>(g * kRows + r)])));
          const double expected = (static_cast<double>(code) - static_cast<double>(zero) - (v2 ? 0 : 1)) * scale;
          ASSERT_EQ(values_[static_cast<size_t>(r * kCols + c)], static_cast<float>(expected)) << r << ", " << c;
        }
      }
    }
  }
}

TEST_F(SourceDamage, AStoredZeroPointOf15In4BitGptqIsReadAs16AndWarnedOf) {
  Load("gptq4-v1-plain");
  Put<uint32_t>(".qzeros", 0, 0xffffffffu);
  ASSERT_THAT(Read(), IsOk());
  ASSERT_EQ(bound_.tensor->Observations().size(), 1u);
  EXPECT_THAT(bound_.tensor->Observations()[0], testing::HasSubstr("warning: " + module_ + ".qzeros"));
  const auto code = Field(pristine_[module_ + ".qweight"].data, 0, 0, 4);
  uint16_t scale;
  std::memcpy(&scale, pristine_[module_ + ".scales"].data.data(), sizeof(scale));
  EXPECT_EQ(values_[0], (static_cast<float>(code) - 16.0f) * F16ToF32(scale));
  Load("gptq4-v2-noidx");
  Put<uint32_t>(".qzeros", 0, 0xffffffffu);
  ASSERT_THAT(Read(), IsOk());
  EXPECT_THAT(bound_.tensor->Observations(), testing::IsEmpty()) << "gptq_v2 stores 15 as 15";
}

TEST_F(SourceDamage, SymmetricGptqWithBf16ScalesIsKeptExactly) {
  Load("gptq4-v2-noidx");
  const auto groups = static_cast<int64_t>(At(".scales").shape[0]);
  const auto rows = static_cast<int64_t>(At(".scales").shape[1]);
  std::vector<float> scales;
  for (int64_t i = 0; i < groups * rows; ++i)
    scales.push_back(std::ldexp(1.0f + static_cast<float>(i % 128) / 128, -7));
  At(".scales") = F16Tensor({static_cast<uint64_t>(groups), static_cast<uint64_t>(rows)}, scales);
  for (char& byte : At(".qzeros").data) byte = static_cast<char>(0x88);
  ASSERT_THAT(Read(), IsOk());
  const auto form = bound_.tensor->Form();
  ASSERT_THAT(form, IsOk());
  EXPECT_EQ(form->exact_format, FormatId::kInt4G32);
  EXPECT_FALSE(form->decoded);
  const auto stored = bound_.tensor->ReadStored(0, bound_.tensor->rows(), nullptr);
  ASSERT_THAT(stored, IsOk());
  std::vector<float> decoded(values_.size());
  DecodeStoredRows(*stored, absl::MakeSpan(decoded));
  EXPECT_EQ(decoded, values_);
}

TEST_F(SourceDamage, AnIndexOfOnlyMinusOneIsNoOrder) {
  Load("ct-int4-sym");
  const auto cols = At(".weight_packed").shape[1] * 8;
  ASSERT_THAT(Read(), IsOk());
  const std::vector<float> plain = values_;
  tensors_[module_ + ".weight_g_idx"] = {Dtype::kI32, {cols}, BytesOf(std::vector<int32_t>(cols, -1))};
  ASSERT_THAT(Read(), IsOk());
  EXPECT_EQ(values_, plain);
  EXPECT_EQ(bound_.tensor->Form()->exact_format, FormatId::kInt4G32);
}

TEST(ReadColumns, GivesTheSliceWhateverTheGapsAre) {
  const TempFolder folder;
  for (const uint64_t cols : {5u, 300u, 3000u}) {
    std::vector<uint32_t> words;
    for (uint32_t i = 0; i < 40 * cols; ++i) words.push_back(i);
    WriteFile(folder.File("m.safetensors"), SafetensorsBytes({{"t", {Dtype::kI32, {40, cols}, BytesOf(words)}}}));
    const auto shards = ShardSet::OpenFile(folder.File("m.safetensors"));
    ASSERT_THAT(shards, IsOk());
    for (const auto& [begin, count] : std::vector<std::pair<uint64_t, uint64_t>>{{0, cols}, {1, 3}, {cols - 2, 2}}) {
      const auto bytes =
          ReadColumns(shards->Find("t"), static_cast<int64_t>(begin), static_cast<int64_t>(count), nullptr);
      ASSERT_THAT(bytes, IsOk());
      ASSERT_EQ(bytes->size(), 40 * count * 4);
      for (uint64_t r = 0; r < 40; ++r) {
        for (uint64_t c = 0; c < count; ++c) {
          uint32_t word;
          std::memcpy(&word, bytes->data() + (r * count + c) * 4, sizeof(word));
          ASSERT_EQ(word, r * cols + begin + c) << cols << " columns, row " << r;
        }
      }
    }
  }
}

// ---- decode loops

TEST(DecodeLanes, EveryInstructionSetGivesTheBitsOfTheDefinition) {
  constexpr int64_t kN = 65536;
  std::vector<uint8_t> halves(kN * 2);
  for (size_t i = 0; i < kN; ++i) {
    halves[2 * i] = static_cast<uint8_t>(i);
    halves[2 * i + 1] = static_cast<uint8_t>(i >> 8);
  }
  std::vector<uint8_t> codes(kN);
  for (size_t i = 0; i < kN; ++i) codes[i] = static_cast<uint8_t>(i * 7);
  std::vector<float> out(kN);
  const auto same = [](float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0 || (a != a && b != b); };
  for (const DecodeLanes& lanes : AllDecodeLanes()) {
    if (!lanes.available()) continue;
    SCOPED_TRACE(std::string(lanes.name));
    for (const int64_t n : {kN, int64_t{1}, int64_t{63}, int64_t{130}}) {
      lanes.widen_bf16(halves.data(), n, out.data());
      for (int64_t i = 0; i < n; ++i)
        ASSERT_TRUE(same(out[static_cast<size_t>(i)], Bf16ToF32(static_cast<uint16_t>(i)))) << i;
      lanes.widen_f16(halves.data(), n, out.data());
      for (int64_t i = 0; i < n; ++i)
        ASSERT_TRUE(same(out[static_cast<size_t>(i)], F16ToF32(static_cast<uint16_t>(i)))) << i;
      for (const float scale : {1.0f, 0.3f, 1e-38f, 1e30f}) {
        lanes.fp8(codes.data(), n, scale, out.data());
        for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
          if (IsFp8E4m3Nan(codes[i])) continue;
          ASSERT_TRUE(same(out[i], kFp8E4m3Values[codes[i]] * scale)) << int{codes[i]};
        }
      }
      std::vector<uint8_t> nibbles(static_cast<size_t>(n));
      for (size_t i = 0; i < nibbles.size(); ++i) nibbles[i] = codes[i] & 15;
      std::vector<float> scales(static_cast<size_t>(n) / 16 + 1);
      std::vector<float> zeros(scales.size());
      std::vector<int32_t> index(static_cast<size_t>(n));
      for (size_t i = 0; i < scales.size(); ++i) {
        scales[i] = std::ldexp(1.37f, static_cast<int>(i % 90) - 135);
        zeros[i] = static_cast<float>(i % 17);
      }
      for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<int32_t>(i * 5 % scales.size());
      for (const int64_t group : {16, 32}) {
        lanes.e2m1(nibbles.data(), n, group, scales.data(), out.data());
        for (size_t i = 0; i < nibbles.size(); ++i) {
          ASSERT_TRUE(same(out[i], kE2m1Values[nibbles[i]] * scales[i / static_cast<size_t>(group)])) << i;
        }
      }
      for (const int64_t group : {16, 40, 1000000}) {
        lanes.grouped_int(codes.data(), n, group, scales.data(), zeros.data(), out.data());
        for (size_t i = 0; i < nibbles.size(); ++i) {
          const size_t g = i / static_cast<size_t>(group);
          ASSERT_TRUE(same(out[i], (static_cast<float>(codes[i]) - zeros[g]) * scales[g])) << i;
        }
      }
      lanes.indexed_int(codes.data(), n, index.data(), scales.data(), zeros.data(), out.data());
      for (size_t i = 0; i < nibbles.size(); ++i) {
        const auto g = static_cast<size_t>(index[i]);
        ASSERT_TRUE(same(out[i], (static_cast<float>(codes[i]) - zeros[g]) * scales[g])) << i;
      }
      std::vector<float> rescaled(static_cast<size_t>(n), 0.7f);
      lanes.rescale(rescaled.data(), n, 1.0f, 1700.3f);
      for (const float value : rescaled) ASSERT_TRUE(same(value, 0.7f / 1700.3f));
      lanes.rescale(rescaled.data(), n, 3.1f, 1.0f);
      for (const float value : rescaled) ASSERT_TRUE(same(value, 0.7f / 1700.3f * 3.1f));
      std::vector<uint8_t> unpacked(static_cast<size_t>(n) * 2);
      lanes.unpack_nibbles(codes.data(), n, unpacked.data());
      for (size_t i = 0; i < unpacked.size(); ++i) ASSERT_EQ(unpacked[i], (codes[i / 2] >> (i % 2 * 4)) & 15);
    }
  }
}

TEST(DecodeLanes, FindWhatIsNotFiniteWhereverItIs) {
  for (const DecodeLanes& lanes : AllDecodeLanes()) {
    if (!lanes.available()) continue;
    SCOPED_TRACE(std::string(lanes.name));
    for (const int64_t n : {int64_t{1}, int64_t{17}, int64_t{64}, int64_t{200}}) {
      std::vector<uint8_t> bytes(static_cast<size_t>(n) * 4, 0x7e);
      EXPECT_FALSE(lanes.has_fp8_nan(bytes.data(), n));
      EXPECT_FALSE(lanes.has_nonfinite16(bytes.data(), n, 0x7f80));
      EXPECT_FALSE(lanes.has_nonfinite32(bytes.data(), n));
      for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
        std::vector<uint8_t> fp8 = bytes;
        fp8[i] = i % 2 ? 0xff : 0x7f;
        EXPECT_TRUE(lanes.has_fp8_nan(fp8.data(), n)) << i;
        std::vector<uint8_t> half = bytes;
        half[2 * i] = 0x80;
        half[2 * i + 1] = i % 2 ? 0xff : 0x7f;
        EXPECT_TRUE(lanes.has_nonfinite16(half.data(), n, 0x7f80)) << i;
        std::vector<uint8_t> word = bytes;
        word[4 * i + 2] = 0x80;
        word[4 * i + 3] = i % 2 ? 0xff : 0x7f;
        EXPECT_TRUE(lanes.has_nonfinite32(word.data(), n)) << i;
      }
    }
  }
}

}  // namespace
}  // namespace kompakt
