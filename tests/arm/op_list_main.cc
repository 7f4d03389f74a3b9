// The integer products of every kernel set of an ARM build that this processor runs, against the reference. Arguments
// name the sets that it must run, so that one which is not found does not pass for one that is right.
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/kernel_set.h"
#include "tests/kernels/op_list_check.h"

int main(int argc, char** argv) {
  bool failed = false;
  std::vector<const kompakt::KernelSet*> sets;
  for (int i = 1; i < argc; ++i) {
    const auto set = kompakt::KernelSetByName(argv[i]);
    if (set.ok()) {
      sets.push_back(*set);
    } else {
      std::printf("FAILED: %s\n", std::string(set.status().message()).c_str());
      failed = true;
    }
  }
  int64_t cases = 0;
  const auto lines = kompakt::DisagreementsWithReference(sets, kompakt::OpsToCheck::kIntegerTails, &cases);
  for (const std::string& line : lines) std::printf("FAILED: %s\n", line.c_str());
  std::printf("%d sets, %lld cases, %zu disagreements with the reference\n", argc - 1, static_cast<long long>(cases),
              lines.size());
  return failed || !lines.empty() || sets.empty() || cases < 300 ? 1 : 0;
}
