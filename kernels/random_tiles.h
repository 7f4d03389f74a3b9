// RandomTiles: matrices of random weights in any number format, made at the speed of memory. For the op list, and for
// models that are shape only.
//
// The tiles come from a small pool of valid ones; a row tile is a run of the pool that begins where its key says. Of a
// lossy format every code and group byte is drawn; of an exact one normal values, or codes without NaN. Elements past
// the edge of a matrix are drawn as well, where a packed file has zeros: nobody may read them.
#pragma once

#include <cstdint>
#include <vector>

#include "format/block_format.h"

namespace kompakt {

class RandomTiles {
 public:
  // `rms`: root mean square of the weights. mxfp4, whose scales are powers of two, comes within a factor of 1.5.
  RandomTiles(FormatId format, float rms, uint64_t seed);

  const BlockFormat& format() const { return format_; }

  // The blob of one matrix is FillTiles of all its row tiles, in any order and on any thread, and FillSide.
  // `layout` is that of the matrix, `key` tells matrices apart.
  void FillTiles(const BlobLayout& layout, uint64_t key, int64_t row_tile_begin, int64_t row_tile_end,
                 uint8_t* blob) const;
  void FillSide(const BlobLayout& layout, uint8_t* blob) const;
  void Fill(const BlobLayout& layout, uint64_t key, uint8_t* blob) const {
    FillTiles(layout, key, 0, layout.row_tiles, blob);
    FillSide(layout, blob);
  }

 private:
  const BlockFormat& format_;
  std::vector<uint8_t> pool_;  // kPoolTiles tiles
  float side_ = 1;             // every row or block scale, or the multiplier of the tensor
};

// n values of about unit normal distribution (the sum of four uniform ones) times `magnitude`.
void FillNormal(uint64_t seed, float magnitude, absl::Span<float> out);

}  // namespace kompakt
