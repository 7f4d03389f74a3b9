// BlockFormat: one row per number format of the packed file, with its scalar decode, which is the executable
// specification (docs/format.md, "Number formats"). A new format is one file and one row in block_table.cc.
//
// A matrix [rows, cols] is cut into tiles of 16 rows x 32 columns. Its bytes ("blob") are
//     tiles   row tile after row tile; within a row tile, column tile after column tile
//     pad     zeros up to a multiple of 64 bytes
//     side    scales that do not belong to one tile (SideKind)
//     pad     zeros up to a multiple of 64 bytes
// Rows and columns past the matrix edge are zero bytes inside their tile and decode to a value nobody may read.
// A vector (norm, bias) is stored plain: its elements in order, only in f32, f16 or bf16, padded to 64 bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "format/format_id.h"  // IWYU pragma: export

namespace kompakt {

struct BlockFormat {
  FormatId id;
  absl::string_view name;
  double bits_per_weight;  // tile bytes per element; side data not counted
  bool exact;              // true: holds an upstream form bit for bit. false: made by an Encoder (quant/)
  bool vector_ok;          // may store norms and biases
  int64_t group_cols;      // columns that share a group scale; 0 where there is none
  uint64_t tile_bytes;
  SideKind side;
  // Bytes of one element of StoredRows::elements; 0 where !exact.
  uint64_t stored_element_bytes;
  // The minor version of the file format that first had it.
  uint16_t since_minor = 0;
  // `side` points to the 16 row scales of the tile's rows (kRowScale), to the one scale of its block (kBlockScale),
  // to multiplier and divisor (kTensorScale), or is null.
  //
  // Every weight is rounded once, so that any reader gets the same bits:
  //     kNone         the stored value, widened (exact); int4_g32, mxfp4: value(code) * scale
  //     kBlockScale   value(code) * scale, value(code) exact in F32
  //     kRowScale     d_r * float(i), i an integer of at most 16 bits: group scale times code value, exact
  //     kTensorScale  value(code) * scale, exact in F32, then * multiplier / divisor, one of which is 1
  void (*decode_tile)(const uint8_t* tile, const float* side, DecodedTile* out);
  // Exact formats only, null otherwise. Stored form of one tile <-> its bytes, bit for bit; all of `in` or `tile` is
  // read.
  void (*pack_tile)(const StoredTile& in, uint8_t* tile);
  void (*unpack_tile)(const uint8_t* tile, StoredTile* out);
  // Exact formats only: n consecutive stored elements as F32, before any scale.
  void (*decode_elements)(const uint8_t* elements, int64_t n, float* out);
  // Exact formats with group scales only: the scale of columns [group * group_cols, ...) of a tile, from the entry of
  // StoredRows::group_scales for that row and tile.
  float (*group_scale)(uint16_t bits, int64_t group) = nullptr;

  // A tile is nothing but the 32-bit words of its rows, the row as inner index: rows of tiles pack as one
  // transposition.
  bool transposed_words() const { return exact && tile_bytes == kTileElements * stored_element_bytes; }
  // An upstream form of 4 bits, which a recipe keeps instead of quantizing it twice.
  bool native_low_bit() const { return exact && group_cols > 0; }
};

// Never fails: every FormatId has a row.
const BlockFormat& FormatOf(FormatId id);
absl::Span<const BlockFormat> AllFormats();
// kUnimplemented naming the known formats when there is none of that name.
absl::StatusOr<FormatId> FormatFromName(absl::string_view name);

struct MatrixShape {
  int64_t rows = 0;
  int64_t cols = 0;
};

// Where things lie inside the blob of one matrix or vector, in bytes from its start.
struct BlobLayout {
  int64_t row_tiles = 0;
  int64_t col_tiles = 0;
  uint64_t side_offset = 0;
  uint64_t side_bytes = 0;
  uint64_t total_bytes = 0;  // a multiple of 64

  uint64_t row_tile_bytes(const BlockFormat& f) const { return static_cast<uint64_t>(col_tiles) * f.tile_bytes; }
};

// kOutOfRange when a product overflows 2^63, kInvalidArgument for a shape that is not positive or a vector in a format
// that cannot hold one.
absl::StatusOr<BlobLayout> LayoutOfMatrix(const BlockFormat& format, MatrixShape shape);
absl::StatusOr<BlobLayout> LayoutOfVector(const BlockFormat& format, int64_t n);

// A matrix in packed form. Does not own its bytes; `data` holds layout.total_bytes and is at least 4-byte aligned.
struct MatrixView {
  const BlockFormat* format = nullptr;
  MatrixShape shape;
  BlobLayout layout;
  const uint8_t* data = nullptr;

  const uint8_t* tile(int64_t row_tile, int64_t col_tile) const {
    return data + static_cast<uint64_t>(row_tile * layout.col_tiles + col_tile) * format->tile_bytes;
  }
  // The `side` argument of decode_tile for that tile.
  const float* side(int64_t row_tile, int64_t col_tile) const;
};

// Rows [row_begin, row_end) as F32, row-major into out[(row_end - row_begin) * cols].
void DecodeRows(const MatrixView& m, int64_t row_begin, int64_t row_end, absl::Span<float> out);
// All n elements of a vector blob.
void DecodeVector(const BlockFormat& format, const uint8_t* data, int64_t n, absl::Span<float> out);

// Consecutive rows of a tensor in an exact upstream form, before it is cut into tiles.
struct StoredRows {
  FormatId format = FormatId::kF32;  // an exact one
  int64_t rows = 0;
  int64_t cols = 0;
  // Row-major elements of stored_element_bytes each: little-endian F32/F16/BF16, an FP8 byte, or one 4-bit code per
  // byte (INT4: unsigned, value + 8).
  std::vector<uint8_t> elements;
  // fp8_b128: [cdiv(rows, 128)][cdiv(cols, 128)]; nvfp4: multiplier and divisor of the whole matrix.
  std::vector<float> block_scales;
  // [rows][cdiv(cols, 32)] int4_g32: BF16 bits; mxfp4: the E8M0 byte; nvfp4: two E4M3 bytes, columns 0..15 in the low
  // one.
  std::vector<uint16_t> group_scales;

  // What of block_scales is appended to the side of the matrix whose first row is `row_begin`: bands in row order make
  // up the whole side.
  absl::Span<const float> SideOfBand(int64_t row_begin) const;
};

// Writes the tiles of `rows` (padding zeroed) to tiles[cdiv(rows, 16) * col_tiles * tile_bytes]. Bit for bit.
void PackTiles(const StoredRows& rows, uint8_t* tiles);
// The inverse on rows [row_begin, row_end) of a matrix in an exact format; row_begin must be a multiple of 128.
StoredRows UnpackRows(const MatrixView& m, int64_t row_begin, int64_t row_end);
// The F32 values of stored rows: code x scale in F32, the rule of the exact formats' decode_tile.
void DecodeStoredRows(const StoredRows& rows, absl::Span<float> out);

}  // namespace kompakt
