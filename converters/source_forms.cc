#include "converters/source_forms.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "format/float_formats.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

uint64_t ElementBytes(Dtype dtype) { return InfoOf(dtype).bits / 8; }

FormatId PlainFormat(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBf16:
      return FormatId::kBf16;
    case Dtype::kF16:
      return FormatId::kF16;
    default:
      return FormatId::kF32;
  }
}

// fp8_b128 holds the form when no 128 x 128 block of the packed file meets two scales.
bool Fp8IsExact(const TensorBinding& b) {
  return b.block_rows % kFp8Block == 0 && b.block_cols % kFp8Block == 0 && b.matrix_row % kFp8Block == 0;
}

// int4_g32 holds the form when no group of 32 columns meets two scales, or when there is only one.
bool Int4GroupsFit(const TensorBinding& b) { return b.block_cols % kTileCols == 0 || b.block_cols >= b.cols; }

// "FILE: tensor NAME [row, col] (byte N of the file): <what>" for the element at `flat_index` of the stored tensor.
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

// Elements [begin, begin + count) of a stored tensor as bytes; `source_bytes` (may be null) gets them too.
absl::StatusOr<std::vector<uint8_t>> ReadElements(const FoundTensor& found, uint64_t begin, uint64_t count,
                                                  Xxh3Stream* source_bytes) {
  const uint64_t element = ElementBytes(found.entry->dtype);
  std::vector<uint8_t> bytes(count * element);
  KOMPAKT_RETURN_IF_ERROR(found.file->Read(*found.entry, begin * element, absl::MakeSpan(bytes)));
  if (source_bytes != nullptr) source_bytes->Update(bytes);
  return bytes;
}

template <typename Bits>
Bits Load(const uint8_t* bytes, uint64_t index) {
  Bits bits;
  std::memcpy(&bits, bytes + index * sizeof(bits), sizeof(bits));
  return bits;
}

float LoadAsF32(Dtype dtype, const uint8_t* bytes, uint64_t index) {
  switch (dtype) {
    case Dtype::kBf16:
      return Bf16ToF32(Load<uint16_t>(bytes, index));
    case Dtype::kF16:
      return F16ToF32(Load<uint16_t>(bytes, index));
    default:
      return Load<float>(bytes, index);
  }
}

// ---- scales

bool IsPowerOfTwo(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return bits < 0x00800000u ? std::has_single_bit(bits) : (bits & 0x007fffffu) == 0;
}

// Scale rows [begin, end) of the binding as F32, each checked to be positive and to keep every weight finite.
absl::StatusOr<std::vector<float>> ReadScales(const TensorBinding& b, int64_t begin, int64_t end,
                                              Xxh3Stream* source_bytes) {
  const uint64_t first = static_cast<uint64_t>((b.scale_row + begin) * b.scale_cols);
  const uint64_t count = static_cast<uint64_t>((end - begin) * b.scale_cols);
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ReadElements(b.scale, first, count, source_bytes));
  const float largest_code = b.kind == SourceKind::kFp8Block ? 448.0f : 8.0f;
  const float limit = std::numeric_limits<float>::max() / largest_code;
  std::vector<float> scales(count);
  for (uint64_t i = 0; i < count; ++i) {
    scales[i] = LoadAsF32(b.scale.entry->dtype, bytes.data(), i);
    if (!(std::isfinite(scales[i]) && scales[i] > 0)) {
      return ElementError(b.scale, first + i, absl::StrFormat("expected a finite positive scale, found %g", scales[i]));
    }
    if (scales[i] > limit) {
      return ElementError(b.scale, first + i,
                          absl::StrFormat("expected a scale of at most %g, found %g", limit, scales[i]));
    }
    if (b.power_of_two_scales && !IsPowerOfTwo(scales[i])) {
      return ElementError(
          b.scale, first + i,
          absl::StrFormat("expected a power of two, as scale_fmt ue8m0 promises, found %.9g", scales[i]));
    }
  }
  return scales;
}

