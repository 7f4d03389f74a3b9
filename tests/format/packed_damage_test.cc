// Damaged packed files: every byte that is not weights is guarded at Open, every other byte by Verify.
#include <google/protobuf/stubs/logging.h>

#include <functional>
#include <limits>

#include "format/checksum.h"
#include "format/packed_index.h"
#include "format/packed_reader.h"
#include "format/packed_verify.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/memory_file.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"

namespace kompakt {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

constexpr char kName[] = "model.kpk";

absl::Status OpenStatus(const std::vector<uint8_t>& bytes, const std::string& name = kName) {
  return ReadPackedIndex(MemoryFile(bytes), name).status();
}

const std::vector<uint8_t>& MicroFile() {
  static const std::vector<uint8_t> bytes = SyntheticFileBytes(MicroArch());
  return bytes;
}

PackedIndex IndexOf(const std::vector<uint8_t>& bytes) {
  auto index = ReadPackedIndex(MemoryFile(bytes), kName);
  EXPECT_TRUE(index.ok()) << index.status();
  return *std::move(index);
}

// `bytes` with another manifest, header and footer around the same extents; all checksums right.
struct Rebuild {
  std::function<void(Manifest&)> manifest = nullptr;
  std::function<void(PackedHeader&)> header = nullptr;
  std::function<void(PackedFooter&)> footer = nullptr;

  std::vector<uint8_t> operator()(std::vector<uint8_t> bytes) const {
    PackedIndex index = IndexOf(bytes);
    if (manifest) manifest(index.manifest);
    const auto stored = EncodeManifest(index.manifest);
    EXPECT_TRUE(stored.ok()) << stored.status();
    bytes.resize(index.footer.manifest_offset);
    bytes.insert(bytes.end(), stored->bytes.begin(), stored->bytes.end());
    index.header.file_bytes = bytes.size() + kFooterBytes;
    if (header) header(index.header);
    const HeaderBytes header_bytes = EncodeHeader(index.header);
    index.footer.manifest_stored_bytes = stored->bytes.size();
    index.footer.manifest_bytes = stored->manifest_bytes;
    index.footer.manifest_xxh3 = Xxh3(stored->bytes);
    index.footer.whole_header_xxh3 = Xxh3(header_bytes);
    if (footer) footer(index.footer);
    const FooterBytes footer_bytes = EncodeFooter(index.footer);
    std::copy(header_bytes.begin(), header_bytes.end(), bytes.begin());
    bytes.insert(bytes.end(), footer_bytes.begin(), footer_bytes.end());
    return bytes;
  }
};

TEST(PackedDamage, EveryFlippedByteOfHeaderManifestAndFooterIsFoundAtOpen) {
  const PackedIndex index = IndexOf(MicroFile());
  std::vector<uint64_t> guarded;
  for (uint64_t i = 0; i < kHeaderBytes; ++i) guarded.push_back(i);
  for (uint64_t i = index.footer.manifest_offset; i < MicroFile().size(); ++i) guarded.push_back(i);
  MemoryFile file(MicroFile());
  for (const uint64_t at : guarded) {
    for (const uint8_t flip : {uint8_t{0x01}, uint8_t{0x80}, uint8_t{0xff}}) {
      file.bytes()[at] ^= flip;
      const absl::Status status = ReadPackedIndex(file, kName).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss)
          << "byte " << at << " ^ " << static_cast<int>(flip) << ": " << status;
      file.bytes()[at] ^= flip;
    }
  }
  EXPECT_TRUE(ReadPackedIndex(file, kName).ok());
}

TEST(PackedDamage, EveryFlippedByteOfWeightsAndPaddingIsFoundByVerify) {
  const PackedIndex index = IndexOf(MicroFile());
  MemoryFile file(MicroFile());
  for (uint64_t at = kHeaderBytes; at < index.footer.manifest_offset; at += 7) {
    file.bytes()[at] ^= 0x10;
    const std::vector<absl::Status> damage = VerifyBytes(file, kName, index, {});
    ASSERT_EQ(damage.size(), 1u) << "byte " << at;
    EXPECT_EQ(damage[0].code(), absl::StatusCode::kDataLoss);
    file.bytes()[at] ^= 0x10;
  }
}

