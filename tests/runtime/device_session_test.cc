// Sessions on every device of this machine, the simulator at least, against goldens and against the CPU.
#include "runtime/device_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "converters/checkpoint.h"
#include "format/device_error.h"
#include "kernels/device.h"
#include "quant/convert.h"
#include "runtime/device_footprint.h"
#include "runtime/device_model.h"
#include "runtime/exact_store.h"
#include "tests/converters/status_matchers.h"
#include "tests/converters/temp_folder.h"
#include "tests/fixtures/test_name.h"
#include "tests/runtime/device_models.h"
#include "tests/runtime/golden_file.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

struct Variant {
  std::string device;
  std::string checkpoint;
};

std::vector<Variant> AllVariants() {
  std::vector<Variant> variants;
  for (const std::string& device : AvailableDevices()) {
    for (const char* name : {"v2lite", "v2", "v3", "moonlight", "glmflash", "kimi"}) variants.push_back({device, name});
  }
  return variants;
}

class DeviceGolden : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Models, DeviceGolden, testing::ValuesIn(AllVariants()),
                         [](const auto& info) { return TestNameOf(info.param.checkpoint + "_" + info.param.device); });

TEST_P(DeviceGolden, LogitsAndRoutingMatchHoweverTheTextIsCut) {
  constexpr size_t kTokens = 16;
  const std::string path = CheckpointFolder(GetParam().checkpoint) + "/golden.safetensors";
  std::vector<int32_t> ids = GoldenInts(path, "ids");
  ids.resize(kTokens);
  std::vector<float> want = GoldenFloats(path, "logits");
  const ModelOnDevice loaded = LoadOnDevice(GetParam().device, WeightsOf(GetParam().checkpoint));
  const auto vocab = static_cast<size_t>(loaded.model->arch().vocab_size());
  want.resize(kTokens * vocab);
  auto session = Session::Create(loaded.model, kTokens);
  ASSERT_THAT(session, IsOk());
  ExpectClose(Logits(**session, ids), want, "prefill");

  ASSERT_THAT((*session)->Rewind(kTokens - 5), IsOk());
  ExpectClose(Logits(**session, absl::MakeSpan(ids).last(5)), absl::MakeSpan(want).last(5 * vocab), "pieces_of_5");

  ASSERT_THAT((*session)->Rewind(kTokens - 3), IsOk());
  std::vector<float> decoded;
  for (size_t i = kTokens - 3; i < kTokens; ++i) {
    const std::vector<float> one = Logits(**session, absl::MakeSpan(ids).subspan(i, 1));
    decoded.insert(decoded.end(), one.begin(), one.end());
  }
  ExpectClose(decoded, absl::MakeSpan(want).last(3 * vocab), "decode");
}

class OnEveryDevice : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Devices, OnEveryDevice, testing::ValuesIn(AvailableDevices()),
                         [](const auto& info) { return TestNameOf(info.param); });