// ---- plain elements

// Index of the first NaN or infinity among `n` elements, or n.
template <typename Bits>
uint64_t FirstNonFinite(const uint8_t* bytes, uint64_t n, Bits exponent) {
  constexpr uint64_t kRun = 4096;  // looked at without a branch per element
  for (uint64_t begin = 0; begin < n; begin += kRun) {
    const uint64_t end = std::min(n, begin + kRun);
    bool bad = false;
    for (uint64_t i = begin; i < end; ++i) bad |= (Load<Bits>(bytes, i) & exponent) == exponent;
    if (!bad) continue;
    for (uint64_t i = begin; i < end; ++i) {
      if ((Load<Bits>(bytes, i) & exponent) == exponent) return i;
    }
  }
  return n;
}

absl::StatusOr<std::vector<uint8_t>> ReadPlain(const TensorBinding& b, int64_t row_begin, int64_t row_end,
                                               Xxh3Stream* source_bytes) {
  const Dtype dtype = b.weight.entry->dtype;
  const uint64_t first = static_cast<uint64_t>((b.weight_row + row_begin) * b.cols);
  const uint64_t n = static_cast<uint64_t>((row_end - row_begin) * b.cols);
  KOMPAKT_ASSIGN_OR_RETURN(std::vector<uint8_t> bytes, ReadElements(b.weight, first, n, source_bytes));
  uint64_t bad = n;
  if (dtype == Dtype::kF32) {
    bad = FirstNonFinite<uint32_t>(bytes.data(), n, 0x7f800000u);
  } else {
    bad = FirstNonFinite<uint16_t>(bytes.data(), n, dtype == Dtype::kBf16 ? uint16_t{0x7f80} : uint16_t{0x7c00});
  }
  if (bad < n) {
    return ElementError(b.weight, first + bad,
                        absl::StrFormat("expected a finite weight, found %g", LoadAsF32(dtype, bytes.data(), bad)));
  }
  return bytes;
}

void Widen(Dtype dtype, const std::vector<uint8_t>& bytes, absl::Span<float> out) {
  if (dtype == Dtype::kF32) {
    std::memcpy(out.data(), bytes.data(), bytes.size());
  } else if (dtype == Dtype::kBf16) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = Bf16ToF32(Load<uint16_t>(bytes.data(), i));
  } else {
    for (size_t i = 0; i < out.size(); ++i) out[i] = F16ToF32(Load<uint16_t>(bytes.data(), i));
  }
}

// ---- FP8 blocks

struct Fp8Rows {
  std::vector<uint8_t> codes;   // [rows, cols]
  std::vector<float> scales;    // [scale rows that these rows meet, scale_cols]
  int64_t first_scale_row = 0;  // of `scales`, counted within the binding's matrix

  const float* ScaleRow(const TensorBinding& b, int64_t row) const {
    return scales.data() + ((b.matrix_row + row) / b.block_rows - first_scale_row) * b.scale_cols;
  }
};

absl::StatusOr<Fp8Rows> ReadFp8(const TensorBinding& b, int64_t row_begin, int64_t row_end, Xxh3Stream* source_bytes) {
  Fp8Rows rows;
  const uint64_t first = static_cast<uint64_t>((b.weight_row + row_begin) * b.cols);
  const uint64_t n = static_cast<uint64_t>((row_end - row_begin) * b.cols);
  KOMPAKT_ASSIGN_OR_RETURN(rows.codes, ReadElements(b.weight, first, n, source_bytes));
  const auto nan = std::find_if(rows.codes.begin(), rows.codes.end(), IsFp8E4m3Nan);
  if (nan != rows.codes.end()) {
    return ElementError(b.weight, first + static_cast<uint64_t>(nan - rows.codes.begin()),
                        absl::StrFormat("expected a finite E4M3 code, found the NaN 0x%02X", *nan));
  }
  rows.first_scale_row = (b.matrix_row + row_begin) / b.block_rows;
  const int64_t scale_end = CeilDiv(b.matrix_row + row_end, b.block_rows);
  KOMPAKT_ASSIGN_OR_RETURN(rows.scales, ReadScales(b, rows.first_scale_row, scale_end, source_bytes));
  return rows;
}

