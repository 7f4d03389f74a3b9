// ExpertCache: the routed experts of a packed file that do not all fit into memory (docs/larger-than-ram.md).
//
// Every MoE layer has a number of slots, each as large as one of its expert records. The experts that a call needs and
// that have no slot are read from the file, several at a time, while those that are there are multiplied. Which expert
// has to go for it is decided per layer by heat: how often it was used by the last tokens, older uses counting ever
// less. What is read never changes what is computed: experts are multiplied in ascending order, in parts
// (ExpertFfnParams), whatever arrives first.
//
// A guess which experts the next layer will need starts their reads early. Guesses may hold only a quarter of a layer's
// slots, those of the least heat, and a wrong guess is the first to go.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/file_system.h"
#include "format/packed_index.h"
#include "kernels/kernel_set.h"
#include "runtime/page_memory.h"
#include "runtime/record_reader.h"

namespace kompakt {

struct ExpertCacheStats {
  uint64_t uses = 0;     // experts that calls needed, each once per call and layer
  uint64_t hits = 0;     // of these, in memory because a call before had used them
  uint64_t guessed = 0;  // of these, read or being read because of a guess
  uint64_t guesses = 0;  // reads that a guess started
  uint64_t read_bytes = 0;
  double read_seconds = 0;  // during which at least one read was under way
  double wait_seconds = 0;  // during which the computation waited for reads

  uint64_t misses() const { return uses - hits - guessed; }
  // What came after `before`.
  ExpertCacheStats Since(const ExpertCacheStats& before) const;
};

class ExpertCache {
 public:
  // Least slots of a layer: one expert is multiplied while the next one is read.
  static constexpr int64_t kLeastSlots = 2;

  // Slots of every layer when the cache may take `bytes`: as many for each layer, of those that have so many experts.
  // kInvalidArgument, with the bytes that are needed, when a layer would have fewer than kLeastSlots.
  static absl::StatusOr<std::vector<int64_t>> SlotsFor(const PackedLayout& layout, uint64_t bytes);
  static uint64_t LeastBytes(const PackedLayout& layout);

  // `data` holds the bytes of `index` at its offsets; both must outlive the cache, as `path` is for messages only.
  // kInvalidArgument as SlotsFor, kResourceExhausted when the memory cannot be had.
  static absl::StatusOr<std::unique_ptr<ExpertCache>> Create(const File& data, const PackedIndex& index,
                                                             const std::string& path, uint64_t bytes);
  ~ExpertCache();

  // The matrices of an expert of decoder layer `layer`, without data.
  const FfnWeights& Shape(int32_t layer) const;
  int64_t slots(int32_t layer) const;
  // Bytes of all slots.
  uint64_t bytes() const { return memory_.bytes(); }
  ExpertCacheStats stats() const;

  // Multiplies the experts of decoder layer `layer`. `params` is of the whole layer, without experts. `meanwhile` is
  // called once while the first reads are under way; `ffn` for every part in turn, with the experts that it counts in
  // memory. Their errors are passed on; besides, of a record that cannot be read, naming the expert (and the volume;
  // whoever runs the layer names file and layer): kDataLoss when it is damaged or the file has become shorter,
  // kUnavailable when the device fails. One call at a time; a second one waits.
  absl::Status Run(int32_t layer, const ExpertFfnParams& params, absl::FunctionRef<absl::Status()> meanwhile,
                   absl::FunctionRef<absl::Status(const ExpertFfnParams& part)> ffn);

  // Some experts are likely to be needed by the next call for `layer`: reads those that are not there, the first in the
  // list first, as far as guesses may have slots. May be called from `meanwhile`, for another layer.
  void Guess(int32_t layer, absl::Span<const int32_t> experts);
  // How many reads of guesses a call of Guess could start at most; 0 when the layer has no experts in the cache.
  int64_t MostGuesses(int32_t layer) const;

 private:
  struct Expert {
    enum class Where : uint8_t { kFile, kComing, kHere };
    Where where = Where::kFile;
    bool guess = false;     // came as a guess, and no call has used it since
    bool given_up = false;  // while it is coming: it will not be whole
    bool verified = false;  // its checksum was right once
    int32_t slot = -1;
    float heat = 0;
    RecordReader::Id read = 0;  // while it is coming
  };
  // What the call that is running wants of an expert.
  enum class Want : uint8_t { kNothing, kUse, kUsed };
  struct Layer {
    int32_t number = 0;  // of the decoder layer
    int64_t extent = 0;
    uint64_t offset = 0;
    uint64_t record_bytes = 0;
    FfnWeights shape;
    uint64_t part_offsets[3] = {};  // of gate, up and down in a record
    uint8_t* memory = nullptr;
    std::vector<Expert> experts;
    std::vector<Want> wants;    // per expert
    std::vector<int32_t> free;  // slots
    int64_t slots = 0;
    int64_t guesses = 0;  // experts with `guess`
  };
  struct Call;

  ExpertCache(const File& data, const PackedIndex& index, std::string path);
  Layer* Find(int32_t layer);
  const Layer* Find(int32_t layer) const;

  void CountHeat(Layer& layer, const ExpertFfnParams& params);
  // Takes note of reads that are over, and gives up guesses that turned out wrong.
  void Settle(Layer& layer);
  // Starts reads of what the call needs and is not here, in order, as far as there are slots for it.
  void StartReads(Call& call);
  // Until the next expert of the call is here.
  absl::Status Await(Call& call);
  int32_t SlotFor(Call& call);
  bool Arrived(Layer& layer, int32_t expert);
  absl::Status EndRead(Layer& layer, int32_t expert);
  void StartRead(Layer& layer, int32_t expert, int32_t slot, bool urgent);
  // The expert with the least heat that may go; -1 when none may.
  static int32_t Coldest(const Layer& layer, bool guesses_only);
  int32_t TakeSlotOf(Layer& layer, int32_t expert);
  FfnWeights At(const Layer& layer, int32_t slot) const;

  const PackedIndex& index_;
  const std::string path_;
  std::vector<Layer> layers_;
  std::vector<int32_t> place_of_;  // [decoder layer]: in layers_, or -1
  PageMemory memory_;
  std::recursive_mutex one_call_;  // Guess may be called within Run
  mutable std::mutex stats_mutex_;
  ExpertCacheStats stats_;
  RecordReader reader_;  // last, so that its threads end before what they write to
};

}  // namespace kompakt