TEST_P(OnEveryDevice, ATraceIsThatOfTheCpuAndItsRoutingCanBeTakenOver) {
  const auto weights = WeightsOf("v3");
  const ModelOnDevice loaded = LoadOnDevice(GetParam(), weights);
  const auto cpu = *Model::Load(weights, {.threads = 2});
  const std::vector<int32_t> ids = {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  auto on_cpu = *Session::Create(cpu, std::ssize(ids));
  auto on_device = *Session::Create(loaded.model, std::ssize(ids));
  ForwardTrace want;
  ASSERT_THAT(on_cpu->Forward(ids, Session::Logits::kNone, &want), IsOk());
  ForwardTrace got;
  ASSERT_THAT(on_device->Forward(ids, Session::Logits::kNone, &got), IsOk());
  ExpectClose(got.hidden, want.hidden, "hidden");
  EXPECT_EQ(got.router_ids, want.router_ids);
  ExpectClose(got.router_scores, want.router_scores, "scores");

  ForwardTrace other = want;
  const auto k = static_cast<size_t>(cpu->arch().moe().num_experts_per_tok());
  for (size_t i = 0; i < other.router_ids.size(); ++i) other.router_ids[i] = static_cast<int32_t>(i % k);
  ForwardTrace frozen_cpu;
  ForwardTrace frozen_device;
  ASSERT_THAT(on_cpu->Rewind(0), IsOk());
  ASSERT_THAT(on_device->Rewind(0), IsOk());
  ASSERT_THAT(on_cpu->Forward(ids, Session::Logits::kNone, &frozen_cpu, &other), IsOk());
  ASSERT_THAT(on_device->Forward(ids, Session::Logits::kNone, &frozen_device, &other), IsOk());
  EXPECT_EQ(frozen_device.router_ids, other.router_ids);
  ExpectClose(frozen_device.hidden, frozen_cpu.hidden, "frozen_hidden");
}

TEST_P(OnEveryDevice, AQuantizedModelWritesTheTextOfTheCpu) {
  const TempFolder folder;
  const auto source = *OpenCheckpoint(CheckpointFolder("tiny-v3"));
  ASSERT_THAT(Convert(*source, *QuantRecipe::Builtin("q4"), folder.File("q4.kpk"), {.threads = 2}, PosixFileSystem()),
              IsOk());
  const auto weights = PackedWeights(*PackedReader::Open(folder.File("q4.kpk")));
  const ActivationPolicy act(ActivationPolicy::Kind::kInt16);
  const ModelOnDevice loaded = LoadOnDevice(GetParam(), weights, act);
  ModelOptions options;
  options.threads = 2;
  options.act = act;
  const auto cpu = *Model::Load(weights, options);
  const std::vector<int32_t> prompt = {0, 100, 200, 300, 42, 43, 44, 45, 46, 47};
  auto on_cpu = *Session::Create(cpu, 20);
  auto on_device = *Session::Create(loaded.model, 20);
  EXPECT_EQ(Greedy(*on_device, prompt, 6), Greedy(*on_cpu, prompt, 6));
}

// Bytes of device memory with which the placement of `model` is the one that is asked for.
uint64_t MemoryFor(const Model& model, int64_t context, uint64_t experts_bytes) {
  const ModelBytes bytes = BytesOfBinding(model.binding());
  const DeviceFootprint footprint = DeviceFootprintOf(model.arch(), model.options().cache_format, context);
  uint64_t total = bytes.head_bytes + footprint.working_bytes;
  for (const ModelBytes::Layer& layer : bytes.layers) {
    total += layer.fixed_bytes + footprint.cache_token_bytes * static_cast<uint64_t>(context);
  }
  return total + experts_bytes;
}

TEST_P(OnEveryDevice, ExpertsOnTheHostGiveTheSameText) {
  const auto weights = WeightsOf("v2lite");
  const std::vector<int32_t> prompt = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3};
  constexpr int64_t kContext = 30;
  const auto cpu = *Model::Load(weights, {.threads = 2});
  const std::vector<int32_t> want = Greedy(**Session::Create(cpu, kContext), prompt, 8);
  const ModelBytes bytes = BytesOfBinding(cpu->binding());
  const uint64_t expert = bytes.layers.back().expert_bytes;
  const struct {
    const char* what;
    uint64_t experts_bytes;
    int64_t gpu_layers;
    int64_t device_layers, device_expert_layers, slots;
  } cases[] = {
      {"all on the device", bytes.total(), -1, 3, 2, 0},
      {"no experts", 0, -1, 3, 0, 0},
      {"one layer's experts and some slots", bytes.layers.back().all_experts() * 4 / 3 + 2 * expert, -1, 3, 1, 4},
      {"slots for five experts alone", 5 * expert, -1, 3, 0, 5},
      {"the last layer alone", bytes.total(), 1, 1, 1, 0},
  };
  for (const auto& c : cases) {
    const ModelOnDevice loaded = LoadOnDevice(GetParam(), weights);
    loaded.target->memory_bytes = MemoryFor(*cpu, kContext, c.experts_bytes);
    loaded.target->gpu_layers = c.gpu_layers;
    std::string placed;
    loaded.target->on_placed = [&](const std::string& line) { placed = line; };
    auto session = Session::Create(loaded.model, kContext);
    ASSERT_THAT(session, IsOk()) << c.what;
    const std::shared_ptr<DeviceModel> device_model = loaded.target->models[loaded.model.get()].lock();
    ASSERT_NE(device_model, nullptr);
    EXPECT_EQ(device_model->placement().device_layers(), c.device_layers) << c.what << ": " << placed;
    EXPECT_EQ(device_model->placement().device_expert_layers(), c.device_expert_layers) << c.what << ": " << placed;
    EXPECT_EQ(device_model->placement().slots, c.slots) << c.what << ": " << placed;
    EXPECT_EQ(Greedy(**session, prompt, 8), want) << c.what << ": " << placed;
    ASSERT_THAT((*session)->Rewind(0), IsOk());
    EXPECT_EQ(Greedy(**session, prompt, 8), want) << c.what << ", once more";
  }
}

