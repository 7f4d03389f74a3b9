#include "tools/runtime_flags.h"

#include "format/status.h"
#include "tools/byte_size.h"
#include "tools/model_input.h"

namespace kompakt {

void DeclareRuntimeFlags(CLI::App& app, RuntimeFlags& flags) {
  app.add_option("-t,--threads", flags.threads, "Threads; 0 (default) takes every processor");
}

void DeclareActivationFlag(CLI::App& app, RuntimeFlags& flags, const char* default_act) {
  flags.act = default_act;
  app.add_option("--act", flags.act,
                 "Activations in products with quantized weights: f32, int8, int16, or auto, which is int16 for the "
                 "matrices that need it and int8 for the rest")
      ->capture_default_str();
}

void DeclareCacheFlag(CLI::App& app, std::string& kv, const char* default_kv) {
  kv = default_kv;
  app.add_option("--kv", kv, "How the KV cache is kept: f32, bf16 or int8")->capture_default_str();
}

absl::StatusOr<CacheFormat> ResolveCacheFlag(const std::string& kv) {
  absl::StatusOr<CacheFormat> format = CacheFormatFromName(kv);
  if (!format.ok()) return WithContext(format.status(), "--kv");
  return format;
}

CLI::Option* DeclareRamLimitFlag(CLI::App& app, RuntimeFlags& flags) {
  return app.add_option(
      "--ram", flags.ram,
      "Run a packed file within this much memory, for example 6GiB: experts are read as they are needed");
}

absl::StatusOr<uint64_t> RamLimitOf(const RuntimeFlags& flags) {
  if (flags.ram.empty()) return 0;
  return ParseByteSize("--ram", flags.ram);
}

absl::StatusOr<ModelOptions> ResolveRuntimeFlags(const RuntimeFlags& flags) {
  ModelOptions options;
  KOMPAKT_ASSIGN_OR_RETURN(options.threads, ResolveThreads(flags.threads));
  absl::StatusOr<ActivationPolicy> act = ActivationPolicy::FromName(flags.act);
  if (!act.ok()) return WithContext(act.status(), "--act");
  options.act = *act;
  KOMPAKT_ASSIGN_OR_RETURN(options.cache_format, ResolveCacheFlag(flags.kv));
  KOMPAKT_ASSIGN_OR_RETURN(options.device, ResolveDeviceFlags(flags.device));
  return options;
}

ModelOptions WithoutRounding(ModelOptions options) {
  options.act = ActivationPolicy();
  options.cache_format = CacheFormat::kF32;
  return options;
}

ModelOptions WithKernels(ModelOptions options, const KernelSet* kernels) {
  options.kernels = kernels;
  return options;
}

}  // namespace kompakt