void DecodeFp8(const TensorBinding& b, const Fp8Rows& rows, int64_t row_begin, int64_t row_end, float* out) {
  const uint8_t* codes = rows.codes.data();
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float* scales = rows.ScaleRow(b, row);
    for (int64_t col = 0; col < b.cols; col += b.block_cols) {
      const float scale = scales[col / b.block_cols];
      const int64_t end = std::min(b.cols, col + b.block_cols);
      for (int64_t c = col; c < end; ++c) out[c] = kFp8E4m3Values[codes[c]] * scale;
    }
    codes += b.cols;
    out += b.cols;
  }
}

// One scale per 128 x 128 block of the rows, repeated where the source's blocks are larger.
std::vector<float> BlockScales(const TensorBinding& b, const Fp8Rows& rows, int64_t row_begin, int64_t row_end) {
  const int64_t block_cols = CeilDiv(b.cols, kFp8Block);
  std::vector<float> scales;
  scales.reserve(static_cast<size_t>(CeilDiv(row_end - row_begin, kFp8Block) * block_cols));
  for (int64_t row = row_begin; row < row_end; row += kFp8Block) {
    const float* source = rows.ScaleRow(b, row);
    for (int64_t block = 0; block < block_cols; ++block) scales.push_back(source[block * kFp8Block / b.block_cols]);
  }
  return scales;
}

// ---- packed INT4

absl::Status CheckWeightShape(const TensorBinding& b) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ReadElements(b.shape, 0, 2, nullptr));
  const auto element = [&](uint64_t i) {
    return b.shape.entry->dtype == Dtype::kI64 ? Load<int64_t>(bytes.data(), i) : Load<int32_t>(bytes.data(), i);
  };
  if (element(0) == b.rows && element(1) == b.cols) return absl::OkStatus();
  return CorruptError(b.shape.file->path(), ": tensor ", b.shape.entry->name, ": expected (", b.rows, ", ", b.cols,
                      "), found (", element(0), ", ", element(1), ")");
}

struct Int4Rows {
  std::vector<uint8_t> words;  // [rows, cdiv(cols, 8)] of 4 bytes; byte k of a row holds columns 2 k and 2 k + 1
  std::vector<float> scales;   // [rows, scale_cols]
};

absl::StatusOr<Int4Rows> ReadInt4(const TensorBinding& b, int64_t row_begin, int64_t row_end,
                                  Xxh3Stream* source_bytes) {
  KOMPAKT_RETURN_IF_ERROR(CheckWeightShape(b));
  const uint64_t words = static_cast<uint64_t>(CeilDiv(b.cols, 8));
  Int4Rows rows;
  KOMPAKT_ASSIGN_OR_RETURN(rows.words, ReadElements(b.weight, static_cast<uint64_t>(row_begin) * words,
                                                    static_cast<uint64_t>(row_end - row_begin) * words, source_bytes));
  KOMPAKT_ASSIGN_OR_RETURN(rows.scales, ReadScales(b, row_begin, row_end, source_bytes));
  return rows;
}

uint8_t Nibble(const uint8_t* row, int64_t col) {
  return static_cast<uint8_t>(col % 2 == 0 ? row[col / 2] & 0xf : row[col / 2] >> 4);
}

