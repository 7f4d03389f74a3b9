// Part of a region (instruction_set.h): quads, 16 rows x 4 columns of small integers, in plain code. This is what the
// functions of the same names in the other quads_*.h compute too.
//
// As I, a quad of bytes is one lane per row, its four columns from the lowest byte up.
#pragma once

#include <cstdint>
#include <cstring>

// 16-bit integers, magnitude below 2^15.
struct Quad {
  int16_t v[16][4];
};

KOMPAKT_INLINE F SquareRoot(const F& a) {
  float lanes[16];
  Store(a, lanes);
  for (float& v : lanes) v = __builtin_sqrtf(v);
  return Load(lanes);
}

KOMPAKT_INLINE int8_t SaturatedByte(int value) {
  return static_cast<int8_t>(value < -128 ? -128 : value > 127 ? 127 : value);
}

// Four columns, rounded to the nearest integers (ties to even), magnitude below 2^15.
KOMPAKT_INLINE void MakeQuad(const F& v0, const F& v1, const F& v2, const F& v3, Quad* quad) {
  const I column[4] = {RoundToInt(v0), RoundToInt(v1), RoundToInt(v2), RoundToInt(v3)};
  int32_t values[4][16];
  std::memcpy(values, column, sizeof(values));
  for (int r = 0; r < 16; ++r) {
    for (int k = 0; k < 4; ++k) quad->v[r][k] = static_cast<int16_t>(values[k][r]);
  }
}
// The same, saturated to -128..127.
KOMPAKT_INLINE I RoundToBytes(const F& v0, const F& v1, const F& v2, const F& v3) {
  Quad quad;
  MakeQuad(v0, v1, v2, v3, &quad);
  int8_t bytes[16][4];
  for (int r = 0; r < 16; ++r) {
    for (int k = 0; k < 4; ++k) bytes[r][k] = SaturatedByte(quad.v[r][k]);
  }
  I out;
  std::memcpy(&out, bytes, sizeof(out));
  return out;
}

// One factor per row, magnitude below 2^15.
struct Multiplier {
  int32_t row[16];
};
KOMPAKT_INLINE void MakeMultiplier(const I& m, Multiplier* out) { std::memcpy(out->row, &m, sizeof(out->row)); }

KOMPAKT_INLINE int Scaled(int u, int m) { return (u * m + (1 << 14)) >> 15; }

// u m / 2^15, halves upwards, saturated to -128..127.
KOMPAKT_INLINE I ScaleToBytes(const Quad& u, const Multiplier& m) {
  int8_t bytes[16][4];
  for (int r = 0; r < 16; ++r) {
    for (int k = 0; k < 4; ++k) bytes[r][k] = SaturatedByte(Scaled(u.v[r][k], m.row[r]));
  }
  I out;
  std::memcpy(&out, bytes, sizeof(out));
  return out;
}

// The table's value nearest to each byte, and its code.
struct NearestTable {
  explicit KOMPAKT_INLINE NearestTable(const CodeTable&) {}
};
KOMPAKT_INLINE I Replaced(const void* table, const I& y) {
  uint8_t bytes[64];
  std::memcpy(bytes, &y, sizeof(bytes));
  for (uint8_t& byte : bytes) byte = static_cast<const uint8_t*>(table)[byte];
  I out;
  std::memcpy(&out, bytes, sizeof(out));
  return out;
}
KOMPAKT_INLINE I Nearest(const NearestTable&, const CodeTable& table, const I& y) { return Replaced(table.nearest, y); }
KOMPAKT_INLINE I CodeOf(const NearestTable&, const CodeTable& table, const I& y) { return Replaced(table.code, y); }

// Byte by byte: wrapping sum, saturated difference.
KOMPAKT_INLINE I AddBytes(const I& a, const I& b) {
  uint8_t x[64], y[64];
  std::memcpy(x, &a, sizeof(x));
  std::memcpy(y, &b, sizeof(y));
  for (int i = 0; i < 64; ++i) x[i] = static_cast<uint8_t>(x[i] + y[i]);
  I out;
  std::memcpy(&out, x, sizeof(out));
  return out;
}
KOMPAKT_INLINE I SubtractBytes(const I& a, const I& b) {
  int8_t x[64], y[64];
  std::memcpy(x, &a, sizeof(x));
  std::memcpy(y, &b, sizeof(y));
  for (int i = 0; i < 64; ++i) x[i] = SaturatedByte(x[i] - y[i]);
  I out;
  std::memcpy(&out, x, sizeof(out));
  return out;
}

// Sums over the columns of u x q and q^2, per row. At most 32 columns: below 2^27.
struct Products {
  int32_t uq[16], qq[16];
};
KOMPAKT_INLINE void Clear(Products* sums) { std::memset(sums, 0, sizeof(*sums)); }
KOMPAKT_INLINE void AddProducts(const Quad& u, const I& values, Products* sums) {
  int8_t q[16][4];
  std::memcpy(q, &values, sizeof(q));
  for (int r = 0; r < 16; ++r) {
    for (int k = 0; k < 4; ++k) {
      sums->uq[r] += u.v[r][k] * q[r][k];
      sums->qq[r] += q[r][k] * q[r][k];
    }
  }
}
// What a set needs to know of a group once; nothing here.
struct GroupBias {};
KOMPAKT_INLINE void MakeBias(const Quad*, int, GroupBias*) {}
KOMPAKT_INLINE void Sums(const Products& sums, const GroupBias&, I* uq, I* qq) {
  std::memcpy(uq, sums.uq, sizeof(*uq));
  std::memcpy(qq, sums.qq, sizeof(*qq));
}

// With y = u m / 2^15, halves upwards, in units of 1/32, and q the integer nearest to y in -128..127, halves upwards:
// sums of (y - 32 q)^2, per row. |m| <= kMostResidualFactor keeps them below 2^30.
struct Residuals {
  int32_t sum[16];
};
KOMPAKT_INLINE void Clear(Residuals* sums) { std::memset(sums, 0, sizeof(*sums)); }
KOMPAKT_INLINE void AddResiduals(const Quad& u, const Multiplier& m, Residuals* sums) {
  for (int r = 0; r < 16; ++r) {
    for (int k = 0; k < 4; ++k) {
      const int y = Scaled(u.v[r][k], m.row[r]);
      const int residual = y - 32 * SaturatedByte((y + 16) >> 5);
      sums->sum[r] += residual * residual;
    }
  }
}
KOMPAKT_INLINE void Sum(const Residuals& sums, I* total) { std::memcpy(total, sums.sum, sizeof(*total)); }
