// mxfp4: E2M1 codes with one E8M0 exponent e per 32 columns: w = value(code) * 2^(e - 127), exact.
//
//     X.weight        I8 [rows, cols / 2]     X.scale         F8_E8M0 [rows, cols / 32]   DeepSeek-V4
//     X.weight_packed U8 [rows, cols / 2]     X.weight_scale  U8      [rows, cols / 32]   compressed-tensors
//     X.weight        U8 [rows, cols / 2]     X.weight_scale  U8      [rows, cols / 32]   ModelOpt
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "converters/decode_lanes.h"
#include "converters/element_reads.h"
#include "converters/form_fp4.h"
#include "converters/form_table.h"
#include "format/block_mxfp4.h"
#include "format/float_formats.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr int64_t kGroup = 32;

bool IsExponents(const FoundTensor& found) {
  return found && (found.entry->dtype == Dtype::kU8 || found.entry->dtype == Dtype::kF8E8M0);
}

class Mxfp4Tensor : public StoredTensor {
 public:
  Mxfp4Tensor(FoundTensor codes, FoundTensor exponents, MatrixShape shape)
      : StoredTensor(shape.rows, shape.cols), codes_(codes), exponents_(exponents) {}

  absl::StatusOr<StoredForm> Form() const override {
    StoredForm form;
    form.exact_format = FormatId::kMxfp4;
    form.native_low_bit = true;
    form.dtype = absl::StrCat("MXFP4 in ", InfoOf(codes_.entry->dtype).name, ", ", InfoOf(exponents_.entry->dtype).name,
                              " scale per 32");
    const bool packed = absl::EndsWith(codes_.entry->name, ".weight_packed");
    form.upstream_form = absl::StrCat(
        "form=mxfp4 elements=", packed ? ".weight_packed" : ".weight", " dtype=", InfoOf(codes_.entry->dtype).name,
        " scale=", absl::EndsWith(exponents_.entry->name, ".weight_scale") ? ".weight_scale" : ".scale",
        " scale_dtype=", InfoOf(exponents_.entry->dtype).name);
    form.stored_bytes = codes_.entry->bytes() + exponents_.entry->bytes();
    return form;
  }

  absl::StatusOr<StoredRows> ReadStored(int64_t row_begin, int64_t row_end, Xxh3Stream* source_bytes) const override {
    StoredRows out;
    out.format = FormatId::kMxfp4;
    out.rows = row_end - row_begin;
    out.cols = cols();
    KOMPAKT_ASSIGN_OR_RETURN(out.elements, ReadFp4Codes(codes_, cols(), row_begin, row_end, source_bytes));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> exponents, ReadExponents(row_begin, row_end, source_bytes));
    out.group_scales.assign(exponents.begin(), exponents.end());
    return out;
  }

  absl::Status ReadF32(int64_t row_begin, int64_t row_end, absl::Span<float> out,
                       Xxh3Stream* source_bytes) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> codes,
                             ReadFp4Codes(codes_, cols(), row_begin, row_end, source_bytes));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> exponents, ReadExponents(row_begin, row_end, source_bytes));
    std::vector<float> scales(exponents.size());
    std::transform(exponents.begin(), exponents.end(), scales.begin(), E8m0ToF32);
    // Rows are whole groups, so that all of them are one run.
    BestDecodeLanes().e2m1(codes.data(), static_cast<int64_t>(codes.size()), kGroup, scales.data(), out.data());
    return absl::OkStatus();
  }

  std::vector<StoredRange> Ranges(int64_t row_begin, int64_t row_end) const override {
    const auto begin = static_cast<uint64_t>(row_begin);
    const auto end = static_cast<uint64_t>(row_end);
    const auto code_bytes = static_cast<uint64_t>(cols() / 2);
    const auto groups = static_cast<uint64_t>(cols() / kGroup);
    return {{codes_, begin * code_bytes, end * code_bytes}, {exponents_, begin * groups, end * groups}};
  }

 private:
  absl::StatusOr<std::vector<uint8_t>> ReadExponents(int64_t row_begin, int64_t row_end,
                                                     Xxh3Stream* source_bytes) const {
    const int64_t groups = cols() / kGroup;
    const auto first = static_cast<uint64_t>(row_begin * groups);
    KOMPAKT_ASSIGN_OR_RETURN(
        std::vector<uint8_t> exponents,
        ReadElements(exponents_, first, static_cast<uint64_t>((row_end - row_begin) * groups), source_bytes));
    const auto bad = std::find_if(exponents.begin(), exponents.end(),
                                  [](uint8_t exponent) { return exponent > kMxfp4LargestExponent; });
    if (bad == exponents.end()) return exponents;
    return ElementError(exponents_, first + static_cast<uint64_t>(bad - exponents.begin()),
                        *bad == 0xff ? std::string("expected a scale, found the E8M0 NaN 0xFF")
                                     : absl::StrFormat("expected an E8M0 scale of at most 0x%02X, found 0x%02X, which "
                                                       "passes the largest F32 value",
                                                       kMxfp4LargestExponent, *bad));
  }

  FoundTensor codes_;
  FoundTensor exponents_;
};

absl::StatusOr<BoundModule> BindWith(const ModuleRequest& request, const FoundTensor& codes,
                                     absl::string_view scale_suffix) {
  KOMPAKT_ASSIGN_OR_RETURN(const FoundTensor exponents, NeedCompanion(request, codes, scale_suffix));
  if (!IsExponents(exponents)) {
    return MismatchError(exponents, "expected MXFP4 scales of dtype F8_E8M0 or U8, found ",
                         InfoOf(exponents.entry->dtype).name);
  }
  KOMPAKT_ASSIGN_OR_RETURN(const MatrixShape shape, Fp4Shape(request, codes, kGroup));
  KOMPAKT_RETURN_IF_ERROR(CheckShape(exponents, {shape.rows, shape.cols / kGroup}));
  BoundModule bound;
  bound.tensor = std::make_unique<Mxfp4Tensor>(codes, exponents, shape);
  bound.used = {codes, exponents};
  return bound;
}

bool IsNvfp4(const ModuleRequest& request) {
  const FoundTensor scale = request.Find(".weight_scale");
  return request.Find(".weight_scale_2") || request.Find(".weight_global_scale") ||
         (scale && scale.entry->dtype == Dtype::kF8E4M3);
}

}  // namespace

// An I8 weight is FP4 here: no checkpoint of this family stores INT8 under that name.
const SourceForm kMxfp4Form = {
    .name = "mxfp4",
    .elements = ".weight",
    .recognises =
        [](const ModuleRequest& request, const FoundTensor& codes) {
          if (codes.entry->dtype == Dtype::kI8) return true;
          return codes.entry->dtype == Dtype::kU8 && !IsNvfp4(request) && request.Find(".weight_scale");
        },
    .ignored = kFp4Ignored,
    .bind =
        [](const ModuleRequest& request, const FoundTensor& codes) {
          return BindWith(request, codes, codes.entry->dtype == Dtype::kI8 ? ".scale" : ".weight_scale");
        },
};

const SourceForm kMxfp4PackedForm = {
    .name = "mxfp4",
    .elements = ".weight_packed",
    .recognises = [](const ModuleRequest& request,
                     const FoundTensor& codes) { return codes.entry->dtype == Dtype::kU8 && !IsNvfp4(request); },
    .ignored = kFp4Ignored,
    .bind = [](const ModuleRequest& request,
               const FoundTensor& codes) { return BindWith(request, codes, ".weight_scale"); },
};

}  // namespace kompakt
