// The CUDA simulator: does it run kernels as CUDA would, and does it find the mistakes it promises to find?
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/sim/sim_device.h"

namespace kompakt::cuda_sim {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr Schedule kSchedules[] = {{Schedule::Order::kForward},
                                   {Schedule::Order::kBackward},
                                   {Schedule::Order::kShuffled, 1},
                                   {Schedule::Order::kShuffled, 2}};

// The error of a launch of one block, or "" when it went well.
template <typename Body>
std::string RunBlock(unsigned threads, size_t dynamic_bytes, const Body& body) {
  return RunGrid("test", Dim3(1), Dim3(threads), dynamic_bytes, body);
}

class InEverySchedule : public testing::TestWithParam<Schedule> {
 protected:
  void SetUp() override { SetSchedule(GetParam()); }
  void TearDown() override { SetSchedule({}); }
};
INSTANTIATE_TEST_SUITE_P(CudaSim, InEverySchedule, testing::ValuesIn(kSchedules));

TEST_P(InEverySchedule, ABlockAddsItsThreadsUp) {
  // 75 threads: the last warp has 11 lanes.
  std::vector<int> sums(6, 0);
  const std::string error = RunGrid("sum", Dim3(3, 2), Dim3(25, 3), 0, [&] {
    KOMPAKT_SHARED(int, parts, 75);
    const unsigned i = threadIdx.y * blockDim.x + threadIdx.x;
    parts[i] = static_cast<int>(i + blockIdx.x);
    for (unsigned n = 75; n > 1; n = (n + 1) / 2) {
      __syncthreads();
      if (i + (n + 1) / 2 < n) parts[i] += parts[i + (n + 1) / 2];
    }
    if (i == 0) sums[blockIdx.y * gridDim.x + blockIdx.x] = parts[0];
  });
  EXPECT_EQ(error, "");
  EXPECT_EQ(sums, (std::vector<int>{2775, 2850, 2925, 2775, 2850, 2925}));
}

TEST_P(InEverySchedule, ShufflesAndVotesMoveValuesAsTheManualSays) {
  std::vector<int> down(64), up(64), exchanged(64), broadcast(64);
  std::vector<unsigned> odd(64);
  const std::string error = RunBlock(64, 0, [&] {
    const int i = static_cast<int>(threadIdx.x);
    down[threadIdx.x] = __shfl_down_sync(kFullWarp, i, 3);
    up[threadIdx.x] = __shfl_up_sync(kFullWarp, i, 3, 16);
    exchanged[threadIdx.x] = __shfl_xor_sync(kFullWarp, i, 9);
    broadcast[threadIdx.x] = __shfl_sync(kFullWarp, i, 5, 8);
    // Only half of the warp takes part.
    odd[threadIdx.x] = i % 2 == 1 ? __ballot_sync(0xaaaaaaaau, i % 4 == 1) : 0;
  });
  EXPECT_EQ(error, "");
  for (int i = 0; i < 64; ++i) {
    const auto at = static_cast<size_t>(i);
    EXPECT_EQ(down[at], i % 32 + 3 < 32 ? i + 3 : i);
    EXPECT_EQ(up[at], i % 16 >= 3 ? i - 3 : i);
    EXPECT_EQ(exchanged[at], i ^ 9);
    EXPECT_EQ(broadcast[at], i / 8 * 8 + 5);
    EXPECT_EQ(odd[at], i % 2 == 1 ? 0x22222222u : 0u);
  }
}

TEST_P(InEverySchedule, AtomicsOfABlockAddUp) {
  int total = 0;
  RegisterGlobal(&total, sizeof total);
  const std::string error = RunBlock(100, 0, [&] {
    KOMPAKT_SHARED(int, sum, 1);
    if (threadIdx.x == 0) sum[0] = 0;
    __syncthreads();
    atomicAdd(sum + 0, 2);
    __syncthreads();
    if (threadIdx.x == 99) atomicAdd(&total, static_cast<int>(sum[0]));
  });
  UnregisterGlobal(&total);
  EXPECT_EQ(error, "");
  EXPECT_EQ(total, 200);
}

// ---- Planted bugs.

TEST_P(InEverySchedule, AMissingBarrierIsARace) {
  const std::string error = RunBlock(64, 0, [] {
    KOMPAKT_SHARED(float, x, 64);
    x[threadIdx.x] = 1;
    // Here __syncthreads() is missing.
    [[maybe_unused]] const float y = x[(threadIdx.x + 1) % 64];
  });
  EXPECT_THAT(error, AllOf(HasSubstr("kernel test, block (0, 0, 0), thread ("), HasSubstr("cuda_sim_test.cc:"),
                           testing::AnyOf(HasSubstr("a race"), HasSubstr("uninitialised"))));
}

TEST_P(InEverySchedule, AMissingBarrierBeforeTheNextWriteIsARace) {
  const std::string error = RunBlock(64, 0, [] {
    KOMPAKT_SHARED(float, x, 64);
    for (int step = 0; step < 2; ++step) {
      x[threadIdx.x] = 1;
      __syncthreads();
      [[maybe_unused]] const float y = x[(threadIdx.x + 1) % 64];
      // Here __syncthreads() is missing.
    }
  });
  EXPECT_THAT(error, HasSubstr("a race"));
}

TEST_P(InEverySchedule, TwoWritersAreARace) {
  EXPECT_THAT(RunBlock(2, 0,
                       [] {
                         KOMPAKT_SHARED(float, x, 1);
                         x[0] = 1;
                       }),
              HasSubstr("write after a write"));
}

TEST_P(InEverySchedule, ASyncwarpOrdersAWarpAndNothingElse) {
  const auto exchange = [](unsigned distance) {
    return [distance] {
      KOMPAKT_SHARED(float, x, 64);
      x[threadIdx.x] = 1;
      __syncwarp();
      [[maybe_unused]] const float y = x[threadIdx.x ^ distance];
    };
  };
  EXPECT_EQ(RunBlock(64, 0, exchange(1)), "");
  EXPECT_THAT(RunBlock(64, 0, exchange(32)), testing::AnyOf(HasSubstr("a race"), HasSubstr("uninitialised")));
}

TEST_P(InEverySchedule, AShuffleOrdersNoMemory) {
  EXPECT_THAT(RunBlock(32, 0,
                       [] {
                         KOMPAKT_SHARED(float, x, 32);
                         x[threadIdx.x] = 1;
                         __shfl_sync(kFullWarp, 1, 0);
                         [[maybe_unused]] const float y = x[threadIdx.x ^ 1];
                       }),
              HasSubstr("a race"));
}

TEST_P(InEverySchedule, UninitialisedSharedMemoryIsNotRead) {
  EXPECT_THAT(RunBlock(32, 256,
                       [] {
                         KOMPAKT_DYNAMIC_SHARED(memory);
                         const auto x = SharedSlice<float>(memory, 128, 32);
                         if (threadIdx.x != 7) x[threadIdx.x] = 0;
                         __syncthreads();
                         [[maybe_unused]] const float y = x[threadIdx.x];
                       }),
              AllOf(HasSubstr("thread (7, 0, 0)"), HasSubstr("read of uninitialised shared memory: byte 156")));
}

TEST_P(InEverySchedule, WhatABlockLeftIsUninitialisedForTheNext) {
  const std::string error = RunGrid("test", Dim3(2), Dim3(1), 0, [] {
    KOMPAKT_SHARED(float, x, 1);
    if (blockIdx.x == 0) x[0] = 1;
    if (blockIdx.x == 1) [[maybe_unused]]
      const float y = x[0];
  });
  EXPECT_THAT(error, AllOf(HasSubstr("block (1, 0, 0)"), HasSubstr("uninitialised")));
}

TEST_P(InEverySchedule, AnIndexPastATailIsFound) {
  const std::string error = RunBlock(32, 0, [] {
    KOMPAKT_SHARED(float, x, 31);
    KOMPAKT_SHARED(float, behind, 1);
    if (threadIdx.x == 0) behind[0] = 0;
    x[threadIdx.x] = 0;
  });
  EXPECT_THAT(error, AllOf(HasSubstr("thread (31, 0, 0)"), HasSubstr("bytes 124 to 128"), HasSubstr("of 124 bytes")));
}

TEST_P(InEverySchedule, AMisalignedVectorIsFound) {
  EXPECT_THAT(RunBlock(1, 64,
                       [] {
                         KOMPAKT_DYNAMIC_SHARED(memory);
                         const auto x = SharedSlice<float>(memory, 0, 16);
                         for (int i = 0; i < 16; ++i) x[i] = 0;
                         [[maybe_unused]] const float4 y = SharedCast<float4>(x + 3)[0];
                       }),
              HasSubstr("misaligned access of 16 bytes"));
}

TEST_P(InEverySchedule, ADivergentBarrierIsFound) {
  const auto kThreadsThatEnd = [] {
    if (threadIdx.x < 40) __syncthreads();
  };
  EXPECT_THAT(RunBlock(64, 0, kThreadsThatEnd), AllOf(HasSubstr("a divergent barrier"), HasSubstr("which has ended")));
  const auto kTwoBarriers = [] {
    if (threadIdx.x % 2 == 0) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  };
  EXPECT_THAT(RunBlock(64, 0, kTwoBarriers), HasSubstr("a divergent barrier"));
}

TEST_P(InEverySchedule, ADivergentShuffleIsFound) {
  EXPECT_THAT(RunBlock(64, 0,
                       [] {
                         if (threadIdx.x < 40) __shfl_sync(kFullWarp, 1, 0);
                         __syncthreads();
                       }),
              AllOf(HasSubstr("a divergent warp operation"), HasSubstr("is in __syncthreads")));
  EXPECT_THAT(RunBlock(32, 0,
                       [] {
                         if (threadIdx.x != 3) __syncwarp(0xffffu);
                       }),
              testing::AnyOf(HasSubstr("leaves out the lane that calls it"), HasSubstr("which has ended"),
                             HasSubstr("which have ended")));
  EXPECT_THAT(RunBlock(16, 0, [] { __syncwarp(); }), HasSubstr("in a warp of lanes 0xffff"));
  EXPECT_THAT(RunBlock(32, 0,
                       [] {
                         if (threadIdx.x % 2 == 0) __shfl_sync(0x55555555u, 1, 1);
                       }),
              HasSubstr("reads lane 1, which is not in the mask"));
}

// Copies 32 rows of 16 bytes through two stages; `pending` groups may be on their way when a stage is read.
template <int kPending>
std::string CopyThroughStages(std::vector<uint32_t>* out) {
  std::vector<uint32_t> in(4 * 32 * 4);
  std::iota(in.begin(), in.end(), 1u);
  out->assign(in.size(), 0);
  RegisterGlobal(in.data(), in.size() * 4);
  const std::string error = RunBlock(32, 2 * 512, [&] {
    KOMPAKT_DYNAMIC_SHARED(memory);
    const auto stages = SharedSlice<uint32_t>(memory, 0, 256);
    const auto fetch = [&](unsigned tile) {
      if (tile < 4) CopyAsync16(stages + (tile % 2 * 128 + threadIdx.x * 4), &in[(tile * 32 + threadIdx.x) * 4]);
      CommitAsync();
    };
    fetch(0);
    for (unsigned tile = 0; tile < 4; ++tile) {
      fetch(tile + 1);
      WaitAsync<kPending>();
      __syncthreads();
      for (unsigned i = threadIdx.x; i < 128; i += 32) (*out)[tile * 128 + i] = stages[tile % 2 * 128 + i];
      __syncthreads();
    }
  });
  UnregisterGlobal(in.data());
  if (error.empty()) {
    EXPECT_EQ(in, *out);
  }
  return error;
}

TEST_P(InEverySchedule, AsynchronousCopiesArriveWithTheirWait) {
  std::vector<uint32_t> out;
  EXPECT_EQ(CopyThroughStages<1>(&out), "");
  EXPECT_EQ(CopyThroughStages<0>(&out), "");
  EXPECT_THAT(CopyThroughStages<2>(&out), HasSubstr("a cp.async has not brought yet"));
}

TEST_P(InEverySchedule, GlobalMemoryEndsWhereItsAllocationEnds) {
  const auto device = OpenSimDevice(1 << 20);
  const auto buffer = *DeviceBuffer::Create(*device, 100, "test");
  const auto* const p = buffer.as<const uint32_t>();
  EXPECT_EQ(RunBlock(25, 0, [&] { LoadStreaming<uint32_t>(p + threadIdx.x); }), "");
  EXPECT_THAT(RunBlock(26, 0, [&] { LoadStreaming<uint32_t>(p + threadIdx.x); }),
              AllOf(HasSubstr("bytes 100 to 104"), HasSubstr("of 100 bytes of global memory")));
  EXPECT_THAT(RunBlock(1, 0, [&] { LoadStreaming<uint4>(p + 1); }), HasSubstr("misaligned"));
  int on_host = 0;
  EXPECT_THAT(RunBlock(1, 0, [&] { LoadCached(&on_host); }), HasSubstr("not device memory"));
}

TEST(CudaSim, AnErrorLeavesNothingBehind) {
  EXPECT_NE(RunBlock(1024, 0, [] { Fail("planted", Site::current()); }), "");
  int sum = 0;
  EXPECT_EQ(RunBlock(1024, 0, [&] { sum += 1; }), "");
  EXPECT_EQ(sum, 1024);
}

// A thread of a block leaves its stack without returning; what a sanitizer keeps of its calls must not pile up.
TEST(CudaSim, ManyThousandBlocksRunOneAfterTheOther) {
  constexpr unsigned kBlocks = 60000;
  std::vector<int> runs(kBlocks, 0);
  const std::string error = RunGrid("many", Dim3(kBlocks), Dim3(2), 0, [&] {
    __syncthreads();
    if (threadIdx.x == 1) ++runs[blockIdx.x];
  });
  EXPECT_EQ(error, "");
  EXPECT_EQ(std::count(runs.begin(), runs.end(), 1), kBlocks);
}

TEST(CudaSim, LaunchesThatNoDeviceTakesAreRefused) {
  EXPECT_THAT(RunBlock(1025, 0, [] {}), HasSubstr("blocks of (1025, 1, 1) threads"));
  EXPECT_THAT(RunBlock(1, 300 << 10, [] {}), HasSubstr("bytes of shared memory"));
}

}  // namespace
}  // namespace kompakt::cuda_sim
