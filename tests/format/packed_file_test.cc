// What PackedWriter writes, PackedReader reads.
#include <filesystem>

#include "format/packed_frame.h"
#include "format/packed_reader.h"
#include "format/packed_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

struct SmallFile {
  ScratchFolder folder;
  std::string path = folder / "small.kpk";
  WritePlan plan;
  std::shared_ptr<const PackedReader> reader;

  explicit SmallFile(const ArchSpec& arch) {
    const auto schema = ModelSchema::Create(arch);
    EXPECT_TRUE(schema.ok()) << schema.status();
    plan = SyntheticPlan(*schema, EveryFormat(*schema));
    const absl::Status written = WriteSyntheticFile(PosixFileSystem(), path, plan, 1);
    EXPECT_TRUE(written.ok()) << written;
    const auto opened = PackedReader::Open(path);
    EXPECT_TRUE(opened.ok()) << opened.status();
    if (opened.ok()) reader = *opened;
  }
};

TEST(PackedFile, EveryRecordReadsBackAsWritten) {
  for (const ArchSpec& arch : {SmallV3Arch(), SmallV2LiteArch(), SmallV32Arch(), SmallMtpArch()}) {
    const SmallFile file(arch);
    ASSERT_NE(file.reader, nullptr);
    for (size_t e = 0; e < file.plan.layout.extents().size(); ++e) {
      for (int64_t r = 0; r < file.plan.layout.extents()[e].record_count; ++r) {
        const int64_t extent = static_cast<int64_t>(e);
        const std::vector<uint8_t> expected = SyntheticRecord(file.plan.layout, extent, r, 1);
        EXPECT_EQ(file.reader->RecordBytes(extent, r), absl::MakeConstSpan(expected)) << "extent " << e << " " << r;
        EXPECT_TRUE(file.reader->VerifyRecord(extent, r).ok());
      }
    }
    EXPECT_THAT(file.reader->Verify(2, nullptr), testing::IsEmpty());
  }
}

TEST(PackedFile, RolesOfNewArchitecturesRaiseTheMinorVersion) {
  for (const auto& [arch, minor] :
       {std::pair{SmallV3Arch(), 0}, std::pair{SmallV32Arch(), 1}, std::pair{SmallMtpArch(), 1}}) {
    const auto schema = ModelSchema::Create(arch);
    ASSERT_TRUE(schema.ok()) << schema.status();
    const auto layout = PackedLayout::Create(*schema, std::vector<FormatId>(schema->tensors().size(), FormatId::kF32));
    ASSERT_TRUE(layout.ok()) << layout.status();
    EXPECT_EQ(MinorVersionOf(ManifestFor(*schema, *layout)), minor) << arch.model_type();
  }
}

TEST(PackedFile, EveryTensorOfTheSchemaIsFoundWithItsShapeAndFormat) {
  const SmallFile file(SmallV3Arch());
  ASSERT_NE(file.reader, nullptr);
  const std::vector<FormatId> formats = EveryFormat(file.reader->schema());
  for (size_t t = 0; t < formats.size(); ++t) {
    const TensorInfo& tensor = file.reader->schema().tensors()[t];
    if (tensor.is_vector()) {
      const auto values = file.reader->Vector(tensor);
      ASSERT_TRUE(values.ok()) << values.status();
      EXPECT_EQ(values->size(), static_cast<size_t>(tensor.cols)) << tensor.Name();
      EXPECT_EQ(file.reader->Matrix(tensor).status().code(), absl::StatusCode::kInternal);
    } else {
      const auto view = file.reader->Matrix(tensor);
      ASSERT_TRUE(view.ok()) << view.status();
      EXPECT_EQ(view->shape.rows, tensor.rows) << tensor.Name();
      EXPECT_EQ(view->shape.cols, tensor.cols) << tensor.Name();
      EXPECT_EQ(view->format->id, formats[t]) << tensor.Name();
      EXPECT_EQ(reinterpret_cast<uintptr_t>(view->data) % kSmallAlign, 0u) << tensor.Name();
      EXPECT_EQ(file.reader->Vector(tensor).status().code(), absl::StatusCode::kInternal);
    }
  }
  EXPECT_FALSE(file.reader->Matrix({TensorRole::kExpertUp, 1, 99, 72, 136}).ok());
}

TEST(PackedFile, TheManifestKeepsEverythingThatThePlanSaid) {
  const SmallFile file(SmallV3Arch());
  ASSERT_NE(file.reader, nullptr);
  const Manifest& m = file.reader->manifest();
  EXPECT_EQ(m.arch().SerializeAsString(), file.plan.manifest.arch().SerializeAsString());
  EXPECT_EQ(m.assets().SerializeAsString(), file.plan.manifest.assets().SerializeAsString());
  EXPECT_EQ(m.provenance().SerializeAsString(), file.plan.manifest.provenance().SerializeAsString());
  EXPECT_EQ(m.recipe(), file.plan.manifest.recipe());
  int lossy = 0;
  for (int e = 0; e < m.extents_size(); ++e) {
    const std::vector<ErrorStats> expected = SyntheticStats(file.plan, e);
    for (int p = 0; p < m.extents(e).parts_size(); ++p) {
      for (const ErrorStats& stats : m.extents(e).parts(p).stats()) {
        EXPECT_EQ(stats.sum_squared_error(), expected[static_cast<size_t>(p)].sum_squared_error());
        EXPECT_EQ(stats.count(), expected[static_cast<size_t>(p)].count());
        ++lossy;
      }
    }
  }
  EXPECT_GT(lossy, 8);
}

