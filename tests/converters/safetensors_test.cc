// One test per rule of the reference parser (docs of converters/safetensors.h), in its order, then what it allows.
#include "converters/safetensors.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/converters/safetensors_writer.h"
#include "tests/converters/status_matchers.h"
#include "tests/converters/temp_folder.h"

namespace kompakt {
namespace {

constexpr auto kCorrupt = absl::StatusCode::kDataLoss;

class SafetensorsTest : public testing::Test {
 protected:
  absl::StatusOr<SafetensorsFile> OpenBytes(const std::string& bytes) {
    WriteFile(path_, bytes);
    return SafetensorsFile::Open(path_);
  }
  absl::StatusOr<SafetensorsFile> OpenHeader(const std::string& json, uint64_t data_bytes) {
    return OpenBytes(SafetensorsBytes(json, std::string(data_bytes, '\0')));
  }
  // A header with one tensor "w" of the given fields.
  absl::StatusOr<SafetensorsFile> OpenTensor(const std::string& fields, uint64_t data_bytes) {
    return OpenHeader("{\"w\":{" + fields + "}}", data_bytes);
  }

  TempFolder folder_;
  std::string path_ = folder_.File("model.safetensors");
};

TEST_F(SafetensorsTest, Rule1FewerThanEightBytes) {
  EXPECT_THAT(OpenBytes("1234567"), Fails(kCorrupt, {path_, "at least 8 bytes, found 7", "HeaderTooSmall"}));
  EXPECT_THAT(OpenBytes(""), Fails(kCorrupt, {path_, "found 0", "HeaderTooSmall"}));
}

TEST_F(SafetensorsTest, Rule2HeaderLengthAboveTheCap) {
  const uint64_t length = 100'000'001;
  std::string bytes(16, '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  EXPECT_THAT(OpenBytes(bytes), Fails(kCorrupt, {path_, "at most 100000000", "100000001", "HeaderTooLarge"}));
}

TEST_F(SafetensorsTest, Rule3HeaderReachesPastTheEndOfTheFile) {
  std::string bytes = SafetensorsBytes("{}", "");
  bytes[0] = 3;
  EXPECT_THAT(OpenBytes(bytes), Fails(kCorrupt, {path_, "at least 11 bytes, found 10", "InvalidHeaderLength"}));
}

TEST_F(SafetensorsTest, Rule4HeaderIsNotUtf8) {
  EXPECT_THAT(OpenHeader("{\"\xC0\xAF\":1}", 0), Fails(kCorrupt, {path_, "UTF-8", "byte 10", "(InvalidHeader)"}));
}

TEST_F(SafetensorsTest, Rule4HeaderIsNotTheExpectedJson) {
  const std::string name = "InvalidHeaderDeserialization";
  EXPECT_THAT(OpenHeader("{", 0), Fails(kCorrupt, {path_, "not JSON", name}));
  EXPECT_THAT(OpenHeader("", 0), Fails(kCorrupt, {path_, "not JSON", name}));
  EXPECT_THAT(OpenHeader("{} x", 0), Fails(kCorrupt, {path_, "not JSON", name}));
  EXPECT_THAT(OpenHeader(std::string("{}\0x", 4), 0), Fails(kCorrupt, {path_, "not JSON", name}));
  EXPECT_THAT(OpenHeader("[]", 0), Fails(kCorrupt, {path_, "expected an object of tensors, found an array", name}));
  EXPECT_THAT(OpenHeader("7", 0), Fails(kCorrupt, {path_, "expected an object of tensors, found the number 7", name}));
  EXPECT_THAT(OpenHeader("{\"w\":5}", 0), Fails(kCorrupt, {path_, "tensor w: expected an object", name}));
}

TEST_F(SafetensorsTest, Rule4TensorEntryLacksAField) {
  EXPECT_THAT(OpenTensor(R"("shape":[],"data_offsets":[0,4])", 4), Fails(kCorrupt, {"tensor w", "no \"dtype\""}));
  EXPECT_THAT(OpenTensor(R"("dtype":"F32","data_offsets":[0,4])", 4), Fails(kCorrupt, {"tensor w", "no \"shape\""}));
  EXPECT_THAT(OpenTensor(R"("dtype":"F32","shape":[])", 4), Fails(kCorrupt, {"tensor w", "no \"data_offsets\""}));
}

TEST_F(SafetensorsTest, Rule4TensorEntryHasAFieldOfTheWrongKind) {
  EXPECT_THAT(OpenTensor(R"("dtype":4,"shape":[],"data_offsets":[0,4])", 4),
              Fails(kCorrupt, {"tensor w: dtype", "found the number 4"}));
  EXPECT_THAT(OpenTensor(R"("dtype":"F32","shape":1,"data_offsets":[0,4])", 4),
              Fails(kCorrupt, {"tensor w: shape", "found the number 1"}));
  for (const std::string dim : {"-1", "-0", "1.0", "\"1\"", "null", "[1]", "{}", "1e0"}) {
    EXPECT_THAT(OpenTensor("\"dtype\":\"F32\",\"shape\":[" + dim + "],\"data_offsets\":[0,4]", 4),
                Fails(kCorrupt, {"tensor w: shape: expected non-negative integers"}))
        << dim;
  }
  EXPECT_THAT(OpenTensor(R"("dtype":"F32","shape":[],"data_offsets":[0])", 4),
              Fails(kCorrupt, {"tensor w: data_offsets: expected 2 numbers, found 1"}));
  EXPECT_THAT(OpenTensor(R"("dtype":"F32","shape":[],"data_offsets":[0,4,8])", 4),
              Fails(kCorrupt, {"tensor w: data_offsets: expected 2 numbers, found more"}));
  EXPECT_THAT(OpenTensor(R"("dtype":"F32","shape":[],"data_offsets":[-1,4])", 4),
              Fails(kCorrupt, {"tensor w: data_offsets: expected non-negative integers"}));
}

TEST_F(SafetensorsTest, Rule4MetadataHoldsSomethingElseThanStrings) {
  EXPECT_THAT(OpenHeader(R"({"__metadata__":{"step":7}})", 0),
              Fails(kCorrupt, {"__metadata__.step: expected a string, found the number 7"}));
  EXPECT_THAT(OpenHeader(R"({"__metadata__":"pt"})", 0), Fails(kCorrupt, {"__metadata__: expected an object"}));
}

TEST_F(SafetensorsTest, Rule4UnknownDtypeIsNamedWithItsTensor) {
  EXPECT_THAT(OpenTensor(R"("dtype":"F8_E3M4","shape":[4],"data_offsets":[0,4])", 4),
              Fails(absl::StatusCode::kUnimplemented, {path_, "tensor w", "unknown dtype \"F8_E3M4\"", "F8_E4M3"}));
}

TEST_F(SafetensorsTest, DuplicateKeysAreRefused) {
  EXPECT_THAT(OpenHeader(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                         R"("w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                         1),
              Fails(kCorrupt, {path_, "\"w\" appears twice"}));
  EXPECT_THAT(OpenTensor(R"("dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1])", 1),
              Fails(kCorrupt, {"\"w.dtype\" appears twice"}));
  EXPECT_THAT(OpenHeader(R"({"__metadata__":{"a":"1","a":"2"}})", 0),
              Fails(kCorrupt, {"\"__metadata__.a\" appears twice"}));
}

TEST_F(SafetensorsTest, Rule5GapsOverlapsAndDescendingOffsets) {
  EXPECT_THAT(OpenTensor(R"("dtype":"U8","shape":[1],"data_offsets":[1,2])", 2),
              Fails(kCorrupt, {"tensor w", "begin at 0", "[1, 2]", "InvalidOffset"}));
  EXPECT_THAT(OpenTensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,-1])", 2), Fails(kCorrupt, {"data_offsets"}));
  EXPECT_THAT(OpenHeader(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                         R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                         6),
              Fails(kCorrupt, {"tensor b", "begin at 4", "[2, 6]", "InvalidOffset"}));
  EXPECT_THAT(OpenHeader(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                         R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})",
                         4),
              Fails(kCorrupt, {"tensor b", "InvalidOffset"}));
}

