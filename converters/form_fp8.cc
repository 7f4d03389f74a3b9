#include "converters/form_fp8.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "converters/decode_lanes.h"
#include "converters/element_reads.h"
#include "format/float_formats.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr float kLargestCode = 448.0f;

// How the scales of a matrix lie in their tensor.
struct ScaleGrid {
  int64_t block_rows = 0;  // rows and columns that share a scale
  int64_t block_cols = 0;
  int64_t rows = 0;  // of scales, for one matrix
  int64_t cols = 0;
};

class Fp8Tensor : public StoredTensor {
 public:
  Fp8Tensor(FoundTensor codes, FoundTensor scale, MatrixShape shape, ScaleGrid grid, FusedSlice slice, ScaleRule rule)
      : StoredTensor(shape.rows, shape.cols), codes_(codes), scale_(scale), grid_(grid), slice_(slice), rule_(rule) {}

  absl::StatusOr<StoredForm> Form() const override {
    StoredForm form;
    form.decoded = !IsExact();
    form.exact_format = form.decoded ? FormatId::kF32 : FormatId::kFp8B128;
    const std::vector<StoredRange> ranges = Ranges(0, rows());
    for (const StoredRange& range : ranges) form.stored_bytes += range.end - range.begin;
    const absl::string_view scale_dtype = InfoOf(scale_.entry->dtype).name;
    if (!form.decoded && slice_.matrices == 0) {
      form.upstream_form = absl::StrCat("form=fp8 scale=", ScaleSuffix(), " scale_dtype=", scale_dtype,
                                        " scale_shape=", absl::StrJoin(scale_.entry->shape, "x"),
                                        " block=", grid_.block_rows, "x", grid_.block_cols);
    }
    form.dtype = absl::StrCat("F8_E4M3, ", scale_dtype, " scale per ",
                              grid_.rows == 1 && grid_.cols == 1 ? std::string("tensor")
                              : grid_.block_rows == 1 && grid_.block_cols == cols()
                                  ? std::string("row")
                                  : absl::StrCat(grid_.block_rows, "x", grid_.block_cols));
    return form;
  }

  absl::StatusOr<StoredRows> ReadStored(int64_t row_begin, int64_t row_end, Xxh3Stream* source_bytes) const override {
    if (!IsExact()) return DecodedRows(row_begin, row_end, source_bytes);
    KOMPAKT_ASSIGN_OR_RETURN(Rows read, Read(row_begin, row_end, source_bytes));
    StoredRows out;
    out.format = FormatId::kFp8B128;
    out.rows = row_end - row_begin;
    out.cols = cols();
    // One scale per 128 x 128 block of the rows, repeated where the source's blocks are larger.
    const int64_t blocks = CeilDiv(cols(), kFp8Block);
    for (int64_t row = row_begin; row < row_end; row += kFp8Block) {
      const float* scales = read.ScaleRow(*this, row);
      for (int64_t block = 0; block < blocks; ++block) {
        out.block_scales.push_back(scales[block * kFp8Block / grid_.block_cols]);
      }
    }
    out.elements = std::move(read.codes);
    return out;
  }

