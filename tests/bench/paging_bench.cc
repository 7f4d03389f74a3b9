// paging_bench: how near a model larger than its memory comes to what the disk allows.
//
//     paging_bench --file V2LITE.kpk [--layers N] [--recipe q4] [--tokenizer tests/data/tokenizers/deepseek-v3]
//                  [--ram 4500MiB] [-n 64] [-p 16] [-t N] [--check]
//
// Makes a packed file in the shape of DeepSeek-V2-Lite where there is none (random weights, norms of 1, so that routing
// is as spread out as it can be), and then, of one process: probes the disk with the reads that the cache makes,
// decodes, and probes again. The bound is the mean of the probes over the bytes that a token had to read. --check
// decodes once more from the mapped file and compares the tokens. With the files of DeepSeek-V3's tokenizer, and as
// large a vocabulary, `kompakt run` takes the file too.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <random>
#include <thread>

#include "CLI/CLI.hpp"
#include "absl/strings/str_format.h"
#include "converters/checkpoint.h"
#include "format/packed_reader.h"
#include "quant/convert.h"
#include "runtime/expert_cache.h"
#include "runtime/paged_weights.h"
#include "runtime/paging_plan.h"
#include "runtime/record_reader.h"
#include "runtime/session.h"
#include "tests/bench/bench_program.h"
#include "tests/fixtures/generated_source.h"
#include "tools/byte_size.h"
#include "tools/disk_probe.h"
#include "tools/expert_report.h"
#include "tools/machine_memory.h"

namespace kompakt {
namespace {

// GeneratedSource with norms of 1: those of a random model would shrink every layer's output to nothing.
class BenchSource : public GeneratedSource {
 public:
  BenchSource(const ArchSpec& arch, ModelAssets assets) : GeneratedSource(arch), assets_(std::move(assets)) {}
  const ModelAssets& assets() const override { return assets_; }
  absl::StatusOr<StoredRows> ReadStored(const TensorInfo& tensor, int64_t begin, int64_t end,
                                        Xxh3Stream* source_bytes) const override {
    absl::StatusOr<StoredRows> rows = GeneratedSource::ReadStored(tensor, begin, end, source_bytes);
    if (rows.ok() && tensor.is_vector() && rows->format == FormatId::kBf16) {
      for (size_t i = 0; i < rows->elements.size(); i += 2) {
        rows->elements[i] = 0x80;  // 1 in BF16
        rows->elements[i + 1] = 0x3f;
      }
    }
    return rows;
  }

