// panel_body.h compiled once per instruction set, and the choice among them at run time.
#include <array>
#include <cstddef>

#include "kernels/portable/panel.h"
#include "kernels/portable/panel_body.h"
#include "kernels/portable/panel_table_x86.h"

namespace kompakt::portable {
namespace {

using DecodeFn = void (*)(const uint8_t* tile, const float* side, float* panel);

using DirectFn = void (*)(const DirectProduct& p);

// One instruction set: NAME##Multiply and so on, with the target attribute that is given.
#define KOMPAKT_PANEL_ISA(NAME, LANES, TARGET)                                                                         \
  TARGET void NAME##Multiply(const PanelProduct& p) { MultiplyPanels<LANES>(p); }                                      \
  TARGET void NAME##F32(const uint8_t* tile, const float* side, float* panel) { DecodeF32(tile, side, panel); }        \
  TARGET void NAME##F16(const uint8_t* tile, const float* side, float* panel) { DecodeF16<LANES>(tile, side, panel); } \
  TARGET void NAME##Bf16(const uint8_t* tile, const float* side, float* panel) {                                       \
    DecodeBf16<LANES>(tile, side, panel);                                                                              \
  }                                                                                                                    \
  TARGET void NAME##Fp8(const uint8_t* tile, const float* side, float* panel) { DecodeFp8<LANES>(tile, side, panel); } \
  TARGET void NAME##Int4(const uint8_t* tile, const float* side, float* panel) {                                       \
    DecodeInt4<LANES>(tile, side, panel);                                                                              \
  }                                                                                                                    \
  TARGET void NAME##Mxfp4(const uint8_t* tile, const float* side, float* panel) {                                      \
    DecodeMxfp4<LANES>(tile, side, panel);                                                                             \
  }                                                                                                                    \
  TARGET void NAME##Nvfp4(const uint8_t* tile, const float* side, float* panel) {                                      \
    DecodeNvfp4<LANES>(tile, side, panel);                                                                             \
  }                                                                                                                    \
  TARGET void NAME##Q8(const uint8_t* tile, const float* side, float* panel) { DecodeQ8<LANES>(tile, side, panel); }   \
  TARGET void NAME##DirectF32(const DirectProduct& p) { Direct<LANES, F32Lines>(p); }                                  \
  TARGET void NAME##DirectF16(const DirectProduct& p) { Direct<LANES, F16Lines>(p); }                                  \
  TARGET void NAME##DirectBf16(const DirectProduct& p) { Direct<LANES, Bf16Lines>(p); }                                \
  TARGET void NAME##DirectFp8(const DirectProduct& p) { Direct<LANES, Fp8Lines>(p); }                                  \
  constexpr std::array<DirectFn, kFormatCount> k##NAME##Direct = {NAME##DirectF32, NAME##DirectF16, NAME##DirectBf16,  \
                                                                  NAME##DirectFp8};                                    \
  TARGET void NAME##Transpose(const float* a, int64_t a_stride, int64_t rows, int64_t cols, float* b,                  \
                              int64_t b_stride) {                                                                      \
    TransposeBody(a, a_stride, rows, cols, b, b_stride);                                                               \
  }                                                                                                                    \
  TARGET void NAME##SiluTimes(float* gate, const float* up, int64_t n) { SiluTimesBody<LANES>(gate, up, n); }          \
  TARGET void NAME##Exp(float* x, int64_t n) { ExpBody<LANES>(x, n); }                                                 \
  TARGET float NAME##SoftmaxStep(float* scores, int64_t n, float scale, float* largest, float* sum) {                  \
    return SoftmaxStepBody<LANES>(scores, n, scale, largest, sum);                                                     \
  }

