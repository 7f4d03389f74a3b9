// The bundled checkpoints open, have the forms that their files show, and decode to what an independent computation
// on the raw bytes gives.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "converters/checkpoint.h"
#include "converters/safetensors.h"
#include "tests/converters/safetensors_writer.h"
#include "tests/converters/status_matchers.h"

namespace kompakt {
namespace {

std::string Fixture(const std::string& name) { return std::string(KOMPAKT_TEST_DATA "/checkpoints/") + name; }

std::unique_ptr<TensorSource> MustOpen(const std::string& folder) {
  auto source = OpenCheckpoint(folder);
  EXPECT_THAT(source, IsOk());
  return source.ok() ? *std::move(source) : nullptr;
}

std::vector<float> MustReadF32(const TensorSource& source, const TensorInfo& t, int64_t begin, int64_t end) {
  std::vector<float> out(static_cast<size_t>((end - begin) * t.cols));
  EXPECT_THAT(source.ReadF32(t, begin, end, absl::MakeSpan(out)), IsOk()) << t.Name();
  return out;
}

const TensorInfo& At(const TensorSource& source, TensorRole role, int64_t layer = -1, int64_t expert = -1) {
  const int64_t index = source.schema().Find(role, layer, expert);
  EXPECT_GE(index, 0);
  return source.schema().tensors()[static_cast<size_t>(index)];
}

// E4M3 by its definition: (-1)^s 2^(e - 7) (1 + m / 8), subnormal 2^-6 m / 8.
double E4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const double mantissa = (code & 7) / 8.0;
  const double value = exponent == 0 ? std::ldexp(mantissa, -6) : std::ldexp(1 + mantissa, exponent - 7);
  return code & 0x80 ? -value : value;
}

// The raw bytes of a tensor, wherever its shard is.
struct RawTensor {
  SafetensorsEntry entry;
  std::vector<uint8_t> bytes;
};

RawTensor Raw(const std::string& folder, const std::string& name, const std::vector<std::string>& shards) {
  for (const std::string& shard : shards) {
    const auto file = SafetensorsFile::Open(folder + "/" + shard);
    EXPECT_THAT(file, IsOk());
    const SafetensorsEntry* entry = file->Find(name);
    if (entry == nullptr) continue;
    RawTensor raw{*entry, std::vector<uint8_t>(entry->bytes())};
    EXPECT_THAT(file->Read(*entry, 0, absl::MakeSpan(raw.bytes)), IsOk());
    return raw;
  }
  ADD_FAILURE() << "no tensor " << name;
  return {};
}

const std::vector<std::string> kTwoShards = {"model-00001-of-000002.safetensors", "model-00002-of-000002.safetensors"};

TEST(Fixtures, EveryCheckpointOpensAndAllItsRowsRead) {
  for (const char* name : {"v2lite", "v2", "v3", "moonlight", "glmflash", "kimi", "tiny-v3"}) {
    SCOPED_TRACE(name);
    const auto source = MustOpen(Fixture(name));
    ASSERT_NE(source, nullptr);
    for (const TensorInfo& t : source->schema().tensors()) {
      const auto form = source->Form(t);
      ASSERT_THAT(form, IsOk());
      EXPECT_FALSE(form->decoded) << t.Name();
      const auto stored = source->ReadStored(t, 0, t.rows);
      ASSERT_THAT(stored, IsOk()) << t.Name();
      EXPECT_EQ(stored->format, form->exact_format);
      // The two ways of reading agree bit for bit.
      std::vector<float> from_stored(static_cast<size_t>(t.elements()));
      DecodeStoredRows(*stored, absl::MakeSpan(from_stored));
      EXPECT_EQ(from_stored, MustReadF32(*source, t, 0, t.rows)) << t.Name();
    }
  }
}

TEST(Fixtures, FormsAreThoseOfTheFiles) {
  const auto v3 = MustOpen(Fixture("v3"));
  EXPECT_EQ(v3->Form(At(*v3, TensorRole::kEmbedTokens))->dtype, "BF16");
  EXPECT_EQ(v3->Form(At(*v3, TensorRole::kRouterBias, 1))->exact_format, FormatId::kF32);
  const auto kv_a = v3->Form(At(*v3, TensorRole::kKvAProj, 0));
  EXPECT_EQ(kv_a->exact_format, FormatId::kFp8B128);
  EXPECT_EQ(kv_a->dtype, "F8_E4M3, F32 scale per 128x128");
  EXPECT_EQ(kv_a->stored_bytes, 128u * 192u + 1u * 2u * 4u);
  EXPECT_FALSE(kv_a->native_low_bit);

  const auto kimi = MustOpen(Fixture("kimi"));
  const auto expert = kimi->Form(At(*kimi, TensorRole::kExpertDown, 1, 3));
  EXPECT_EQ(expert->exact_format, FormatId::kInt4G32);
  EXPECT_TRUE(expert->native_low_bit);
  EXPECT_EQ(expert->dtype, "INT4, BF16 scale per 32");
  EXPECT_EQ(kimi->Form(At(*kimi, TensorRole::kOProj, 1))->exact_format, FormatId::kBf16);
}

TEST(Fixtures, Fp8WithEdgeBlocksAndScalesInTheOtherShardDecodes) {
  const auto source = MustOpen(Fixture("v3"));
  // 160 x 192: two block rows of 128 and 32, two block columns of 128 and 64.
  const TensorInfo& t = At(*source, TensorRole::kExpertGate, 1, 5);
  ASSERT_EQ(t.rows, 160);
  ASSERT_EQ(t.cols, 192);
  const RawTensor codes = Raw(Fixture("v3"), t.Name(), kTwoShards);
  const RawTensor scales = Raw(Fixture("v3"), t.Name() + "_scale_inv", kTwoShards);
  ASSERT_EQ(scales.entry.shape, (std::vector<uint64_t>{2, 2}));
  const std::vector<float> found = MustReadF32(*source, t, 0, t.rows);
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t c = 0; c < t.cols; ++c) {
      float scale = 0;
      std::memcpy(&scale, scales.bytes.data() + 4 * (r / 128 * 2 + c / 128), 4);
      // A code has 4 significant bits and a scale 24, so the double product is exact and rounds once.
      const float expected =
          static_cast<float>(E4m3(codes.bytes[static_cast<size_t>(r * t.cols + c)]) * static_cast<double>(scale));
      ASSERT_EQ(found[static_cast<size_t>(r * t.cols + c)], expected) << "[" << r << ", " << c << "]";
    }
  }
  // Rows from the middle of a block are the same rows.
  const std::vector<float> part = MustReadF32(*source, t, 100, 141);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), found.begin() + 100 * t.cols));
  // In stored form the second piece carries the second row of scales.
  const auto tail = source->ReadStored(t, 128, 160);
  ASSERT_THAT(tail, IsOk());
  ASSERT_EQ(tail->block_scales.size(), 2u);
  EXPECT_EQ(std::memcmp(tail->block_scales.data(), scales.bytes.data() + 8, 8), 0);
  EXPECT_TRUE(std::equal(tail->elements.begin(), tail->elements.end(), codes.bytes.begin() + 128 * t.cols));
}

