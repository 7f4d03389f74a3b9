// The IntegerIsa of an instruction set from its loops. What a set has to have is listed here alone: one that lacks
// something does not compile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "format/block_q2_g16.h"
#include "format/block_q2_g32.h"
#include "format/block_q3_g16.h"
#include "format/block_q3_g32.h"
#include "format/block_q4_g16.h"
#include "format/block_q4_g32.h"
#include "format/block_q5_g32.h"
#include "format/block_q6_g32.h"
#include "kernels/quantized/integer_isa.h"

namespace kompakt::quantized {

// Some tokens from `token` on times half of the rows of a panel; the others as in IntegerIsa::Many.
using Piece = void (*)(const PanelTile* panel, int64_t first, int64_t col_tiles, const ActBlock& x, int64_t token,
                       int half, float* acc, int64_t acc_stride);

// IntegerIsa::Many of a set whose registers hold less than a block of tokens. table[n - 1] takes n of them.
template <size_t kMost>
void ManyInPieces(const Piece (&table)[kMost], const PanelTile* panel, int64_t first, int64_t col_tiles,
                  const ActBlock& x, float* acc, int64_t acc_stride) {
  constexpr auto kMostTokens = static_cast<int64_t>(kMost);
  const int64_t pieces = (x.tokens + kMostTokens - 1) / kMostTokens;
  int64_t token = 0;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t tokens = (x.tokens - token) / (pieces - piece);
    for (int half = 0; half < 2; ++half) table[tokens - 1](panel, first, col_tiles, x, token, half, acc, acc_stride);
    token += tokens;
  }
}

template <class Loops, class Codes>
constexpr void AddFormat(IntegerIsa& isa) {
  constexpr auto kIndex = static_cast<size_t>(Codes::kId);
  isa.few[0][kIndex] = Loops::template kFew<Codes, 1>;
  isa.few[1][kIndex] = Loops::template kFew<Codes, 2>;
  isa.unpack[0][kIndex] = Loops::template kUnpack<Codes, 1>;
  isa.unpack[1][kIndex] = Loops::template kUnpack<Codes, 2>;
}

// `Loops` names, as constants and types: kQuantize<planes>, kFew<Codes, planes>, kUnpack<Codes, planes>, kMany<planes,
// integer scales, groups of a tile> and kFinish, the functions of IntegerIsa; Table<spec>, Q8, Int4, Mxfp4 and Nvfp4,
// how a format's tile becomes bytes and scales.
template <class Loops>
constexpr IntegerIsa MakeIsa(absl::string_view name, bool (*available)(), const FloatIsa* floats = nullptr) {
  IntegerIsa isa{};
  isa.name = name;
  isa.available = available;
  isa.quantize[0] = Loops::template kQuantize<1>;
  isa.quantize[1] = Loops::template kQuantize<2>;
  isa.finish = Loops::kFinish;
  isa.floats = floats;
  AddFormat<Loops, typename Loops::template Table<kQ2G16>>(isa);
  AddFormat<Loops, typename Loops::template Table<kQ2G32>>(isa);
  AddFormat<Loops, typename Loops::template Table<kQ3G16>>(isa);
  AddFormat<Loops, typename Loops::template Table<kQ3G32>>(isa);
  AddFormat<Loops, typename Loops::template Table<kQ4G16>>(isa);
  AddFormat<Loops, typename Loops::template Table<kQ4G32>>(isa);
  AddFormat<Loops, typename Loops::template Table<kQ5G32>>(isa);
  AddFormat<Loops, typename Loops::template Table<kQ6G32>>(isa);
  AddFormat<Loops, typename Loops::Q8>(isa);
  AddFormat<Loops, typename Loops::Int4>(isa);
  AddFormat<Loops, typename Loops::Mxfp4>(isa);
  AddFormat<Loops, typename Loops::Nvfp4>(isa);
  isa.many[0][0][0] = Loops::template kMany<1, false, 1>;
  isa.many[0][0][1] = Loops::template kMany<1, false, 2>;
  isa.many[0][1][0] = Loops::template kMany<1, true, 1>;
  isa.many[0][1][1] = Loops::template kMany<1, true, 2>;
  isa.many[1][0][0] = Loops::template kMany<2, false, 1>;
  isa.many[1][0][1] = Loops::template kMany<2, false, 2>;
  return isa;
}

}  // namespace kompakt::quantized
