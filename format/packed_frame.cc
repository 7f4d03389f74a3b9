#include "format/packed_frame.h"

#include <google/protobuf/stubs/logging.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "absl/strings/str_join.h"
#include "format/block_format.h"
#include "format/checksum.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint8_t kHeaderMagic[8] = {0x89, 'K', 'P', 'K', '\r', '\n', 0x1a, '\n'};
constexpr uint8_t kFooterMagic[8] = {'K', 'P', 'K', '-', 'E', 'N', 'D', '\n'};

// Byte offsets of docs/format.md, section 1.
constexpr size_t kMajorAt = 8, kMinorAt = 10, kHeaderBytesAt = 12, kFileBytesAt = 16, kRequiredAt = 24,
                 kOptionalAt = 32, kHeaderReservedAt = 40, kHeaderXxh3At = 56;
constexpr size_t kManifestOffsetAt = 0, kStoredBytesAt = 8, kManifestBytesAt = 16, kManifestXxh3At = 24,
                 kWholeHeaderXxh3At = 32, kFooterReservedAt = 40, kFooterXxh3At = 48, kFooterMagicAt = 56;

constexpr uint64_t kKnownFeatures = kVolumesFeature;
constexpr uint16_t kVolumesSinceMinor = 1;

// The version that first had PartEntry.source_xxh3.
constexpr uint16_t kSourceXxh3SinceMinor = 1;

// The level at which tokenizer.json stops shrinking quickly (1.74 MB of 7.8 at 0.26 s; 19 gives 1.50 at 6.4 s).
constexpr int kAssetsLevel = 9;

template <typename T>
void Put(uint8_t* at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) at[i] = static_cast<uint8_t>(static_cast<uint64_t>(value) >> (8 * i));
}

template <typename T>
T Get(const uint8_t* at) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value |= static_cast<uint64_t>(at[i]) << (8 * i);
  return static_cast<T>(value);
}

absl::Status ExpectXxh3(absl::string_view what, uint64_t expected, uint64_t found) {
  if (expected == found) return absl::OkStatus();
  return CorruptError(what, " is damaged: expected XXH3 ", HexOf(expected), ", found ", HexOf(found));
}

absl::Status ExpectZero(absl::string_view what, absl::Span<const uint8_t> bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != 0) {
      return CorruptError(what, ": reserved byte ", i, " is ", static_cast<int>(bytes[i]), ", expected 0");
    }
  }
  return absl::OkStatus();
}

constexpr size_t kRawHeadBytes = 13, kRawBlockHeadBytes = 3, kMaxRawBlock = 128 * 1024;

// RFC 8878: a frame with the content size in 8 bytes and no compression.
void AppendRawFrame(const std::string& content, std::vector<uint8_t>& out) {
  constexpr uint32_t kMagic = 0xFD2FB528;
  constexpr uint8_t kSingleSegment8ByteSize = 0xE0;
  uint8_t head[kRawHeadBytes];
  Put<uint32_t>(head, kMagic);
  head[4] = kSingleSegment8ByteSize;
  Put<uint64_t>(head + 5, content.size());
  out.insert(out.end(), head, head + sizeof(head));
  size_t at = 0;
  do {
    const size_t n = std::min(kMaxRawBlock, content.size() - at);
    const bool last = at + n == content.size();
    const size_t block_header = (n << 3) | (last ? 1u : 0u);
    for (int shift : {0, 8, 16}) out.push_back(static_cast<uint8_t>(block_header >> shift));
    out.insert(out.end(), content.begin() + static_cast<ptrdiff_t>(at),
               content.begin() + static_cast<ptrdiff_t>(at + n));
    at += n;
  } while (at < content.size());
}

absl::Status AppendCompressedFrame(const std::string& content, std::vector<uint8_t>& out) {
  const size_t begin = out.size();
  out.resize(begin + ZSTD_compressBound(content.size()));
  const size_t n = ZSTD_compress(out.data() + begin, out.size() - begin, content.data(), content.size(), kAssetsLevel);
  if (ZSTD_isError(n)) return absl::InternalError(absl::StrCat("manifest: zstd: ", ZSTD_getErrorName(n)));
  out.resize(begin + n);
  return absl::OkStatus();
}

}  // namespace

uint64_t RawFrameBytes(uint64_t content_bytes) {
  const uint64_t blocks = content_bytes == 0 ? 1 : (content_bytes + kMaxRawBlock - 1) / kMaxRawBlock;
  return kRawHeadBytes + blocks * kRawBlockHeadBytes + content_bytes;
}

