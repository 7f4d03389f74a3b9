// Properties that every row of the format table has: walked from the table, so that a new format is covered at once.
#include "format/block_format.h"

#include <cmath>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "format/float_formats.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kompakt {
namespace {

constexpr MatrixShape kAwkwardShapes[] = {{1, 1},     {1, 32},    {16, 32},   {15, 31},   {17, 33},  {16, 1408},
                                          {128, 128}, {129, 127}, {300, 257}, {40, 1408}, {257, 16}, {144, 96}};

struct Blob {
  std::vector<uint8_t> bytes;
  MatrixView view;
};

Blob EmptyBlob(const BlockFormat& format, MatrixShape shape) {
  Blob blob;
  blob.view.format = &format;
  blob.view.shape = shape;
  blob.view.layout = LayoutOfMatrix(format, shape).value();
  blob.bytes.resize(blob.view.layout.total_bytes);
  blob.view.data = blob.bytes.data();
  return blob;
}

StoredRows RandomStored(const BlockFormat& format, MatrixShape shape, uint32_t seed) {
  std::mt19937 rng(seed);
  StoredRows rows;
  rows.format = format.id;
  rows.rows = shape.rows;
  rows.cols = shape.cols;
  rows.elements.resize(static_cast<size_t>(shape.rows * shape.cols) * format.stored_element_bytes);
  for (uint8_t& byte : rows.elements) byte = static_cast<uint8_t>(rng());
  const auto scale = [&rng] { return std::ldexp(1.0f + static_cast<float>(rng() % 1000) / 1000, -8); };
  if (format.native_low_bit()) {
    for (uint8_t& code : rows.elements) code &= 0xf;
    for (int64_t i = 0; i < shape.rows * ((shape.cols + 31) / 32); ++i) {
      const auto low = static_cast<uint16_t>(rng() % 127);  // an E8M0 exponent, or a finite positive E4M3 code
      const auto high = static_cast<uint16_t>((i * 32 % shape.cols) + 16 < shape.cols ? rng() % 127 : 0);
      rows.group_scales.push_back(format.id == FormatId::kInt4G32 ? F32ToBf16(scale())
                                  : format.id == FormatId::kMxfp4 ? low
                                                                  : static_cast<uint16_t>(low | (high << 8)));
    }
  }
  if (format.side == SideKind::kTensorScale) rows.block_scales = {seed % 2 == 0 ? 1.0f : scale() * 1e-2f, scale()};
  if (format.side == SideKind::kTensorScale && seed % 2 != 0) rows.block_scales[1] = 1.0f;
  if (format.side == SideKind::kBlockScale) {
    const int64_t blocks = ((shape.rows + 127) / 128) * ((shape.cols + 127) / 128);
    for (int64_t i = 0; i < blocks; ++i) rows.block_scales.push_back(scale());
  }
  return rows;
}

Blob Pack(const StoredRows& rows) {
  Blob blob = EmptyBlob(FormatOf(rows.format), {rows.rows, rows.cols});
  PackTiles(rows, blob.bytes.data());
  if (!rows.block_scales.empty()) {
    std::memcpy(blob.bytes.data() + blob.view.layout.side_offset, rows.block_scales.data(),
                rows.block_scales.size() * sizeof(float));
  }
  return blob;
}

TEST(BlockFormat, EveryIdHasItsRowAndItsName) {
  std::set<std::string> names;
  for (size_t i = 0; i < AllFormats().size(); ++i) {
    const BlockFormat& format = AllFormats()[i];
    EXPECT_EQ(static_cast<size_t>(format.id), i) << format.name;
    EXPECT_EQ(&FormatOf(format.id), &format) << format.name;
    EXPECT_EQ(FormatFromName(format.name).value(), format.id);
    EXPECT_TRUE(names.insert(std::string(format.name)).second) << format.name << " twice";
  }
}

TEST(BlockFormat, AnUnknownNameIsRefusedWithTheKnownOnes) {
  for (const char* name : {"", "Q4_G32", "q4_g3", "q4_g320", "f64"}) {
    const absl::Status status = FormatFromName(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << name;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("fp8_b128")) << name;
  }
}

TEST(BlockFormat, RowsAgreeWithThemselves) {
  for (const BlockFormat& format : AllFormats()) {
    EXPECT_EQ(static_cast<double>(format.tile_bytes) * 8 / kTileElements, format.bits_per_weight) << format.name;
    EXPECT_EQ(format.group_scale != nullptr, format.native_low_bit()) << format.name;
    EXPECT_NE(format.decode_tile, nullptr) << format.name;
    EXPECT_EQ(format.pack_tile != nullptr, format.exact) << format.name;
    EXPECT_EQ(format.unpack_tile != nullptr, format.exact) << format.name;
    EXPECT_EQ(format.decode_elements != nullptr, format.exact) << format.name;
    EXPECT_EQ(format.stored_element_bytes != 0, format.exact) << format.name;
    EXPECT_TRUE(format.group_cols == 0 || kTileCols % format.group_cols == 0) << format.name;
  }
}

TEST(BlockLayout, IsWhatTheHeaderSays) {
  for (const BlockFormat& format : AllFormats()) {
    for (const MatrixShape shape : kAwkwardShapes) {
      const BlobLayout layout = LayoutOfMatrix(format, shape).value();
      const std::string what =
          std::string(format.name) + " " + std::to_string(shape.rows) + "x" + std::to_string(shape.cols);
      EXPECT_EQ(layout.row_tiles, (shape.rows + 15) / 16) << what;
      EXPECT_EQ(layout.col_tiles, (shape.cols + 31) / 32) << what;
      const uint64_t body = static_cast<uint64_t>(layout.row_tiles * layout.col_tiles) * format.tile_bytes;
      EXPECT_EQ(layout.side_offset, (body + 63) / 64 * 64) << what;
      uint64_t side = 0;
      if (format.side == SideKind::kRowScale) side = static_cast<uint64_t>(layout.row_tiles) * 16 * 4;
      if (format.side == SideKind::kBlockScale) {
        side = static_cast<uint64_t>((shape.rows + 127) / 128 * ((shape.cols + 127) / 128)) * 4;
      }
      if (format.side == SideKind::kTensorScale) side = 8;
      EXPECT_EQ(layout.side_bytes, side) << what;
      EXPECT_EQ(layout.total_bytes, (layout.side_offset + side + 63) / 64 * 64) << what;
    }
  }
}

TEST(BlockLayout, ShapesThatCannotBeAreRefused) {
  constexpr int64_t kHuge = int64_t{1} << 62;
  for (const BlockFormat& format : AllFormats()) {
    for (const MatrixShape shape : {MatrixShape{0, 5}, MatrixShape{5, 0}, MatrixShape{-1, 5}, MatrixShape{5, -kHuge}}) {
      EXPECT_EQ(LayoutOfMatrix(format, shape).status().code(), absl::StatusCode::kInvalidArgument) << format.name;
    }
    for (const MatrixShape shape : {MatrixShape{kHuge, 1}, MatrixShape{1, INT64_MAX}, MatrixShape{INT64_MAX, INT64_MAX},
                                    MatrixShape{int64_t{1} << 32, int64_t{1} << 31}}) {
      EXPECT_EQ(LayoutOfMatrix(format, shape).status().code(), absl::StatusCode::kOutOfRange) << format.name;
    }
  }
  EXPECT_EQ(LayoutOfMatrix(FormatOf(FormatId::kF32), {int64_t{1} << 31, int64_t{1} << 31}).status().code(),
            absl::StatusCode::kOutOfRange);
}

TEST(BlockLayout, VectorsArePlainAndOnlyInPlainFormats) {
  for (const BlockFormat& format : AllFormats()) {
    const auto layout = LayoutOfVector(format, 33);
    if (!format.vector_ok) {
      EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument) << format.name;
      continue;
    }
    EXPECT_EQ(layout->total_bytes, (33 * format.stored_element_bytes + 63) / 64 * 64) << format.name;
    EXPECT_EQ(layout->side_bytes, 0u) << format.name;
    EXPECT_EQ(LayoutOfVector(format, 0).status().code(), absl::StatusCode::kInvalidArgument) << format.name;
    EXPECT_EQ(LayoutOfVector(format, INT64_MAX).status().code(), absl::StatusCode::kOutOfRange) << format.name;
  }
}

