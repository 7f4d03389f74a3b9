#include "format/block_format.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "format/float_formats.h"
#include "format/status.h"
#include "format/word_transpose.h"

namespace kompakt {
namespace {

constexpr uint64_t kBlobAlignment = 64;
// No shape has more rows or columns than this, so that rounding up and multiplying two counts cannot overflow.
constexpr int64_t kMaxSide = int64_t{1} << 31;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// False when the product or sum does not fit in 63 bits.
bool MultiplyChecked(uint64_t a, uint64_t b, uint64_t* out) {
  return !__builtin_mul_overflow(a, b, out) && *out <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
}
bool AddChecked(uint64_t a, uint64_t b, uint64_t* out) {
  return !__builtin_add_overflow(a, b, out) && *out <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
}
bool PadChecked(uint64_t bytes, uint64_t* out) {
  if (!AddChecked(bytes, kBlobAlignment - 1, out)) return false;
  *out &= ~(kBlobAlignment - 1);
  return true;
}

bool FillLayout(uint64_t body_bytes_each, uint64_t count, BlobLayout* layout) {
  uint64_t body = 0;
  uint64_t end = 0;
  return MultiplyChecked(body_bytes_each, count, &body) && PadChecked(body, &layout->side_offset) &&
         AddChecked(layout->side_offset, layout->side_bytes, &end) && PadChecked(end, &layout->total_bytes);
}

bool HasGroupScales(FormatId id) { return FormatOf(id).group_scale != nullptr; }

}  // namespace

absl::StatusOr<BlobLayout> LayoutOfMatrix(const BlockFormat& format, MatrixShape shape) {
  if (shape.rows <= 0 || shape.cols <= 0) {
    return UsageError("a matrix in ", format.name, " needs positive rows and columns, got ", shape.rows, " x ",
                      shape.cols);
  }
  if (shape.rows > kMaxSide || shape.cols > kMaxSide) {
    return absl::OutOfRangeError(
        absl::StrCat("a matrix of ", shape.rows, " x ", shape.cols, " is too large: at most 2^31 rows and columns"));
  }
  BlobLayout layout;
  layout.row_tiles = CeilDiv(shape.rows, kTileRows);
  layout.col_tiles = CeilDiv(shape.cols, kTileCols);
  switch (format.side) {
    case SideKind::kNone:
      break;
    case SideKind::kRowScale:
      layout.side_bytes = static_cast<uint64_t>(layout.row_tiles * kTileRows) * sizeof(float);
      break;
    case SideKind::kBlockScale:
      layout.side_bytes =
          static_cast<uint64_t>(CeilDiv(shape.rows, kFp8Block) * CeilDiv(shape.cols, kFp8Block)) * sizeof(float);
      break;
    case SideKind::kTensorScale:
      layout.side_bytes = 2 * sizeof(float);
      break;
  }
  if (!FillLayout(format.tile_bytes, static_cast<uint64_t>(layout.row_tiles * layout.col_tiles), &layout)) {
    return absl::OutOfRangeError(
        absl::StrCat("a matrix of ", shape.rows, " x ", shape.cols, " in ", format.name, " exceeds 2^63 bytes"));
  }
  return layout;
}

absl::StatusOr<BlobLayout> LayoutOfVector(const BlockFormat& format, int64_t n) {
  if (n <= 0) return UsageError("a vector needs a positive length, got ", n);
  if (!format.vector_ok) return UsageError("a vector cannot be stored as ", format.name, "; only as f32, f16 or bf16");
  BlobLayout layout;
  if (!FillLayout(format.stored_element_bytes, static_cast<uint64_t>(n), &layout)) {
    return absl::OutOfRangeError(absl::StrCat("a vector of ", n, " in ", format.name, " exceeds 2^63 bytes"));
  }
  return layout;
}

const float* MatrixView::side(int64_t row_tile, int64_t col_tile) const {
  const float* scales = reinterpret_cast<const float*>(data + layout.side_offset);
  switch (format->side) {
    case SideKind::kNone:
      return nullptr;
    case SideKind::kRowScale:
      return scales + row_tile * kTileRows;
    case SideKind::kBlockScale:
      return scales + row_tile / (kFp8Block / kTileRows) * CeilDiv(shape.cols, kFp8Block) +
             col_tile / (kFp8Block / kTileCols);
    case SideKind::kTensorScale:
      return scales;
  }
  return nullptr;
}

void DecodeRows(const MatrixView& m, int64_t row_begin, int64_t row_end, absl::Span<float> out) {
  const int64_t cols = m.shape.cols;
  DecodedTile decoded;
  for (int64_t tile_row = row_begin / kTileRows; tile_row * kTileRows < row_end; ++tile_row) {
    const int64_t first = std::max(row_begin, tile_row * kTileRows);
    const int64_t last = std::min(row_end, (tile_row + 1) * kTileRows);
    for (int64_t tile_col = 0; tile_col < m.layout.col_tiles; ++tile_col) {
      m.format->decode_tile(m.tile(tile_row, tile_col), m.side(tile_row, tile_col), &decoded);
      const int64_t col = tile_col * kTileCols;
      const int64_t width = std::min(kTileCols, cols - col);
      for (int64_t row = first; row < last; ++row) {
        std::memcpy(out.data() + (row - row_begin) * cols + col, decoded.w[row % kTileRows],
                    static_cast<size_t>(width) * sizeof(float));
      }
    }
  }
}

void DecodeVector(const BlockFormat& format, const uint8_t* data, int64_t n, absl::Span<float> out) {
  format.decode_elements(data, n, out.data());
}

absl::Span<const float> StoredRows::SideOfBand(int64_t row_begin) const {
  if (FormatOf(format).side == SideKind::kTensorScale && row_begin > 0) return {};
  return block_scales;
}

void PackTiles(const StoredRows& rows, uint8_t* tiles) {
  const BlockFormat& format = FormatOf(rows.format);
  const int64_t element_bytes = static_cast<int64_t>(format.stored_element_bytes);
  const int64_t col_tiles = CeilDiv(rows.cols, kTileCols);
  const bool group_scales = HasGroupScales(rows.format);
  const int64_t row_bytes = rows.cols * element_bytes;
  // Columns of the tiles that are one transposition; the rest goes tile by tile.
  const int64_t whole_tiles = format.transposed_words() ? rows.cols / kTileCols : 0;
  StoredTile stored;
  for (int64_t row = 0; row < rows.rows; row += kTileRows) {
    const int64_t height = std::min(kTileRows, rows.rows - row);
    TransposeWords(rows.elements.data() + row * row_bytes, row_bytes, height,
                   whole_tiles * kTileCols * element_bytes / kWordBytes, tiles);
    tiles += static_cast<uint64_t>(whole_tiles) * format.tile_bytes;
    for (int64_t tile_col = whole_tiles; tile_col < col_tiles; ++tile_col) {
      const int64_t col = tile_col * kTileCols;
      const int64_t width = std::min(kTileCols, rows.cols - col);
      if (height < kTileRows || width < kTileCols) stored = {};
      const uint8_t* elements = rows.elements.data() + (row * rows.cols + col) * element_bytes;
      if (width == kTileCols && element_bytes == 1) {  // a size that the compiler knows: two registers
        for (int64_t r = 0; r < height; ++r) {
          std::memcpy(stored.elements + r * kTileCols, elements + r * row_bytes, kTileCols);
        }
      } else {
        for (int64_t r = 0; r < height; ++r) {
          std::memcpy(stored.elements + r * kTileCols * element_bytes, elements + r * row_bytes,
                      static_cast<size_t>(width * element_bytes));
        }
      }
      for (int64_t r = 0; r < height && group_scales; ++r) {
        stored.group_scales[r] = rows.group_scales[static_cast<size_t>((row + r) * col_tiles + tile_col)];
      }
      format.pack_tile(stored, tiles);
      tiles += format.tile_bytes;
    }
  }
}

StoredRows UnpackRows(const MatrixView& m, int64_t row_begin, int64_t row_end) {
  const BlockFormat& format = *m.format;
  const int64_t element_bytes = static_cast<int64_t>(format.stored_element_bytes);
  StoredRows rows;
  rows.format = format.id;
  rows.rows = row_end - row_begin;
  rows.cols = m.shape.cols;
  rows.elements.resize(static_cast<size_t>(rows.rows * rows.cols * element_bytes));
  const bool group_scales = HasGroupScales(format.id);
  if (group_scales) rows.group_scales.resize(static_cast<size_t>(rows.rows * m.layout.col_tiles));
  if (format.side == SideKind::kBlockScale) {
    const float* first = m.side(row_begin / kTileRows, 0);
    rows.block_scales.assign(first, first + CeilDiv(rows.rows, kFp8Block) * CeilDiv(rows.cols, kFp8Block));
  } else if (format.side == SideKind::kTensorScale) {
    rows.block_scales.assign(m.side(0, 0), m.side(0, 0) + 2);
  }
  const int64_t row_bytes = rows.cols * element_bytes;
  const int64_t whole_tiles = format.transposed_words() ? rows.cols / kTileCols : 0;
  StoredTile stored;
  for (int64_t row = 0; row < rows.rows; row += kTileRows) {
    const int64_t height = std::min(kTileRows, rows.rows - row);
    TransposeWordsBack(m.tile((row_begin + row) / kTileRows, 0), whole_tiles * kTileCols * element_bytes / kWordBytes,
                       height, row_bytes, rows.elements.data() + row * row_bytes);
    for (int64_t tile_col = whole_tiles; tile_col < m.layout.col_tiles; ++tile_col) {
      const int64_t col = tile_col * kTileCols;
      const int64_t width = std::min(kTileCols, rows.cols - col);
      format.unpack_tile(m.tile((row_begin + row) / kTileRows, tile_col), &stored);
      for (int64_t r = 0; r < height; ++r) {
        std::memcpy(rows.elements.data() + ((row + r) * rows.cols + col) * element_bytes,
                    stored.elements + r * kTileCols * element_bytes, static_cast<size_t>(width * element_bytes));
        if (group_scales) {
          rows.group_scales[static_cast<size_t>((row + r) * m.layout.col_tiles + tile_col)] = stored.group_scales[r];
        }
      }
    }
  }
  return rows;
}

void DecodeStoredRows(const StoredRows& rows, absl::Span<float> out) {
  const BlockFormat& format = FormatOf(rows.format);
  format.decode_elements(rows.elements.data(), rows.rows * rows.cols, out.data());
  const bool group_scales = HasGroupScales(rows.format);
  if (!group_scales && format.side != SideKind::kBlockScale) return;
  const int64_t run = group_scales ? format.group_cols : kFp8Block;
  const int64_t runs = CeilDiv(rows.cols, run);
  const int64_t col_tiles = CeilDiv(rows.cols, kTileCols);
  for (int64_t row = 0; row < rows.rows; ++row) {
    for (int64_t i = 0; i < runs; ++i) {
      float scale = 0;
      if (group_scales) {
        const int64_t tile = i * run / kTileCols;
        scale = format.group_scale(rows.group_scales[static_cast<size_t>(row * col_tiles + tile)],
                                   (i * run % kTileCols) / run);
      } else {
        scale = rows.block_scales[static_cast<size_t>(row / kFp8Block * runs + i)];
      }
      float* values = out.data() + row * rows.cols;
      const int64_t end = std::min(rows.cols, (i + 1) * run);
      for (int64_t col = i * run; col < end; ++col) values[col] *= scale;
    }
  }
  if (format.side != SideKind::kTensorScale) return;
  for (float& value : out) value = value * rows.block_scales[0] / rows.block_scales[1];
}

}  // namespace kompakt