uint16_t MinorVersionOf(const Manifest& manifest) {
  uint16_t minor = manifest.has_volumes() ? kVolumesSinceMinor : 0;
  for (const ExtentEntry& extent : manifest.extents()) {
    for (const PartEntry& part : extent.parts()) {
      if (!part.upstream_form().empty()) minor = std::max(minor, kSourceXxh3SinceMinor);
      if (part.source_xxh3_size() != 0) minor = std::max(minor, kSourceXxh3SinceMinor);
      if (const auto format = FormatFromName(part.format()); format.ok()) {
        minor = std::max(minor, FormatOf(*format).since_minor);
      }
      if (const auto role = RoleFromName(part.role()); role.ok()) minor = std::max(minor, InfoOf(*role).since_minor);
    }
  }
  return minor;
}

HeaderBytes EncodeHeader(const PackedHeader& header) {
  HeaderBytes bytes = {};
  std::memcpy(bytes.data(), kHeaderMagic, sizeof(kHeaderMagic));
  Put(&bytes[kMajorAt], header.major);
  Put(&bytes[kMinorAt], header.minor);
  Put<uint32_t>(&bytes[kHeaderBytesAt], kHeaderBytes);
  Put(&bytes[kFileBytesAt], header.file_bytes);
  Put(&bytes[kRequiredAt], header.required_features);
  Put(&bytes[kOptionalAt], header.optional_features);
  Put(&bytes[kHeaderXxh3At], Xxh3(absl::MakeConstSpan(bytes).first(kHeaderXxh3At)));
  return bytes;
}

FooterBytes EncodeFooter(const PackedFooter& footer) {
  FooterBytes bytes = {};
  Put(&bytes[kManifestOffsetAt], footer.manifest_offset);
  Put(&bytes[kStoredBytesAt], footer.manifest_stored_bytes);
  Put(&bytes[kManifestBytesAt], footer.manifest_bytes);
  Put(&bytes[kManifestXxh3At], footer.manifest_xxh3);
  Put(&bytes[kWholeHeaderXxh3At], footer.whole_header_xxh3);
  Put(&bytes[kFooterXxh3At], Xxh3(absl::MakeConstSpan(bytes).first(kFooterXxh3At)));
  std::memcpy(&bytes[kFooterMagicAt], kFooterMagic, sizeof(kFooterMagic));
  return bytes;
}

bool HasHeaderMagic(absl::Span<const uint8_t> bytes) {
  return bytes.size() >= sizeof(kHeaderMagic) && std::memcmp(bytes.data(), kHeaderMagic, sizeof(kHeaderMagic)) == 0;
}

bool HasFooterMagic(absl::Span<const uint8_t> bytes) {
  return bytes.size() >= sizeof(kFooterMagic) &&
         std::memcmp(bytes.data() + bytes.size() - sizeof(kFooterMagic), kFooterMagic, sizeof(kFooterMagic)) == 0;
}

absl::StatusOr<PackedHeader> DecodeHeader(const HeaderBytes& bytes) {
  if (!HasHeaderMagic(bytes)) return CorruptError("header: the magic bytes are damaged");
  KOMPAKT_RETURN_IF_ERROR(ExpectXxh3("header", Get<uint64_t>(&bytes[kHeaderXxh3At]),
                                     Xxh3(absl::MakeConstSpan(bytes).first(kHeaderXxh3At))));
  PackedHeader header;
  header.major = Get<uint16_t>(&bytes[kMajorAt]);
  header.minor = Get<uint16_t>(&bytes[kMinorAt]);
  if (header.major != kFormatMajor) {
    return UnsupportedError("format version ", header.major, ".", header.minor, "; this program reads ", kFormatMajor,
                            ".x", header.major > kFormatMajor ? "; a newer version of kompakt is needed" : "");
  }
  const uint32_t header_bytes = Get<uint32_t>(&bytes[kHeaderBytesAt]);
  if (header_bytes != kHeaderBytes) {
    return CorruptError("header: header_bytes is ", header_bytes, ", expected ", kHeaderBytes);
  }
  KOMPAKT_RETURN_IF_ERROR(
      ExpectZero("header", absl::MakeConstSpan(bytes).subspan(kHeaderReservedAt, kHeaderXxh3At - kHeaderReservedAt)));
  header.file_bytes = Get<uint64_t>(&bytes[kFileBytesAt]);
  header.required_features = Get<uint64_t>(&bytes[kRequiredAt]);
  header.optional_features = Get<uint64_t>(&bytes[kOptionalAt]);
  return header;
}

