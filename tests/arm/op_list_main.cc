// The integer products of every kernel set of an ARM build that this processor runs, against the reference. Arguments
// name the sets that it must run, so that one which is not found does not pass for one that is right.
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/kernel_set.h"
#include "kernels/op_list.h"
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
  const std::vector<kompakt::OpCase> cases = kompakt::CasesToCheck(kompakt::OpsToCheck::kIntegerTails);
  const std::vector<std::string> lines = kompakt::DisagreementsWithReference(sets, cases, 1);
  for (const std::string& line : lines) std::printf("FAILED: %s\n", line.c_str());
  std::printf("%d sets, %zu cases, %zu disagreements with the reference\n", argc - 1, cases.size(), lines.size());
  return failed || !lines.empty() || sets.empty() || cases.size() < 300 ? 1 : 0;
}