TEST(Fixtures, PackedInt4Decodes) {
  const auto source = MustOpen(Fixture("kimi"));
  const TensorInfo& t = At(*source, TensorRole::kExpertUp, 2, 7);
  const std::string stem = t.Name();  // ends in ".weight"
  const RawTensor packed = Raw(Fixture("kimi"), stem + "_packed", kTwoShards);
  const RawTensor scales = Raw(Fixture("kimi"), stem + "_scale", kTwoShards);
  const std::vector<float> found = MustReadF32(*source, t, 0, t.rows);
  const auto stored = source->ReadStored(t, 0, t.rows);
  ASSERT_THAT(stored, IsOk());
  std::set<int> codes_seen;
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t c = 0; c < t.cols; ++c) {
      uint32_t word = 0;
      std::memcpy(&word, packed.bytes.data() + 4 * (r * (t.cols / 8) + c / 8), 4);
      const int code = static_cast<int>((word >> (4 * (c % 8))) & 15u);
      uint16_t scale_bits = 0;
      std::memcpy(&scale_bits, scales.bytes.data() + 2 * (r * (t.cols / 32) + c / 32), 2);
      const size_t i = static_cast<size_t>(r * t.cols + c);
      ASSERT_EQ(stored->elements[i], code);
      ASSERT_EQ(stored->group_scales[static_cast<size_t>(r * (t.cols / 32) + c / 32)], scale_bits);
      ASSERT_EQ(found[i], static_cast<float>(code - 8) * Bf16ToF32(scale_bits)) << "[" << r << ", " << c << "]";
      codes_seen.insert(code);
    }
  }
  EXPECT_GT(codes_seen.size(), 8u) << "the fixture exercises few codes";
}

TEST(Fixtures, MtpLayerIsSkippedWithANotice) {
  const auto source = MustOpen(Fixture("v3"));
  EXPECT_EQ(source->schema().arch().num_nextn_predict_layers(), 1);
  EXPECT_EQ(source->schema().Find(TensorRole::kKvAProj, 3), -1);
  EXPECT_THAT(source->notices(), testing::Contains(testing::HasSubstr("MTP layer 3 is not part of the main model")));
}