TEST(PackedDamage, VerifyNamesEachDamagedRecordAndPaddingRunInFileOrder) {
  const PackedIndex index = IndexOf(MicroFile());
  MemoryFile file(MicroFile());
  const auto extent_of = [&](TensorRole role, int64_t layer) {
    return index.layout.extents()[static_cast<size_t>(index.layout.Find(role, layer).extent)];
  };
  const Extent experts = extent_of(TensorRole::kExpertUp, 1);
  file.bytes()[extent_of(TensorRole::kEmbedTokens, -1).offset] ^= 1;
  file.bytes()[extent_of(TensorRole::kInputNorm, 1).offset] ^= 1;
  file.bytes()[experts.offset - 1] ^= 1;  // padding up to the page
  file.bytes()[experts.record_offset(1) + 5] ^= 1;
  file.bytes()[experts.record_offset(1) + experts.record_bytes - 1] ^= 1;  // padding inside the record
  file.bytes()[extent_of(TensorRole::kLmHead, -1).offset] ^= 1;
  for (const int threads : {1, 3}) {
    const std::vector<absl::Status> damage = VerifyBytes(file, kName, index, {.threads = threads});
    std::vector<std::string> messages;
    for (const absl::Status& s : damage) messages.emplace_back(s.message());
    EXPECT_THAT(messages,
                testing::ElementsAre(HasSubstr("model.kpk: model.embed_tokens.weight is damaged"),
                                     HasSubstr("model.layers.1.input_layernorm.weight is damaged"),
                                     HasSubstr(absl::StrCat("padding byte at ", experts.offset - 1, " is 1")),
                                     HasSubstr("layer 1 expert 1 is damaged"), HasSubstr("lm_head.weight is damaged")));
  }
}

TEST(PackedDamage, EveryTruncationIsFoundAndNamed) {
  const std::vector<uint8_t>& whole = MicroFile();
  for (size_t length = 0; length < whole.size(); length += length < 200 ? 1 : 97) {
    const absl::Status status = OpenStatus({whole.begin(), whole.begin() + static_cast<ptrdiff_t>(length)});
    if (length < 8) {
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << length << ": " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("not a .kpk file"));
    } else {
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << length << ": " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("truncated")) << length;
    }
  }
}

TEST(PackedDamage, TrailingBytesAreFound) {
  for (const size_t more : {1u, 64u, 5000u}) {
    std::vector<uint8_t> bytes = MicroFile();
    bytes.resize(bytes.size() + more, 0);
    const absl::Status status = OpenStatus(bytes);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("has trailing bytes: expected "));
  }
}

TEST(PackedDamage, AnythingElseIsNotAPackedFileAndNotDamage) {
  for (const std::string& text : {std::string(), std::string("{}"), std::string(10000, 'x')}) {
    const absl::Status status = OpenStatus({text.begin(), text.end()});
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("not a .kpk file"));
  }
  const absl::Status partial = OpenStatus(std::vector<uint8_t>(10000, 0), "model.kpk.partial");
  EXPECT_EQ(partial.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(partial.message()), HasSubstr("unfinished conversion"));
}

TEST(PackedDamage, AFolderOrAMissingFileIsSaidToBeThat) {
  const ScratchFolder folder;
  EXPECT_EQ(PackedReader::Open(folder / "absent.kpk").status().code(), absl::StatusCode::kNotFound);
  const absl::Status status = PackedReader::Open(folder.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("a folder"));
}

TEST(PackedDamage, NewerVersionsAndUnknownRequiredFeaturesAreRefusedByName) {
  const auto expect_unsupported = [](const Rebuild& rebuild, const std::string& message) {
    const absl::Status status = OpenStatus(rebuild(MicroFile()));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  expect_unsupported({.header = [](PackedHeader& h) { h.major = 2, h.minor = 0; }},
                     "format version 2.0; this program reads 1.x");
  expect_unsupported({.header = [](PackedHeader& h) { h.required_features = uint64_t{1} << 37; }},
                     "the feature bit 37, which this program does not know");
  const auto named = [](Manifest& m) {
    Feature& feature = *m.add_features();
    feature.set_bit(3);
    feature.set_required(true);
    feature.set_name("mtp-layers");
  };
  expect_unsupported({.manifest = named, .header = [](PackedHeader& h) { h.required_features = 0x28; }},
                     "the features \"mtp-layers\" (bit 3), bit 5");
}

TEST(PackedDamage, NewerMinorVersionsOptionalFeaturesAndUnknownFieldsAreAccepted) {
  const Rebuild newer = {.manifest = [](Manifest& m) { m.GetReflection()->MutableUnknownFields(&m)->AddVarint(99, 7); },
                         .header =
                             [](PackedHeader& h) {
                               h.minor = 9;
                               h.optional_features = ~uint64_t{0};
                             }};
  const absl::Status status = OpenStatus(newer(MicroFile()));
  EXPECT_TRUE(status.ok()) << status;
}

TEST(PackedDamage, AFooterOfAnotherFileIsFound) {
  std::vector<uint8_t> bytes = MicroFile();
  const HeaderBytes other = EncodeHeader({.minor = 7, .file_bytes = bytes.size()});
  std::copy(other.begin(), other.end(), bytes.begin());
  const absl::Status status = OpenStatus(bytes);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("header and footer belong to different files"));
}

