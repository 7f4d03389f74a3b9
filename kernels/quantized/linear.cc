#include "format/status.h"
#include "kernels/portable/row_tiles.h"
#include "kernels/quantized/quantized_ops.h"
#include "kernels/quantized/row_product.h"

namespace kompakt::quantized {
namespace {

absl::Status LinearSlice(const IntegerIsa& isa, const LinearParams& p, KernelContext& context) {
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(const float** const rows,
                           portable::RowPointers(*context.workspace, p.x, p.tokens, p.x_stride));
  Forms forms;
  forms.Add(isa, p.w, p.act);
  KOMPAKT_ASSIGN_OR_RETURN(const Operand x, MakeOperand(isa, rows, p.tokens, p.w.shape.cols, p.act, forms, context));
  return Multiply(isa, p.w, x, p.y, p.y_stride, false, context);
}

}  // namespace

absl::Status Linear(const IntegerIsa& isa, const LinearParams& p, KernelContext& context) {
  for (int64_t begin = 0; begin < p.tokens; begin += kSliceTokens) {
    LinearParams slice = p;
    slice.x += begin * p.x_stride;
    slice.y += begin * p.y_stride;
    slice.tokens = std::min(kSliceTokens, p.tokens - begin);
    KOMPAKT_RETURN_IF_ERROR(LinearSlice(isa, slice, context));
  }
  return absl::OkStatus();
}

}  // namespace kompakt::quantized