absl::StatusOr<PackedFooter> DecodeFooter(const FooterBytes& bytes) {
  if (!HasFooterMagic(bytes)) return CorruptError("footer: the magic bytes are missing");
  KOMPAKT_RETURN_IF_ERROR(ExpectXxh3("footer", Get<uint64_t>(&bytes[kFooterXxh3At]),
                                     Xxh3(absl::MakeConstSpan(bytes).first(kFooterXxh3At))));
  KOMPAKT_RETURN_IF_ERROR(
      ExpectZero("footer", absl::MakeConstSpan(bytes).subspan(kFooterReservedAt, kFooterXxh3At - kFooterReservedAt)));
  PackedFooter footer;
  footer.manifest_offset = Get<uint64_t>(&bytes[kManifestOffsetAt]);
  footer.manifest_stored_bytes = Get<uint64_t>(&bytes[kStoredBytesAt]);
  footer.manifest_bytes = Get<uint64_t>(&bytes[kManifestBytesAt]);
  footer.manifest_xxh3 = Get<uint64_t>(&bytes[kManifestXxh3At]);
  footer.whole_header_xxh3 = Get<uint64_t>(&bytes[kWholeHeaderXxh3At]);
  return footer;
}

absl::StatusOr<StoredManifest> EncodeManifest(const Manifest& manifest) {
  Manifest known;
  *known.mutable_arch() = manifest.arch();
  *known.mutable_assets() = manifest.assets();
  *known.mutable_features() = manifest.features();
  Manifest rest = manifest;
  rest.clear_arch();
  rest.clear_assets();
  rest.clear_features();

  const uint64_t bytes = known.ByteSizeLong() + rest.ByteSizeLong();
  if (bytes > kMaxManifestBytes) {
    return UnsupportedError("manifest: ", bytes, " bytes, the format holds at most ", kMaxManifestBytes);
  }
  StoredManifest stored;
  stored.manifest_bytes = bytes;
  KOMPAKT_RETURN_IF_ERROR(AppendCompressedFrame(known.SerializeAsString(), stored.bytes));
  AppendRawFrame(rest.SerializeAsString(), stored.bytes);
  return stored;
}

absl::StatusOr<Manifest> DecodeManifest(absl::Span<const uint8_t> stored, uint64_t manifest_bytes) {
  if (manifest_bytes > kMaxManifestBytes) {
    return CorruptError("manifest: ", manifest_bytes, " bytes announced, the format holds at most ", kMaxManifestBytes);
  }
  std::unique_ptr<ZSTD_DStream, decltype(&ZSTD_freeDStream)> stream(ZSTD_createDStream(), &ZSTD_freeDStream);
  if (stream == nullptr) return absl::ResourceExhaustedError("manifest: no memory to decompress it");

  std::string content;
  std::vector<char> piece(ZSTD_DStreamOutSize());
  ZSTD_inBuffer in = {stored.data(), stored.size(), 0};
  size_t pending = 0;  // 0 at the end of a frame
  bool full = false;   // the last call filled the piece: more output may wait although the input is used up
  while (in.pos < in.size || full) {
    ZSTD_outBuffer out = {piece.data(), piece.size(), 0};
    pending = ZSTD_decompressStream(stream.get(), &out, &in);
    if (ZSTD_isError(pending)) return CorruptError("manifest: not valid Zstandard: ", ZSTD_getErrorName(pending));
    if (content.size() + out.pos > manifest_bytes) {
      return CorruptError("manifest: decompresses to more than the announced ", manifest_bytes, " bytes");
    }
    content.append(piece.data(), out.pos);
    full = out.pos == out.size && pending != 0;
  }
  if (pending != 0) return CorruptError("manifest: the last Zstandard frame is incomplete");
  if (content.size() != manifest_bytes) {
    return CorruptError("manifest: decompresses to ", content.size(), " bytes, expected ", manifest_bytes);
  }
  const google::protobuf::LogSilencer silence;  // the status says it; a library does not print
  Manifest manifest;
  if (!manifest.ParseFromString(content)) {
    return CorruptError("manifest: not a valid Protocol Buffers message of ", manifest_bytes, " bytes");
  }
  return manifest;
}

absl::Status CheckFeatures(uint64_t required_features, const Manifest& manifest) {
  const uint64_t unknown = required_features & ~kKnownFeatures;
  if (unknown == 0) return absl::OkStatus();
  std::vector<std::string> names;
  for (uint32_t bit = 0; bit < 64; ++bit) {
    if ((unknown >> bit & 1) == 0) continue;
    std::string name = absl::StrCat("bit ", bit);
    for (const Feature& feature : manifest.features()) {
      if (feature.bit() == bit && feature.required()) name = absl::StrCat("\"", feature.name(), "\" (bit ", bit, ")");
    }
    names.push_back(std::move(name));
  }
  return UnsupportedError("needs ", names.size() == 1 ? "the feature " : "the features ", absl::StrJoin(names, ", "),
                          ", which this program does not know; a newer version of kompakt is needed");
}

}  // namespace kompakt
