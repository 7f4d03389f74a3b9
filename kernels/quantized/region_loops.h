// The functions before it as what MakeIsa takes. Included inside the namespace of an instruction set, last.
#pragma once

template <class Codes, int kPlanes>
KOMPAKT_TARGET void Few(const uint8_t* tiles, int64_t col_tiles, const ActBlock& x, float* c, int64_t c_stride) {
  static_assert(quantized::kFewTokens == 4);
  switch (x.tokens) {
    case 1:
      return FewTokens<Codes, 1, kPlanes>(tiles, col_tiles, x, c, c_stride);
    case 2:
      return FewTokens<Codes, 2, kPlanes>(tiles, col_tiles, x, c, c_stride);
    case 3:
      return FewTokens<Codes, 3, kPlanes>(tiles, col_tiles, x, c, c_stride);
    default:
      return FewTokens<Codes, 4, kPlanes>(tiles, col_tiles, x, c, c_stride);
  }
}

struct Loops {
  template <int kPlanes>
  static constexpr auto kQuantize = Quantize<kPlanes>;
  template <class Codes, int kPlanes>
  static constexpr auto kFew = Few<Codes, kPlanes>;
  template <class Codes, int kPlanes>
  static constexpr auto kUnpack = Unpack<Codes, kPlanes>;
  template <int kPlanes, bool kInt, int kGroups>
  static constexpr auto kMany = Many<kPlanes, kInt, kGroups>;
  static constexpr auto kFinish = Finish;
  template <const TableSpec& kSpec>
  using Table = TableCodes<kSpec>;
  using Q8 = Q8Codes;
  using Int4 = Int4Codes;
  using Mxfp4 = Mxfp4Codes;
  using Nvfp4 = Nvfp4Codes;
};
