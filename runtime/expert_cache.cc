#include "runtime/expert_cache.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "format/packed_verify.h"
#include "format/status.h"

namespace kompakt {
namespace {

// Tokens after which a use counts half (docs/larger-than-ram.md has measurements).
constexpr double kHalfLifeTokens = 32;
// Records of one call that are read ahead of the one that is multiplied, at the cost of experts that it needs later.
constexpr int64_t kReadsAhead = 4;
// A part is at most this share of the choices of a call, so that slots come free while the next part is multiplied...
constexpr int64_t kPartsOfCall = 16;
// ... but never smaller than this, which is too little work to be cut.
constexpr int64_t kLeastPartChoices = 32;

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

ExpertCacheStats ExpertCacheStats::Since(const ExpertCacheStats& before) const {
  ExpertCacheStats after = *this;
  after.uses -= before.uses;
  after.hits -= before.hits;
  after.guessed -= before.guessed;
  after.guesses -= before.guesses;
  after.read_bytes -= before.read_bytes;
  after.read_seconds -= before.read_seconds;
  after.wait_seconds -= before.wait_seconds;
  return after;
}

// A running call: which experts it needs, and how far it is.
struct ExpertCache::Call {
  Layer& layer;
  std::vector<int32_t> needed = {};  // ascending
  std::vector<bool> fresh = {};      // per entry of `needed`: read by this call
  size_t used = 0;                   // of `needed`, from the front
  size_t started = 0;                // of `needed`: these are here, coming, or used

  // Read by this call and not used yet.
  int64_t ahead() const {
    return std::count(fresh.begin() + static_cast<ptrdiff_t>(used), fresh.begin() + static_cast<ptrdiff_t>(started),
                      true);
  }
};

uint64_t ExpertCache::LeastBytes(const PackedLayout& layout) {
  uint64_t bytes = 0;
  for (const Extent& extent : layout.extents()) {
    if (!extent.experts) continue;
    bytes += static_cast<uint64_t>(std::min(kLeastSlots, extent.record_count)) * extent.record_bytes;
  }
  return bytes;
}

absl::StatusOr<std::vector<int64_t>> ExpertCache::SlotsFor(const PackedLayout& layout, uint64_t bytes) {
  std::vector<const Extent*> extents;
  int64_t most = 0;
  for (const Extent& extent : layout.extents()) {
    if (!extent.experts) continue;
    extents.push_back(&extent);
    most = std::max(most, extent.record_count);
  }
  const uint64_t least = LeastBytes(layout);
  if (bytes < least) return UsageError("experts: expected room for at least ", least, " bytes, found ", bytes);
  const auto bytes_of = [&](int64_t slots) {
    uint64_t sum = 0;
    for (const Extent* extent : extents) {
      sum += static_cast<uint64_t>(std::min(slots, extent->record_count)) * extent->record_bytes;
    }
    return sum;
  };
  int64_t each = std::min(kLeastSlots, most);
  while (each < most && bytes_of(each + 1) <= bytes) ++each;
  uint64_t left = bytes - bytes_of(each);
  std::vector<int64_t> slots;
  for (const Extent* extent : extents) {
    // What does not give every layer one more gives it to the first.
    const bool one_more = each < extent->record_count && extent->record_bytes <= left;
    if (one_more) left -= extent->record_bytes;
    slots.push_back(std::min(each, extent->record_count) + (one_more ? 1 : 0));
  }
  return slots;
}

ExpertCache::ExpertCache(const File& data, const PackedIndex& index, std::string path)
    : index_(index), path_(std::move(path)), reader_(data) {}

ExpertCache::~ExpertCache() = default;

absl::StatusOr<std::unique_ptr<ExpertCache>> ExpertCache::Create(const File& data, const PackedIndex& index,
                                                                 const std::string& path, uint64_t bytes) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int64_t> slots, SlotsFor(index.layout, bytes));
  std::unique_ptr<ExpertCache> cache(new ExpertCache(data, index, path));
  uint64_t total = 0;
  for (size_t e = 0; e < index.layout.extents().size(); ++e) {
    const Extent& extent = index.layout.extents()[e];
    if (!extent.experts) continue;
    Layer& layer = cache->layers_.emplace_back();
    layer.number = extent.layer;
    layer.extent = static_cast<int64_t>(e);
    layer.offset = extent.offset;
    layer.record_bytes = extent.record_bytes;
    for (const ExtentPart& part : extent.parts) {
      const bool gate = part.role == TensorRole::kExpertGate;
      const bool up = part.role == TensorRole::kExpertUp;
      MatrixView& view = gate ? layer.shape.gate : up ? layer.shape.up : layer.shape.down;
      view = {.format = &FormatOf(part.format), .shape = part.shape, .layout = part.blob, .data = nullptr};
      layer.part_offsets[gate ? 0 : up ? 1 : 2] = part.offset_in_record;
    }
    layer.slots = slots[cache->layers_.size() - 1];
    layer.experts.resize(static_cast<size_t>(extent.record_count));
    layer.wants.resize(layer.experts.size(), Want::kNothing);
    // The first slot lies at the back, so that memory is touched from the front.
    for (int64_t s = layer.slots; s > 0; --s) layer.free.push_back(static_cast<int32_t>(s - 1));
    total += static_cast<uint64_t>(layer.slots) * layer.record_bytes;
    const auto number = static_cast<size_t>(extent.layer);
    if (cache->place_of_.size() <= number) cache->place_of_.resize(number + 1, -1);
    cache->place_of_[number] = static_cast<int32_t>(cache->layers_.size() - 1);
  }
  KOMPAKT_ASSIGN_OR_RETURN(cache->memory_, PageMemory::Create(total, "experts that are kept in memory"));
  uint8_t* at = cache->memory_.data();
  for (Layer& layer : cache->layers_) {
    layer.memory = at;
    at += static_cast<uint64_t>(layer.slots) * layer.record_bytes;
  }
  return cache;
}