struct FooterCase {
  std::string name;
  std::function<void(PackedFooter&)> change;
  std::string message;
};

class PackedFooterDamage : public testing::TestWithParam<FooterCase> {};

TEST_P(PackedFooterDamage, IsNamed) {
  const absl::Status status = OpenStatus(Rebuild{.footer = GetParam().change}(MicroFile()));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, PackedFooterDamage,
    testing::Values(
        FooterCase{"OffsetUnaligned", [](PackedFooter& f) { f.manifest_offset += 1; }, "manifest_offset is"},
        FooterCase{"OffsetInHeader", [](PackedFooter& f) { f.manifest_offset = 0; }, "manifest_offset is 0"},
        FooterCase{"OffsetPastEnd", [](PackedFooter& f) { f.manifest_offset = uint64_t{1} << 62; },
                   "manifest_offset is"},
        FooterCase{"OffsetOverflows", [](PackedFooter& f) { f.manifest_offset = ~uint64_t{63}; }, "manifest_offset is"},
        FooterCase{"StoredBytesShort", [](PackedFooter& f) { f.manifest_stored_bytes -= 1; },
                   "manifest_stored_bytes is"},
        FooterCase{"StoredBytesHuge", [](PackedFooter& f) { f.manifest_stored_bytes = ~uint64_t{0}; },
                   "manifest_stored_bytes is"},
        FooterCase{"ManifestBytesHuge", [](PackedFooter& f) { f.manifest_bytes = uint64_t{1} << 40; },
                   "the format holds at most 268435456"},
        FooterCase{"ManifestBytesLess", [](PackedFooter& f) { f.manifest_bytes -= 1; }, "decompresses to more than"},
        FooterCase{"ManifestBytesMore", [](PackedFooter& f) { f.manifest_bytes += 1; }, "decompresses to"},
        FooterCase{"ManifestXxh3", [](PackedFooter& f) { f.manifest_xxh3 ^= 1; }, "is damaged: expected XXH3"}),
    [](const auto& info) { return info.param.name; });

ExtentEntry* ExpertsOf(Manifest& m) {
  for (ExtentEntry& e : *m.mutable_extents()) {
    if (e.experts()) return &e;
  }
  return nullptr;
}

PartEntry* PartOf(Manifest& m, const std::string& role) {
  for (ExtentEntry& e : *m.mutable_extents()) {
    for (PartEntry& p : *e.mutable_parts()) {
      if (p.role() == role) return &p;
    }
  }
  return nullptr;
}

struct ManifestCase {
  std::string name;
  std::function<void(Manifest&)> change;
  std::string message;
  absl::StatusCode code = absl::StatusCode::kDataLoss;
};

class PackedManifestDamage : public testing::TestWithParam<ManifestCase> {};

TEST_P(PackedManifestDamage, IsNamed) {
  const absl::Status status = OpenStatus(Rebuild{.manifest = GetParam().change}(MicroFile()));
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.kpk: "));
}

