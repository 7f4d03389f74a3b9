// The frame of a packed file: header, footer and the storage of the manifest (docs/format.md, sections 1 and 6). Pure
// functions over bytes; who reads the file is format/packed_index.h.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/manifest.pb.h"
#include "format/packed_layout.h"

namespace kompakt {

inline constexpr uint16_t kFormatMajor = 1;
// Required feature bit 0, since 1.1: the data of the file lie in several volumes (format/volume_plan.h).
inline constexpr uint64_t kVolumesFeature = 1;
inline constexpr char kVolumesFeatureName[] = "volumes";
inline constexpr uint64_t kMaxManifestBytes = uint64_t{256} << 20;

struct PackedHeader {
  uint16_t major = kFormatMajor;
  uint16_t minor = 0;
  uint64_t file_bytes = 0;
  uint64_t required_features = 0;
  uint64_t optional_features = 0;
};

struct PackedFooter {
  uint64_t manifest_offset = 0;
  uint64_t manifest_stored_bytes = 0;
  uint64_t manifest_bytes = 0;  // decompressed
  uint64_t manifest_xxh3 = 0;   // of the stored bytes
  uint64_t whole_header_xxh3 = 0;
};

using HeaderBytes = std::array<uint8_t, kHeaderBytes>;
using FooterBytes = std::array<uint8_t, kFooterBytes>;

// The lowest minor version that describes a file with this manifest.
uint16_t MinorVersionOf(const Manifest& manifest);

HeaderBytes EncodeHeader(const PackedHeader& header);
FooterBytes EncodeFooter(const PackedFooter& footer);

// Is there the header's magic at the start; the footer's at the end?
bool HasHeaderMagic(absl::Span<const uint8_t> bytes);
bool HasFooterMagic(absl::Span<const uint8_t> bytes);

// Both check magic, checksum, reserved bytes and whatever does not depend on the rest of the file. kDataLoss for
// damage, kUnimplemented for another major version. Messages carry no file name; the caller adds it.
absl::StatusOr<PackedHeader> DecodeHeader(const HeaderBytes& bytes);
absl::StatusOr<PackedFooter> DecodeFooter(const FooterBytes& bytes);

// The manifest as two Zstandard frames: first what is known before a weight is read (ArchSpec, assets, features),
// compressed, then the rest in raw blocks. The length of the result depends only on PlannedManifest(manifest), so that
// the length of a file can be planned (docs/decisions/001-two-manifest-frames.md).
struct StoredManifest {
  std::vector<uint8_t> bytes;
  uint64_t manifest_bytes = 0;  // decompressed
};
absl::StatusOr<StoredManifest> EncodeManifest(const Manifest& manifest);
// Bytes of the second of these frames when the rest takes `content_bytes`.
uint64_t RawFrameBytes(uint64_t content_bytes);

// The inverse. Takes memory as output appears, never more than manifest_bytes. kDataLoss.
absl::StatusOr<Manifest> DecodeManifest(absl::Span<const uint8_t> stored, uint64_t manifest_bytes);

// OK when this program knows every bit; else kUnimplemented with the names that the manifest gives.
absl::Status CheckFeatures(uint64_t required_features, const Manifest& manifest);

}  // namespace kompakt