const ExpertCache::Layer* ExpertCache::Find(int32_t layer) const {
  const auto number = static_cast<size_t>(layer);
  if (layer < 0 || number >= place_of_.size() || place_of_[number] < 0) return nullptr;
  return &layers_[static_cast<size_t>(place_of_[number])];
}

ExpertCache::Layer* ExpertCache::Find(int32_t layer) { return const_cast<Layer*>(std::as_const(*this).Find(layer)); }

const FfnWeights& ExpertCache::Shape(int32_t layer) const { return Find(layer)->shape; }
int64_t ExpertCache::slots(int32_t layer) const { return Find(layer)->slots; }

ExpertCacheStats ExpertCache::stats() const {
  const RecordReader::Counts counts = reader_.counts();
  const std::lock_guard<std::mutex> lock(stats_mutex_);
  ExpertCacheStats stats = stats_;
  stats.read_bytes = counts.read_bytes;
  stats.read_seconds = counts.busy_seconds;
  return stats;
}

FfnWeights ExpertCache::At(const Layer& layer, int32_t slot) const {
  const uint8_t* const record = layer.memory + static_cast<uint64_t>(slot) * layer.record_bytes;
  FfnWeights weights = layer.shape;
  weights.gate.data = record + layer.part_offsets[0];
  weights.up.data = record + layer.part_offsets[1];
  weights.down.data = record + layer.part_offsets[2];
  return weights;
}

// Heat is the sum over uses of 2^(-age / kHalfLifeTokens). The tokens of one call are taken as if the uses of each
// expert were spread evenly over them.
void ExpertCache::CountHeat(Layer& layer, const ExpertFfnParams& params) {
  const auto tokens = static_cast<double>(params.tokens);
  const double decay = std::exp2(-tokens / kHalfLifeTokens);
  const double mean = (1 - decay) / (tokens * (1 - std::exp2(-1 / kHalfLifeTokens)));
  for (Expert& expert : layer.experts) expert.heat *= static_cast<float>(decay);
  for (int64_t i = 0; i < params.tokens * params.k; ++i) {
    layer.experts[static_cast<size_t>(params.ids[i])].heat += static_cast<float>(mean);
  }
}

void ExpertCache::StartRead(Layer& layer, int32_t expert, int32_t slot, bool urgent) {
  Expert& e = layer.experts[static_cast<size_t>(expert)];
  RecordReader::Record record{
      .offset = layer.offset + static_cast<uint64_t>(expert) * layer.record_bytes,
      .into = {layer.memory + static_cast<uint64_t>(slot) * layer.record_bytes, layer.record_bytes}};
  if (!e.verified) record.xxh3 = index_.manifest.extents(static_cast<int>(layer.extent)).record_xxh3(expert);
  e.where = Expert::Where::kComing;
  e.slot = slot;
  e.guess = !urgent;
  e.given_up = false;
  layer.guesses += urgent ? 0 : 1;
  e.read = reader_.Start(record, urgent);
}

absl::Status ExpertCache::EndRead(Layer& layer, int32_t expert) {
  Expert& e = layer.experts[static_cast<size_t>(expert)];
  const absl::Status status = reader_.Wait(e.read);
  if (status.ok()) {
    e.where = Expert::Where::kHere;
    e.verified = true;
    return status;
  }
  e.where = Expert::Where::kFile;
  layer.free.push_back(e.slot);
  e.slot = -1;
  if (e.guess) --layer.guesses;
  e.guess = false;
  const FilePlace at = PlaceOf(index_, path_, layer.offset + static_cast<uint64_t>(expert) * layer.record_bytes);
  std::string name = absl::StrCat("expert ", expert, ", ", layer.record_bytes, " bytes at ", at.offset);
  if (at.path != path_) absl::StrAppend(&name, " of ", at.path);
  return WithContext(status, name);
}