TEST_P(OnEveryDevice, StopsAtTheLayerWhoseHiddenStateIsNotFinite) {
  const auto whole = WeightsOf("v2lite");
  const struct {
    TensorRole role;
    int32_t layer;
    std::string where;
  } cases[] = {{TensorRole::kInputNorm, 1, "layer 1"},
               {TensorRole::kPostAttentionNorm, 2, "layer 2"},
               {TensorRole::kKvANorm, 0, "layer 0"},
               {TensorRole::kFinalNorm, -1, "final norm"}};
  for (const auto& c : cases) {
    const ModelOnDevice loaded = LoadOnDevice(GetParam(), std::make_shared<DamagedWeights>(whole, c.role, c.layer));
    auto session = *Session::Create(loaded.model, 8);
    const std::vector<int32_t> ids = {1, 2, 3};
    for (const size_t tokens : {3u, 1u}) {
      EXPECT_THAT(session->Forward(absl::MakeSpan(ids).first(tokens), Session::Logits::kLast),
                  Fails(absl::StatusCode::kDataLoss, {"v2lite", c.where, "position"}));
      EXPECT_EQ(session->position(), 0);
    }
  }
}

// For bench: as if so many tokens had been computed, on the device and in layers of the host.
TEST_P(OnEveryDevice, RowsOfRandomValuesFillTheCache) {
  for (const int64_t gpu_layers : {-1, 1}) {
    const ModelOnDevice loaded = LoadOnDevice(GetParam(), WeightsOf("v2lite"));
    loaded.target->gpu_layers = gpu_layers;
    auto session = *Session::Create(loaded.model, 200);
    ASSERT_THAT(session->AppendRandomRows(150), IsOk());
    EXPECT_EQ(session->position(), 150);
    const std::vector<float> first = Logits(*session, {7});
    for (const float logit : first) ASSERT_TRUE(std::isfinite(logit));
    ASSERT_THAT(session->Rewind(0), IsOk());
    ASSERT_THAT(session->AppendRandomRows(0), IsOk());
    ASSERT_THAT(session->AppendRandomRows(150), IsOk());
    EXPECT_EQ(Logits(*session, {7}), first) << "the same rows every time";
    ASSERT_THAT(session->AppendRandomRows(49), IsOk());
    EXPECT_THAT(session->AppendRandomRows(1), Fails(absl::StatusCode::kInvalidArgument, {"no room"}));
  }
}

TEST_P(OnEveryDevice, RefusesWhatTheCpuRefuses) {
  const ModelOnDevice loaded = LoadOnDevice(GetParam(), WeightsOf("v2lite"));
  EXPECT_THAT(Session::Create(loaded.model, 0), Fails(absl::StatusCode::kInvalidArgument, {"max_tokens"}));
  auto session = *Session::Create(loaded.model, 3);
  EXPECT_THAT(session->Forward({1, 2, 3, 4}, Session::Logits::kLast),
              Fails(absl::StatusCode::kInvalidArgument, {"no room", "4 tokens"}));
  EXPECT_THAT(session->Forward({1, 320}, Session::Logits::kLast),
              Fails(absl::StatusCode::kInvalidArgument, {"320", "token 1"}));
  EXPECT_THAT(session->ForwardGreedy({}, 320), Fails(absl::StatusCode::kInvalidArgument, {"0 tokens"}));
  EXPECT_THAT(session->Rewind(1), Fails(absl::StatusCode::kInvalidArgument, {"1"}));
}

