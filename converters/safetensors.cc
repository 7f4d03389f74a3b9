#include "converters/safetensors.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "format/checksum.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference library's cap
constexpr uint64_t kLengthBytes = 8;

// In the order of the enum.
constexpr DtypeInfo kDtypes[] = {
    {Dtype::kBool, "BOOL", 8},
    {Dtype::kF4, "F4", 4},
    {Dtype::kF6E2M3, "F6_E2M3", 6},
    {Dtype::kF6E3M2, "F6_E3M2", 6},
    {Dtype::kU8, "U8", 8},
    {Dtype::kI8, "I8", 8},
    {Dtype::kF8E5M2, "F8_E5M2", 8},
    {Dtype::kF8E4M3, "F8_E4M3", 8},
    {Dtype::kF8E8M0, "F8_E8M0", 8},
    {Dtype::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8},
    {Dtype::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8},
    {Dtype::kI16, "I16", 16},
    {Dtype::kU16, "U16", 16},
    {Dtype::kF16, "F16", 16},
    {Dtype::kBf16, "BF16", 16},
    {Dtype::kI32, "I32", 32},
    {Dtype::kU32, "U32", 32},
    {Dtype::kF32, "F32", 32},
    {Dtype::kC64, "C64", 64},
    {Dtype::kF64, "F64", 64},
    {Dtype::kI64, "I64", 64},
    {Dtype::kU64, "U64", 64},
};

constexpr bool RowsAreInEnumOrder() {
  for (size_t i = 0; i < std::size(kDtypes); ++i) {
    if (static_cast<size_t>(kDtypes[i].dtype) != i) return false;
  }
  return std::size(kDtypes) == static_cast<size_t>(Dtype::kU64) + 1;
}
static_assert(RowsAreInEnumOrder(), "InfoOf indexes kDtypes by the enum");

// A text file read as a safetensors file claims a header of some 10^18 bytes; saying so would help nobody.
std::string TextHint(absl::string_view first_bytes) {
  const absl::string_view start = first_bytes.substr(0, 24);
  const bool printable = !start.empty() && std::all_of(start.begin(), start.end(), [](char c) {
    return std::isprint(static_cast<unsigned char>(c)) || c == '\n' || c == '\r' || c == '\t';
  });
  return printable ? absl::StrCat("; the file looks like text: \"", absl::CEscape(start), "\"") : "";
}

}  // namespace

const DtypeInfo& InfoOf(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)]; }

absl::Span<const DtypeInfo> AllDtypes() { return kDtypes; }

std::string ShapeText(absl::Span<const uint64_t> shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(InputFile file, InputFile::Open(path));
  std::string start(static_cast<size_t>(std::min<uint64_t>(file.size_bytes(), 128)), '\0');
  KOMPAKT_RETURN_IF_ERROR(file.ReadAt(0, {reinterpret_cast<uint8_t*>(start.data()), start.size()}));
  const std::string foreign = ForeignContent(start);
  if (!foreign.empty()) return CorruptError(path, ": expected a safetensors file, found ", foreign);
  if (file.size_bytes() < kLengthBytes) {
    return CorruptError(path, ": expected at least 8 bytes, found ", file.size_bytes(), " (HeaderTooSmall)");
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, start.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes) {
    return CorruptError(path, ": expected a header of at most ", kMaxHeaderBytes, " bytes, found a length of ",
                        header_bytes, TextHint(start), " (HeaderTooLarge)");
  }
  if (header_bytes > file.size_bytes() - kLengthBytes) {
    return CorruptError(path, ": truncated inside the header: expected at least ", kLengthBytes + header_bytes,
                        " bytes, found ", file.size_bytes(), " (InvalidHeaderLength)");
  }
  std::string json(static_cast<size_t>(header_bytes), '\0');
  KOMPAKT_RETURN_IF_ERROR(file.ReadAt(kLengthBytes, {reinterpret_cast<uint8_t*>(json.data()), json.size()}));
  KOMPAKT_ASSIGN_OR_RETURN(SafetensorsHeader header, ParseSafetensorsHeader(json, file.size_bytes(), path));
  Xxh3Stream header_hash;
  header_hash.Update({reinterpret_cast<const uint8_t*>(start.data()), kLengthBytes});
  header_hash.Update({reinterpret_cast<const uint8_t*>(json.data()), json.size()});
  return SafetensorsFile(std::move(file), std::move(header), header_hash.Digest());
}

SafetensorsFile::SafetensorsFile(InputFile file, SafetensorsHeader header, uint64_t header_xxh3)
    : file_(std::move(file)), header_(std::move(header)), header_xxh3_(header_xxh3) {
  by_name_.reserve(header_.entries.size());
  for (size_t i = 0; i < header_.entries.size(); ++i) by_name_.emplace(header_.entries[i].name, i);
}

const SafetensorsEntry* SafetensorsFile::Find(absl::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &header_.entries[found->second];
}

absl::Status SafetensorsFile::Read(const SafetensorsEntry& entry, uint64_t offset, absl::Span<uint8_t> bytes) const {
  if (offset > entry.bytes() || bytes.size() > entry.bytes() - offset) {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": tensor ", entry.name, ": asked for bytes [", offset,
                                                   ", +", bytes.size(), ") of ", entry.bytes()));
  }
  return WithContext(file_.ReadAt(FileOffset(entry, offset), bytes), absl::StrCat("tensor ", entry.name));
}

}  // namespace kompakt
