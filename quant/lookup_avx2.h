// Part of the region of encode_avx2.cc: the nearest table value by look-ups of 16 bytes.
#pragma once

#include <cstdint>

// An integer y lies in one of 32 bins of 8, or, where two thresholds share a bin, of 64 of 4. The bin knows the code
// below its threshold and the threshold. Were there two in a bin of 4, the thresholds below y would be counted.
struct NearestTable {
  int width = 8;            // of a bin; 0: none
  R code[4], threshold[4];  // of the bins from 0 up, and of those from -128 up; 16 bins each
  R value[4];               // of 16 codes each
  explicit KOMPAKT_INLINE NearestTable(const CodeTable& table) {
    alignas(32) int8_t codes[4][32] = {}, thresholds[4][32] = {}, values[4][32];
    for (bool alone = false; !alone && width > 2;) {
      alone = true;
      for (int bin = 0; bin < 256 / width; ++bin) {
        const int first = 2 * bin < 256 / width ? width * bin : width * bin - 256;
        int below = 0, inside = 0;
        int8_t threshold_inside = 127;
        for (int t = 0; t + 1 < table.n; ++t) {
          below += table.threshold[t] < first ? 1 : 0;
          if (table.threshold[t] < first || table.threshold[t] >= first + width - 1) continue;
          ++inside;
          threshold_inside = table.threshold[t];
        }
        alone = alone && inside <= 1;
        for (int lane = 0; lane < 32; lane += 16) {
          codes[bin / 16][bin % 16 + lane] = static_cast<int8_t>(below);
          thresholds[bin / 16][bin % 16 + lane] = threshold_inside;
        }
      }
      if (!alone) width /= 2;
    }
    if (width < 4) width = 0;
    for (int i = 0; i < 64; ++i) values[i / 16][i % 16] = values[i / 16][i % 16 + 16] = table.value[i];
    std::memcpy(code, codes, sizeof(code));
    std::memcpy(threshold, thresholds, sizeof(threshold));
    std::memcpy(value, values, sizeof(value));
  }
};
KOMPAKT_INLINE R CodeOfPart(const NearestTable& nearest, const CodeTable& table, const R& y) {
  if (nearest.width == 0) {
    R code = SplatBytes(0);
    for (int t = 0; t + 1 < table.n; ++t) code = Subtract(code, GreaterBytes(y, SplatBytes(table.threshold[t])));
    return code;
  }
  if (nearest.width == 4) {
    // The sign chooses between the bins from 0 up and those from -128 up, bit 6 between the two halves of each.
    const R bin = And(_mm256_srli_epi16(y, 2), SplatBytes(15));
    const R upper = _mm256_slli_epi16(y, 1);
    const auto look_up = [&](const R* bins) __attribute__((always_inline)) {
      const R up = _mm256_blendv_epi8(_mm256_shuffle_epi8(bins[0], bin), _mm256_shuffle_epi8(bins[1], bin), upper);
      const R down = _mm256_blendv_epi8(_mm256_shuffle_epi8(bins[2], bin), _mm256_shuffle_epi8(bins[3], bin), upper);
      return _mm256_blendv_epi8(up, down, y);
    };
    return Subtract(look_up(nearest.code), GreaterBytes(y, look_up(nearest.threshold)));
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
