// The simulator's side of ptx.cuh: fragments against matrices, element by element.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/cuda/ptx.cuh"

namespace kompakt::cuda_sim {
namespace {

// Small integers: every sum is exact.
int A(int row, int k) { return (row * 7 + k * 3) % 11 - 5; }
int B(int k, int col) { return (k * 5 + col * 2) % 13 - 6; }

template <int kK>
int Product(int row, int col) {
  int sum = 0;
  for (int k = 0; k < kK; ++k) sum += A(row, k) * B(k, col);
  return sum;
}

// Runs `multiply` with fragments made by `pack` as the PTX manual lays them out; the result as 16 x 8.
template <typename Sum, int kPerRegister, typename Pack, typename Multiply>
std::array<std::array<Sum, 8>, 16> MultiplyOnOneWarp(const Pack& pack, const Multiply& multiply) {
  std::array<std::array<Sum, 8>, 16> c{};
  const std::string error = RunGrid("mma", Dim3(1), Dim3(32), 0, [&] {
    const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
    constexpr int kHalf = 4 * kPerRegister;
    uint32_t a[4], b[2];
    const auto row_k = [&](int row, int k) { return pack([=](int i) { return A(row, k + i); }); };
    const auto k_col = [&](int k, int col) { return pack([=](int i) { return B(k + i, col); }); };
    a[0] = row_k(g, t * kPerRegister);
    a[1] = row_k(g + 8, t * kPerRegister);
    a[2] = row_k(g, t * kPerRegister + kHalf);
    a[3] = row_k(g + 8, t * kPerRegister + kHalf);
    b[0] = k_col(t * kPerRegister, g);
    b[1] = k_col(t * kPerRegister + kHalf, g);
    Sum out[4] = {100, 200, 300, 400};
    multiply(out, a, b);
    for (int i = 0; i < 4; ++i) {
      c[static_cast<size_t>(g + i / 2 * 8)][static_cast<size_t>(2 * t + i % 2)] =
          out[i] - static_cast<Sum>(100 * (i + 1));
    }
  });
  EXPECT_EQ(error, "");
  return c;
}

uint32_t PackBytes(const std::function<int(int)>& element) {
  uint32_t r = 0;
  for (int i = 0; i < 4; ++i) r |= static_cast<uint32_t>(static_cast<uint8_t>(element(i))) << (8 * i);
  return r;
}

TEST(CudaPtx, MatrixProductsFollowTheFragmentsOfTheManual) {
  const auto bf16 = MultiplyOnOneWarp<float, 2>(
      [](const auto& e) { return PackBf16(static_cast<float>(e(0)), static_cast<float>(e(1))); },
      [](auto& c, const auto& a, const auto& b) { MmaBf16(c, a, b); });
  const auto f16 = MultiplyOnOneWarp<float, 2>(
      [](const auto& e) { return PackF16(static_cast<float>(e(0)), static_cast<float>(e(1))); },
      [](auto& c, const auto& a, const auto& b) { MmaF16(c, a, b); });
  const auto s8 = MultiplyOnOneWarp<int, 4>([](const auto& e) { return PackBytes(e); },
                                            [](auto& c, const auto& a, const auto& b) { MmaS8(c, a, b); });
  for (int row = 0; row < 16; ++row) {
    for (int col = 0; col < 8; ++col) {
      const auto r = static_cast<size_t>(row), c = static_cast<size_t>(col);
      EXPECT_EQ(bf16[r][c], static_cast<float>(Product<16>(row, col))) << row << ", " << col;
      EXPECT_EQ(f16[r][c], static_cast<float>(Product<16>(row, col))) << row << ", " << col;
      EXPECT_EQ(s8[r][c], Product<32>(row, col)) << row << ", " << col;
    }
  }
}

TEST(CudaPtx, AWrongFragmentIndexGivesAnotherProduct) {
  // Registers 1 and 2 of A swapped: the mistake that is made most.
  const auto wrong = MultiplyOnOneWarp<int, 4>([](const auto& e) { return PackBytes(e); },
                                               [](auto& c, const auto& a, const auto& b) {
                                                 const uint32_t swapped[4] = {a[0], a[2], a[1], a[3]};
                                                 MmaS8(c, swapped, b);
                                               });
  int equal = 0;
  for (int row = 0; row < 16; ++row) {
    for (int col = 0; col < 8; ++col) {
      equal += wrong[static_cast<size_t>(row)][static_cast<size_t>(col)] == Product<32>(row, col);
    }
  }
  EXPECT_LT(equal, 32);
}

// Matrix m, row r, column c holds 100 m + 10 r + c.
template <int kMatrices, typename Load>
std::vector<uint32_t> LoadOnOneWarp(const Load& load) {
  std::vector<uint32_t> registers(32 * kMatrices);
  const std::string error = RunGrid("ldmatrix", Dim3(1), Dim3(32), 0, [&] {
    KOMPAKT_SHARED(uint16_t, rows, kMatrices * 64);
    for (unsigned i = threadIdx.x; i < kMatrices * 64; i += 32) {
      rows[i] = static_cast<uint16_t>(100 * (i / 64) + 10 * (i / 8 % 8) + i % 8);
    }
    __syncthreads();
    uint32_t r[kMatrices];
    load(r, rows + (threadIdx.x % (8 * kMatrices)) * 8);
    for (unsigned m = 0; m < kMatrices; ++m) registers[threadIdx.x * kMatrices + m] = r[m];
  });
  EXPECT_EQ(error, "");
  return registers;
}

template <int kMatrices>
void ExpectFragments(const std::vector<uint32_t>& registers, bool transposed) {
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t m = 0; m < kMatrices; ++m) {
      const uint32_t low = 100 * m + (transposed ? 10 * (2 * t) + g : 10 * g + 2 * t);
      const uint32_t high = 100 * m + (transposed ? 10 * (2 * t + 1) + g : 10 * g + 2 * t + 1);
      EXPECT_EQ(registers[lane * kMatrices + m], high << 16 | low) << "lane " << lane << ", matrix " << m;
    }
  }
}

