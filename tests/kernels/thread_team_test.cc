// A team runs every task exactly once, whatever its workers are doing.
#include "kernels/thread_team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace kompakt {
namespace {

TEST(ThreadTeam, RunsEveryTaskOnceInManyShortJobs) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadTeam team(threads);
    EXPECT_EQ(team.threads(), threads);
    for (int64_t job = 0; job < 3000; ++job) {
      const int64_t tasks = job % 13;
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      team.Run(tasks, [&](int64_t task, int) { runs[static_cast<size_t>(task)].fetch_add(1); });
      for (const auto& count : runs) ASSERT_EQ(count.load(), 1) << threads << " threads, job " << job;
    }
  }
}

TEST(ThreadTeam, WritesOfATaskAreSeenByTheCallerAndTheNextJob) {
  ThreadTeam team(4);
  std::vector<int64_t> values(100, 0);
  for (int64_t job = 1; job <= 2000; ++job) {
    team.Run(100, [&](int64_t task, int) { values[static_cast<size_t>(99 - task)] += task; });
    for (int64_t i = 0; i < 100; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], job * (99 - i)) << "job " << job;
  }
}

TEST(ThreadTeam, NumbersTheThreadsSoThatEachHasItsOwnScratch) {
  ThreadTeam team(3);
  std::vector<std::atomic<bool>> busy(3);
  team.Run(5000, [&](int64_t, int thread) {
    ASSERT_GE(thread, 0);
    ASSERT_LT(thread, 3);
    ASSERT_FALSE(busy[static_cast<size_t>(thread)].exchange(true));
    busy[static_cast<size_t>(thread)].store(false);
  });
}

TEST(ThreadTeam, ManyTeamsComeAndGo) {
  for (int i = 0; i < 200; ++i) {
    ThreadTeam team(1 + i % 4);
    std::atomic<int64_t> sum = 0;
    if (i % 3 != 0) team.Run(10, [&](int64_t task, int) { sum += task; });
    EXPECT_EQ(sum.load(), i % 3 != 0 ? 45 : 0);
  }
}

}  // namespace
}  // namespace kompakt
