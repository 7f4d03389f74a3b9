#include "runtime/synthetic_store.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "format/parallel_for.h"
#include "format/status.h"
#include "kernels/probe.h"
#include "kernels/random_tiles.h"
#include "kernels/workspace.h"

namespace kompakt {
namespace {

constexpr int64_t kRowTilesAtOnce = 64;
constexpr float kBiasSize = 0.01f;

struct Place {
  BlobLayout layout;
  uint64_t offset = 0;  // in the store's memory
};

// Matrices in the order of the schema, so that the three of an expert lie side by side as in a packed file.
absl::StatusOr<std::vector<Place>> PlaceMatrices(const ModelSchema& schema, absl::Span<const FormatId> formats) {
  if (formats.size() != schema.tensors().size()) {
    return absl::InternalError(
        absl::StrCat("synthetic weights: expected ", schema.tensors().size(), " formats, found ", formats.size()));
  }
  std::vector<Place> places(formats.size());
  uint64_t total = 0;
  for (size_t i = 0; i < places.size(); ++i) {
    const TensorInfo& info = schema.tensors()[i];
    places[i].offset = total;
    if (info.is_vector()) continue;
    KOMPAKT_ASSIGN_OR_RETURN(places[i].layout, LayoutOfMatrix(FormatOf(formats[i]), {info.rows, info.cols}));
    if (__builtin_add_overflow(total, places[i].layout.total_bytes, &total)) {
      return absl::OutOfRangeError("synthetic weights: more than 2^64 bytes");
    }
  }
  return places;
}

class SyntheticStore : public WeightStore {
 public:
  SyntheticStore(ModelSchema schema, absl::Span<const FormatId> formats, std::vector<Place> places, std::string origin,
                 AlignedBuffer bytes)
      : schema_(std::move(schema)),
        formats_(formats.begin(), formats.end()),
        places_(std::move(places)),
        origin_(std::move(origin)),
        bytes_(std::move(bytes)) {}

  const std::string& origin() const override { return origin_; }
  const ModelSchema& schema() const override { return schema_; }

  absl::StatusOr<MatrixView> Matrix(const TensorInfo& info) const override {
    const int64_t index = schema_.Find(info.role, info.layer, info.expert);
    if (index < 0 || info.is_vector()) {
      return absl::InternalError(absl::StrCat(info.Name(), ": not a matrix of this model"));
    }
    const auto i = static_cast<size_t>(index);
    return MatrixView{.format = &FormatOf(formats_[i]),
                      .shape = {info.rows, info.cols},
                      .layout = places_[i].layout,
                      .data = bytes_.data() + places_[i].offset};
  }

  absl::StatusOr<std::vector<float>> Vector(const TensorInfo& info) const override {
    std::vector<float> values(static_cast<size_t>(info.cols), 1.0f);
    if (info.role == TensorRole::kRouterBias || info.role == TensorRole::kIndexKNormBias) {
      FillNormal(static_cast<uint64_t>(info.layer) + 1, kBiasSize, absl::MakeSpan(values));
    }
    return values;
  }

  void Fill(int threads, const std::function<void(uint64_t, uint64_t)>& progress);

 private:
  ModelSchema schema_;
  std::vector<FormatId> formats_;
  std::vector<Place> places_;
  std::string origin_;
  AlignedBuffer bytes_;
};

void SyntheticStore::Fill(int threads, const std::function<void(uint64_t, uint64_t)>& progress) {
  struct Piece {
    size_t tensor;
    int64_t begin, end;  // row tiles
  };
  std::vector<Piece> pieces;
  std::map<std::pair<FormatId, int64_t>, RandomTiles> tiles;
  for (size_t i = 0; i < places_.size(); ++i) {
    const TensorInfo& info = schema_.tensors()[i];
    if (info.is_vector()) continue;
    const std::pair key(formats_[i], info.cols);
    if (!tiles.contains(key)) {
      tiles.emplace(key, RandomTiles(formats_[i], 1 / std::sqrt(static_cast<float>(info.cols)), tiles.size() + 1));
    }
    for (int64_t at = 0; at < places_[i].layout.row_tiles; at += kRowTilesAtOnce) {
      pieces.push_back({i, at, std::min(places_[i].layout.row_tiles, at + kRowTilesAtOnce)});
    }
  }
  std::mutex mutex;
  uint64_t done = 0;
  ParallelFor(threads, std::ssize(pieces), [&](int64_t n, int /*worker*/) {
    const Piece& piece = pieces[static_cast<size_t>(n)];
    const Place& place = places_[piece.tensor];
    const RandomTiles& random = tiles.at({formats_[piece.tensor], schema_.tensors()[piece.tensor].cols});
    uint8_t* const blob = bytes_.data() + place.offset;
    random.FillTiles(place.layout, piece.tensor, piece.begin, piece.end, blob);
    if (piece.begin == 0) random.FillSide(place.layout, blob);
    const std::lock_guard lock(mutex);
    done += static_cast<uint64_t>(piece.end - piece.begin) * place.layout.row_tile_bytes(random.format());
    progress(done, bytes_.bytes());
  });
}

uint64_t TotalBytes(const std::vector<Place>& places) {
  return places.empty() ? 0 : places.back().offset + places.back().layout.total_bytes;
}

}  // namespace

absl::StatusOr<uint64_t> SyntheticWeightBytes(const ModelSchema& schema, absl::Span<const FormatId> formats) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<Place> places, PlaceMatrices(schema, formats));
  return TotalBytes(places);
}

absl::StatusOr<std::shared_ptr<const WeightStore>> MakeSyntheticWeights(
    ModelSchema schema, absl::Span<const FormatId> formats, std::string origin, int threads,
    const std::function<void(uint64_t, uint64_t)>& progress) {
  KOMPAKT_ASSIGN_OR_RETURN(std::vector<Place> places, PlaceMatrices(schema, formats));
  KOMPAKT_ASSIGN_OR_RETURN(AlignedBuffer bytes,
                           AlignedBuffer::Create(TotalBytes(places), absl::StrCat(origin, ": weights")));
  AdviseHugePages({bytes.data(), bytes.bytes()});
  auto store = std::make_shared<SyntheticStore>(std::move(schema), formats, std::move(places), std::move(origin),
                                                std::move(bytes));
  store->Fill(threads, progress);
  return store;
}

}  // namespace kompakt
