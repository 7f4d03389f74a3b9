#include "converters/form_plain.h"

#include <cstring>

#include "absl/strings/str_format.h"
#include "converters/decode_lanes.h"
#include "converters/element_reads.h"
#include "converters/form_fp8.h"
#include "format/status.h"

namespace kompakt {
namespace {

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

class PlainTensor : public StoredTensor {
 public:
  // `first_row`: where row 0 lies in the stored tensor, counted in rows of `cols`.
  PlainTensor(FoundTensor elements, int64_t rows, int64_t cols, int64_t first_row, bool fused)
      : StoredTensor(rows, cols), elements_(elements), first_row_(first_row), fused_(fused) {}

  absl::StatusOr<StoredForm> Form() const override {
    StoredForm form;
    form.exact_format = PlainFormat(dtype());
    form.dtype = std::string(InfoOf(dtype()).name);
    form.stored_bytes = static_cast<uint64_t>(rows() * cols()) * ElementBytes(dtype());
    form.upstream_form = fused_ ? "form=fused" : "form=plain";
    return form;
  }

  absl::StatusOr<StoredRows> ReadStored(int64_t row_begin, int64_t row_end, Xxh3Stream* source_bytes) const override {
    StoredRows out;
    out.format = PlainFormat(dtype());
    out.rows = row_end - row_begin;
    out.cols = cols();
    KOMPAKT_ASSIGN_OR_RETURN(out.elements, Read(row_begin, row_end, source_bytes));
    return out;
  }

  absl::Status ReadF32(int64_t row_begin, int64_t row_end, absl::Span<float> out,
                       Xxh3Stream* source_bytes) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, Read(row_begin, row_end, source_bytes));
    const auto n = static_cast<int64_t>(out.size());
    if (dtype() == Dtype::kF32) {
      std::memcpy(out.data(), bytes.data(), bytes.size());
    } else if (dtype() == Dtype::kBf16) {
      BestDecodeLanes().widen_bf16(bytes.data(), n, out.data());
    } else {
      BestDecodeLanes().widen_f16(bytes.data(), n, out.data());
    }
    return absl::OkStatus();
  }

  std::vector<StoredRange> Ranges(int64_t row_begin, int64_t row_end) const override {
    const uint64_t row_bytes = static_cast<uint64_t>(cols()) * ElementBytes(dtype());
    return {{elements_, static_cast<uint64_t>(first_row_ + row_begin) * row_bytes,
             static_cast<uint64_t>(first_row_ + row_end) * row_bytes}};
  }

 private:
  Dtype dtype() const { return elements_.entry->dtype; }

  absl::StatusOr<std::vector<uint8_t>> Read(int64_t row_begin, int64_t row_end, Xxh3Stream* source_bytes) const {
    const auto first = static_cast<uint64_t>((first_row_ + row_begin) * cols());
    const auto n = static_cast<uint64_t>((row_end - row_begin) * cols());
    KOMPAKT_ASSIGN_OR_RETURN(std::vector<uint8_t> bytes, ReadElements(elements_, first, n, source_bytes));
    const auto count = static_cast<int64_t>(n);
    const bool bad = dtype() == Dtype::kF32
                         ? BestDecodeLanes().has_nonfinite32(bytes.data(), count)
                         : BestDecodeLanes().has_nonfinite16(
                               bytes.data(), count, dtype() == Dtype::kBf16 ? uint16_t{0x7f80} : uint16_t{0x7c00});
    if (bad) return NonFinite(first, n, bytes);
    return bytes;
  }

  absl::Status NonFinite(uint64_t first, uint64_t n, const std::vector<uint8_t>& bytes) const {
    for (uint64_t i = 0; i < n; ++i) {
      const float value = ElementAsF32(dtype(), bytes.data(), i);
      if (value - value != 0) {
        return ElementError(elements_, first + i, absl::StrFormat("expected a finite weight, found %g", value));
      }
    }
    return absl::InternalError(absl::StrCat(elements_.entry->name, ": a non-finite weight was lost"));
  }

  FoundTensor elements_;
  int64_t first_row_;
  bool fused_;  // a slice of a tensor that holds one matrix per expert
};

absl::StatusOr<BoundModule> Bind(const ModuleRequest& request, const FoundTensor& elements) {
  const std::vector<uint64_t>& found = elements.entry->shape;
  if (found.size() != 2) {
    return MismatchError(elements, "expected a matrix, found shape ", ShapeText(found));
  }
  const MatrixShape shape =
      request.shape.value_or(MatrixShape{static_cast<int64_t>(found[0]), static_cast<int64_t>(found[1])});
  KOMPAKT_RETURN_IF_ERROR(CheckShape(elements, {shape.rows, shape.cols}));
  return BindPlain(request, elements, shape, nullptr);
}

}  // namespace

absl::StatusOr<BoundModule> BindPlain(const ModuleRequest& request, const FoundTensor& elements, MatrixShape shape,
                                      const FusedSlice* slice) {
  KOMPAKT_RETURN_IF_ERROR(CheckFloat(elements));
  for (const FoundTensor& scale : FindFp8Scales(request, elements)) {
    return MismatchError(scale, "a scale without FP8 weight: ", elements.entry->name, " is ",
                         InfoOf(elements.entry->dtype).name);
  }
  const int64_t first_row = slice == nullptr ? 0 : slice->index * slice->matrix_rows + slice->first_row;
  BoundModule bound;
  bound.tensor = std::make_unique<PlainTensor>(elements, shape.rows, shape.cols, first_row, slice != nullptr);
  bound.used = {elements};
  return bound;
}

absl::StatusOr<BoundModule> BindVector(const FoundTensor& elements, int64_t n) {
  KOMPAKT_RETURN_IF_ERROR(CheckShape(elements, {n}));
  KOMPAKT_RETURN_IF_ERROR(CheckFloat(elements));
  BoundModule bound;
  bound.tensor = std::make_unique<PlainTensor>(elements, 1, n, 0, false);
  bound.used = {elements};
  return bound;
}

const SourceForm kPlainForm = {
    .name = "plain",
    .elements = ".weight",
    .recognises = [](const ModuleRequest&, const FoundTensor& elements) { return IsFloat(elements.entry->dtype); },
    .ignored = {},
    .bind = Bind,
};

}  // namespace kompakt