TEST(CudaPtx, MatricesLoadFromSharedMemoryAsTheManualSays) {
  ExpectFragments<4>(LoadOnOneWarp<4>([](auto& r, auto row) { LoadMatrixX4(r, row); }), false);
  ExpectFragments<4>(LoadOnOneWarp<4>([](auto& r, auto row) { LoadMatrixX4Transposed(r, row); }), true);
  ExpectFragments<2>(LoadOnOneWarp<2>([](auto& r, auto row) { LoadMatrixX2(r, row); }), false);
  ExpectFragments<2>(LoadOnOneWarp<2>([](auto& r, auto row) { LoadMatrixX2Transposed(r, row); }), true);
}

TEST(CudaPtx, AMatrixIsNotLoadedBeforeABarrier) {
  const std::string error = RunGrid("ldmatrix", Dim3(1), Dim3(32), 0, [&] {
    KOMPAKT_SHARED(uint16_t, rows, 256);
    for (unsigned i = 0; i < 8; ++i) rows[i * 32 + threadIdx.x] = 0;
    uint32_t r[4];
    LoadMatrixX4(r, rows + threadIdx.x * 8);
  });
  EXPECT_THAT(error, testing::AnyOf(testing::HasSubstr("uninitialised"), testing::HasSubstr("a race")));
}

TEST(CudaPtx, ConversionsRoundAsIeeeSays) {
  EXPECT_EQ(PackBf16(1.0f, -2.0f), 0xc0003f80u);
  EXPECT_EQ(PackF16(1.0f, 65504.0f), 0x7bff3c00u);
  EXPECT_EQ(LowBf16(0xc0003f80u), 1.0f);
  EXPECT_EQ(HighBf16(0xc0003f80u), -2.0f);
  EXPECT_EQ(HighF16(0x7bff3c00u), 65504.0f);
  EXPECT_EQ(FmaBf16x2(0x40003f80u, 0x40403f80u, 0x3f803f80u), PackBf16(2.0f, 7.0f));
  EXPECT_EQ(Exp2(-INFINITY), 0.0f);
  EXPECT_EQ(Exp2(3.0f), 8.0f);
}

TEST(CudaPtx, IntegerIntrinsicsDoWhatTheirManualSays) {
  EXPECT_EQ(__dp4a(int{0x01ff7f80}, int{0x02030405}, 10), 10 + 1 * 2 - 1 * 3 + 127 * 4 - 128 * 5);
  EXPECT_EQ(__byte_perm(0x33221100u, 0x77665544u, 0x7250u), 0x77225500u);
  EXPECT_EQ(__byte_perm(0x000000f0u, 0, 0x0008u), 0xf0f0f0ffu);
  EXPECT_EQ(__ffs(0), 0);
  EXPECT_EQ(__ffs(8), 4);
  EXPECT_EQ(__brev(1u), 0x80000000u);
}

}  // namespace
}  // namespace kompakt::cuda_sim
