#include "converters/element_reads.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_format.h"
#include "format/float_formats.h"

namespace kompakt {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kPieceBytes = uint64_t{256} << 10;

template <typename Bits>
Bits LoadBits(const uint8_t* bytes, uint64_t index) {
  Bits bits;
  std::memcpy(&bits, bytes + index * sizeof(bits), sizeof(bits));
  return bits;
}

bool IsPowerOfTwo(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return bits < 0x00800000u ? std::has_single_bit(bits) : (bits & 0x007fffffu) == 0;
}

}  // namespace

bool IsFloat(Dtype dtype) { return dtype == Dtype::kBf16 || dtype == Dtype::kF16 || dtype == Dtype::kF32; }

absl::Status ElementError(const FoundTensor& found, uint64_t flat_index, const std::string& what) {
  std::vector<uint64_t> place(found.entry->shape.size());
  uint64_t rest = flat_index;
  for (size_t d = place.size(); d-- > 0;) {
    place[d] = rest % found.entry->shape[d];
    rest /= found.entry->shape[d];
  }
  return CorruptError(found.file->path(), ": tensor ", found.entry->name, " ", ShapeText(place), " (byte ",
                      found.file->FileOffset(*found.entry, flat_index * ElementBytes(found.entry->dtype)),
                      " of the file): ", what);
}

absl::Status CheckShape(const FoundTensor& found, absl::Span<const int64_t> expected) {
  const std::vector<uint64_t> shape(expected.begin(), expected.end());
  if (shape == found.entry->shape) return absl::OkStatus();
  return MismatchError(found, "expected shape ", ShapeText(shape), ", found ", ShapeText(found.entry->shape));
}

absl::Status CheckFloat(const FoundTensor& found) {
  if (IsFloat(found.entry->dtype)) return absl::OkStatus();
  return UnsupportedError(found.file->path(), ": tensor ", found.entry->name,
                          ": expected dtype BF16, F16 or F32, found ", InfoOf(found.entry->dtype).name);
}

absl::StatusOr<std::vector<uint8_t>> ReadElements(const FoundTensor& found, uint64_t begin, uint64_t count,
                                                  Xxh3Stream* source_bytes) {
  const uint64_t element = ElementBytes(found.entry->dtype);
  std::vector<uint8_t> bytes(count * element);
  KOMPAKT_RETURN_IF_ERROR(found.file->Read(*found.entry, begin * element, absl::MakeSpan(bytes)));
  if (source_bytes != nullptr) source_bytes->Update(bytes);
  return bytes;
}

absl::StatusOr<std::vector<uint8_t>> ReadColumns(const FoundTensor& found, int64_t begin, int64_t count,
                                                 Xxh3Stream* source_bytes) {
  const uint64_t element = ElementBytes(found.entry->dtype);
  const uint64_t rows = found.entry->shape[0];
  const uint64_t stride = found.entry->shape[1] * element;
  const uint64_t first = static_cast<uint64_t>(begin) * element;
  const uint64_t width = static_cast<uint64_t>(count) * element;
  if (width == stride) return ReadElements(found, 0, rows * found.entry->shape[1], source_bytes);
  std::vector<uint8_t> bytes(rows * width);
  const bool skips = stride - width >= kPageBytes;
  const uint64_t rows_at_once = skips ? 1 : std::max<uint64_t>(1, kPieceBytes / stride);
  std::vector<uint8_t> piece;
  for (uint64_t row = 0; row < rows; row += rows_at_once) {
    const uint64_t n = std::min(rows_at_once, rows - row);
    piece.resize((n - 1) * stride + width);
    KOMPAKT_RETURN_IF_ERROR(found.file->Read(*found.entry, row * stride + first, absl::MakeSpan(piece)));
    for (uint64_t i = 0; i < n; ++i) std::memcpy(&bytes[(row + i) * width], &piece[i * stride], width);
  }
  if (source_bytes != nullptr) source_bytes->Update(bytes);
  return bytes;
}

float ElementAsF32(Dtype dtype, const uint8_t* bytes, uint64_t index) {
  switch (dtype) {
    case Dtype::kBf16:
      return Bf16ToF32(LoadBits<uint16_t>(bytes, index));
    case Dtype::kF16:
      return F16ToF32(LoadBits<uint16_t>(bytes, index));
    case Dtype::kF8E8M0:
      return E8m0ToF32(bytes[index]);
    default:
      return LoadBits<float>(bytes, index);
  }
}

absl::Status CheckScale(const FoundTensor& found, uint64_t flat_index, float scale, const ScaleRule& rule) {
  if (!(std::isfinite(scale) && scale > 0)) {
    return ElementError(found, flat_index, absl::StrFormat("expected a finite positive scale, found %g", scale));
  }
  const float limit = std::numeric_limits<float>::max() / rule.largest_code;
  if (scale > limit) {
    return ElementError(found, flat_index, absl::StrFormat("expected a scale of at most %g, found %g", limit, scale));
  }
  if (rule.power_of_two && !IsPowerOfTwo(scale)) {
    return ElementError(found, flat_index,
                        absl::StrFormat("expected a power of two, as scale_fmt ue8m0 promises, found %.9g", scale));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> ReadScales(const FoundTensor& found, uint64_t begin, uint64_t count,
                                              const ScaleRule& rule, Xxh3Stream* source_bytes) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ReadElements(found, begin, count, source_bytes));
  std::vector<float> scales(count);
  for (uint64_t i = 0; i < count; ++i) {
    scales[i] = ElementAsF32(found.entry->dtype, bytes.data(), i);
    KOMPAKT_RETURN_IF_ERROR(CheckScale(found, begin + i, scales[i], rule));
  }
  return scales;
}

}  // namespace kompakt