TEST_F(SafetensorsTest, Rule6ElementCountOrSizeOverflows) {
  EXPECT_THAT(OpenTensor(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,1])", 1),
              Fails(kCorrupt, {"tensor w", "[4294967296, 4294967296]", "ValidationOverflow"}));
  EXPECT_THAT(OpenTensor(R"("dtype":"I64","shape":[4611686018427387904],"data_offsets":[0,1])", 1),
              Fails(kCorrupt, {"tensor w", "I64 [4611686018427387904]", "ValidationOverflow"}));
  EXPECT_THAT(OpenTensor(R"("dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1])", 1),
              Fails(kCorrupt, {"tensor w: shape: expected non-negative integers"}));
}

TEST_F(SafetensorsTest, Rule6BitsThatDoNotFillBytes) {
  EXPECT_THAT(OpenTensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])", 2),
              Fails(kCorrupt, {"tensor w", "F4 [3]", "12 bits", "MisalignedSlice"}));
}

TEST_F(SafetensorsTest, Rule6ShapeAndOffsetsDisagree) {
  EXPECT_THAT(OpenTensor(R"("dtype":"F32","shape":[2,3],"data_offsets":[0,20])", 20),
              Fails(kCorrupt, {"tensor w", "expected 24 bytes for F32 [2, 3], found 20", "TensorInvalidInfo"}));
}