TEST(ExactFormats, UnpackingGivesBackWhatWasPacked) {
  for (const BlockFormat& format : AllFormats()) {
    if (!format.exact) continue;
    for (const MatrixShape shape : kAwkwardShapes) {
      const StoredRows rows = RandomStored(format, shape, 7);
      const Blob blob = Pack(rows);
      const StoredRows back = UnpackRows(blob.view, 0, shape.rows);
      EXPECT_EQ(back.rows, rows.rows);
      EXPECT_EQ(back.cols, rows.cols);
      EXPECT_TRUE(back.elements == rows.elements) << format.name << " " << shape.rows << "x" << shape.cols;
      EXPECT_TRUE(back.block_scales == rows.block_scales) << format.name << " " << shape.rows << "x" << shape.cols;
      EXPECT_TRUE(back.group_scales == rows.group_scales) << format.name << " " << shape.rows << "x" << shape.cols;
      EXPECT_TRUE(Pack(back).bytes == blob.bytes) << format.name << " " << shape.rows << "x" << shape.cols;
    }
  }
}

TEST(ExactFormats, UnpackingSomeRowsGivesThoseRows) {
  for (const BlockFormat& format : AllFormats()) {
    if (!format.exact) continue;
    const MatrixShape shape{300, 257};
    const StoredRows rows = RandomStored(format, shape, 11);
    const Blob blob = Pack(rows);
    std::vector<float> all(static_cast<size_t>(shape.rows * shape.cols));
    DecodeStoredRows(rows, absl::MakeSpan(all));
    for (const auto& [begin, end] :
         std::vector<std::pair<int64_t, int64_t>>{{0, 128}, {128, 256}, {128, 300}, {256, 300}}) {
      const StoredRows some = UnpackRows(blob.view, begin, end);
      std::vector<float> values(static_cast<size_t>((end - begin) * shape.cols));
      DecodeStoredRows(some, absl::MakeSpan(values));
      EXPECT_EQ(std::memcmp(values.data(), all.data() + begin * shape.cols, values.size() * sizeof(float)), 0)
          << format.name << " rows " << begin << ".." << end;
    }
  }
}