void DecodeInt4(const TensorBinding& b, const Int4Rows& rows, int64_t n_rows, float* out) {
  const int64_t row_bytes = CeilDiv(b.cols, 8) * 4;
  for (int64_t row = 0; row < n_rows; ++row) {
    const uint8_t* codes = rows.words.data() + row * row_bytes;
    const float* scales = rows.scales.data() + row * b.scale_cols;
    for (int64_t col = 0; col < b.cols; ++col) {
      out[row * b.cols + col] = static_cast<float>(Nibble(codes, col) - 8) * scales[col / b.block_cols];
    }
  }
}

void StoreInt4(const TensorBinding& b, const Int4Rows& rows, StoredRows* out) {
  const int64_t row_bytes = CeilDiv(b.cols, 8) * 4;
  const int64_t groups = CeilDiv(b.cols, kTileCols);
  out->elements.resize(static_cast<size_t>(out->rows * b.cols));
  out->group_scales.reserve(static_cast<size_t>(out->rows * groups));
  for (int64_t row = 0; row < out->rows; ++row) {
    const uint8_t* codes = rows.words.data() + row * row_bytes;
    uint8_t* elements = out->elements.data() + row * b.cols;
    for (int64_t col = 0; col < b.cols; ++col) elements[col] = Nibble(codes, col);
    const float* scales = rows.scales.data() + row * b.scale_cols;
    for (int64_t group = 0; group < groups; ++group) {
      out->group_scales.push_back(F32ToBf16(scales[group * kTileCols / b.block_cols]));
    }
  }
}

uint64_t RowBytes(const TensorBinding& b) {
  if (b.kind == SourceKind::kInt4Packed) return static_cast<uint64_t>(CeilDiv(b.cols, 8)) * 4;
  return static_cast<uint64_t>(b.cols) * ElementBytes(b.weight.entry->dtype);
}

}  // namespace

bool ExactnessNeedsScales(const TensorBinding& b) {
  return b.kind == SourceKind::kInt4Packed && Int4GroupsFit(b) && b.scale.entry->dtype != Dtype::kBf16;
}

absl::StatusOr<bool> ScalesFitBf16(const TensorBinding& b) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<float> scales, ReadScales(b, 0, b.rows, nullptr));
  return std::all_of(scales.begin(), scales.end(), [](float s) { return Bf16ToF32(F32ToBf16(s)) == s; });
}

StoredForm FormOf(const TensorBinding& b, bool scales_fit_bf16) {
  StoredForm form;
  const absl::string_view dtype = InfoOf(b.weight.entry->dtype).name;
  form.stored_bytes = static_cast<uint64_t>(b.rows) * RowBytes(b);
  const absl::string_view scale_dtype = b.scale ? InfoOf(b.scale.entry->dtype).name : "";
  switch (b.kind) {
    case SourceKind::kPlain:
      form.exact_format = PlainFormat(b.weight.entry->dtype);
      form.dtype = std::string(dtype);
      return form;
    case SourceKind::kFp8Block: {
      form.decoded = !Fp8IsExact(b);
      form.exact_format = form.decoded ? FormatId::kF32 : FormatId::kFp8B128;
      const int64_t scale_rows = CeilDiv(b.matrix_row + b.rows, b.block_rows) - b.matrix_row / b.block_rows;
      form.stored_bytes += static_cast<uint64_t>(scale_rows * b.scale_cols) * ElementBytes(b.scale.entry->dtype);
      form.dtype = absl::StrCat(dtype, ", ", scale_dtype, " scale per ", b.block_rows, "x", b.block_cols);
      return form;
    }
    case SourceKind::kInt4Packed:
      form.decoded = !Int4GroupsFit(b) || (b.scale.entry->dtype != Dtype::kBf16 && !scales_fit_bf16);
      form.exact_format = form.decoded ? FormatId::kF32 : FormatId::kInt4G32;
      form.native_low_bit = !form.decoded;
      form.stored_bytes += b.scale.entry->bytes() + b.shape.entry->bytes();
      form.dtype = absl::StrCat("INT4, ", scale_dtype, " scale per ", b.block_cols);
      return form;
  }
  return form;
}

