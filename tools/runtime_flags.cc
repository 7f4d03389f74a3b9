#include "tools/runtime_flags.h"

#include "format/status.h"
#include "tools/model_input.h"

namespace kompakt {

void DeclareRuntimeFlags(CLI::App& app, RuntimeFlags& flags) {
  app.add_option("-t,--threads", flags.threads, "Threads; 0 (default) takes every processor");
}

absl::StatusOr<ModelOptions> ResolveRuntimeFlags(const RuntimeFlags& flags) {
  ModelOptions options;
  KOMPAKT_ASSIGN_OR_RETURN(options.threads, ResolveThreads(flags.threads));
  return options;
}

ModelOptions WithKernels(ModelOptions options, const KernelSet* kernels) {
  options.kernels = kernels;
  return options;
}

}  // namespace kompakt
