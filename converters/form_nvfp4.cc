// nvfp4: E2M1 codes with one E4M3 scale per 16 columns and one F32 scale t per tensor.
//
//     X.weight        U8 [rows, cols / 2]   X.weight_scale F8_E4M3 [rows, cols / 16]   X.weight_scale_2      F32 [] or
//     [1]
//         w = value(code) * value(scale) * t                                                            (ModelOpt)
//     X.weight_packed U8 [rows, cols / 2]   X.weight_scale F8_E4M3 [rows, cols / 16]   X.weight_global_scale F32 [1] or
//     []
//         w = value(code) * value(scale) / t (compressed-tensors)
//
// from left to right: the first product is exact, the second operation rounds once. A scale of zero is the producers'
// way to write a group of zeros.

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "converters/decode_lanes.h"
#include "converters/element_reads.h"
#include "converters/form_fp4.h"
#include "converters/form_table.h"
#include "format/block_nvfp4.h"
#include "format/float_formats.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr float kLargestProduct = 6.0f * 448.0f;

class Nvfp4Tensor : public StoredTensor {
 public:
  Nvfp4Tensor(FoundTensor codes, FoundTensor scales, FoundTensor tensor_scale, bool divides, MatrixShape shape)
      : StoredTensor(shape.rows, shape.cols),
        codes_(codes),
        scales_(scales),
        tensor_scale_(tensor_scale),
        divides_(divides) {}

  absl::StatusOr<StoredForm> Form() const override {
    StoredForm form;
    form.exact_format = FormatId::kNvfp4;
    form.native_low_bit = true;
    form.dtype = divides_ ? "NVFP4, F8_E4M3 scale per 16, F32 divisor" : "NVFP4, F8_E4M3 scale per 16, F32 scale";
    form.upstream_form = absl::StrCat("form=nvfp4 elements=", divides_ ? ".weight_packed" : ".weight",
                                      " tensor_scale=", divides_ ? ".weight_global_scale" : ".weight_scale_2",
                                      " tensor_scale_shape=", absl::StrJoin(tensor_scale_.entry->shape, "x"));
    form.stored_bytes = codes_.entry->bytes() + scales_.entry->bytes() + tensor_scale_.entry->bytes();
    return form;
  }

  absl::StatusOr<StoredRows> ReadStored(int64_t row_begin, int64_t row_end, Xxh3Stream* source_bytes) const override {
    StoredRows out;
    out.format = FormatId::kNvfp4;
    out.rows = row_end - row_begin;
    out.cols = cols();
    KOMPAKT_ASSIGN_OR_RETURN(out.elements, ReadFp4Codes(codes_, cols(), row_begin, row_end, source_bytes));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> scales, ReadGroupScales(row_begin, row_end, source_bytes));
    KOMPAKT_ASSIGN_OR_RETURN(const Side side, ReadSide(source_bytes));
    out.block_scales = {side.multiplier, side.divisor};
    // Two groups per 32 columns; the last one of a row may be alone.
    const int64_t groups = cols() / kNvfp4Group;
    for (int64_t row = 0; row < out.rows; ++row) {
      const uint8_t* s = scales.data() + row * groups;
      for (int64_t g = 0; g < groups; g += 2) {
        out.group_scales.push_back(static_cast<uint16_t>(s[g] | (g + 1 < groups ? s[g + 1] << 8 : 0)));
      }
    }
    return out;
  }

  absl::Status ReadF32(int64_t row_begin, int64_t row_end, absl::Span<float> out,
                       Xxh3Stream* source_bytes) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> codes,
                             ReadFp4Codes(codes_, cols(), row_begin, row_end, source_bytes));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ReadGroupScales(row_begin, row_end, source_bytes));
    KOMPAKT_ASSIGN_OR_RETURN(const Side side, ReadSide(source_bytes));
    std::vector<float> scales(bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i) scales[i] = kFp8E4m3Values[bytes[i]];
    const DecodeLanes& lanes = BestDecodeLanes();
    lanes.e2m1(codes.data(), static_cast<int64_t>(codes.size()), kNvfp4Group, scales.data(), out.data());
    lanes.rescale(out.data(), static_cast<int64_t>(out.size()), side.multiplier, side.divisor);
    return absl::OkStatus();
  }

  std::vector<StoredRange> Ranges(int64_t row_begin, int64_t row_end) const override {
    const auto begin = static_cast<uint64_t>(row_begin);
    const auto end = static_cast<uint64_t>(row_end);
    const auto code_bytes = static_cast<uint64_t>(cols() / 2);
    const auto groups = static_cast<uint64_t>(cols() / kNvfp4Group);
    return {{codes_, begin * code_bytes, end * code_bytes},
            {scales_, begin * groups, end * groups},
            {tensor_scale_, 0, tensor_scale_.entry->bytes()}};
  }

 private:
  struct Side {
    float multiplier = 1;
    float divisor = 1;
  };

  absl::StatusOr<Side> ReadSide(Xxh3Stream* source_bytes) const {
    // A divisor may be as large as it likes; small ones pass the largest F32 value.
    ScaleRule rule;
    if (!divides_) rule.largest_code = kLargestProduct;
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<float> scale, ReadScales(tensor_scale_, 0, 1, rule, source_bytes));
    if (!divides_) return Side{.multiplier = scale[0]};
    constexpr float kLeastDivisor = 1e-35f;
    if (scale[0] < kLeastDivisor) {
      return ElementError(tensor_scale_, 0,
                          absl::StrFormat("expected a divisor of at least %g, found %g", kLeastDivisor, scale[0]));
    }
    return Side{.divisor = scale[0]};
  }

  absl::StatusOr<std::vector<uint8_t>> ReadGroupScales(int64_t row_begin, int64_t row_end,
                                                       Xxh3Stream* source_bytes) const {
    const int64_t groups = cols() / kNvfp4Group;
    const auto first = static_cast<uint64_t>(row_begin * groups);
    KOMPAKT_ASSIGN_OR_RETURN(
        std::vector<uint8_t> scales,
        ReadElements(scales_, first, static_cast<uint64_t>((row_end - row_begin) * groups), source_bytes));
    for (size_t i = 0; i < scales.size(); ++i) {
      if (scales[i] < 0x7f) continue;
      return ElementError(
          scales_, first + i,
          absl::StrFormat("expected a finite scale that is not negative, found the E4M3 code 0x%02X (%g)", scales[i],
                          Fp8E4m3ToF32(scales[i])));
    }
    return scales;
  }

  FoundTensor codes_;
  FoundTensor scales_;
  FoundTensor tensor_scale_;
  bool divides_;
};