std::vector<SourceRange> RangesOf(const TensorBinding& b, int64_t row_begin, int64_t row_end) {
  std::vector<SourceRange> ranges;
  const auto add = [&](const FoundTensor& found, int64_t first_row, int64_t rows, uint64_t row_bytes) {
    ranges.push_back({found.file->path(),
                      found.file->FileOffset(*found.entry, static_cast<uint64_t>(first_row) * row_bytes),
                      static_cast<uint64_t>(rows) * row_bytes});
  };
  add(b.weight, b.weight_row + row_begin, row_end - row_begin, RowBytes(b));
  if (b.scale) {
    const uint64_t row_bytes = static_cast<uint64_t>(b.scale_cols) * ElementBytes(b.scale.entry->dtype);
    const bool fp8 = b.kind == SourceKind::kFp8Block;
    const int64_t begin = fp8 ? (b.matrix_row + row_begin) / b.block_rows : row_begin;
    const int64_t end = fp8 ? CeilDiv(b.matrix_row + row_end, b.block_rows) : row_end;
    add(b.scale, b.scale_row + begin, end - begin, row_bytes);
  }
  if (b.shape) add(b.shape, 0, 1, b.shape.entry->bytes());
  return ranges;
}

absl::StatusOr<StoredRows> ReadStoredRows(const TensorBinding& b, const StoredForm& form, int64_t row_begin,
                                          int64_t row_end, Xxh3Stream* source_bytes) {
  StoredRows out;
  out.format = form.exact_format;
  out.rows = row_end - row_begin;
  out.cols = b.cols;
  if (form.decoded) {
    out.elements.resize(static_cast<size_t>(out.rows * out.cols) * sizeof(float));
    std::vector<float> values(static_cast<size_t>(out.rows * out.cols));
    KOMPAKT_RETURN_IF_ERROR(ReadF32Rows(b, row_begin, row_end, absl::MakeSpan(values), source_bytes));
    std::memcpy(out.elements.data(), values.data(), out.elements.size());
    return out;
  }
  switch (b.kind) {
    case SourceKind::kPlain: {
      KOMPAKT_ASSIGN_OR_RETURN(out.elements, ReadPlain(b, row_begin, row_end, source_bytes));
      break;
    }
    case SourceKind::kFp8Block: {
      KOMPAKT_ASSIGN_OR_RETURN(Fp8Rows rows, ReadFp8(b, row_begin, row_end, source_bytes));
      out.block_scales = BlockScales(b, rows, row_begin, row_end);
      out.elements = std::move(rows.codes);
      break;
    }
    case SourceKind::kInt4Packed: {
      KOMPAKT_ASSIGN_OR_RETURN(const Int4Rows rows, ReadInt4(b, row_begin, row_end, source_bytes));
      StoreInt4(b, rows, &out);
      break;
    }
  }
  return out;
}

absl::Status ReadF32Rows(const TensorBinding& b, int64_t row_begin, int64_t row_end, absl::Span<float> out,
                         Xxh3Stream* source_bytes) {
  switch (b.kind) {
    case SourceKind::kPlain: {
      KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ReadPlain(b, row_begin, row_end, source_bytes));
      Widen(b.weight.entry->dtype, bytes, out);
      return absl::OkStatus();
    }
    case SourceKind::kFp8Block: {
      KOMPAKT_ASSIGN_OR_RETURN(const Fp8Rows rows, ReadFp8(b, row_begin, row_end, source_bytes));
      DecodeFp8(b, rows, row_begin, row_end, out.data());
      return absl::OkStatus();
    }
    case SourceKind::kInt4Packed: {
      KOMPAKT_ASSIGN_OR_RETURN(const Int4Rows rows, ReadInt4(b, row_begin, row_end, source_bytes));
      DecodeInt4(b, rows, row_end - row_begin, out.data());
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

}  // namespace kompakt
