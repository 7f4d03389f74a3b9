#include "tools/ranks.h"

#include <cstdlib>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "format/status.h"

#ifdef KOMPAKT_MPI
#include <mpi.h>
#endif

namespace kompakt {
namespace {

// How many processes the launcher started, by the variable that it sets: MPI itself is only initialised when there are
// several, so that a plain run neither needs its daemons nor waits for them.
int LaunchedRanks() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    const char* const value = std::getenv(name);
    int count = 0;
    if (value != nullptr && absl::SimpleAtoi(value, &count)) return count;
  }
  return 1;
}

class OneRank : public Ranks {
 public:
  int index() const override { return 0; }
  int count() const override { return 1; }
  bool AllGood(bool good) override { return good; }
};

#ifdef KOMPAKT_MPI
class MpiRanks : public Ranks {
 public:
  MpiRanks() {
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &index_);
    MPI_Comm_size(MPI_COMM_WORLD, &count_);
  }
  ~MpiRanks() override { MPI_Finalize(); }

  int index() const override { return index_; }
  int count() const override { return count_; }

  bool AllGood(bool good) override {
    int mine = good ? 1 : 0, all = 0;
    MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    return all == 1;
  }

 private:
  int index_ = 0;
  int count_ = 1;
};
#endif

}  // namespace

absl::StatusOr<std::unique_ptr<Ranks>> JoinRanks() {
  const int launched = LaunchedRanks();
  if (launched <= 1) return std::unique_ptr<Ranks>(std::make_unique<OneRank>());
#ifdef KOMPAKT_MPI
  return std::unique_ptr<Ranks>(std::make_unique<MpiRanks>());
#else
  return UnsupportedError("started by mpirun as one of ", launched,
                          " ranks, but this program was built without MPI; --part I/N does the same without it");
#endif
}

}  // namespace kompakt