INSTANTIATE_TEST_SUITE_P(
    All, PackedManifestDamage,
    testing::Values(
        ManifestCase{"OffsetUnaligned",
                     [](Manifest& m) { m.mutable_extents(2)->set_offset(m.extents(2).offset() + 8); },
                     "extent 2 (layer 0 post_attention_layernorm): offset"},
        ManifestCase{"ExtentsOverlap", [](Manifest& m) { m.mutable_extents(3)->set_offset(m.extents(2).offset()); },
                     "the end of the extent before it"},
        ManifestCase{"ExtentInHeader", [](Manifest& m) { m.mutable_extents(0)->set_offset(0); },
                     "the end of the header"},
        ManifestCase{"ExtentsSwapped", [](Manifest& m) { m.mutable_extents()->SwapElements(3, 4); },
                     "the end of the extent before it"},
        ManifestCase{"ExtentPastTheManifest",
                     [](Manifest& m) { m.mutable_extents(m.extents_size() - 1)->set_offset(uint64_t{1} << 40); },
                     "run past the manifest"},
        ManifestCase{"OffsetOverflows",
                     [](Manifest& m) { m.mutable_extents(m.extents_size() - 1)->set_offset(~uint64_t{4095}); },
                     "run past the manifest"},
        ManifestCase{"RecordBytesOverflow", [](Manifest& m) { ExpertsOf(m)->set_record_bytes(uint64_t{1} << 63); },
                     "run past the manifest"},
        ManifestCase{"RecordBytesShort",
                     [](Manifest& m) { m.mutable_extents(0)->set_record_bytes(m.extents(0).record_bytes() - 64); },
                     "extent 0 (embed_tokens): record_bytes is"},
        ManifestCase{"RecordBytesZero", [](Manifest& m) { m.mutable_extents(0)->set_record_bytes(0); }, "has no bytes"},
        ManifestCase{"AGapBeforeAnExtent",
                     [](Manifest& m) {
                       // The last extent may move down without overlapping anything.
                       ExtentEntry& e = *m.mutable_extents(m.extents_size() - 2);
                       e.set_record_bytes(64);
                       m.mutable_extents(m.extents_size() - 1)->set_offset(e.offset() + 64);
                     },
                     "expected"},
        ManifestCase{"RecordMissing", [](Manifest& m) { ExpertsOf(m)->mutable_record_xxh3()->Truncate(1); },
                     "but there are 1 expert records"},
        ManifestCase{"RecordSurplus", [](Manifest& m) { m.mutable_extents(1)->add_record_xxh3(5); },
                     "extent 2 (layer 0 post_attention_layernorm): offset"},
        ManifestCase{"NoRecords", [](Manifest& m) { m.mutable_extents(1)->clear_record_xxh3(); }, "no records"},
        ManifestCase{"NoParts", [](Manifest& m) { m.mutable_extents(1)->clear_parts(); }, "no parts"},
        ManifestCase{"ExtentMissing", [](Manifest& m) { m.mutable_extents()->RemoveLast(); },
                     "lacks the tensor lm_head.weight"},
        ManifestCase{"TensorTwice",
                     [](Manifest& m) { *m.mutable_extents(1)->mutable_parts(0) = m.extents(0).parts(0); },
                     "the model has no such tensor in layer 0"},
        ManifestCase{"RoleTwiceInALayer",
                     [](Manifest& m) { m.mutable_extents(2)->mutable_parts(0)->set_role("input_layernorm"); },
                     "the tensor appears twice"},
        ManifestCase{"LayerOutOfRange", [](Manifest& m) { m.mutable_extents(1)->set_layer(7); },
                     "the model has no such tensor in layer 7"},
        ManifestCase{"ExpertOutsideExperts",
                     [](Manifest& m) { m.mutable_extents(1)->mutable_parts(0)->set_role("mlp.experts.up_proj"); },
                     "a routed expert outside an extent of experts"},
        ManifestCase{"PlainInExperts", [](Manifest& m) { ExpertsOf(m)->mutable_parts(1)->set_role("mlp.gate"); },
                     "not a routed expert, in an extent of experts"},
        ManifestCase{"ExpertPartsSwapped", [](Manifest& m) { ExpertsOf(m)->mutable_parts()->SwapElements(0, 1); },
                     "part 0: "},
        ManifestCase{"SourceChecksumMissing",
                     [](Manifest& m) { ExpertsOf(m)->mutable_parts(2)->mutable_source_xxh3()->Truncate(1); },
                     "part 2: number of source checksums is 1, expected 2"},
        ManifestCase{"SourceChecksumsOfSomePartsOnly", [](Manifest& m) { PartOf(m, "lm_head")->clear_source_xxh3(); },
                     "number of source checksums is 0, expected 1"},
        ManifestCase{"SourceChecksumsOfOnePartOnly",
                     [](Manifest& m) {
                       for (ExtentEntry& e : *m.mutable_extents()) {
                         if (e.layer() < 0) continue;
                         for (PartEntry& p : *e.mutable_parts()) p.clear_source_xxh3();
                       }
                     },
                     "number of source checksums is 0, expected 1"},
        ManifestCase{"RowsWrong", [](Manifest& m) { PartOf(m, "lm_head")->set_rows(20); }, "rows is 20, expected 19"},
        ManifestCase{"ColsWrong", [](Manifest& m) { PartOf(m, "lm_head")->set_cols(-1); }, "cols is -1, expected 34"},
        ManifestCase{"BytesWrong", [](Manifest& m) { PartOf(m, "norm")->set_bytes(1); }, "bytes is 1, expected"},
        ManifestCase{"PartOffsetWrong", [](Manifest& m) { ExpertsOf(m)->mutable_parts(1)->set_offset_in_record(0); },
                     "offset_in_record is 0, expected"},
        ManifestCase{"FormatUnknown", [](Manifest& m) { PartOf(m, "norm")->set_format("q9_g7"); }, "q9_g7",
                     absl::StatusCode::kUnimplemented},
        ManifestCase{"RoleUnknown", [](Manifest& m) { PartOf(m, "norm")->set_role("norm2"); }, "norm2",
                     absl::StatusCode::kUnimplemented},
        ManifestCase{"VectorQuantized", [](Manifest& m) { PartOf(m, "norm")->set_format("q4_g32"); },
                     "a vector cannot be stored as q4_g32"},
        ManifestCase{"CorrectionBiasNarrow",
                     [](Manifest& m) { PartOf(m, "mlp.gate.e_score_correction_bias")->set_format("bf16"); },
                     "the correction bias must be f32"},
        ManifestCase{"LossyCalledExact",
                     [](Manifest& m) {
                       for (ExtentEntry& e : *m.mutable_extents()) {
                         for (PartEntry& p : *e.mutable_parts()) {
                           if (!p.exact()) p.clear_stats();
                           p.set_exact(true);
                         }
                       }
                     },
                     "cannot be exact"},
        ManifestCase{"StatsMissing",
                     [](Manifest& m) {
                       for (ExtentEntry& e : *m.mutable_extents()) e.mutable_parts(0)->clear_stats();
                     },
                     "number of error statistics is 0, expected 1"},
        ManifestCase{"StatsNotFinite",
                     [](Manifest& m) {
                       for (ExtentEntry& e : *m.mutable_extents()) {
                         for (ErrorStats& s : *e.mutable_parts(0)->mutable_stats()) {
                           s.set_sum_squared_error(std::numeric_limits<double>::quiet_NaN());
                         }
                       }
                     },
                     "expected finite and >= 0"},
        ManifestCase{"ArchAbsent", [](Manifest& m) { m.clear_arch(); }, "vocab_size"},
        ManifestCase{"ArchOtherModel", [](Manifest& m) { m.mutable_arch()->set_hidden_size(35); },
                     "is 34, expected 35"},
        ManifestCase{"ArchUnknownKind",
                     [](Manifest& m) { m.mutable_arch()->set_attention(static_cast<AttentionKind>(5)); }, "attention",
                     absl::StatusCode::kUnimplemented},
        ManifestCase{"ArchWithMoreLayersThanExtents",
                     [](Manifest& m) { m.mutable_arch()->set_num_hidden_layers(4000); }, "num_hidden_layers is 4000"},
        ManifestCase{"ArchWithMoreExpertsThanRecords",
                     [](Manifest& m) { m.mutable_arch()->mutable_moe()->set_n_routed_experts(65536); },
                     "but there are 2 expert records"},
        ManifestCase{"Empty", [](Manifest& m) { m.Clear(); }, "vocab_size"}),
    [](const auto& info) { return info.param.name; });

