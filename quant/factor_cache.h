// FactorCache: factors of second moments (error_feedback.h) that several workers use at the same time. Each is made
// once while somebody needs it; who comes meanwhile waits. Of those that nobody holds, the one used last is kept: in
// the order of the file the inputs of a layer take turns with those of its experts.
//
// So with W workers, each of which holds at most one, there are at most W + 1 at any time.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "absl/status/statusor.h"
#include "quant/error_feedback.h"

namespace kompakt {

class FactorCache {
 public:
  using Shared = std::shared_ptr<const FeedbackFactor>;

  // `make` is called where the factor of `key` is not there. Its error goes to all who wait for this key; the next call
  // tries again. The caller must have let go of the factor that it held before.
  absl::StatusOr<Shared> Get(int64_t key, const std::function<absl::StatusOr<FeedbackFactor>()>& make);

 private:
  struct Entry {
    Shared factor;        // null while it is being made
    absl::Status status;  // of making it
    bool finished = false;
    int64_t last_use = 0;
    int waiting = 0;  // callers
  };
  void DropUnused();

  std::mutex mutex_;
  std::condition_variable finished_;
  std::map<int64_t, std::shared_ptr<Entry>> entries_;
  int64_t uses_ = 0;
};

}  // namespace kompakt
