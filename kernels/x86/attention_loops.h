// The bodies before it as AttentionLoops. Included inside of a region, last.
#pragma once

constexpr AttentionLoops kLoops = {
    .unit_values = kUnitValues,
    .multiply = Multiply,
    .multiply_rows = MultiplyRows,
    .order_columns = OrderColumns,
    .to_units = ToUnits,
    .rows_to_units = RowsToUnits,
    .transpose = TransposeUnits,
    .softmax_columns = SoftmaxColumns,
    .softmax_row = SoftmaxRow,
    .scale = ScaleBy,
    .add_scaled = AddScaled,
    .exp2 = Exp2Of,
    .absorb = Absorb,
    .project = Project,
};
