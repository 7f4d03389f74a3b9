// docs/read_kpk.py, written from docs/format.md alone, decodes the same bits as the C++ decode.
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "format/packed_reader.h"
#include "format/volume_name.h"
#include "format/volume_plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"

namespace kompakt {
namespace {

constexpr char kScript[] = KOMPAKT_SOURCE_DIR "/docs/read_kpk.py";

// Runs the script; returns its exit status and what it printed, errors included.
std::pair<int, std::string> RunScript(const ScratchFolder& folder, const std::string& args) {
  const std::string output = folder / "output.txt";
  const std::string command = absl::StrCat("'", KOMPAKT_PYTHON, "' '", kScript, "' ", args, " > '", output, "' 2>&1");
  const int status = std::system(command.c_str());
  const std::vector<uint8_t> text = ReadWholeFile(output);
  return {status, std::string(text.begin(), text.end())};
}

// The values of a .npy file of format version 1, little-endian F32 in C order.
std::vector<float> ReadNpy(const std::string& path) {
  const std::vector<uint8_t> bytes = ReadWholeFile(path);
  if (bytes.size() < 10) return {};
  const size_t header = 10 + bytes[8] + 256u * bytes[9];
  const std::string text(bytes.begin() + 10, bytes.begin() + static_cast<ptrdiff_t>(header));
  EXPECT_THAT(text, testing::HasSubstr("'<f4'"));
  EXPECT_THAT(text, testing::HasSubstr("'fortran_order': False"));
  std::vector<float> values((bytes.size() - header) / sizeof(float));
  std::memcpy(values.data(), bytes.data() + header, values.size() * sizeof(float));
  return values;
}

std::vector<float> DecodeHere(const PackedReader& reader, const TensorInfo& tensor) {
  if (tensor.is_vector()) return *reader.Vector(tensor);
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  DecodeRows(*reader.Matrix(tensor), 0, tensor.rows, absl::MakeSpan(values));
  return values;
}

TEST(ReadKpkScript, DecodesEveryTensorOfEveryFormatToTheSameBits) {
  const ScratchFolder folder;
  std::map<absl::string_view, int> tensors_of;
  for (ArchSpec arch : {SmallV3Arch(), SmallV2LiteArch(), SmallV32Arch(), SmallMtpArch()}) {
    if (arch.mtp_layers() > 0) arch.set_model_type("with_mtp");  // a name of its own
    const auto schema = ModelSchema::Create(arch);
    ASSERT_TRUE(schema.ok()) << schema.status();
    const std::vector<FormatId> formats = EveryFormat(*schema);
    const std::string path = folder / (arch.model_type() + ".kpk");
    const absl::Status written = WriteSyntheticFile(PosixFileSystem(), path, SyntheticPlan(*schema, formats), 7);
    ASSERT_TRUE(written.ok()) << written;
    const std::string dump = folder / arch.model_type();
    std::filesystem::create_directory(dump);
    const auto [status, output] = RunScript(folder, absl::StrCat("'", path, "' --dump '", dump, "'"));
    ASSERT_EQ(status, 0) << "is " KOMPAKT_PYTHON " a Python 3 with numpy and zstandard? It said:\n" << output;

    const auto reader = PackedReader::Open(path);
    ASSERT_TRUE(reader.ok()) << reader.status();
    for (size_t t = 0; t < formats.size(); ++t) {
      const TensorInfo& tensor = schema->tensors()[t];
      const std::vector<float> here = DecodeHere(**reader, tensor);
      const std::vector<float> there = ReadNpy(dump + "/" + tensor.Name() + ".npy");
      ASSERT_EQ(there.size(), here.size()) << tensor.Name();
      for (size_t i = 0; i < here.size(); ++i) {
        ASSERT_EQ(std::memcmp(&here[i], &there[i], sizeof(float)), 0)
            << tensor.Name() << " (" << FormatOf(formats[t]).name << ") element " << i << ": C++ " << here[i]
            << ", Python " << there[i];
      }
      ++tensors_of[FormatOf(formats[t]).name];
    }
  }
  for (const BlockFormat& format : AllFormats()) EXPECT_GE(tensors_of[format.name], 2) << format.name;
}

TEST(ReadKpkScript, ListsAndExtractsOneTensor) {
  const ScratchFolder folder;
  const std::string path = folder / "small.kpk";
  MakeSyntheticFile(SmallV3Arch(), path);
  const auto [status, list] = RunScript(folder, absl::StrCat("'", path, "' --list"));
  EXPECT_EQ(status, 0) << list;
  EXPECT_THAT(list, testing::HasSubstr("model.layers.2.mlp.experts.3.down_proj.weight "));
  EXPECT_THAT(list, testing::HasSubstr(" 136x72 "));
  const std::string out = folder / "one.npy";
  const auto [extracted, message] = RunScript(folder, absl::StrCat("'", path, "' model.norm.weight -o '", out, "'"));
  EXPECT_EQ(extracted, 0) << message;
  EXPECT_EQ(ReadNpy(out).size(), 136u);
}

TEST(ReadKpkScript, ReadsVolumesLikeTheWholeFile) {
  const ScratchFolder folder;
  const auto schema = ModelSchema::Create(SmallV3Arch());
  ASSERT_TRUE(schema.ok()) << schema.status();
  WritePlan plan = SyntheticPlan(*schema, EveryFormatUpTo(*schema, kFormatsOfVersion11));
  ASSERT_TRUE(WriteSyntheticFile(PosixFileSystem(), folder / "whole.kpk", plan, 7).ok());
  ASSERT_TRUE(CutIntoVolumes(plan, *PackedFileBytes(plan) / 3).ok());
  ASSERT_TRUE(WriteSyntheticFile(PosixFileSystem(), folder / "set.kpk", plan, 7).ok());
  const auto count = static_cast<uint32_t>(plan.manifest.volumes().ends_size());
  ASSERT_GE(count, 3u);
  for (const char* name : {"whole", "set"}) {
    std::filesystem::create_directory(folder / name);
    const std::string path =
        std::string(name) == "set" ? VolumePath(folder / "set.kpk", 2, count) : folder / "whole.kpk";
    const auto [status, output] = RunScript(folder, absl::StrCat("'", path, "' --dump '", folder / name, "'"));
    ASSERT_EQ(status, 0) << output;
  }
  for (const TensorInfo& tensor : schema->tensors()) {
    EXPECT_EQ(ReadWholeFile(folder / ("whole/" + tensor.Name() + ".npy")),
              ReadWholeFile(folder / ("set/" + tensor.Name() + ".npy")))
        << tensor.Name();
  }
  std::filesystem::rename(VolumePath(folder / "set.kpk", 3, count), folder / "elsewhere");
  const auto [missing, message] = RunScript(folder, absl::StrCat("'", VolumePath(folder / "set.kpk", 1, count), "'"));
  EXPECT_NE(missing, 0);
  EXPECT_THAT(message, testing::HasSubstr(VolumePath("set.kpk", 3, count) + ": missing"));
}

TEST(ReadKpkScript, RefusesWhatIsNotAPackedFile) {
  const ScratchFolder folder;
  const std::string path = folder / "small.kpk";
  MakeSyntheticFile(SmallV3Arch(), path);
  std::vector<uint8_t> bytes = ReadWholeFile(path);
  bytes.pop_back();
  WriteWholeFile(path, bytes);
  const auto [status, output] = RunScript(folder, absl::StrCat("'", path, "'"));
  EXPECT_NE(status, 0);
  EXPECT_THAT(output, testing::HasSubstr("truncated"));
}

}  // namespace
}  // namespace kompakt
