// Launches of a layer on the simulator, which counts them.
#include "runtime/device_layer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "converters/checkpoint.h"
#include "format/arch_spec.h"
#include "kernels/cuda/sim/sim_device.h"
#include "kernels/device.h"
#include "runtime/device_footprint.h"
#include "runtime/device_target.h"
#include "runtime/exact_store.h"
#include "tests/converters/status_matchers.h"
#include "tests/runtime/golden_file.h"

namespace kompakt {
namespace {

// Launches of each layer of a checkpoint for `tokens` tokens behind `position` others, and what kind of layer it is.
struct LayerLaunches {
  std::string kind;
  uint64_t launches = 0;
};
// `context` rows of the cache.
std::vector<LayerLaunches> LaunchesOf(const std::string& checkpoint, int64_t tokens, int64_t position = 9,
                                      int64_t context = 16) {
  const auto source = *OpenCheckpoint(CheckpointFolder(checkpoint));
  auto target = std::make_shared<DeviceTarget>();
  target->device = *OpenDevice("cuda-sim");
  Device& device = *target->device;
  ModelOptions options;
  options.threads = 1;
  options.device = target;
  const auto model = *Model::Load(*LoadExactWeights(*source, checkpoint, 1), options);
  const ArchSpec& arch = model->arch();
  const auto on_device = *DeviceModel::Create(model->binding(), *target, CacheFormat::kBf16, context);
  DeviceScratch scratch = *DeviceScratch::Create(device, arch, context, 16);
  cuda::DeviceLatentCache cache = DeviceCacheOf(arch, CacheFormat::kBf16, context);
  const auto memory = *DeviceBuffer::Create(device, static_cast<uint64_t>(cache.row_bytes() * context), "cache");
  EXPECT_THAT(device.Fill(memory.as<void>(), 0, memory.bytes(), nullptr), IsOk());
  cache.data = memory.as<uint8_t>();
  const std::vector<cuda::DeviceLatentCache> caches(on_device->layers().size(), cache);
  cuda::DeviceIndexCache key_cache = DeviceIndexCacheOf(arch, context);
  DeviceBuffer key_memory;
  if (key_cache.capacity > 0) {
    key_memory = *DeviceBuffer::Create(device, static_cast<uint64_t>(key_cache.row_bytes() * context), "keys");
    EXPECT_THAT(device.Fill(key_memory.as<void>(), 0, key_memory.bytes(), nullptr), IsOk());
  }
  std::vector<cuda::DeviceIndexCache> keys(caches.size(), key_cache);
  for (size_t l = 0; l < keys.size(); ++l) {
    if (HasIndexer(arch, static_cast<int64_t>(l))) keys[l].data = key_memory.as<uint16_t>();
  }
  const DeviceLayers layers(*model, *on_device, scratch, caches.data(), keys.data());

  EXPECT_THAT(device.Fill(scratch.input, 0, DeviceScratch::InputBytes(arch, tokens), nullptr), IsOk());
  const DeviceLayers::Step step = layers.StepOf(nullptr, tokens, position, position + tokens);
  *DeviceScratch::InputAt(scratch.input, arch, tokens).position = static_cast<int32_t>(position);
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
    const std::string kind = std::string(keys[static_cast<size_t>(l)].data != nullptr ? "indexer, " : "") +
                             (w.q_a_proj.rows > 0 ? "compressed queries, " : "") +
                             (w.router.rows > 0 ? "experts" : "dense");
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

// glm5 shares indexers: layers 1 and 3 have none. index_topk is 16 and 11.
TEST(DeviceLayer, AnIndexerTakesOneLaunchMoreAndFourWhereRowsAreSelected) {
  for (const char* checkpoint : {"v32", "glm5"}) {
    const std::vector<LayerLaunches> narrow = LaunchesOf(checkpoint, 1, 9, 11);
    const std::vector<LayerLaunches> all = LaunchesOf(checkpoint, 1, 9, 40);
    const std::vector<LayerLaunches> selecting = LaunchesOf(checkpoint, 1, 20, 40);
    for (size_t l = 0; l < all.size(); ++l) {
      const bool indexer = all[l].kind.starts_with("indexer");
      EXPECT_LE(narrow[l].launches, 8u) << checkpoint << ", layer " << l;
      EXPECT_EQ(all[l].launches, narrow[l].launches + (indexer ? 1 : 0)) << checkpoint << ", layer " << l;
      EXPECT_EQ(selecting[l].launches, narrow[l].launches + (indexer ? 4 : 0)) << checkpoint << ", layer " << l;
    }
    EXPECT_TRUE(all[0].kind.starts_with("indexer")) << checkpoint;
    EXPECT_EQ(all[1].kind.starts_with("indexer"), std::string(checkpoint) == "v32");
  }
}

TEST(DeviceLayer, AFewTokensTakeAsManyAsOne) {
  const std::vector<LayerLaunches> one = LaunchesOf("v3", 1);
  const std::vector<LayerLaunches> three = LaunchesOf("v3", 3);
  for (size_t l = 0; l < one.size(); ++l) EXPECT_EQ(three[l].launches, one[l].launches) << l;
}

}  // namespace
}  // namespace kompakt