uint64_t Xxh3OfFile(const std::string& path, size_t bytes) {
  std::ifstream in(path, std::ios::binary);
  std::string content((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  return Xxh3(content.substr(0, bytes));
}

TEST(Fixtures, FilesAreListedInAscendingOrderWithTheChecksumOfTheirHeaderOrContent) {
  const auto source = MustOpen(Fixture("tiny-v3"));
  const auto files = source->Files();
  ASSERT_THAT(files, IsOk());
  std::vector<std::string> names;
  for (const SourceFile& file : *files) {
    names.push_back(file.name());
    const std::string path = Fixture("tiny-v3") + "/" + file.name();
    EXPECT_EQ(file.bytes(), std::filesystem::file_size(path)) << file.name();
    size_t bytes = file.bytes();
    if (file.name().find(".safetensors") + 12 == file.name().size()) {
      uint64_t header = 0;
      std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(&header), 8);
      bytes = 8 + header;
    }
    EXPECT_EQ(file.xxh3(), Xxh3OfFile(path, bytes)) << file.name();
  }
  EXPECT_THAT(names, testing::ElementsAre("config.json", "generation_config.json", "model-00001-of-000003.safetensors",
                                          "model-00002-of-000003.safetensors", "model-00003-of-000003.safetensors",
                                          "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"));
}

// docs/format.md, "Source checksums": computed here from the files, without the reader of the form.
TEST(Fixtures, TheSourceChecksumIsThatOfTheBytesInTheFiles) {
  const auto source = MustOpen(Fixture("v3"));
  int64_t with_scales = 0;
  for (const TensorInfo& tensor : source->schema().tensors()) {
    const std::vector<SourceRange> ranges = source->Ranges(tensor, 0, tensor.rows);
    ASSERT_FALSE(ranges.empty()) << tensor.Name();
    std::vector<std::string> contents;
    for (const SourceRange& range : ranges) {
      std::ifstream in(Fixture("v3") + "/" + range.file, std::ios::binary);
      in.seekg(static_cast<std::streamoff>(range.offset));
      std::string& content = contents.emplace_back(range.bytes, '\0');
      in.read(content.data(), static_cast<std::streamsize>(range.bytes));
    }
    const size_t row_bytes = contents[0].size() / static_cast<size_t>(tensor.rows);
    const size_t blocks = static_cast<size_t>((tensor.rows + 127) / 128);
    with_scales += contents.size() > 1 ? 1 : 0;
    std::string pieces;
    for (size_t b = 0; b < blocks; ++b) {
      std::string bytes = contents[0].substr(b * 128 * row_bytes, 128 * row_bytes);
      if (contents.size() > 1) {
        const size_t scale_row_bytes = contents[1].size() / blocks;
        bytes += contents[1].substr(b * scale_row_bytes, scale_row_bytes);
      }
      const uint64_t xxh3 = Xxh3(bytes);
      pieces.append(reinterpret_cast<const char*>(&xxh3), 8);
    }
    const auto found = ReadSourceXxh3(*source, tensor, nullptr);
    ASSERT_THAT(found, IsOk());
    EXPECT_EQ(*found, Xxh3(pieces)) << tensor.Name();
    Xxh3Stream stored;
    const auto rows = source->ReadStored(tensor, 0, std::min<int64_t>(tensor.rows, 128), &stored);
    ASSERT_THAT(rows, IsOk());
    EXPECT_EQ(std::memcmp(pieces.data(), std::array<uint64_t, 1>{stored.Digest()}.data(), 8), 0)
        << tensor.Name() << ": both reads give the same bytes";
  }
  EXPECT_GT(with_scales, 10);
}

TEST(Fixtures, AssetsOfTheTrainedModel) {
  const auto source = MustOpen(Fixture("tiny-v3"));
  const ModelAssets& assets = source->assets();
  EXPECT_THAT(assets.stop_ids(), testing::ElementsAre(1));
  EXPECT_TRUE(assets.has_bos_id());
  EXPECT_EQ(assets.bos_id(), 0u);
  EXPECT_EQ(assets.files_size(), 4);
}

TEST(Fixtures, FolderWithOnlyATokenizerHasAssets) {
  const auto assets = ReadAssets(KOMPAKT_TEST_DATA "/tokenizers/deepseek-v3");
  ASSERT_THAT(assets, IsOk());
  // Found through tokenizer_config.json's bos_token and eos_token.
  EXPECT_TRUE(assets->has_bos_id());
  EXPECT_EQ(assets->bos_id(), 0u);
  EXPECT_THAT(assets->stop_ids(), testing::ElementsAre(1));
  EXPECT_THAT(ReadAssets(Fixture("v2")), Fails(absl::StatusCode::kNotFound, {"tokenizer.json", "tiktoken.model"}));
}

}  // namespace
}  // namespace kompakt