TEST(PackedFile, ThePlannedSizeIsTheSizeToTheByteWhateverTheChecksumsAre) {
  for (const ArchSpec& arch : {SmallV3Arch(), SmallV2LiteArch()}) {
    SmallFile file(arch);
    ASSERT_NE(file.reader, nullptr);
    file.plan.manifest.mutable_provenance()->mutable_source_files(0)->clear_xxh3();
    const auto planned = PackedFileBytes(file.plan);
    ASSERT_TRUE(planned.ok()) << planned.status();
    EXPECT_EQ(*planned, std::filesystem::file_size(file.path));
    EXPECT_EQ(*planned, file.reader->file_bytes());
  }
}

TEST(PackedFile, NothingButTheFileIsLeft) {
  const SmallFile file(SmallV3Arch());
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(file.folder.path())) {
    EXPECT_EQ(entry.path().filename(), "small.kpk");
    ++files;
  }
  EXPECT_EQ(files, 1);
}

TEST(PackedWriter, RefusesToCommitWhileARecordIsMissing) {
  const ScratchFolder folder;
  const std::string path = folder / "small.kpk";
  const auto schema = ModelSchema::Create(SmallV3Arch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  const auto writer = PackedWriter::Open(PosixFileSystem(), path, SyntheticPlan(*schema, EveryFormat(*schema)), {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const absl::Status status = (*writer)->Commit();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.embed_tokens.weight"));
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(PackedWriter, RefusesTextThatNoReaderWouldTake) {
  const ScratchFolder folder;
  const auto schema = ModelSchema::Create(SmallV3Arch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  WritePlan plan = SyntheticPlan(*schema, EveryFormat(*schema));
  plan.manifest.set_recipe("* = q8_g32  # caf\xe9");
  const absl::Status status = PackedWriter::Open(PosixFileSystem(), folder / "small.kpk", plan, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("not valid UTF-8"));
}

TEST(PackedWriter, RefusesARecordOfTheWrongLengthOrWithoutItsStatistics) {
  const ScratchFolder folder;
  const std::string path = folder / "small.kpk";
  const auto schema = ModelSchema::Create(SmallV3Arch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  const std::vector<FormatId> formats(schema->tensors().size(), FormatId::kBf16);
  std::vector<FormatId> with_bias = formats;
  for (size_t t = 0; t < formats.size(); ++t) {
    if (schema->tensors()[t].role == TensorRole::kRouterBias) with_bias[t] = FormatId::kF32;
  }
  const WritePlan plan = SyntheticPlan(*schema, with_bias);
  const auto writer = PackedWriter::Open(PosixFileSystem(), path, plan, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const std::vector<uint8_t> bytes = SyntheticRecord(plan.layout, 0, 0, 1);
  {
    const auto record = (*writer)->BeginRecord(0, 0);
    EXPECT_TRUE(record->Append(absl::MakeConstSpan(bytes).first(64)).ok());
    EXPECT_THAT(std::string(record->Finish(SyntheticStats(plan, 0), SyntheticSourceXxh3(plan, 0, 0)).message()),
                HasSubstr("got 64 bytes"));
    EXPECT_THAT(std::string(record->Append(bytes).message()), HasSubstr("expected"));
  }
  {
    const auto record = (*writer)->BeginRecord(0, 0);
    const auto second = (*writer)->BeginRecord(0, 0);
    EXPECT_FALSE(second->Append(bytes).ok()) << "two writers of one record";
    EXPECT_TRUE(record->Append(bytes).ok());
    EXPECT_THAT(std::string(record->Finish({}, SyntheticSourceXxh3(plan, 0, 0)).message()),
                HasSubstr("error statistics"));
    EXPECT_TRUE(record->Finish(SyntheticStats(plan, 0), SyntheticSourceXxh3(plan, 0, 0)).ok());
  }
  EXPECT_TRUE((*writer)->IsDone(0, 0));
  EXPECT_FALSE((*writer)->IsDone(1, 0));
}

TEST(PackedWriter, KeepsASecondWriterOfTheSameDestinationOut) {
  const ScratchFolder folder;
  const std::string path = folder / "small.kpk";
  const auto schema = ModelSchema::Create(SmallV3Arch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  const WritePlan plan = SyntheticPlan(*schema, EveryFormat(*schema));
  const auto first = PackedWriter::Open(PosixFileSystem(), path, plan, {});
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = PackedWriter::Open(PosixFileSystem(), path, plan, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another process"));
}

}  // namespace
}  // namespace kompakt
