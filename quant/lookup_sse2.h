// Part of the region of encode_sse2.cc: the nearest table value without a byte look-up.
#pragma once

#include <cstdint>

// Thresholds and the steps between values, each in all bytes of a register.
struct NearestTable {
  R first, threshold[63], step[63];
  explicit KOMPAKT_INLINE NearestTable(const CodeTable& table) {
    first = SplatBytes(table.value[0]);
    for (int t = 0; t + 1 < table.n; ++t) {
      threshold[t] = SplatBytes(table.threshold[t]);
      step[t] = SplatBytes(static_cast<int8_t>(table.value[t + 1] - table.value[t]));
    }
  }
};
KOMPAKT_INLINE I Nearest(const NearestTable& nearest, const CodeTable& table, const I& y) {
  R value[kParts];
  for (int i = 0; i < kParts; ++i) value[i] = nearest.first;
  for (int t = 0; t + 1 < table.n; ++t) {
    for (int i = 0; i < kParts; ++i) {
      value[i] = Add(value[i], And(GreaterBytes(Bits(y.p[i]), nearest.threshold[t]), nearest.step[t]));
    }
  }
  I out;
  for (int i = 0; i < kParts; ++i) out.p[i] = Part(value[i]);
  return out;
}
KOMPAKT_INLINE I CodeOf(const NearestTable& nearest, const CodeTable& table, const I& y) {
  R code[kParts];
  for (int i = 0; i < kParts; ++i) code[i] = SplatBytes(0);
  for (int t = 0; t + 1 < table.n; ++t) {
    for (int i = 0; i < kParts; ++i) code[i] = Subtract(code[i], GreaterBytes(Bits(y.p[i]), nearest.threshold[t]));
  }
  I out;
  for (int i = 0; i < kParts; ++i) out.p[i] = Part(code[i]);
  return out;
}