absl::StatusOr<BoundModule> BindWith(const ModuleRequest& request, const FoundTensor& codes,
                                     absl::string_view tensor_scale_suffix, bool divides) {
  KOMPAKT_ASSIGN_OR_RETURN(const FoundTensor scales, NeedCompanion(request, codes, ".weight_scale"));
  KOMPAKT_ASSIGN_OR_RETURN(const FoundTensor tensor_scale, NeedCompanion(request, codes, tensor_scale_suffix));
  if (scales.entry->dtype != Dtype::kF8E4M3) {
    return MismatchError(scales, "expected NVFP4 scales of dtype F8_E4M3, found ", InfoOf(scales.entry->dtype).name);
  }
  if (tensor_scale.entry->dtype != Dtype::kF32) {
    return MismatchError(tensor_scale, "expected dtype F32, found ", InfoOf(tensor_scale.entry->dtype).name);
  }
  if (tensor_scale.entry->bytes() != sizeof(float)) {
    return MismatchError(tensor_scale, "expected one value, found shape ", ShapeText(tensor_scale.entry->shape));
  }
  KOMPAKT_ASSIGN_OR_RETURN(const MatrixShape shape, Fp4Shape(request, codes, kNvfp4Group));
  KOMPAKT_RETURN_IF_ERROR(CheckShape(scales, {shape.rows, shape.cols / kNvfp4Group}));
  BoundModule bound;
  bound.tensor = std::make_unique<Nvfp4Tensor>(codes, scales, tensor_scale, divides, shape);
  bound.used = {codes, scales, tensor_scale};
  return bound;
}

bool IsE4m3(const FoundTensor& found) { return found && found.entry->dtype == Dtype::kF8E4M3; }

}  // namespace

const SourceForm kNvfp4Form = {
    .name = "nvfp4",
    .elements = ".weight",
    .recognises =
        [](const ModuleRequest& request, const FoundTensor& codes) {
          return codes.entry->dtype == Dtype::kU8 &&
                 (request.Find(".weight_scale_2") || IsE4m3(request.Find(".weight_scale")));
        },
    .ignored = kFp4Ignored,
    .bind = [](const ModuleRequest& request,
               const FoundTensor& codes) { return BindWith(request, codes, ".weight_scale_2", false); },
};

const SourceForm kNvfp4PackedForm = {
    .name = "nvfp4",
    .elements = ".weight_packed",
    .recognises =
        [](const ModuleRequest& request, const FoundTensor& codes) {
          return codes.entry->dtype == Dtype::kU8 &&
                 (request.Find(".weight_global_scale") || IsE4m3(request.Find(".weight_scale")));
        },
    .ignored = kFp4Ignored,
    .bind = [](const ModuleRequest& request,
               const FoundTensor& codes) { return BindWith(request, codes, ".weight_global_scale", true); },
};

}  // namespace kompakt