bool ExpertCache::Arrived(Layer& layer, int32_t expert) {
  const Expert& e = layer.experts[static_cast<size_t>(expert)];
  // An error is told when the expert's turn comes.
  return e.where == Expert::Where::kHere ||
         (e.where == Expert::Where::kComing && reader_.IsDone(e.read) && EndRead(layer, expert).ok());
}

void ExpertCache::Settle(Layer& layer) {
  for (int32_t i = 0; i < std::ssize(layer.experts); ++i) {
    Expert& e = layer.experts[static_cast<size_t>(i)];
    if (e.where != Expert::Where::kComing) continue;
    const bool wanted = layer.wants[static_cast<size_t>(i)] == Want::kUse;
    if (!wanted && !e.given_up) {
      reader_.GiveUp(e.read);
      e.given_up = true;
    }
    if (wanted && !e.given_up) reader_.Urge(e.read);
    // What was given up and is wanted again has to begin anew: its last pieces are waited for. What fails for a guess
    // fails again when somebody needs it, and is told then.
    if ((wanted && e.given_up) || reader_.IsDone(e.read)) EndRead(layer, i).IgnoreError();
  }
}

int32_t ExpertCache::Coldest(const Layer& layer, bool guesses_only) {
  int32_t coldest = -1;
  float least = 0;
  for (int32_t i = 0; i < std::ssize(layer.experts); ++i) {
    const Expert& e = layer.experts[static_cast<size_t>(i)];
    if (e.where != Expert::Where::kHere || layer.wants[static_cast<size_t>(i)] == Want::kUse) continue;
    if (guesses_only && !e.guess) continue;
    const float heat = e.guess ? -1.0f : e.heat;
    if (coldest >= 0 && heat >= least) continue;
    coldest = i;
    least = heat;
  }
  return coldest;
}

int32_t ExpertCache::TakeSlotOf(Layer& layer, int32_t expert) {
  Expert& e = layer.experts[static_cast<size_t>(expert)];
  const int32_t slot = e.slot;
  if (e.guess) --layer.guesses;
  e.guess = false;
  e.where = Expert::Where::kFile;
  e.slot = -1;
  return slot;
}

int32_t ExpertCache::SlotFor(Call& call) {
  Layer& layer = call.layer;
  if (!layer.free.empty()) {
    const int32_t slot = layer.free.back();
    layer.free.pop_back();
    return slot;
  }
  if (const int32_t coldest = Coldest(layer, false); coldest >= 0) return TakeSlotOf(layer, coldest);
  if (call.ahead() >= kReadsAhead) return -1;
  // Everything that is here is still needed by this call. What is needed last goes, and comes back.
  for (size_t last = call.needed.size(); last > call.started + 1; --last) {
    const int32_t victim = call.needed[last - 1];
    if (layer.experts[static_cast<size_t>(victim)].where == Expert::Where::kHere) return TakeSlotOf(layer, victim);
  }
  return -1;
}

void ExpertCache::StartReads(Call& call) {
  for (; call.started < call.needed.size(); ++call.started) {
    const int32_t expert = call.needed[call.started];
    if (call.layer.experts[static_cast<size_t>(expert)].where != Expert::Where::kFile) continue;
    const int32_t slot = SlotFor(call);
    if (slot < 0) return;
    StartRead(call.layer, expert, slot, true);
    call.fresh[call.started] = true;
  }
}

absl::Status ExpertCache::Await(Call& call) {
  Layer& layer = call.layer;
  const int32_t expert = call.needed[call.used];
  const Expert& e = layer.experts[static_cast<size_t>(expert)];
  // A read that failed ahead of time is tried once more.
  if (e.where == Expert::Where::kFile) call.started = call.used;
  StartReads(call);
  if (e.where == Expert::Where::kHere) return absl::OkStatus();
  const double start = Now();
  while (e.where == Expert::Where::kFile) {
    // All slots are being read into: what comes in first makes room.
    int32_t coming = -1;
    for (int32_t i = 0; i < std::ssize(layer.experts); ++i) {
      const Expert& other = layer.experts[static_cast<size_t>(i)];
      if (other.where == Expert::Where::kComing && (coming < 0 || other.given_up)) coming = i;
    }
    if (coming < 0) return absl::InternalError(absl::StrCat("layer ", layer.number, ": no slot for expert ", expert));
    EndRead(layer, coming).IgnoreError();
    StartReads(call);
  }
  const absl::Status status = EndRead(layer, expert);
  const double waited = Now() - start;
  const std::lock_guard<std::mutex> lock(stats_mutex_);
  stats_.wait_seconds += waited;
  return status;
}

