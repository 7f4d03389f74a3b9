// The nonlinear 4-bit formats: what table_search.h needs to know of them.
#include "quant/encode_q4.h"

#include "format/block_q4_g16.h"
#include "format/block_q4_g32.h"
#include "format/nibble_codes.h"
#include "format/q4_table.h"

namespace kompakt {
namespace {

static_assert(HasNoTies(kQ4Table));
constexpr CodeTable kCodes = MakeCodeTable(kQ4Table);

constexpr TableFormat kG32 = {
    .id = FormatId::kQ4G32,
    .table = &kCodes,
    .shift = kQ4Shift,
    .group_cols = 32,
    .scale_bits = kQ4G32ScaleBits,
    .code_bytes = sizeof(NibbleCodes),
    .tile_bytes = sizeof(Q4G32Tile),
    .write_codes = PackNibbleWords,
};
constexpr TableFormat kG16 = {
    .id = FormatId::kQ4G16,
    .table = &kCodes,
    .shift = kQ4Shift,
    .group_cols = 16,
    .scale_bits = kQ4G16ScaleBits,
    .code_bytes = sizeof(NibbleCodes),
    .tile_bytes = sizeof(Q4G16Tile),
    .write_codes = PackNibbleWords,
};
static_assert(kQ4G32ScaleBias == 1 << (kQ4G32ScaleBits - 1) && kQ4G16ScaleBias == 1 << (kQ4G16ScaleBits - 1));

}  // namespace

bool EncodeQ4G32(const EncoderSet& set, SearchEffort effort, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles,
                 float* row_scales, TileError* error) {
  return set.table(kG32, effort, in, scratch, tiles, row_scales, error);
}

bool EncodeQ4G16(const EncoderSet& set, SearchEffort effort, const RowTile& in, EncoderScratch& scratch, uint8_t* tiles,
                 float* row_scales, TileError* error) {
  return set.table(kG16, effort, in, scratch, tiles, row_scales, error);
}

}  // namespace kompakt
