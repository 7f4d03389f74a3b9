// Part of the region of encode_avx2.cc: the nearest table value by look-ups of 16 bytes.
#pragma once

#include <cstdint>

// An integer y lies in one of 32 bins of 8. Where no two thresholds share a bin, the bin knows the code below its
// threshold and the threshold; otherwise the thresholds below y are counted.
struct NearestTable {
  bool binned = true;
  R code[2], threshold[2];  // of the bins from 0 up, and of those from -128 up
  R value[4];               // of 16 codes each
  explicit KOMPAKT_INLINE NearestTable(const CodeTable& table) {
    alignas(32) int8_t codes[2][32], thresholds[2][32], values[4][32];
    for (int bin = 0; bin < 32; ++bin) {
      const int first = bin < 16 ? 8 * bin : 8 * bin - 256;
      int below = 0, inside = 0;
      int8_t threshold_inside = 127;
      for (int t = 0; t + 1 < table.n; ++t) {
        below += table.threshold[t] < first ? 1 : 0;
        if (table.threshold[t] < first || table.threshold[t] >= first + 7) continue;
        ++inside;
        threshold_inside = table.threshold[t];
      }
      binned = binned && inside <= 1;
      for (int lane = 0; lane < 32; lane += 16) {
        codes[bin / 16][bin % 16 + lane] = static_cast<int8_t>(below);
        thresholds[bin / 16][bin % 16 + lane] = threshold_inside;
      }
    }
    for (int i = 0; i < 64; ++i) values[i / 16][i % 16] = values[i / 16][i % 16 + 16] = table.value[i];
    std::memcpy(code, codes, sizeof(code));
    std::memcpy(threshold, thresholds, sizeof(threshold));
    std::memcpy(value, values, sizeof(value));
  }
};
KOMPAKT_INLINE R CodeOfPart(const NearestTable& nearest, const CodeTable& table, const R& y) {
  if (!nearest.binned) {
    R code = SplatBytes(0);
    for (int t = 0; t + 1 < table.n; ++t) code = Subtract(code, GreaterBytes(y, SplatBytes(table.threshold[t])));
    return code;
  }
  const R bin = And(_mm256_srli_epi16(y, 3), SplatBytes(15));
  const R code =
      _mm256_blendv_epi8(_mm256_shuffle_epi8(nearest.code[0], bin), _mm256_shuffle_epi8(nearest.code[1], bin), y);
  const R threshold = _mm256_blendv_epi8(_mm256_shuffle_epi8(nearest.threshold[0], bin),
                                         _mm256_shuffle_epi8(nearest.threshold[1], bin), y);
  return Subtract(code, GreaterBytes(y, threshold));
}
KOMPAKT_INLINE I CodeOf(const NearestTable& nearest, const CodeTable& table, const I& y) {
  I out;
  for (int i = 0; i < kParts; ++i) out.p[i] = Part(CodeOfPart(nearest, table, Bits(y.p[i])));
  return out;
}
KOMPAKT_INLINE I Nearest(const NearestTable& nearest, const CodeTable& table, const I& y) {
  I out;
  for (int i = 0; i < kParts; ++i) {
    const R code = CodeOfPart(nearest, table, Bits(y.p[i]));
    R value = _mm256_shuffle_epi8(nearest.value[0], code);
    for (int v = 1; 16 * v < table.n; ++v) {
      const R here = GreaterBytes(code, SplatBytes(static_cast<int8_t>(16 * v - 1)));
      value = _mm256_blendv_epi8(value, _mm256_shuffle_epi8(nearest.value[v], code), here);
    }
    out.p[i] = Part(value);
  }
  return out;
}
