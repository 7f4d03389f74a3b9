// The safetensors container, version 0.x, as the reference Rust library reads it.
//
//     offset 0      u64 little-endian N
//     offset 8      N bytes of UTF-8 JSON: {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, ..}
//     offset 8 + N  data; offsets count from here, end exclusive; little-endian, C order
//
// Every rule of the reference parser is enforced, in its order, and duplicate tensor names are refused besides. The
// message of each failure ends with the reference library's name for it in parentheses, where it has one.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "converters/input_file.h"

namespace kompakt {

enum class Dtype : uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBf16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

struct DtypeInfo {
  Dtype dtype;
  absl::string_view name;  // as in the file
  uint64_t bits;           // of one element
};

const DtypeInfo& InfoOf(Dtype dtype);
absl::Span<const DtypeInfo> AllDtypes();

struct SafetensorsEntry {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<uint64_t> shape;  // empty: a scalar
  uint64_t begin = 0;           // bytes from the start of the data
  uint64_t end = 0;

  uint64_t bytes() const { return end - begin; }
};

// "[2048, 512]"
std::string ShapeText(absl::Span<const uint64_t> shape);

// What the header of a file says. `data_begin` is 8 + N.
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in data order
  std::vector<std::pair<std::string, std::string>> metadata;
  uint64_t data_begin = 0;
};

// Rules 4 to 7 on the JSON text of a file of `file_bytes` in all. `file` is used in messages.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view json, uint64_t file_bytes,
                                                         absl::string_view file);

// An open file whose header has been checked. Reading is safe from several threads.
class SafetensorsFile {
 public:
  // Reads and checks the header only. kDataLoss: broken. kUnimplemented: a dtype nobody here knows.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  uint64_t size_bytes() const { return file_.size_bytes(); }
  // XXH3 of the first 8 + N bytes.
  uint64_t header_xxh3() const { return header_xxh3_; }
  // Advice for the page cache about bytes of the file: they are read soon; they are not read again.
  void WillNeed(uint64_t offset, uint64_t bytes) const { file_.WillNeed(offset, bytes); }
  void Drop(uint64_t offset, uint64_t bytes) const { file_.Drop(offset, bytes); }
  // FileState of the open file, now.
  absl::StatusOr<std::string> State() const { return file_.State(); }
  absl::Span<const SafetensorsEntry> entries() const { return header_.entries; }
  absl::Span<const std::pair<std::string, std::string>> metadata() const { return header_.metadata; }
  // Null when there is no tensor of that name. Valid as long as this file.
  const SafetensorsEntry* Find(absl::string_view name) const;

  // Fills `bytes` from byte `offset` of the tensor's data. kInvalidArgument when that passes its end.
  absl::Status Read(const SafetensorsEntry& entry, uint64_t offset, absl::Span<uint8_t> bytes) const;
  // Where byte `offset` of the tensor's data lies in the file.
  uint64_t FileOffset(const SafetensorsEntry& entry, uint64_t offset) const {
    return header_.data_begin + entry.begin + offset;
  }

 private:
  SafetensorsFile(InputFile file, SafetensorsHeader header, uint64_t header_xxh3);

  InputFile file_;
  SafetensorsHeader header_;
  uint64_t header_xxh3_;
  absl::flat_hash_map<absl::string_view, size_t> by_name_;  // keys live in header_.entries
};

}  // namespace kompakt