TEST_P(OnEveryDevice, SessionsShareTheWeightsAndLeaveNothingBehind) {
  const auto weights = WeightsOf("v2lite");
  auto target = std::make_shared<DeviceTarget>();
  target->device = *OpenDevice(GetParam());
  ModelOptions options;
  options.threads = 2;
  options.device = target;
  const std::vector<int32_t> ids = {1, 2, 3};
  auto model = *Model::Load(weights, options);
  // A GPU loads the code of a kernel when it is first started, and keeps it.
  Logits(**Session::Create(model, 8), ids);
  model = *Model::Load(weights, options);
  const uint64_t before = *target->device->FreeBytes();
  auto first = *Session::Create(model, 8);
  const uint64_t with_one = *target->device->FreeBytes();
  auto second = *Session::Create(model, 8);
  const uint64_t with_two = *target->device->FreeBytes();
  EXPECT_LT(with_two, with_one);
  EXPECT_LT(with_one - with_two, before - with_one) << "the second session brought no weights of its own";
  EXPECT_EQ(Logits(*first, ids), Logits(*second, ids));
  first.reset();
  second.reset();
  model.reset();
  EXPECT_EQ(*target->device->FreeBytes(), before);
}

TEST_P(OnEveryDevice, SaysHowMuchMemoryIsMissing) {
  const ModelOnDevice loaded = LoadOnDevice(GetParam(), WeightsOf("v2lite"));
  loaded.target->memory_bytes = 1000;
  const absl::Status status = Session::Create(loaded.model, 8).status();
  EXPECT_TRUE(IsDeviceError(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("1000 bytes may be used"));
  loaded.target->memory_bytes = UINT64_MAX / 2;
  EXPECT_THAT(std::string(Session::Create(loaded.model, 8).status().message()), HasSubstr("--gpu-memory"));
  // Where a notice is wanted instead, the session is one of the CPU.
  std::string notice;
  loaded.target->on_unusable = [&](const absl::Status& reason) { notice = std::string(reason.message()); };
  auto on_cpu = Session::Create(loaded.model, 8);
  ASSERT_THAT(on_cpu, IsOk());
  EXPECT_FALSE((*on_cpu)->prefers_greedy());
  EXPECT_THAT(notice, HasSubstr("--gpu-memory"));
}

TEST(DeviceFootprint, IsWhatASessionTakes) {
  // Layers with an indexer; its keys are kept beyond index_topk, which are 16 and 11.
  const struct {
    const char* checkpoint;
    int64_t indexers;
  } cases[] = {{"v3", 0}, {"v32", 3}, {"glm5", 2}};
  for (const auto& c : cases) {
    const ModelOnDevice loaded = LoadOnDevice("cuda-sim", WeightsOf(c.checkpoint));
    const ArchSpec& arch = loaded.model->arch();
    for (const int64_t context : {1, 8, 100, 300}) {
      auto session = *Session::Create(loaded.model, context);
      const DeviceFootprint footprint = DeviceFootprintOf(arch, CacheFormat::kF32, context);
      EXPECT_EQ(footprint.index_token_bytes > 0, c.indexers > 0 && context > 16) << c.checkpoint;
      const uint64_t token_bytes = footprint.cache_token_bytes * static_cast<uint64_t>(arch.num_hidden_layers()) +
                                   footprint.index_token_bytes * static_cast<uint64_t>(c.indexers);
      EXPECT_EQ(session->cache_bytes(), token_bytes * static_cast<uint64_t>(context)) << c.checkpoint;
      EXPECT_LE(footprint.working_bytes, session->working_bytes());
      const auto device_model = loaded.target->models[loaded.model.get()].lock();
      EXPECT_EQ(device_model->placement().cache_bytes, session->cache_bytes()) << c.checkpoint;
    }
  }
}

TEST(NvidiaGpu, IsFoundWhereSysfsHasADisplayControllerOfThatVendor) {
  const TempFolder folder;
  const std::string device = folder.File("bus/pci/devices/0000:01:00.0");
  std::filesystem::create_directories(device);
  const auto write = [&](const std::string& vendor, const std::string& klass) {
    std::ofstream(device + "/vendor") << vendor << "\n";
    std::ofstream(device + "/class") << klass << "\n";
  };
  EXPECT_FALSE(NvidiaGpuIsPresent(folder.File("")));
  write("0x10de", "0x030000");
  EXPECT_TRUE(NvidiaGpuIsPresent(folder.File("")));
  write("0x10de", "0x040300");  // its sound
  EXPECT_FALSE(NvidiaGpuIsPresent(folder.File("")));
  write("0x1002", "0x030000");
  EXPECT_FALSE(NvidiaGpuIsPresent(folder.File("")));
  EXPECT_FALSE(NvidiaGpuIsPresent(folder.File("absent")));
}

}  // namespace
}  // namespace kompakt