TEST(ExactFormats, TilesDecodeToTheStoredValues) {
  for (const BlockFormat& format : AllFormats()) {
    if (!format.exact) continue;
    for (const MatrixShape shape : kAwkwardShapes) {
      const StoredRows rows = RandomStored(format, shape, 13);
      const Blob blob = Pack(rows);
      const size_t n = static_cast<size_t>(shape.rows * shape.cols);
      std::vector<float> stored(n);
      std::vector<float> packed(n);
      DecodeStoredRows(rows, absl::MakeSpan(stored));
      DecodeRows(blob.view, 0, shape.rows, absl::MakeSpan(packed));
      EXPECT_EQ(std::memcmp(stored.data(), packed.data(), n * sizeof(float)), 0)
          << format.name << " " << shape.rows << "x" << shape.cols;
    }
  }
}

TEST(ExactFormats, PaddingIsZero) {
  for (const BlockFormat& format : AllFormats()) {
    if (!format.exact) continue;
    const MatrixShape shape{17, 33};
    StoredRows rows = RandomStored(format, shape, 17);
    // Every element nonzero, so that a stray copy would show.
    for (uint8_t& byte : rows.elements) byte |= 1;
    const Blob blob = Pack(rows);
    StoredTile stored;
    for (int64_t tile_row = 0; tile_row < 2; ++tile_row) {
      for (int64_t tile_col = 0; tile_col < 2; ++tile_col) {
        format.unpack_tile(blob.view.tile(tile_row, tile_col), &stored);
        for (int64_t r = 0; r < kTileRows; ++r) {
          for (int64_t k = 0; k < kTileCols; ++k) {
            const bool inside = tile_row * kTileRows + r < shape.rows && tile_col * kTileCols + k < shape.cols;
            const int64_t bytes = static_cast<int64_t>(format.stored_element_bytes);
            const uint8_t* element = stored.elements + (r * kTileCols + k) * bytes;
            const bool zero = std::all_of(element, element + bytes, [](uint8_t byte) { return byte == 0; });
            EXPECT_EQ(zero, !inside) << format.name << " tile " << tile_row << "," << tile_col << " at " << r << ","
                                     << k;
          }
        }
      }
    }
    for (uint64_t i = blob.view.layout.side_offset + blob.view.layout.side_bytes; i < blob.bytes.size(); ++i) {
      EXPECT_EQ(blob.bytes[i], 0) << format.name << " byte " << i;
    }
  }
}