absl::Status ExpertCache::Run(int32_t number, const ExpertFfnParams& params,
                              absl::FunctionRef<absl::Status()> meanwhile,
                              absl::FunctionRef<absl::Status(const ExpertFfnParams& part)> ffn) {
  const std::lock_guard<std::recursive_mutex> one_call(one_call_);
  Layer& layer = *Find(number);
  std::vector<int64_t> choices(layer.experts.size(), 0);
  for (int64_t i = 0; i < params.tokens * params.k; ++i) ++choices[static_cast<size_t>(params.ids[i])];
  Call call{.layer = layer};
  for (size_t e = 0; e < choices.size(); ++e) {
    layer.wants[e] = choices[e] > 0 ? Want::kUse : Want::kNothing;
    if (choices[e] > 0) call.needed.push_back(static_cast<int32_t>(e));
  }
  call.fresh.resize(call.needed.size(), false);
  CountHeat(layer, params);
  Settle(layer);
  bool all_here = true;
  {
    const std::lock_guard<std::mutex> lock(stats_mutex_);
    stats_.uses += call.needed.size();
    for (const int32_t id : call.needed) {
      Expert& e = layer.experts[static_cast<size_t>(id)];
      if (e.where != Expert::Where::kFile) ++(e.guess ? stats_.guessed : stats_.hits);
      if (e.guess) --layer.guesses;
      e.guess = false;
      all_here = all_here && e.where == Expert::Where::kHere;
    }
  }
  StartReads(call);
  KOMPAKT_RETURN_IF_ERROR(meanwhile());

  const int64_t all = params.tokens * params.k;
  const int64_t most = all_here ? all : std::max(kLeastPartChoices, all / kPartsOfCall);
  std::vector<FfnWeights> weights(layer.experts.size(), layer.shape);
  ExpertFfnParams part = params;
  part.experts = weights.data();
  part.n_experts = std::ssize(weights);
  while (call.used < call.needed.size()) {
    KOMPAKT_RETURN_IF_ERROR(Await(call));
    size_t end = call.used;
    for (int64_t taken = 0; end < call.needed.size() && (taken < most || end == call.used); ++end) {
      const int32_t id = call.needed[end];
      if (!Arrived(layer, id)) break;
      taken += choices[static_cast<size_t>(id)];
      weights[static_cast<size_t>(id)] = At(layer, layer.experts[static_cast<size_t>(id)].slot);
    }
    part.expert_begin = call.needed[call.used];
    part.expert_end = call.needed[end - 1] + 1;
    part.accumulate = call.used > 0;
    KOMPAKT_RETURN_IF_ERROR(ffn(part));
    for (; call.used < end; ++call.used) layer.wants[static_cast<size_t>(call.needed[call.used])] = Want::kUsed;
    call.started = std::max(call.started, call.used);
    StartReads(call);
  }
  return absl::OkStatus();
}

int64_t ExpertCache::MostGuesses(int32_t number) const {
  const Layer* const layer = Find(number);
  return layer == nullptr ? 0 : layer->slots / 4;
}

void ExpertCache::Guess(int32_t number, absl::Span<const int32_t> experts) {
  const std::lock_guard<std::recursive_mutex> one_call(one_call_);
  Layer* const layer = Find(number);
  if (layer == nullptr) return;
  // What the layer's last call gave up has ended long since, or ends with the pieces that are under way.
  for (int32_t i = 0; i < std::ssize(layer->experts); ++i) {
    const Expert& e = layer->experts[static_cast<size_t>(i)];
    if (e.where == Expert::Where::kComing && e.given_up) EndRead(*layer, i).IgnoreError();
  }
  std::fill(layer->wants.begin(), layer->wants.end(), Want::kNothing);
  // What the guess names and is here must not go for another one of it.
  for (const int32_t id : experts) layer->wants[static_cast<size_t>(id)] = Want::kUse;
  for (const int32_t id : experts) {
    Expert& e = layer->experts[static_cast<size_t>(id)];
    if (e.where != Expert::Where::kFile) continue;
    int32_t slot = -1;
    if (layer->guesses >= MostGuesses(number)) {
      const int32_t wrong = Coldest(*layer, true);
      if (wrong >= 0) slot = TakeSlotOf(*layer, wrong);
    } else if (!layer->free.empty()) {
      slot = layer->free.back();
      layer->free.pop_back();
    } else if (const int32_t coldest = Coldest(*layer, false); coldest >= 0) {
      slot = TakeSlotOf(*layer, coldest);
    }
    if (slot < 0) break;
    StartRead(*layer, id, slot, false);
    const std::lock_guard<std::mutex> lock(stats_mutex_);
    ++stats_.guesses;
  }
}

}  // namespace kompakt
