// Matrices and activations in the memory of a device, for tests of its kernels.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/device.h"
#include "tests/kernels/random_matrix.h"

namespace kompakt {

// A device and the memory that one test takes from it. Failures are test failures.
class OnDevice {
 public:
  explicit OnDevice(const std::string& name);
  ~OnDevice();

  Device& device() { return *device_; }
  const CudaKernels& kernels() { return device_->kernels(); }
  // A failed launch fails the test.
  void Run(int code, const char* what);

  void* Allocate(uint64_t bytes);
  template <typename T>
  T* Zeros(int64_t n) {
    T* const p = static_cast<T*>(Allocate(static_cast<uint64_t>(n) * sizeof(T)));
    EXPECT_TRUE(device_->Fill(p, 0, static_cast<uint64_t>(n) * sizeof(T), nullptr).ok());
    return p;
  }
  template <typename T>
  T* Upload(const T* values, int64_t n) {
    T* const p = static_cast<T*>(Allocate(static_cast<uint64_t>(n) * sizeof(T)));
    EXPECT_TRUE(device_->Copy(p, values, static_cast<uint64_t>(n) * sizeof(T), nullptr).ok());
    return p;
  }
  template <typename T>
  T* Upload(const std::vector<T>& values) {
    return Upload(values.data(), static_cast<int64_t>(values.size()));
  }
  template <typename T>
  std::vector<T> Download(const T* p, int64_t n) {
    std::vector<T> values(static_cast<size_t>(n));
    EXPECT_TRUE(device_->Copy(values.data(), p, static_cast<uint64_t>(n) * sizeof(T), nullptr).ok());
    const absl::Status done = device_->Synchronize(nullptr);
    EXPECT_TRUE(done.ok()) << done;
    return values;
  }

  cuda::Matrix Upload(const MatrixView& m);
  cuda::Matrix Upload(const RandomMatrix& m) { return Upload(m.view); }
  // Memory for `rows` rows, not initialised.
  cuda::Activations MakeActivations(int64_t rows, int64_t cols, int planes, bool with_x, bool with_squares = false,
                                    float eps = 0);
  // x: [rows, cols], as kernels().quantize makes them.
  cuda::Activations Quantized(const std::vector<float>& x, int64_t rows, int64_t cols, int planes,
                              const float* norm = nullptr, float eps = 0);
  // The numbers that they stand for, [rows, cols]: scale times code, or x where there are no codes; without the factor
  // of a norm.
  std::vector<double> Meaning(const cuda::Activations& a, int64_t rows);

 private:
  std::unique_ptr<Device> device_;
  std::vector<DeviceBuffer> buffers_;
};

// y[t][r] = sum of x[t][c] w[r][c], and what a rounding of each term may make of it: the sum of magnitudes.
struct Product {
  std::vector<double> y;          // [tokens, rows]
  std::vector<double> magnitude;  // [tokens, rows]
};
Product Multiply(const RandomMatrix& w, const std::vector<double>& x, int64_t tokens);

// The first element of y that is further from `expected` than `tolerance` times the sum of magnitudes, in words; ""
// when there is none. NaN is far.
std::string FirstDifference(const std::vector<float>& y, const Product& expected, double tolerance);

// F32 sums of a few hundred terms, in several orders: some 20 roundings of 2^-24, each of the whole sum at most.
inline constexpr double kSumTolerance = 2e-6;

}  // namespace kompakt