 private:
  ModelAssets assets_;
};

struct Flags {
  std::string file, recipe = "q4", tokenizer, ram = "4500MiB", act = "auto";
  int64_t layers = 0, tokens = 64, prompt = 16;
  int threads = 0;
  bool check = false;
};

void MakeFile(const Flags& flags, int threads) {
  if (std::filesystem::exists(flags.file)) return;
  ArchSpec arch = V2LiteArch();
  if (flags.layers > 0) arch.set_num_hidden_layers(flags.layers);
  ModelAssets assets;
  if (!flags.tokenizer.empty()) {
    assets = OrDie(ReadAssets(flags.tokenizer));
    arch.set_vocab_size(129280);
  }
  const BenchSource source(arch, std::move(assets));
  QuantRecipe recipe = OrDie(QuantRecipe::Builtin(flags.recipe));
  recipe.set_scale_search(OrDie(EffortFromName("fast")));
  ConvertOptions options;
  options.threads = threads;
  OrDie(Convert(source, recipe, flags.file, options, PosixFileSystem()));
}

struct Decoded {
  std::vector<int32_t> ids;
  double prompt_seconds = 0, seconds = 0;
  ExpertCacheStats prompt, answer;
};

Decoded Decode(const std::shared_ptr<const WeightStore>& weights, const Flags& flags, int threads) {
  ModelOptions options;
  options.threads = threads;
  options.act = OrDie(ActivationPolicy::FromName(flags.act));
  options.cache_format = CacheFormat::kBf16;
  const auto model = OrDie(Model::Load(weights, options));
  const auto session = OrDie(Session::Create(model, flags.prompt + flags.tokens));
  std::mt19937 random(7);
  std::vector<int32_t> prompt(static_cast<size_t>(flags.prompt));
  for (int32_t& id : prompt) id = static_cast<int32_t>(random() % static_cast<uint32_t>(model->arch().vocab_size()));
  Decoded result;
  auto start = Clock::now();
  Session::Output out = OrDie(session->Forward(prompt, Session::Logits::kLast));
  result.prompt_seconds = SecondsSince(start);
  if (weights->experts() != nullptr) result.prompt = weights->experts()->stats();
  start = Clock::now();
  for (int64_t i = 0; i < flags.tokens; ++i) {
    const auto best = std::max_element(out.logits.begin(), out.logits.end());
    result.ids.push_back(static_cast<int32_t>(best - out.logits.begin()));
    out = OrDie(session->Forward({result.ids.back()}, Session::Logits::kLast));
  }
  result.seconds = SecondsSince(start);
  if (weights->experts() != nullptr) result.answer = weights->experts()->stats().Since(result.prompt);
  return result;
}

int Run(const Flags& flags) {
  const int threads = flags.threads > 0 ? flags.threads : static_cast<int>(std::thread::hardware_concurrency());
  MakeFile(flags, threads);
  const auto file = OrDie(PackedReader::Open(flags.file));
  const uint64_t ram = OrDie(ParseByteSize("--ram", flags.ram));
  const PagingPlan plan = OrDie(PlanPaging(file->schema(), file->layout(), ram, ProcessMemoryBytes(),
                                           flags.prompt + flags.tokens, threads, CacheFormat::kBf16));
  std::cout << absl::StrFormat(
      "%s: %.2f GB, --ram %s: %.2f GB of experts in memory, %d of %d in each of %d layers, %d threads\n", flags.file,
      static_cast<double>(file->file_bytes()) * 1e-9, flags.ram, static_cast<double>(plan.expert_bytes) * 1e-9,
      plan.least_slots, plan.experts, plan.layers, threads);
  auto start = Clock::now();
  const auto weights = OrDie(OpenPagedWeights(PosixFileSystem(), file, plan.expert_bytes, threads));
  std::cout << absl::StrFormat("open     %.2f s for the %.2f GB that every token uses\n", SecondsSince(start),
                               static_cast<double>(plan.resident_bytes) * 1e-9);
  const DiskProbe before = OrDie(ProbeDisk(*file, uint64_t{1} << 30));
  const Decoded paged = Decode(weights, flags, threads);
  const DiskProbe after = OrDie(ProbeDisk(*file, uint64_t{1} << 30));
  const double probe = (before.bytes_per_second + after.bytes_per_second) / 2;
  const double rate = static_cast<double>(flags.tokens) / paged.seconds;
  const double bound = probe / (static_cast<double>(paged.answer.read_bytes) / static_cast<double>(flags.tokens));
  // What the answer needed and was not there; guesses that nobody used are not among it.
  const double needed_bytes = static_cast<double>(plan.all_expert_bytes) /
                              static_cast<double>(plan.layers * plan.experts) *
                              static_cast<double>(paged.answer.misses() + paged.answer.guessed);
  const double needed_bound = probe * static_cast<double>(flags.tokens) / needed_bytes;
  std::cout << absl::StrFormat(
      "disk     %.0f MB/s before, %.0f after\nprompt   %d tokens, %.2f tokens/s\n"
      "decode   %d tokens, %.3f tokens/s: %.2f of the disk's bound %.3f for the bytes read, %.2f of %.3f for those "
      "that "
      "were missing\n",
      before.bytes_per_second * 1e-6, after.bytes_per_second * 1e-6, flags.prompt,
      static_cast<double>(flags.prompt) / paged.prompt_seconds, flags.tokens, rate, rate / bound, bound,
      rate / needed_bound, needed_bound);
  std::cout << ExpertLine("prompt  ", paged.prompt, flags.prompt) << "\n"
            << ExpertLine("decode  ", paged.answer, flags.tokens) << "\n";
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::cout << absl::StrFormat("memory   %.0f MiB at most, --ram %s\n", static_cast<double>(usage.ru_maxrss) / 1024,
                               flags.ram);
  if (!flags.check) return 0;
  const Decoded mapped = Decode(PackedWeights(file), flags, threads);
  std::cout << absl::StrFormat("mapped   %.3f tokens/s, %s tokens\n",
                               static_cast<double>(flags.tokens) / mapped.seconds,
                               mapped.ids == paged.ids ? "the same" : "OTHER");
  return mapped.ids == paged.ids ? 0 : 1;
}

}  // namespace
}  // namespace kompakt

int main(int argc, char** argv) {
  kompakt::Flags flags;
  CLI::App app("Measures decoding of a model larger than its memory");
  app.add_option("--file", flags.file)->required();
  app.add_option("--layers", flags.layers, "0: as the model has");
  app.add_option("--recipe", flags.recipe);
  app.add_option("--tokenizer", flags.tokenizer, "Folder of DeepSeek-V3's tokenizer, for a file that is made");
  app.add_option("--ram", flags.ram);
  app.add_option("-n", flags.tokens, "Tokens to decode");
  app.add_option("-p", flags.prompt, "Tokens of the prompt");
  app.add_option("-t,--threads", flags.threads);
  app.add_option("--act", flags.act);
  app.add_flag("--check", flags.check);
  CLI11_PARSE(app, argc, argv);
  return kompakt::Run(flags);
}