TEST_F(SafetensorsTest, Rule7TruncatedFileSaysExpectedAndFoundSize) {
  std::string bytes = SafetensorsBytes({{"w", F32Tensor({2}, {1, 2})}});
  const size_t full = bytes.size();
  bytes.resize(full - 3);
  EXPECT_THAT(OpenBytes(bytes), Fails(kCorrupt, {path_, "truncated", absl::StrCat("expected ", full, " bytes"),
                                                 absl::StrCat("found ", full - 3), "MetadataIncompleteBuffer"}));
}

TEST_F(SafetensorsTest, Rule7TrailingBytes) {
  std::string bytes = SafetensorsBytes({{"w", F32Tensor({2}, {1, 2})}});
  EXPECT_THAT(OpenBytes(bytes + "x"),
              Fails(kCorrupt, {path_, "bytes follow the last tensor", absl::StrCat("expected ", bytes.size()),
                               absl::StrCat("found ", bytes.size() + 1), "MetadataIncompleteBuffer"}));
}

TEST_F(SafetensorsTest, OffsetsNearTheTopOfU64DoNotWrap) {
  EXPECT_THAT(OpenTensor(R"("dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615])", 4),
              Fails(kCorrupt, {"tensor w", "ValidationOverflow"}));
  EXPECT_THAT(OpenTensor(R"("dtype":"U8","shape":[2305843009213693951],"data_offsets":[0,2305843009213693951])", 4),
              Fails(kCorrupt, {"truncated", "found"}));
}

TEST_F(SafetensorsTest, GitLfsPointerIsRecognised) {
  EXPECT_THAT(OpenBytes("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4302384952\n"),
              Fails(kCorrupt, {path_, "Git LFS pointer", "git lfs pull"}));
}

TEST_F(SafetensorsTest, HtmlPageIsRecognised) {
  EXPECT_THAT(OpenBytes("\n<!DOCTYPE html><html><body>404</body></html>"), Fails(kCorrupt, {path_, "HTML page"}));
  EXPECT_THAT(OpenBytes("<html>"), Fails(kCorrupt, {path_, "HTML page"}));
}

TEST_F(SafetensorsTest, OtherForeignFilesAreRecognised) {
  EXPECT_THAT(OpenBytes("GGUF\3\0\0\0 and so on"), Fails(kCorrupt, {path_, "GGUF"}));
  EXPECT_THAT(OpenBytes("{\"error\": \"Repository not found\"}"), Fails(kCorrupt, {path_, "looks like text", "error"}));
}

