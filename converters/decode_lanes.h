// Loops over elements of a stored tensor, once per instruction set (baseline, AVX2, AVX-512) and chosen at run time.
// Every version does the same operations on each element, so all give the same bits.
//
// None checks its input: what the data may not hold is looked for with the Has functions first.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kompakt {

struct DecodeLanes {
  absl::string_view name;
  bool (*available)();

  // out[n] from n BF16 or F16 elements of any alignment.
  void (*widen_bf16)(const uint8_t* elements, int64_t n, float* out);
  void (*widen_f16)(const uint8_t* elements, int64_t n, float* out);
  // Is any of n elements infinite or NaN? `exponent`: the bits that are then all set.
  bool (*has_nonfinite16)(const uint8_t* elements, int64_t n, uint16_t exponent);
  bool (*has_nonfinite32)(const uint8_t* elements, int64_t n);

  // out[i] = value(codes[i]) * scale for FP8 E4M3 codes.
  void (*fp8)(const uint8_t* codes, int64_t n, float scale, float* out);
  bool (*has_fp8_nan)(const uint8_t* codes, int64_t n);

  // codes[2 i] and codes[2 i + 1]: low and high nibble of byte i.
  void (*unpack_nibbles)(const uint8_t* bytes, int64_t n_bytes, uint8_t* codes);
  // codes[i] = nibble of word i, (words[i] >> shift) & 15.
  void (*take_nibbles)(const uint32_t* words, int64_t n, int shift, uint8_t* codes);
  // A row of E2M1 codes: out[i] = value(codes[i]) * scales[i / group], group 16 or 32.
  void (*e2m1)(const uint8_t* codes, int64_t n, int64_t group, const float* scales, float* out);
  // values[i] = values[i] * multiplier / divisor; dividing by 1 is left out.
  void (*rescale)(float* values, int64_t n, float multiplier, float divisor);
  // A row of unsigned integer codes: out[i] = (codes[i] - zeros[i / group]) * scales[i / group]. The difference is
  // exact.
  void (*grouped_int)(const uint8_t* codes, int64_t n, int64_t group, const float* scales, const float* zeros,
                      float* out);
  // The same where element i belongs to group index[i].
  void (*indexed_int)(const uint8_t* codes, int64_t n, const int32_t* index, const float* scales, const float* zeros,
                      float* out);
};

// Baseline first, the best one last; a test walks them.
absl::Span<const DecodeLanes> AllDecodeLanes();
// The last that this machine can run.
const DecodeLanes& BestDecodeLanes();

// out[c][r] = in[r][c] for 32-bit words. in: [rows, cols], out: [cols, rows].
void TransposeWords(const uint32_t* in, int64_t rows, int64_t cols, uint32_t* out);

}  // namespace kompakt