#define KOMPAKT_PANEL_ROW(NAME, LABEL, AVAILABLE)                                                                    \
  {                                                                                                                  \
    .name = LABEL, .available = AVAILABLE, .multiply = NAME##Multiply, .decode = k##NAME##Decode.data(),             \
    .direct = k##NAME##Direct.data(), .transpose = NAME##Transpose, .silu_times = NAME##SiluTimes, .exp = NAME##Exp, \
    .softmax_step = NAME##SoftmaxStep                                                                                \
  }

KOMPAKT_PANEL_ISA(Baseline, 4, )
constexpr std::array<DecodeFn, kFormatCount> kBaselineDecode = {BaselineF32,   BaselineF16,  BaselineBf16, BaselineFp8,
                                                                BaselineInt4,  BaselineQ8,   nullptr,      nullptr,
                                                                BaselineMxfp4, BaselineNvfp4};

#if defined(__x86_64__)
KOMPAKT_PANEL_ISA(Avx2, 8, __attribute__((target("avx2"))))
constexpr std::array<DecodeFn, kFormatCount> kAvx2Decode = {
    Avx2F32,         Avx2F16,         Avx2Bf16,        Avx2Fp8,        Avx2Int4,        Avx2Q8,
    DecodeQ4G32Avx2, DecodeQ4G16Avx2, Avx2Mxfp4,       Avx2Nvfp4,      DecodeQ6G32Avx2, DecodeQ5G32Avx2,
    DecodeQ3G32Avx2, DecodeQ3G16Avx2, DecodeQ2G32Avx2, DecodeQ2G16Avx2};

KOMPAKT_PANEL_ISA(Avx512, 16, __attribute__((target("avx512f"))))
constexpr std::array<DecodeFn, kFormatCount> kAvx512Decode = {
    Avx512F32,         Avx512F16,         Avx512Bf16,        Avx512Fp8,        Avx512Int4,        Avx512Q8,
    DecodeQ4G32Avx512, DecodeQ4G16Avx512, Avx512Mxfp4,       Avx512Nvfp4,      DecodeQ6G32Avx512, DecodeQ5G32Avx512,
    DecodeQ3G32Avx512, DecodeQ3G16Avx512, DecodeQ2G32Avx512, DecodeQ2G16Avx512};
#endif

// The arrays above are in the order of FormatId.
static_assert(static_cast<int>(FormatId::kQ4G16) == 7 && static_cast<int>(FormatId::kFp8B128) == 3 &&
              static_cast<int>(FormatId::kF16) == 1 && static_cast<int>(FormatId::kBf16) == 2 &&
              static_cast<int>(FormatId::kNvfp4) == 9 && static_cast<int>(FormatId::kQ2G16) == 15);

}  // namespace

absl::Span<const PanelIsa> AllPanelIsas() {
  static const std::array kTable = {
    PanelIsa KOMPAKT_PANEL_ROW(Baseline, "baseline", [] { return true; }),
#if defined(__x86_64__)
    PanelIsa KOMPAKT_PANEL_ROW(Avx2, "avx2", [] { return __builtin_cpu_supports("avx2") != 0; }),
    PanelIsa KOMPAKT_PANEL_ROW(Avx512, "avx512", [] { return __builtin_cpu_supports("avx512f") != 0; }),
#endif
  };
  return kTable;
}

const PanelIsa& BestPanelIsa() {
  static const PanelIsa& best = []() -> const PanelIsa& {
    const PanelIsa* last = nullptr;
    for (const PanelIsa& isa : AllPanelIsas()) {
      if (isa.available()) last = &isa;
    }
    return *last;
  }();
  return best;
}

void DecodePanel(const PanelIsa& isa, const BlockFormat& format, const uint8_t* tile, const float* side, float* panel) {
  if (const auto decode = isa.decode[static_cast<size_t>(format.id)]; decode != nullptr) {
    decode(tile, side, panel);
    return;
  }
  DecodedTile decoded;
  format.decode_tile(tile, side, &decoded);
  isa.transpose(decoded.w[0], kTileCols, kTileRows, kTileCols, panel, kTileRows);
}

}  // namespace kompakt::portable