TEST_F(SafetensorsTest, AbsentFileAndFolderInItsPlace) {
  EXPECT_THAT(SafetensorsFile::Open(folder_.File("none")), Fails(absl::StatusCode::kNotFound, {"none"}));
  EXPECT_THAT(SafetensorsFile::Open(folder_.path()),
              Fails(absl::StatusCode::kFailedPrecondition, {"expected a regular file, found a folder"}));
}

TEST_F(SafetensorsTest, ScalarsEmptyTensorsAndEmptyHeadersAreAllowed) {
  const auto file = OpenHeader(R"( {"s":{"dtype":"F32","shape":[],"data_offsets":[0,4],"more":{"x":[1,{}]}},)"
                               R"("e":{"dtype":"BF16","shape":[5,0],"data_offsets":[4,4]}}  )",
                               4);
  ASSERT_THAT(file, IsOk());
  EXPECT_EQ(file->entries().size(), 2u);
  EXPECT_TRUE(file->Find("s")->shape.empty());
  EXPECT_EQ(file->Find("e")->bytes(), 0u);
  EXPECT_EQ(file->Find("absent"), nullptr);
  EXPECT_THAT(OpenHeader("{}", 0), IsOk());
}

TEST_F(SafetensorsTest, EveryDtypeIsReadWithItsSize) {
  for (const DtypeInfo& info : AllDtypes()) {
    const uint64_t bytes = info.bits;  // 8 elements
    const auto file =
        OpenTensor(absl::StrCat("\"dtype\":\"", info.name, "\",\"shape\":[8],\"data_offsets\":[0,", bytes, "]"), bytes);
    ASSERT_THAT(file, IsOk()) << info.name;
    EXPECT_EQ(file->Find("w")->dtype, info.dtype);
  }
}

TEST_F(SafetensorsTest, SlicesAreReadAndTheirBoundsChecked) {
  TestTensors tensors = {{"a", F32Tensor({3}, {1, 2, 3})}, {"b", Bf16Tensor({2, 2}, {4, 5, 6, 7})}};
  const auto file = OpenBytes(SafetensorsBytes(tensors));
  ASSERT_THAT(file, IsOk());
  const SafetensorsEntry* b = file->Find("b");
  ASSERT_NE(b, nullptr);
  uint16_t row[2];
  ASSERT_THAT(file->Read(*b, 4, {reinterpret_cast<uint8_t*>(row), 4}), IsOk());
  EXPECT_EQ(Bf16ToF32(row[0]), 6.0f);
  EXPECT_EQ(Bf16ToF32(row[1]), 7.0f);
  EXPECT_THAT(file->Read(*b, 6, {reinterpret_cast<uint8_t*>(row), 4}),
              Fails(absl::StatusCode::kInvalidArgument, {"tensor b", "of 8"}));
}

TEST_F(SafetensorsTest, FileThatShrinksAfterOpeningIsDetectedWhenRead) {
  const auto file = OpenBytes(SafetensorsBytes({{"a", F32Tensor({3}, {1, 2, 3})}}));
  ASSERT_THAT(file, IsOk());
  std::filesystem::resize_file(path_, file->size_bytes() - 2);
  uint8_t bytes[12];
  EXPECT_THAT(file->Read(*file->Find("a"), 0, bytes), Fails(kCorrupt, {"tensor a", path_, "shrank"}));
}

TEST_F(SafetensorsTest, HeaderOfNinetyThousandTensorsIsReadQuickly) {
  std::string json = "{";
  for (int i = 0; i < 92000; ++i) {
    absl::StrAppend(&json, i == 0 ? "" : ",", "\"model.layers.", i % 61, ".mlp.experts.", i,
                    ".gate_proj.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[1,1],\"data_offsets\":[", i, ",", i + 1,
                    "]}");
  }
  const auto file = OpenHeader(json + "}", 92000);
  ASSERT_THAT(file, IsOk());
  EXPECT_EQ(file->entries().size(), 92000u);
}

}  // namespace
}  // namespace kompakt
