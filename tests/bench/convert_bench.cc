// convert_bench: how fast a conversion is, how much memory it takes, and what the machine could do in the same minute.
//
//     convert_bench [--model v2lite|v3] [--layers N] [--recipe q4] [--scale-search fast] [--ram 1GiB] [-t N]
//                   [--out FOLDER] [--from-disk | --from-packed] [--expect-memory] [--no-probes]
//
// The source is generated while it is read (tests/fixtures/generated_source.h). --from-disk writes it as a safetensors
// checkpoint first, drops it from the page cache, and converts that; --from-packed does so with a lossless packed file.
// --expect-memory fails when the peak of the process' resident memory is above --ram + 64 MiB. The packed file is
// removed at the end.
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <thread>

#include "CLI/CLI.hpp"
#include "absl/strings/str_format.h"
#include "converters/checkpoint.h"
#include "format/packed_reader.h"
#include "format/packed_source.h"
#include "format/parallel_for.h"
#include "format/write_behind.h"
#include "kernels/sanitizers.h"
#include "nlohmann/json.hpp"
#include "quant/convert.h"
#include "tests/bench/bench_program.h"
#include "tests/fixtures/generated_source.h"
#include "tools/byte_size.h"

namespace kompakt {
namespace {

// Bytes read and written per second by copies of arrays that no cache holds, on all threads.
double MemoryBytesPerSecond(int threads) {
  constexpr size_t kBytes = size_t{64} << 20;
  std::vector<std::vector<uint8_t>> from(static_cast<size_t>(threads)), to(static_cast<size_t>(threads));
  for (auto& v : from) v.assign(kBytes, 1);
  for (auto& v : to) v.assign(kBytes, 2);
  const auto start = Clock::now();
  constexpr int kRounds = 8;
  ParallelFor(threads, threads, [&](int64_t t, int) {
    for (int i = 0; i < kRounds; ++i)
      std::memcpy(to[static_cast<size_t>(t)].data(), from[static_cast<size_t>(t)].data(), kBytes);
  });
  return 2.0 * kRounds * static_cast<double>(kBytes) * threads / SecondsSince(start);
}

// How long the disk takes for a conversion's bytes when nothing is computed: the files of `folder` (where there is one)
// are read by one thread while another writes `write_bytes` to a new file, both as the conversion does it.
double SameTrafficSeconds(const std::string& folder, const std::string& out, uint64_t write_bytes) {
  constexpr uint64_t kPiece = uint64_t{8} << 20, kSyncEvery = uint64_t{1} << 30;
  FileSystem& fs = PosixFileSystem();
  const std::string path = out + "/probe";
  const auto start = Clock::now();
  std::thread reader([&] {
    if (!std::filesystem::exists(folder)) return;
    std::vector<uint8_t> piece(kPiece);
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      auto file = OrDie(fs.OpenForRead(entry.path().string()));
      const uint64_t bytes = OrDie(file->Size());
      for (uint64_t at = 0; at < bytes; at += kPiece) {
        const uint64_t count = std::min(kPiece, bytes - at);
        file->WillNeed(at + kPiece, 4 * kPiece);
        OrDie(file->ReadAt(at, absl::MakeSpan(piece).first(count)));
        file->Drop(at, count);
      }
    }
  });
  {
    std::vector<uint8_t> piece(kPiece);
    for (size_t i = 0; i < piece.size(); ++i) piece[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
    auto file = OrDie(fs.OpenForWrite(path));
    OrDie(file->Allocate(write_bytes));
    WriteBehind behind(*file);
    for (uint64_t at = 0; at < write_bytes; at += kPiece) {
      const uint64_t count = std::min(kPiece, write_bytes - at);
      OrDie(file->WriteAt(at, absl::MakeConstSpan(piece).first(count)));
      OrDie(behind.Wrote(at, count));
      if ((at + count) % kSyncEvery == 0) OrDie(file->Sync());
    }
  }
  reader.join();
  const double seconds = SecondsSince(start);
  OrDie(fs.Remove(path));
  return seconds;
}

// A checkpoint folder with one shard per layer, as transformers would save it.
void WriteCheckpoint(const GeneratedSource& source, const std::string& folder) {
  const ArchSpec& a = source.schema().arch();
  nlohmann::json config = {{"architectures", {a.architecture()}},
                           {"model_type", a.model_type()},
                           {"vocab_size", a.vocab_size()},
                           {"hidden_size", a.hidden_size()},
                           {"num_hidden_layers", a.num_hidden_layers()},
                           {"intermediate_size", a.intermediate_size()},
                           {"max_position_embeddings", a.max_position_embeddings()},
                           {"rms_norm_eps", a.rms_norm_eps()},
                           {"rope_theta", a.rope().rope_theta()},
                           {"tie_word_embeddings", a.tie_word_embeddings()},
                           {"hidden_act", "silu"},
                           {"attention_bias", false},
                           {"num_attention_heads", a.mla().num_attention_heads()},
                           {"num_key_value_heads", a.mla().num_attention_heads()},
                           {"q_lora_rank", nullptr},
                           {"kv_lora_rank", a.mla().kv_lora_rank()},
                           {"qk_nope_head_dim", a.mla().qk_nope_head_dim()},
                           {"qk_rope_head_dim", a.mla().qk_rope_head_dim()},
                           {"v_head_dim", a.mla().v_head_dim()},
                           {"n_routed_experts", a.moe().n_routed_experts()},
                           {"n_shared_experts", a.moe().n_shared_experts()},
                           {"num_experts_per_tok", a.moe().num_experts_per_tok()},
                           {"moe_intermediate_size", a.moe().moe_intermediate_size()},
                           {"first_k_dense_replace", a.moe().first_k_dense_replace()},
                           {"moe_layer_freq", a.moe().moe_layer_freq()},
                           {"n_group", 1},
                           {"topk_group", 1},
                           {"topk_method", "greedy"},
                           {"scoring_func", "softmax"},
                           {"norm_topk_prob", false},
                           {"routed_scaling_factor", 1.0},
                           {"torch_dtype", "bfloat16"},
                           {"bos_token_id", 0},
                           {"eos_token_id", 1}};
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json") << config.dump();
  std::map<int64_t, std::vector<const TensorInfo*>> shards;
  for (const TensorInfo& tensor : source.schema().tensors()) shards[tensor.layer].push_back(&tensor);
  nlohmann::json index;
  size_t number = 0;
  for (const auto& [layer, tensors] : shards) {
    const std::string name = absl::StrFormat("model-%05d-of-%06d.safetensors", ++number, shards.size());
    nlohmann::ordered_json header;
    uint64_t at = 0;
    for (const TensorInfo* tensor : tensors) {
      const uint64_t bytes = OrDie(source.Form(*tensor)).stored_bytes;
      nlohmann::ordered_json shape = nlohmann::ordered_json::array();
      if (!tensor->is_vector()) shape.push_back(tensor->rows);
      shape.push_back(tensor->cols);
      header[tensor->Name()] = {{"dtype", bytes == static_cast<uint64_t>(tensor->elements()) * 4 ? "F32" : "BF16"},
                                {"shape", shape},
                                {"data_offsets", {at, at + bytes}}};
      index["weight_map"][tensor->Name()] = name;
      at += bytes;
    }
    const std::string text = header.dump();
    auto file = OrDie(PosixFileSystem().OpenForWrite(folder + "/" + name));
    const uint64_t length = text.size();
    OrDie(file->WriteAt(0, {reinterpret_cast<const uint8_t*>(&length), 8}));
    OrDie(file->WriteAt(8, {reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
    uint64_t offset = 8 + length;
    for (const TensorInfo* tensor : tensors) {
      for (int64_t row = 0; row < tensor->rows; row += 512) {
        const std::vector<uint8_t> bytes = source.Bytes(*tensor, row, std::min(tensor->rows, row + 512));
        OrDie(file->WriteAt(offset, bytes));
        offset += bytes.size();
      }
    }
    OrDie(file->Sync());  // also drops it from the page cache
  }
  std::ofstream(folder + "/model.safetensors.index.json") << index.dump();
}

uint64_t PeakMemoryBytes() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

struct Flags {
  std::string model = "v2lite", recipe = "q4", ram = "1GiB", out = ".", scale_search = "default";
  int threads = 0;
  int64_t layers = 0;
  bool from_disk = false, from_packed = false, expect_memory = false, no_probes = false;
};

int Run(const Flags& flags) {
  const int threads = flags.threads > 0 ? flags.threads : static_cast<int>(std::thread::hardware_concurrency());
  ArchSpec arch = flags.model == "v3" ? SmallStackOfV3Arch() : V2LiteArch();
  if (flags.layers > 0) arch.set_num_hidden_layers(flags.layers);
  const GeneratedSource generated(arch);
  QuantRecipe recipe = OrDie(QuantRecipe::Builtin(flags.recipe));
  recipe.set_scale_search(OrDie(EffortFromName(flags.scale_search)));
  ConvertOptions options;
  options.threads = threads;
  options.ram_bytes = OrDie(ParseByteSize("--ram", flags.ram));
  // Several may run side by side.
  const std::string out = absl::StrCat(flags.out, "/convert_bench.", getpid());
  std::filesystem::create_directories(out);
  const std::string folder = out + "/source", destination = out + "/packed.kpk";
  std::unique_ptr<TensorSource> stored;
  if (flags.from_disk) {
    WriteCheckpoint(generated, folder);
    stored = OrDie(OpenCheckpoint(folder));
  } else if (flags.from_packed) {
    std::filesystem::create_directories(folder);
    const std::string file = folder + "/lossless.kpk";
    OrDie(Convert(generated, OrDie(QuantRecipe::Builtin("lossless")), file, options, PosixFileSystem()));
    stored = OrDie(OpenPackedSource(OrDie(PackedReader::Open(file))));
  }
  const TensorSource& source = stored != nullptr ? *stored : static_cast<const TensorSource&>(generated);
  const ConversionPlan plan = OrDie(PlanConversion(source, recipe, threads, options.ram_bytes));
  std::cout << absl::StrFormat("%s, %d layers: %.2f GB %s, %.2f billion weights, recipe %s, %d workers of %d threads\n",
                               flags.model, arch.num_hidden_layers(), static_cast<double>(plan.source_bytes) * 1e-9,
                               stored != nullptr ? "on disk" : "generated", static_cast<double>(plan.parameters) * 1e-9,
                               flags.recipe, plan.memory.workers, threads);
  const auto start = Clock::now();
  Clock::time_point encoded = start;
  options.progress = [&](uint64_t done, uint64_t total) {
    if (done == total) encoded = Clock::now();
  };
  const ConvertReport report = OrDie(Convert(source, recipe, destination, options, PosixFileSystem()));
  const double total = SecondsSince(start);
  const double pass = std::chrono::duration<double>(encoded - start).count();
  const uint64_t peak = PeakMemoryBytes();
  std::cout << absl::StrFormat(
      "pass     %.1f s: %.3f GB/s of source, %.0f million weights/s, %.0f per worker\n"
      "whole    %.1f s with reading %.2f GB back and checking them\n"
      "memory   %.0f MiB at most, %.0f promised, --ram %s\n",
      pass, static_cast<double>(plan.source_bytes) * 1e-9 / pass, static_cast<double>(plan.parameters) * 1e-6 / pass,
      static_cast<double>(plan.parameters) * 1e-6 / pass / plan.memory.workers, total,
      static_cast<double>(report.file_bytes) * 1e-9, static_cast<double>(peak) / (1 << 20),
      static_cast<double>(plan.memory.peak_bytes) / (1 << 20), flags.ram);
  std::filesystem::remove(destination);
  if (!flags.no_probes) {
    const double disk = SameTrafficSeconds(folder, out, report.file_bytes);
    std::cout << absl::StrFormat(
        "disk     %.1f s for the same bytes without the work: the pass runs at %.0f %% of its speed\n"
        "memory   %.1f GB/s on %d threads\n",
        disk, 100 * disk / pass, MemoryBytesPerSecond(threads) * 1e-9, threads);
  }
  std::filesystem::remove_all(out);
  if (!flags.expect_memory || peak <= options.ram_bytes + kMemorySlack) return 0;
  if (kSanitized) {
    std::cout << "above --ram + 64 MiB, with what the sanitizer keeps\n";
    return 0;
  }
  std::cout << "FAILED: the memory is above --ram + 64 MiB\n";
  return 1;
}

}  // namespace
}  // namespace kompakt

int main(int argc, char** argv) {
  kompakt::Flags flags;
  CLI::App app("Measures a conversion");
  app.add_option("--model", flags.model)->check(CLI::IsMember({"v2lite", "v3"}));
  app.add_option("--layers", flags.layers, "0: as the model has");
  app.add_option("--recipe", flags.recipe);
  app.add_option("--scale-search", flags.scale_search);
  app.add_option("--ram", flags.ram);
  app.add_option("-t,--threads", flags.threads);
  app.add_option("--out", flags.out, "Folder for the packed file and the probe");
  app.add_flag("--from-disk", flags.from_disk);
  app.add_flag("--from-packed", flags.from_packed)->excludes("--from-disk");
  app.add_flag("--expect-memory", flags.expect_memory);
  app.add_flag("--no-probes", flags.no_probes);
  CLI11_PARSE(app, argc, argv);
  return kompakt::Run(flags);
}