  absl::Status ReadF32(int64_t row_begin, int64_t row_end, absl::Span<float> out,
                       Xxh3Stream* source_bytes) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const Rows read, Read(row_begin, row_end, source_bytes));
    const DecodeLanes& lanes = BestDecodeLanes();
    const uint8_t* codes = read.codes.data();
    float* values = out.data();
    for (int64_t row = row_begin; row < row_end; ++row) {
      const float* scales = read.ScaleRow(*this, row);
      for (int64_t col = 0; col < cols(); col += grid_.block_cols) {
        lanes.fp8(codes + col, std::min(grid_.block_cols, cols() - col), *scales++, values + col);
      }
      codes += cols();
      values += cols();
    }
    return absl::OkStatus();
  }

  std::vector<StoredRange> Ranges(int64_t row_begin, int64_t row_end) const override {
    const auto first = static_cast<uint64_t>((CodeRow() + row_begin) * cols());
    const auto n = static_cast<uint64_t>((row_end - row_begin) * cols());
    const uint64_t scale_bytes = ElementBytes(scale_.entry->dtype);
    const auto scale_begin = static_cast<uint64_t>((ScaleRowOf(row_begin) + slice_.index * grid_.rows) * grid_.cols);
    const auto scale_end =
        static_cast<uint64_t>((ScaleRowOf(row_end - 1) + 1 + slice_.index * grid_.rows) * grid_.cols);
    return {{codes_, first, first + n}, {scale_, scale_begin * scale_bytes, scale_end * scale_bytes}};
  }

 private:
  struct Rows {
    std::vector<uint8_t> codes;   // [rows, cols]
    std::vector<float> scales;    // [scale rows that these rows meet, grid.cols]
    int64_t first_scale_row = 0;  // of `scales`

    const float* ScaleRow(const Fp8Tensor& t, int64_t row) const {
      return scales.data() + (t.ScaleRowOf(row) - first_scale_row) * t.grid_.cols;
    }
  };

  // What the name of the scale adds to that of the module.
  std::string ScaleSuffix() const {
    const size_t module = codes_.entry->name.size() - absl::string_view(".weight").size();
    return scale_.entry->name.substr(module);
  }
  int64_t CodeRow() const { return slice_.index * slice_.matrix_rows + slice_.first_row; }
  // Within the scales of the matrix.
  int64_t ScaleRowOf(int64_t row) const { return (slice_.first_row + row) / grid_.block_rows; }

  bool IsExact() const {
    const bool rows_fit = grid_.rows == 1 || (grid_.block_rows % kFp8Block == 0 && slice_.first_row % kFp8Block == 0);
    return rows_fit && (grid_.cols == 1 || grid_.block_cols % kFp8Block == 0);
  }

  absl::StatusOr<Rows> Read(int64_t row_begin, int64_t row_end, Xxh3Stream* source_bytes) const {
    Rows rows;
    const auto first = static_cast<uint64_t>((CodeRow() + row_begin) * cols());
    const auto n = static_cast<uint64_t>((row_end - row_begin) * cols());
    KOMPAKT_ASSIGN_OR_RETURN(rows.codes, ReadElements(codes_, first, n, source_bytes));
    if (BestDecodeLanes().has_fp8_nan(rows.codes.data(), static_cast<int64_t>(n))) {
      const auto nan = std::find_if(rows.codes.begin(), rows.codes.end(), IsFp8E4m3Nan);
      return ElementError(codes_, first + static_cast<uint64_t>(nan - rows.codes.begin()),
                          absl::StrFormat("expected a finite E4M3 code, found the NaN 0x%02X", *nan));
    }
    rows.first_scale_row = ScaleRowOf(row_begin);
    const int64_t scale_rows = ScaleRowOf(row_end - 1) + 1 - rows.first_scale_row;
    KOMPAKT_ASSIGN_OR_RETURN(
        rows.scales,
        ReadScales(scale_, static_cast<uint64_t>((slice_.index * grid_.rows + rows.first_scale_row) * grid_.cols),
                   static_cast<uint64_t>(scale_rows * grid_.cols), rule_, source_bytes));
    return rows;
  }

  FoundTensor codes_;
  FoundTensor scale_;
  ScaleGrid grid_;
  FusedSlice slice_;
  ScaleRule rule_;
};

ScaleGrid GridOf(const Fp8Scales& scales, MatrixShape matrix) {
  ScaleGrid grid;
  grid.block_rows = scales.block_rows == 0 ? matrix.rows : scales.block_rows;
  grid.block_cols = scales.block_cols == 0 ? matrix.cols : scales.block_cols;
  grid.rows = CeilDiv(matrix.rows, grid.block_rows);
  grid.cols = CeilDiv(matrix.cols, grid.block_cols);
  return grid;
}

// One scale may be written with any rank, one per row with or without the second dimension; of a fused tensor each
// matrix has its own.
bool ShapeFits(const std::vector<uint64_t>& shape, const ScaleGrid& grid, const Fp8Scales& scales, int64_t matrices) {
  std::vector<uint64_t> full;
  if (matrices > 0) full.push_back(static_cast<uint64_t>(matrices));
  full.push_back(static_cast<uint64_t>(grid.rows));
  full.push_back(static_cast<uint64_t>(grid.cols));
  if (shape == full) return true;
  if (scales.block_cols != 0) return false;
  full.pop_back();
  if (shape == full) return true;
  if (scales.block_rows != 0) return false;
  full.pop_back();
  return shape == full;
}

std::string Describe(const Fp8Scales& scales) {
  if (scales.block_rows == 0 && scales.block_cols == 0) return "tensor";
  if (scales.block_rows == 1 && scales.block_cols == 0) return "row";
  return absl::StrCat(scales.block_rows, "x", scales.block_cols, " block");
}