TEST(PackedDamage, AManifestThatIsNoZstandardOrNoMessageIsRefused) {
  const std::vector<uint8_t> text = {'h', 'e', 'l', 'l', 'o'};
  EXPECT_THAT(std::string(DecodeManifest(text, 5).status().message()), HasSubstr("not valid Zstandard"));
  EXPECT_THAT(std::string(DecodeManifest({}, 5).status().message()), HasSubstr("decompresses to 0 bytes"));
  const auto stored = EncodeManifest(IndexOf(MicroFile()).manifest);
  ASSERT_TRUE(stored.ok()) << stored.status();
  const auto cut = absl::MakeConstSpan(stored->bytes).first(stored->bytes.size() - 1);
  EXPECT_THAT(std::string(DecodeManifest(cut, stored->manifest_bytes).status().message()), HasSubstr("incomplete"));
}

TEST(PackedDamage, RandomDamageOfAnyKindNeverDoesMoreThanFail) {
  uint64_t state = 12345;
  const auto random = [&state](uint64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % n;
  };
  const PackedIndex index = IndexOf(MicroFile());
  const std::string message = index.manifest.SerializeAsString();
  int accepted = 0;
  const google::protobuf::LogSilencer silence;
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = message;
    for (uint64_t n = 1 + random(3); n > 0; --n) damaged[random(damaged.size())] = static_cast<char>(random(256));
    Manifest manifest;
    if (!manifest.ParseFromString(damaged)) continue;
    const absl::Status status = CheckManifest(manifest, index.footer.manifest_offset).status();
    EXPECT_THAT(status.code(),
                AnyOf(absl::StatusCode::kOk, absl::StatusCode::kDataLoss, absl::StatusCode::kUnimplemented))
        << status;
    accepted += status.ok() ? 1 : 0;
  }
  // Checksums, statistics, names and tokens of assets may change without a contradiction; most of the rest may not.
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace kompakt
