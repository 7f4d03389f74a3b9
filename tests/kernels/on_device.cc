#include "tests/kernels/on_device.h"

#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"

namespace kompakt {

OnDevice::OnDevice(const std::string& name) {
  auto device = OpenDevice(name);
  EXPECT_TRUE(device.ok()) << device.status();
  device_ = *std::move(device);
}

OnDevice::~OnDevice() { EXPECT_TRUE(device_->Synchronize(nullptr).ok()); }

void OnDevice::Run(int code, const char* what) {
  const absl::Status status = device_->LaunchStatus(code, what);
  ASSERT_TRUE(status.ok()) << status;
}

void* OnDevice::Allocate(uint64_t bytes) {
  auto buffer = DeviceBuffer::Create(*device_, bytes, "a test");
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  buffers_.push_back(*std::move(buffer));
  return buffers_.back().as<void>();
}

cuda::Matrix OnDevice::Upload(const MatrixView& m) {
  return {.data = Upload(m.data, static_cast<int64_t>(m.layout.total_bytes)),
          .side_offset = m.layout.side_offset,
          .rows = static_cast<int32_t>(m.shape.rows),
          .cols = static_cast<int32_t>(m.shape.cols),
          .format = m.format->id};
}

cuda::Activations OnDevice::MakeActivations(int64_t rows, int64_t cols, int planes, bool with_x, bool with_squares,
                                            float eps) {
  const cuda::ActivationLayout layout{
      .cols = static_cast<int32_t>(cols), .planes = planes, .with_x = with_x, .with_squares = with_squares};
  return layout.Place(Allocate(layout.bytes(rows)), rows, eps);
}

cuda::Activations OnDevice::Quantized(const std::vector<float>& x, int64_t rows, int64_t cols, int planes,
                                      const float* norm, float eps) {
  const cuda::Activations a = MakeActivations(rows, cols, planes, true, norm != nullptr, eps);
  const cuda::QuantizeParams p{.x = Upload(x), .x_stride = cols, .tokens = rows, .out = {.next = a, .norm = norm}};
  Run(kernels().quantize(p, nullptr), "quantize");
  return a;
}

std::vector<double> OnDevice::Meaning(const cuda::Activations& a, int64_t rows) {
  const int64_t groups = cuda::Groups(a.cols), padded = cuda::Padded(a.cols);
  std::vector<double> values;
  std::vector<float> x, scales;
  std::vector<int8_t> codes;
  if (a.planes > 0) {
    codes = Download(a.codes, rows * a.planes * padded);
    scales = Download(a.scales, rows * groups);
  } else {
    x = Download(a.x, rows * padded);
  }
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t c = 0; c < a.cols; ++c) {
      if (a.planes == 0) {
        values.push_back(double{x[static_cast<size_t>(t * padded + c)]});
        continue;
      }
      const int8_t* const own = codes.data() + t * a.planes * padded + c;
      const int code = a.planes == 2 ? own[0] * 256 + own[padded] : own[0];
      values.push_back(double{scales[static_cast<size_t>(t * groups + c / 32)]} * code);
    }
  }
  return values;
}

Product Multiply(const RandomMatrix& w, const std::vector<double>& x, int64_t tokens) {
  const int64_t rows = w.view.shape.rows, cols = w.view.shape.cols;
  Product product;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0, magnitude = 0;
      for (int64_t c = 0; c < cols; ++c) {
        const double term = x[static_cast<size_t>(t * cols + c)] * double{w.values[static_cast<size_t>(r * cols + c)]};
        sum += term;
        magnitude += std::abs(term);
      }
      product.y.push_back(sum);
      product.magnitude.push_back(magnitude);
    }
  }
  return product;
}

std::string FirstDifference(const std::vector<float>& y, const Product& expected, double tolerance) {
  if (y.size() != expected.y.size()) return absl::StrCat(y.size(), " results, expected ", expected.y.size());
  for (size_t i = 0; i < y.size(); ++i) {
    const double difference = std::abs(double{y[i]} - expected.y[i]);
    if (!(difference <= tolerance * expected.magnitude[i])) {
      return absl::StrCat("result ", i, " is ", y[i], ", expected ", expected.y[i], " to ",
                          tolerance * expected.magnitude[i]);
    }
  }
  return "";
}

}  // namespace kompakt