absl::StatusOr<ScaleGrid> ChooseGrid(const ModuleRequest& request, const FoundTensor& scale, MatrixShape matrix,
                                     int64_t matrices) {
  std::vector<Fp8Scales> candidates = request.quantization->fp8_scales;
  if (candidates.empty()) candidates = {{128, 128}, {0, 0}, {1, 0}};
  std::vector<std::string> expected;
  for (const Fp8Scales& scales : candidates) {
    const ScaleGrid grid = GridOf(scales, matrix);
    if (ShapeFits(scale.entry->shape, grid, scales, matrices)) return grid;
    std::vector<uint64_t> shape;
    if (matrices > 0) shape.push_back(static_cast<uint64_t>(matrices));
    shape.push_back(static_cast<uint64_t>(grid.rows));
    shape.push_back(static_cast<uint64_t>(grid.cols));
    expected.push_back(absl::StrCat(ShapeText(shape), " (FP8 scales per ", Describe(scales), ")"));
  }
  return MismatchError(scale, "expected shape ", absl::StrJoin(expected, " or "), ", found ",
                       ShapeText(scale.entry->shape));
}

absl::StatusOr<BoundModule> Bind(const ModuleRequest& request, const FoundTensor& elements) {
  const std::vector<uint64_t>& found = elements.entry->shape;
  if (found.size() != 2) return MismatchError(elements, "expected a matrix, found shape ", ShapeText(found));
  const MatrixShape shape =
      request.shape.value_or(MatrixShape{static_cast<int64_t>(found[0]), static_cast<int64_t>(found[1])});
  KOMPAKT_RETURN_IF_ERROR(CheckShape(elements, {shape.rows, shape.cols}));
  return BindFp8(request, elements, shape, nullptr);
}

constexpr std::array<absl::string_view, 5> kIgnored = {".input_scale", ".activation_scale", ".qscale_act",
                                                       ".input_global_scale", ".output_scale"};

}  // namespace

std::vector<FoundTensor> FindFp8Scales(const ModuleRequest& request, const FoundTensor& elements) {
  std::vector<FoundTensor> scales;
  for (const absl::string_view suffix : {"_scale_inv", "_scale"}) {
    if (const FoundTensor found = request.shards->Find(absl::StrCat(elements.entry->name, suffix))) {
      scales.push_back(found);
    }
  }
  for (const absl::string_view suffix : {".scale", ".qscale_weight"}) {
    if (const FoundTensor found = request.Find(suffix)) scales.push_back(found);
  }
  return scales;
}

absl::StatusOr<BoundModule> BindFp8(const ModuleRequest& request, const FoundTensor& elements, MatrixShape shape,
                                    const FusedSlice* slice) {
  const std::vector<FoundTensor> scales = FindFp8Scales(request, elements);
  if (scales.empty()) {
    return MismatchError(elements, "FP8 weight without scale: expected ", elements.entry->name, "_scale_inv, ",
                         elements.entry->name, "_scale, ", request.module, ".scale or ", request.module,
                         ".qscale_weight, found none");
  }
  if (scales.size() > 1) {
    return MismatchError(elements, "expected one scale, found ", scales[0].entry->name, " and ", scales[1].entry->name);
  }
  const FoundTensor& scale = scales[0];
  if (!IsFloat(scale.entry->dtype) && scale.entry->dtype != Dtype::kF8E8M0) {
    return MismatchError(scale, "expected FP8 scales of dtype F32, BF16, F16 or F8_E8M0, found ",
                         InfoOf(scale.entry->dtype).name);
  }
  const FusedSlice whole{.matrices = 0, .index = 0, .matrix_rows = shape.rows, .first_row = 0};
  const FusedSlice& used = slice == nullptr ? whole : *slice;
  KOMPAKT_ASSIGN_OR_RETURN(const ScaleGrid grid,
                           ChooseGrid(request, scale, {used.matrix_rows, shape.cols}, used.matrices));
  ScaleRule rule;
  rule.largest_code = kLargestCode;
  rule.power_of_two = request.quantization->power_of_two_scales;
  BoundModule bound;
  bound.tensor = std::make_unique<Fp8Tensor>(elements, scale, shape, grid, used, rule);
  bound.used = {elements, scale};
  return bound;
}

const SourceForm kFp8Form = {
    .name = "fp8",
    .elements = ".weight",
    .recognises = [](const ModuleRequest&, const FoundTensor& e) { return e.entry->dtype == Dtype::kF8E4M3; },
    .ignored = kIgnored,
    .bind = Bind,
};

}  // namespace kompakt
