// The device interface, on every device of this machine.
#include "kernels/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "format/device_error.h"
#include "kernels/cuda/sim/sim_device.h"
#include "kernels/sanitizers.h"
#include "tests/fixtures/test_name.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

class EveryDevice : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto device = OpenDevice(GetParam());
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    stream_ = *device_->CreateStream();
  }
  void TearDown() override {
    if (device_ != nullptr) device_->DestroyStream(stream_);
  }
  DeviceBuffer Upload(const std::vector<float>& values) {
    DeviceBuffer buffer = *DeviceBuffer::Create(*device_, values.size() * 4, "test");
    EXPECT_TRUE(device_->Copy(buffer.as<void>(), values.data(), values.size() * 4, stream_).ok());
    return buffer;
  }
  std::vector<float> Download(const DeviceBuffer& buffer) {
    std::vector<float> values(buffer.bytes() / 4);
    EXPECT_TRUE(device_->Copy(values.data(), buffer.as<void>(), buffer.bytes(), stream_).ok());
    const absl::Status done = device_->Synchronize(stream_);
    EXPECT_TRUE(done.ok()) << done;
    return values;
  }

  std::unique_ptr<Device> device_;
  DeviceStream stream_ = nullptr;
};
INSTANTIATE_TEST_SUITE_P(Devices, EveryDevice, testing::ValuesIn(AvailableDevices()),
                         [](const auto& info) { return TestNameOf(info.param); });

TEST_P(EveryDevice, SaysWhatItIs) {
  const DeviceProperties& p = device_->properties();
  EXPECT_NE(p.name, "");
  EXPECT_GE(p.compute_major, 8);
  EXPECT_GT(p.multiprocessors, 0);
  EXPECT_GE(p.shared_bytes_per_block, 99u << 10);
  EXPECT_LE(*device_->FreeBytes(), p.total_bytes);
}

TEST_P(EveryDevice, ReadsEveryWordOnce) {
  for (const size_t n : {4u, 1024u, 100004u}) {
    std::vector<float> words(n);
    uint32_t want = 0;
    for (size_t i = 0; i < n; ++i) {
      const auto word = static_cast<uint32_t>(i * 2654435761u + 1);
      std::memcpy(&words[i], &word, 4);
      want ^= word;
    }
    const DeviceBuffer data = Upload(words);
    const DeviceBuffer out = *DeviceBuffer::Create(*device_, 3 * cuda::kReadThreads * 4, "words");
    const cuda::ReadParams p{
        .data = data.as<uint8_t>(), .bytes = static_cast<int64_t>(n) * 4, .blocks = 3, .words = out.as<uint32_t>()};
    ASSERT_TRUE(device_->LaunchStatus(device_->kernels().read(p, stream_), "read").ok());
    uint32_t got = 0;
    for (const float word : Download(out)) got ^= std::bit_cast<uint32_t>(word);
    EXPECT_EQ(got, want) << n;
  }
}

TEST_P(EveryDevice, AddsWhereItIsTold) {
  for (const size_t n : {1u, 255u, 256u, 1000u}) {
    std::vector<float> x(n), y(n, 1);
    for (size_t i = 0; i < n; ++i) x[i] = static_cast<float>(i);
    const DeviceBuffer dx = Upload(x), dy = Upload(y);
    const cuda::AddParams p{.x = dx.as<float>(), .y = dy.as<float>(), .n = static_cast<int64_t>(n)};
    ASSERT_TRUE(device_->LaunchStatus(device_->kernels().add(p, stream_), "add").ok());
    const std::vector<float> got = Download(dy);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(got[i], x[i] + 1) << i;
  }
}

TEST_P(EveryDevice, RunsAGraphEachTimeItIsLaunched) {
  const DeviceBuffer x = Upload({1, 2, 3}), y = Upload({10, 10, 10});
  const cuda::AddParams p{.x = x.as<float>(), .y = y.as<float>(), .n = 3};
  ASSERT_TRUE(device_->Synchronize(stream_).ok());
  ASSERT_TRUE(device_->BeginCapture(stream_).ok());
  ASSERT_EQ(device_->kernels().add(p, stream_), 0);
  ASSERT_EQ(device_->kernels().add(p, stream_), 0);
  const auto graph = device_->EndCapture(stream_);
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ(Download(y), (std::vector<float>{10, 10, 10})) << "a capture runs nothing";
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(device_->LaunchGraph(*graph, stream_).ok());
  EXPECT_EQ(Download(y), (std::vector<float>{16, 22, 28}));
  device_->DestroyGraph(*graph);
}

TEST_P(EveryDevice, MeasuresBetweenEvents) {
  const DeviceEvent begin = *device_->CreateEvent(), end = *device_->CreateEvent();
  ASSERT_TRUE(device_->Record(begin, stream_).ok());
  ASSERT_TRUE(device_->Record(end, stream_).ok());
  ASSERT_TRUE(device_->Wait(stream_, end).ok());
  EXPECT_GE(*device_->SecondsBetween(begin, end), 0);
  device_->DestroyEvent(begin);
  device_->DestroyEvent(end);
}

TEST_P(EveryDevice, SaysHowMuchMemoryIsMissing) {
  const auto buffer = DeviceBuffer::Create(*device_, uint64_t{1} << 50, "the weights");
  ASSERT_FALSE(buffer.ok());
  EXPECT_TRUE(IsDeviceError(buffer.status()));
  EXPECT_THAT(std::string(buffer.status().message()),
              testing::AllOf(HasSubstr("the weights needs 1125899906842624 bytes"), HasSubstr("are free")));
}

TEST(Devices, AreFoundByName) {
  EXPECT_EQ(OpenDevice("gpu").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenDevice("cuda:x").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenDevice("cuda:").status().code(), absl::StatusCode::kInvalidArgument);
  const absl::Status none = OpenDevice("cuda:999").status();
  EXPECT_TRUE(IsDeviceError(none)) << none;
}

TEST(Devices, ALaunchThatFailsSaysWhy) {
  const auto device = *OpenDevice("cuda-sim");
  float on_host[4] = {};
  const DeviceBuffer y = *DeviceBuffer::Create(*device, 16, "y");
  const int code = device->kernels().add({.x = on_host, .y = y.as<float>(), .n = 4}, nullptr);
  const absl::Status status = device->LaunchStatus(code, "layer 3");
  EXPECT_TRUE(IsDeviceError(status));
  EXPECT_THAT(std::string(status.message()),
              testing::AllOf(HasSubstr("layer 3"), HasSubstr("kernel add"), HasSubstr("elementwise.cu:"),
                             HasSubstr("not device memory")));
}

TEST(Devices, AWriteBehindAnAllocationIsNoticed) {
  if (kAddressSanitized) GTEST_SKIP() << "the sanitizer notices it, and ends the program";
  const uint64_t before = cuda_sim::DamagedAllocations();
  {
    const auto device = *OpenDevice("cuda-sim");
    const DeviceBuffer y = *DeviceBuffer::Create(*device, 100, "y");
    y.as<volatile uint8_t>()[100] = 0;
  }
  EXPECT_EQ(cuda_sim::DamagedAllocations(), before + 1);
}

}  // namespace
}  // namespace kompakt
