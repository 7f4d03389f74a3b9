// Launches of a layer on the simulator, which counts them.
#include "runtime/device_layer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "converters/checkpoint.h"
#include "kernels/cuda/sim/sim_device.h"
#include "kernels/device.h"
#include "runtime/device_footprint.h"
#include "runtime/device_target.h"
#include "runtime/exact_store.h"
#include "tests/converters/status_matchers.h"
#include "tests/runtime/golden_file.h"

namespace kompakt {
namespace {

// Launches of each layer of a checkpoint for `tokens` tokens behind nine others, and what kind of layer it is.
struct LayerLaunches {
  std::string kind;
  uint64_t launches = 0;
};
std::vector<LayerLaunches> LaunchesOf(const std::string& checkpoint, int64_t tokens) {
  const auto source = *OpenCheckpoint(CheckpointFolder(checkpoint));
  auto target = std::make_shared<DeviceTarget>();
  target->device = *OpenDevice("cuda-sim");
  Device& device = *target->device;
  ModelOptions options;
  options.threads = 1;
  options.device = target;
  const auto model = *Model::Load(*LoadExactWeights(*source, checkpoint, 1), options);
  const ArchSpec& arch = model->arch();
  constexpr int64_t kContext = 16;
  const auto on_device = *DeviceModel::Create(model->binding(), *target, CacheFormat::kBf16, kContext);
  DeviceScratch scratch = *DeviceScratch::Create(device, arch, kContext, kContext);
  cuda::DeviceLatentCache cache = DeviceCacheOf(arch, CacheFormat::kBf16, kContext);
  const auto memory = *DeviceBuffer::Create(device, static_cast<uint64_t>(cache.row_bytes()) * kContext, "cache");
  EXPECT_THAT(device.Fill(memory.as<void>(), 0, memory.bytes(), nullptr), IsOk());
  cache.data = memory.as<uint8_t>();
  const std::vector<cuda::DeviceLatentCache> caches(on_device->layers().size(), cache);
  const DeviceLayers layers(*model, *on_device, scratch, caches.data());

  EXPECT_THAT(device.Fill(scratch.input, 0, DeviceScratch::InputBytes(arch, tokens), nullptr), IsOk());
  const DeviceLayers::Step step{.tokens = tokens, .splits = 2};
  *DeviceScratch::InputAt(scratch.input, arch, tokens).position = 9;
  EXPECT_THAT(layers.Begin(step, 0), IsOk());
  std::vector<LayerLaunches> all;
  for (int64_t l = 0; l < arch.num_hidden_layers(); ++l) {
    const DeviceLayer& w = on_device->layers()[static_cast<size_t>(l)];
    const uint64_t before = cuda_sim::LaunchedKernels();
    EXPECT_THAT(layers.Attention(step, l), IsOk());
    if (w.router.rows > 0) {
      EXPECT_THAT(layers.Route(step, l), IsOk());
    }
    EXPECT_THAT(layers.FeedForward(step, l, false), IsOk());
    const std::string kind =
        std::string(w.q_a_proj.rows > 0 ? "compressed queries, " : "") + (w.router.rows > 0 ? "experts" : "dense");
    all.push_back({kind, cuda_sim::LaunchedKernels() - before});
  }
  return all;
}

TEST(DeviceLayer, ATokenTakesAtMostEightLaunchesInLayersOfEveryKind) {
  std::vector<std::string> kinds;
  for (const char* checkpoint : {"v2lite", "v2", "v3", "moonlight", "glmflash", "kimi", "tiny-v3"}) {
    for (const LayerLaunches& layer : LaunchesOf(checkpoint, 1)) {
      EXPECT_LE(layer.launches, 8u) << checkpoint << ", a layer of " << layer.kind;
      EXPECT_GE(layer.launches, 7u) << checkpoint << ": launches are counted";
      kinds.push_back(layer.kind);
    }
  }
  for (const char* kind : {"dense", "experts", "compressed queries, dense", "compressed queries, experts"}) {
    EXPECT_NE(std::find(kinds.begin(), kinds.end(), kind), kinds.end()) << "no layer of " << kind;
  }
}

TEST(DeviceLayer, AFewTokensTakeAsManyAsOne) {
  const std::vector<LayerLaunches> one = LaunchesOf("v3", 1);
  const std::vector<LayerLaunches> three = LaunchesOf("v3", 3);
  for (size_t l = 0; l < one.size(); ++l) EXPECT_EQ(three[l].launches, one[l].launches) << l;
}

}  // namespace
}  // namespace kompakt
