// A packed file from anywhere: opened as it is, then with its checksums and lengths set right, so that mutations reach
// what lies behind them. Whatever opens must decode and verify without touching a byte outside the input.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "format/checksum.h"
#include "format/packed_frame.h"
#include "format/packed_index.h"
#include "format/packed_verify.h"
#include "tests/fixtures/memory_file.h"

namespace {

using namespace kompakt;

void DecodeEverything(const PackedIndex& index, absl::Span<const uint8_t> bytes) {
  for (const TensorInfo& tensor : index.schema.tensors()) {
    const PackedLayout::Place place = index.layout.Find(tensor.role, tensor.layer);
    const Extent& extent = index.layout.extents()[static_cast<size_t>(place.extent)];
    const ExtentPart& part = extent.parts[static_cast<size_t>(place.part)];
    const uint64_t at = extent.record_offset(std::max(tensor.expert, 0)) + part.offset_in_record;
    // A copy of just these bytes, so that a sanitizer sees a read past the blob.
    const auto blob = bytes.subspan(at, part.blob.total_bytes);
    const std::vector<uint8_t> copy(blob.begin(), blob.end());
    if (tensor.is_vector()) {
      std::vector<float> values(static_cast<size_t>(tensor.cols));
      DecodeVector(FormatOf(part.format), copy.data(), tensor.cols, absl::MakeSpan(values));
    } else {
      std::vector<float> row(static_cast<size_t>(tensor.cols));
      const MatrixView view = {&FormatOf(part.format), part.shape, part.blob, copy.data()};
      DecodeRows(view, tensor.rows - 1, tensor.rows, absl::MakeSpan(row));
    }
  }
}

void Open(const std::vector<uint8_t>& bytes) {
  MemoryFile file(bytes);
  const auto index = ReadPackedIndex(file, "input");
  if (!index.ok()) return;
  (void)VerifyBytes(file, "input", *index, {});
  DecodeEverything(*index, bytes);
}

template <typename T>
void Put(std::vector<uint8_t>& bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof(value));
}

// docs/format.md, section 1: the fields that a mutation elsewhere contradicts.
void Repair(std::vector<uint8_t>& bytes) {
  const size_t footer = bytes.size() - kFooterBytes;
  uint64_t manifest_offset = 0;
  std::memcpy(&manifest_offset, bytes.data() + footer, sizeof(manifest_offset));
  if (manifest_offset > footer) return;
  Put<uint64_t>(bytes, 16, bytes.size());
  Put(bytes, 56, Xxh3(absl::MakeConstSpan(bytes).first(56)));
  Put<uint64_t>(bytes, footer + 8, footer - manifest_offset);
  Put(bytes, footer + 24, Xxh3(absl::MakeConstSpan(bytes).subspan(manifest_offset, footer - manifest_offset)));
  Put(bytes, footer + 32, Xxh3(absl::MakeConstSpan(bytes).first(kHeaderBytes)));
  Put(bytes, footer + 48, Xxh3(absl::MakeConstSpan(bytes).subspan(footer, 48)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes(data, data + size);
  Open(bytes);
  if (size >= kHeaderBytes + kFooterBytes) {
    Repair(bytes);
    Open(bytes);
  }
  return 0;
}
