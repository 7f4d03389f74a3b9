// Every stored form decodes to the values that independent implementations gave (tests/data/sources), and what a block
// format holds of it decodes to the same bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "converters/json.h"
#include "converters/quantization_config.h"
#include "converters/source_forms.h"
#include "tests/converters/safetensors_writer.h"
#include "tests/converters/status_matchers.h"

namespace kompakt {
namespace {

constexpr char kFolder[] = KOMPAKT_TEST_DATA "/sources/";

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const auto& file : std::filesystem::directory_iterator(kFolder)) {
    std::string name = file.path().filename();
    constexpr absl::string_view kEnd = ".config.json";
    if (absl::EndsWith(name, kEnd)) names.push_back(name.substr(0, name.size() - kEnd.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

SourceQuantization QuantizationOf(const std::string& name) {
  const auto json = ParseJson(ReadFile(kFolder + name + ".config.json"), name);
  EXPECT_THAT(json, IsOk());
  const auto quantization = ParseQuantization(JsonFields(*json, name));
  EXPECT_THAT(quantization, IsOk());
  return quantization.ok() ? *quantization : SourceQuantization();
}

std::vector<float> ReadAllF32(const ShardSet& shards, const std::string& tensor) {
  const FoundTensor found = shards.Find(tensor);
  EXPECT_TRUE(found) << tensor;
  std::vector<float> values(found.entry->bytes() / sizeof(float));
  EXPECT_THAT(found.file->Read(*found.entry, 0,
                               absl::MakeSpan(reinterpret_cast<uint8_t*>(values.data()), found.entry->bytes())),
              IsOk());
  return values;
}

// The expectation treats -0 and +0 as equal; == does as well.
void ExpectRows(const std::vector<float>& got, const float* expected, const std::string& what) {
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], expected[i]) << what << " element " << i;
}

class SourceGoldens : public testing::TestWithParam<std::string> {};

TEST_P(SourceGoldens, EveryModuleReadsAsExpected) {
  const SourceQuantization quantization = QuantizationOf(GetParam());
  const auto shards = ShardSet::OpenFile(kFolder + GetParam() + ".safetensors");
  const auto golden = ShardSet::OpenFile(kFolder + GetParam() + ".expected.safetensors");
  ASSERT_THAT(shards, IsOk());
  ASSERT_THAT(golden, IsOk());
  const std::vector<std::string> modules = QuantizedModules(*shards, quantization);
  ASSERT_EQ(static_cast<int64_t>(modules.size()),
            golden->tensor_count() - (golden->Find("model.layers.0.mlp.gate.weight") ? 1 : 0));
  for (const std::string& module : modules) {
    SCOPED_TRACE(module);
    const std::vector<float> expected = ReadAllF32(*golden, module + ".weight");
    const std::vector<uint64_t>& shape = golden->Find(module + ".weight").entry->shape;
    ModuleRequest request{&*shards, &quantization, module, std::nullopt};
    const auto loose = BindModule(request);
    ASSERT_THAT(loose, IsOk());
    EXPECT_EQ(loose->tensor->rows(), static_cast<int64_t>(shape[0]));
    EXPECT_EQ(loose->tensor->cols(), static_cast<int64_t>(shape[1]));
    request.shape = MatrixShape{static_cast<int64_t>(shape[0]), static_cast<int64_t>(shape[1])};
    const auto bound = BindModule(request);
    ASSERT_THAT(bound, IsOk());
    const StoredTensor& tensor = *bound->tensor;
    const int64_t cols = tensor.cols();
    for (const int64_t step : {tensor.rows(), int64_t{128}, int64_t{7}}) {
      for (int64_t row = 0; row < tensor.rows(); row += step) {
        const int64_t end = std::min(tensor.rows(), row + step);
        std::vector<float> values(static_cast<size_t>((end - row) * cols));
        Xxh3Stream bytes_of_values;
        Xxh3Stream bytes_of_rows;
        ASSERT_THAT(tensor.ReadF32(row, end, absl::MakeSpan(values), &bytes_of_values), IsOk());
        ExpectRows(values, expected.data() + row * cols, absl::StrCat("rows from ", row, " by ", step));
        if (row % kFp8Block != 0) continue;
        const auto stored = tensor.ReadStored(row, end, &bytes_of_rows);
        ASSERT_THAT(stored, IsOk());
        EXPECT_EQ(bytes_of_rows.Digest(), bytes_of_values.Digest()) << "both reads see the same source bytes";
        DecodeStoredRows(*stored, absl::MakeSpan(values));
        ExpectRows(values, expected.data() + row * cols, absl::StrCat("stored rows from ", row));
      }
    }
    const auto form = tensor.Form();
    ASSERT_THAT(form, IsOk());
    uint64_t bytes = 0;
    for (const StoredRange& range : tensor.Ranges(0, tensor.rows())) bytes += range.end - range.begin;
    EXPECT_EQ(form->stored_bytes, bytes);
    EXPECT_THAT(tensor.Observations(), testing::IsEmpty());
  }
}

TEST_P(SourceGoldens, EveryTensorBelongsToAModuleOrIsPlain) {
  const SourceQuantization quantization = QuantizationOf(GetParam());
  const auto shards = ShardSet::OpenFile(kFolder + GetParam() + ".safetensors");
  ASSERT_THAT(shards, IsOk());
  std::set<std::string> used;
  for (const std::string& module : QuantizedModules(*shards, quantization)) {
    const auto bound = BindModule({&*shards, &quantization, module, std::nullopt});
    ASSERT_THAT(bound, IsOk());
    for (const FoundTensor& tensor : bound->used) used.insert(tensor.entry->name);
  }
  for (const SafetensorsEntry& entry : shards->shards()[0]->entries()) {
    EXPECT_EQ(used.count(entry.name),
              entry.dtype == Dtype::kBf16 && absl::EndsWith(entry.name, "gate.weight") ? 0u : 1u)
        << entry.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, SourceGoldens, testing::ValuesIn(GoldenNames()), [](const auto& name) {
  std::string text = name.param;
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
});

// Which block format holds which golden. What none holds is decoded to F32 and encoded by the recipe.
TEST(SourceGoldens, AreHeldExactlyWhereABlockFormatCan) {
  std::map<std::string, std::string> formats;
  for (const std::string& name : GoldenNames()) {
    const SourceQuantization quantization = QuantizationOf(name);
    const auto shards = ShardSet::OpenFile(kFolder + name + ".safetensors");
    ASSERT_THAT(shards, IsOk());
    for (const std::string& module : QuantizedModules(*shards, quantization)) {
      const auto bound = BindModule({&*shards, &quantization, module, std::nullopt});
      ASSERT_THAT(bound, IsOk());
      const auto form = bound->tensor->Form();
      ASSERT_THAT(form, IsOk());
      const std::string format = form->decoded ? "decoded" : std::string(FormatOf(form->exact_format).name);
      EXPECT_EQ(form->native_low_bit, FormatOf(form->exact_format).native_low_bit());
      const auto known = formats.emplace(name, format).first;
      EXPECT_EQ(known->second, format) << name << " " << module;
    }
  }
  const std::map<std::string, std::string> expected = {
      {"awq4-gemm", "decoded"},
      {"ct-int4-asym", "decoded"},
      {"ct-int4-channel", "decoded"},
      {"ct-int4-gidx", "decoded"},
      {"ct-int4-sym", "int4_g32"},
      {"ct-int4-sym-i32shape", "int4_g32"},
      {"ct-int8-asym", "decoded"},
      {"ct-int8-channel", "decoded"},
      {"fp8-block-ct", "fp8_b128"},
      {"fp8-block-ue8m0-e8m0", "fp8_b128"},
      {"fp8-block-ue8m0-f32", "fp8_b128"},
      {"fp8-block-v3", "fp8_b128"},
      {"fp8-channel-ct", "decoded"},
      {"fp8-channel-ct-bf16", "decoded"},
      {"fp8-tensor-ct", "fp8_b128"},
      {"fp8-tensor-mistral", "fp8_b128"},
      {"fp8-tensor-scalar", "fp8_b128"},
      {"gptq4-v1-actorder", "decoded"},
      {"gptq4-v1-plain", "decoded"},
      {"gptq4-v2-actorder", "decoded"},
      {"gptq4-v2-noidx", "decoded"},
      {"mxfp4-ct", "mxfp4"},
      {"mxfp4-v4", "mxfp4"},
      {"mxfp4-v4-edge", "mxfp4"},
      {"nvfp4-ct", "nvfp4"},
      {"nvfp4-ct-pow2", "nvfp4"},
      {"nvfp4-modelopt", "nvfp4"},
      {"nvfp4-modelopt-pow2", "nvfp4"},
  };
  EXPECT_EQ(formats, expected);
}

}  // namespace
}  // namespace kompakt