TEST(DecodeRows, OfAnyRangeAreTheSameAsOfTheWhole) {
  std::mt19937 rng(3);
  for (const BlockFormat& format : AllFormats()) {
    const MatrixShape shape{150, 135};
    Blob blob = EmptyBlob(format, shape);
    for (uint8_t& byte : blob.bytes) byte = static_cast<uint8_t>(rng());
    const size_t n = static_cast<size_t>(shape.rows * shape.cols);
    std::vector<float> all(n);
    DecodeRows(blob.view, 0, shape.rows, absl::MakeSpan(all));
    // Against the tiles themselves: decode of a tile = decode of its rows.
    DecodedTile tile;
    for (int64_t tile_row = 0; tile_row < blob.view.layout.row_tiles; ++tile_row) {
      for (int64_t tile_col = 0; tile_col < blob.view.layout.col_tiles; ++tile_col) {
        format.decode_tile(blob.view.tile(tile_row, tile_col), blob.view.side(tile_row, tile_col), &tile);
        for (int64_t row = tile_row * 16; row < std::min<int64_t>(shape.rows, tile_row * 16 + 16); ++row) {
          for (int64_t col = tile_col * 32; col < std::min<int64_t>(shape.cols, tile_col * 32 + 32); ++col) {
            ASSERT_EQ(std::bit_cast<uint32_t>(tile.w[row % 16][col % 32]),
                      std::bit_cast<uint32_t>(all[static_cast<size_t>(row * shape.cols + col)]))
                << format.name << " at " << row << "," << col;
          }
        }
      }
    }
    for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {15, 17}, {149, 150}, {31, 100}}) {
      std::vector<float> some(static_cast<size_t>((end - begin) * shape.cols));
      DecodeRows(blob.view, begin, end, absl::MakeSpan(some));
      EXPECT_EQ(std::memcmp(some.data(), all.data() + begin * shape.cols, some.size() * sizeof(float)), 0)
          << format.name << " rows " << begin << ".." << end;
    }
  }
}

TEST(DecodeVector, IsTheElementsInOrder) {
  const std::vector<float> values = {1.0f, -2.5f, 0.0f, 0.125f, 1024.0f};
  for (const BlockFormat& format : AllFormats()) {
    if (!format.vector_ok) continue;
    std::vector<uint8_t> bytes(LayoutOfVector(format, 5)->total_bytes);
    for (size_t i = 0; i < values.size(); ++i) {
      if (format.id == FormatId::kF32) std::memcpy(&bytes[i * 4], &values[i], 4);
      const uint16_t half = format.id == FormatId::kF16 ? F32ToF16(values[i]) : F32ToBf16(values[i]);
      if (format.id != FormatId::kF32) std::memcpy(&bytes[i * 2], &half, 2);
    }
    std::vector<float> out(5);
    DecodeVector(format, bytes.data(), 5, absl::MakeSpan(out));
    EXPECT_EQ(out, values) << format.name;
  }
}

}  // namespace
}  // namespace kompakt
