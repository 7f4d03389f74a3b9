#include "quant/calibration_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "format/arch_spec.h"
#include "format/checksum.h"
#include "format/status.h"
#include "runtime/linear_observer.h"

namespace kompakt {
namespace {

constexpr char kMagic[8] = {'K', 'P', 'K', 'C', 'A', 'L', 'I', '\n'};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kAlign = 8;
constexpr uint64_t kMostNameBytes = 4096;
// What keeps every product below 2^63: far above any model and any text.
constexpr int64_t kMostWidth = int64_t{1} << 26;
constexpr int64_t kMostTokens = int64_t{1} << 48;
constexpr int64_t kMostContext = int64_t{1} << 30;
constexpr int32_t kMostLayers = 1 << 20;
constexpr uint32_t kHasMatrix = 1;

// As they lie in the file (docs/calibration.md).
struct FixedHeader {
  char magic[8];
  uint32_t version;
  uint32_t names_bytes;  // of both names and their padding
  uint64_t header_xxh3;  // of the fixed part with 0 here, then names, padding and directory
  uint32_t model_bytes;
  uint32_t text_bytes;
  uint64_t arch_xxh3;
  uint64_t tokenizer_xxh3;
  uint64_t weights_xxh3;
  uint64_t text_xxh3;
  uint64_t tokens;
  uint64_t context;
  uint64_t rows;
  uint64_t file_bytes;
  uint64_t reserved;  // 0
};
static_assert(sizeof(FixedHeader) == 104, "as docs/calibration.md says");

struct DirectoryRow {
  char role[32];  // padded with zeros
  int32_t layer;
  int32_t expert;
  uint32_t width;
  uint32_t flags;
  uint64_t tokens;
  uint64_t offset;
  uint64_t means_xxh3;
  uint64_t matrix_xxh3;  // 0 where there is none
};
static_assert(sizeof(DirectoryRow) == 80, "as docs/calibration.md says");

uint64_t Padded(uint64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

uint64_t HeaderXxh3(FixedHeader fixed, absl::Span<const uint8_t> names, absl::Span<const uint8_t> directory) {
  fixed.header_xxh3 = 0;
  Xxh3Stream stream;
  stream.Update(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&fixed), sizeof(fixed)));
  stream.Update(names);
  stream.Update(directory);
  return stream.Digest();
}

absl::Span<const uint8_t> BytesOf(absl::Span<const float> values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)};
}

uint64_t NamesBytes(const CalibrationHeader& header) {
  return Padded(std::min<uint64_t>(header.model_name.size(), kMostNameBytes) +
                std::min<uint64_t>(header.text_name.size(), kMostNameBytes));
}

uint64_t DataOffset(const CalibrationHeader& header, size_t rows) {
  return sizeof(FixedHeader) + NamesBytes(header) + rows * sizeof(DirectoryRow);
}

// Of a row's data.
uint64_t RowBytes(const CalibrationRow& row) {
  return static_cast<uint64_t>(row.width + (row.has_matrix ? TriangleSize(row.width) : 0)) * sizeof(float);
}

// Whether such a row can belong to any model.
bool IsPossible(const CalibrationRow& row) {
  TensorRole input = row.role;
  if (!LinearInputOf(ArchSpec(), row.role, &input) || input != row.role) return false;
  if (row.width < 1 || row.width > kMostWidth || row.tokens < 0 || row.tokens > kMostTokens) return false;
  switch (InfoOf(row.role).scope) {
    case TensorScope::kModel:
      return row.layer == -1 && row.expert == -1;
    case TensorScope::kLayer:
      return row.layer >= 0 && row.layer < kMostLayers && row.expert == -1;
    case TensorScope::kExpert:
      break;
  }
  return row.layer >= 0 && row.layer < kMostLayers && row.expert < kMostLayers &&
         row.expert >= (row.role == TensorRole::kExpertGate ? -1 : 0);
}

// Where the file keeps the second moments of an input.
void MatrixPlace(bool has_shared, TensorRole* role, int64_t* expert) {
  if (*role != TensorRole::kExpertGate) return;
  *expert = -1;
  if (has_shared) *role = TensorRole::kSharedGate;
}

}  // namespace

CalibrationModel CalibrationModel::Of(const ArchSpec& arch, const ModelAssets& assets) {
  CalibrationModel model;
  ArchSpec main = arch;
  main.set_mtp_layers(0);
  model.arch_xxh3 = Xxh3(main.SerializeAsString());
  for (const absl::string_view name : {"tokenizer.json", "tiktoken.model"}) {
    for (const AssetFile& file : assets.files()) {
      if (absl::string_view(file.name()) != name) continue;
      model.tokenizer_xxh3 = Xxh3(file.content());
      return model;
    }
  }
  std::string all;
  for (const AssetFile& file : assets.files()) absl::StrAppend(&all, file.name(), "\n", file.content(), "\n");
  model.tokenizer_xxh3 = Xxh3(all);
  return model;
}

std::string NameOf(const CalibrationRow& row) {
  std::string name(InfoOf(row.role).name);
  if (row.layer >= 0) absl::StrAppend(&name, " of layer ", row.layer);
  if (row.expert >= 0) absl::StrAppend(&name, ", expert ", row.expert);
  return name;
}

std::vector<CalibrationRow> CalibrationRows(const ModelSchema& schema, bool matrices) {
  const MoeSpec& moe = schema.arch().moe();
  const bool expert_matrices = static_cast<uint64_t>(moe.n_routed_experts()) *
                                   static_cast<uint64_t>(TriangleSize(moe.moe_intermediate_size())) <=
                               kMostExpertMatrixBytes / sizeof(float);
  std::vector<CalibrationRow> rows;
  for (const TensorInfo& tensor : schema.tensors()) {
    if (tensor.role == TensorRole::kFinalNorm && schema.arch().tie_word_embeddings()) {
      rows.push_back({.role = TensorRole::kLmHead, .width = tensor.cols, .has_matrix = matrices});
    }
    TensorRole input = tensor.role;
    if (!LinearInputOf(schema.arch(), tensor.role, &input) || input != tensor.role) continue;
    CalibrationRow row{.role = input, .layer = tensor.layer, .expert = tensor.expert, .width = tensor.cols};
    row.has_matrix =
        matrices && input != TensorRole::kExpertGate && (input != TensorRole::kExpertDown || expert_matrices);
    if (matrices && input == TensorRole::kExpertGate && tensor.expert == 0 && moe.n_shared_experts() == 0) {
      CalibrationRow blended = row;
      blended.expert = -1;
      blended.has_matrix = true;
      rows.push_back(blended);
    }
    rows.push_back(row);
  }
  return rows;
}

uint64_t CalibrationFileBytes(const CalibrationHeader& header, absl::Span<const CalibrationRow> rows) {
  uint64_t bytes = DataOffset(header, rows.size());
  for (const CalibrationRow& row : rows) bytes += RowBytes(row);
  return bytes;
}

absl::StatusOr<std::unique_ptr<CalibrationWriter>> CalibrationWriter::Create(FileSystem& fs, const std::string& path,
                                                                             const CalibrationHeader& header,
                                                                             std::vector<CalibrationRow> rows) {
  if (header.tokens < 1 || header.tokens > kMostTokens || header.context < 1 || header.context > kMostContext) {
    return UsageError(path, ": no calibration holds ", header.tokens, " tokens in chunks of ", header.context);
  }
  for (CalibrationRow& row : rows) {
    row.tokens = 0;
    if (!IsPossible(row)) return UsageError(path, ": no calibration holds ", NameOf(row), " of ", row.width);
  }
  auto writer = std::unique_ptr<CalibrationWriter>(new CalibrationWriter(fs, path));
  writer->header_ = header;
  writer->header_.model_name = header.model_name.substr(0, kMostNameBytes);
  writer->header_.text_name = header.text_name.substr(0, kMostNameBytes);
  writer->rows_ = std::move(rows);
  writer->end_ = DataOffset(writer->header_, writer->rows_.size());
  const uint64_t bytes = CalibrationFileBytes(writer->header_, writer->rows_);
  KOMPAKT_ASSIGN_OR_RETURN(writer->file_, fs.OpenForWrite(path + ".partial"));
  KOMPAKT_RETURN_IF_ERROR(writer->file_->Truncate(0));
  // A full disk shows now, not after hours.
  KOMPAKT_RETURN_IF_ERROR(writer->file_->Allocate(bytes));
  return writer;
}

CalibrationWriter::~CalibrationWriter() {
  if (finished_ || file_ == nullptr) return;
  file_.reset();
  fs_.Remove(path_ + ".partial").IgnoreError();
}

absl::Status CalibrationWriter::Add(int64_t tokens, absl::Span<const float> means, absl::Span<const float> triangle) {
  if (next_ >= rows_.size()) return absl::InternalError(absl::StrCat(path_, ": more rows than were announced"));
  CalibrationRow& row = rows_[next_];
  const int64_t matrix = row.has_matrix ? TriangleSize(row.width) : 0;
  if (std::ssize(means) != row.width || std::ssize(triangle) != matrix) {
    return absl::InternalError(absl::StrCat(path_, ": ", NameOf(row), ": ", means.size(), " means and ",
                                            triangle.size(), " moments, expected ", row.width, " and ", matrix));
  }
  for (const absl::Span<const float> part : {means, triangle}) {
    for (const float value : part) {
      if (!std::isfinite(value)) {
        return CorruptError(path_, ": ", NameOf(row), ": expected inputs whose squares are finite, found ", value);
      }
    }
  }
  row.tokens = tokens;
  DirectoryRow entry = {};
  const absl::string_view role = InfoOf(row.role).name;
  std::memcpy(entry.role, role.data(), std::min(role.size(), sizeof(entry.role)));
  entry.layer = row.layer;
  entry.expert = row.expert;
  entry.width = static_cast<uint32_t>(row.width);
  entry.flags = row.has_matrix ? kHasMatrix : 0;
  entry.tokens = static_cast<uint64_t>(tokens);
  entry.offset = end_;
  entry.means_xxh3 = Xxh3(BytesOf(means));
  entry.matrix_xxh3 = row.has_matrix ? Xxh3(BytesOf(triangle)) : 0;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&entry);
  directory_.insert(directory_.end(), bytes, bytes + sizeof(entry));
  KOMPAKT_RETURN_IF_ERROR(file_->WriteAt(end_, BytesOf(means)));
  if (row.has_matrix) KOMPAKT_RETURN_IF_ERROR(file_->WriteAt(end_ + means.size() * sizeof(float), BytesOf(triangle)));
  end_ += RowBytes(row);
  ++next_;
  return absl::OkStatus();
}

absl::Status CalibrationWriter::Finish() {
  if (next_ != rows_.size()) {
    return absl::InternalError(absl::StrCat(path_, ": ", next_, " of ", rows_.size(), " rows"));
  }
  std::vector<uint8_t> names(NamesBytes(header_), 0);
  std::copy(header_.model_name.begin(), header_.model_name.end(), names.begin());
  std::copy(header_.text_name.begin(), header_.text_name.end(),
            names.begin() + static_cast<ptrdiff_t>(header_.model_name.size()));
  FixedHeader fixed = {};
  std::memcpy(fixed.magic, kMagic, sizeof(kMagic));
  fixed.version = kVersion;
  fixed.names_bytes = static_cast<uint32_t>(names.size());
  fixed.model_bytes = static_cast<uint32_t>(header_.model_name.size());
  fixed.text_bytes = static_cast<uint32_t>(header_.text_name.size());
  fixed.arch_xxh3 = header_.model.arch_xxh3;
  fixed.tokenizer_xxh3 = header_.model.tokenizer_xxh3;
  fixed.weights_xxh3 = header_.weights_xxh3;
  fixed.text_xxh3 = header_.text_xxh3;
  fixed.tokens = static_cast<uint64_t>(header_.tokens);
  fixed.context = static_cast<uint64_t>(header_.context);
  fixed.rows = rows_.size();
  fixed.file_bytes = end_;
  fixed.header_xxh3 = HeaderXxh3(fixed, names, directory_);
  KOMPAKT_RETURN_IF_ERROR(
      file_->WriteAt(0, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&fixed), sizeof(fixed))));
  KOMPAKT_RETURN_IF_ERROR(file_->WriteAt(sizeof(fixed), names));
  KOMPAKT_RETURN_IF_ERROR(file_->WriteAt(sizeof(fixed) + names.size(), directory_));
  KOMPAKT_RETURN_IF_ERROR(file_->Sync());
  file_.reset();
  if (const absl::Status renamed = fs_.Rename(path_ + ".partial", path_); !renamed.ok()) {
    fs_.Remove(path_ + ".partial").IgnoreError();
    return renamed;
  }
  finished_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const CalibrationFile>> CalibrationFile::Open(FileSystem& fs, const std::string& path) {
  auto file = std::shared_ptr<CalibrationFile>(new CalibrationFile(path));
  KOMPAKT_ASSIGN_OR_RETURN(file->file_, fs.OpenForRead(path));
  if (const absl::Status read = file->ReadHeader(); !read.ok()) return WithContext(read, path);
  std::vector<float> means;
  for (size_t r = 0; r < file->rows_.size(); ++r) {
    const CalibrationRow& row = file->rows_[r];
    means.resize(static_cast<size_t>(row.width));
    KOMPAKT_RETURN_IF_ERROR(file->ReadMeans(static_cast<int64_t>(r), absl::MakeSpan(means)));
    for (size_t c = 0; c < means.size(); ++c) {
      if (means[c] >= 0 && std::isfinite(means[c]) && (row.tokens > 0 || means[c] == 0)) continue;
      return CorruptError(path, ": ", NameOf(row), ", channel ", c, ": expected a mean square of 0 or more over ",
                          row.tokens, " tokens, found ", means[c]);
    }
  }
  return file;
}

absl::Status CalibrationFile::ReadHeader() {
  KOMPAKT_ASSIGN_OR_RETURN(bytes_, file_->Size());
  FixedHeader fixed = {};
  const uint64_t begin = std::min<uint64_t>(bytes_, sizeof(fixed));
  KOMPAKT_RETURN_IF_ERROR(file_->ReadAt(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(&fixed), begin)));
  if (std::memcmp(fixed.magic, kMagic, sizeof(kMagic)) != 0) {
    return absl::FailedPreconditionError("expected a calibration file, found something else");
  }
  if (begin < sizeof(fixed)) return CorruptError("expected a header of ", sizeof(fixed), " bytes, found ", begin);
  if (fixed.version != kVersion) {
    return UnsupportedError("expected version ", kVersion, " of calibration files, found ", fixed.version);
  }
  if (fixed.file_bytes != bytes_) return CorruptError("expected ", fixed.file_bytes, " bytes, found ", bytes_);
  const uint64_t room = bytes_ - sizeof(fixed);
  if (fixed.names_bytes > room || fixed.rows > (room - fixed.names_bytes) / sizeof(DirectoryRow)) {
    return CorruptError("header: ", fixed.rows, " inputs and names of ", fixed.names_bytes, " bytes do not fit into ",
                        bytes_, " bytes");
  }
  std::vector<uint8_t> names(fixed.names_bytes);
  std::vector<uint8_t> directory(fixed.rows * sizeof(DirectoryRow));
  KOMPAKT_RETURN_IF_ERROR(file_->ReadAt(sizeof(fixed), absl::MakeSpan(names)));
  KOMPAKT_RETURN_IF_ERROR(file_->ReadAt(sizeof(fixed) + names.size(), absl::MakeSpan(directory)));
  if (const uint64_t found = HeaderXxh3(fixed, names, directory); found != fixed.header_xxh3) {
    return CorruptError("header: expected XXH3 ", HexOf(fixed.header_xxh3), ", found ", HexOf(found));
  }
  const uint64_t name_bytes = uint64_t{fixed.model_bytes} + fixed.text_bytes;
  if (fixed.model_bytes > kMostNameBytes || fixed.text_bytes > kMostNameBytes || Padded(name_bytes) != names.size() ||
      std::any_of(names.begin() + static_cast<ptrdiff_t>(name_bytes), names.end(), [](uint8_t b) { return b != 0; }) ||
      fixed.tokens < 1 || fixed.tokens > static_cast<uint64_t>(kMostTokens) || fixed.context < 1 ||
      fixed.context > static_cast<uint64_t>(kMostContext) || fixed.reserved != 0) {
    return CorruptError("header: its fields contradict each other");
  }
  const auto text_begin = names.begin() + fixed.model_bytes;
  header_.model_name.assign(names.begin(), text_begin);
  header_.text_name.assign(text_begin, text_begin + fixed.text_bytes);
  header_.model = {fixed.arch_xxh3, fixed.tokenizer_xxh3};
  header_.weights_xxh3 = fixed.weights_xxh3;
  header_.text_xxh3 = fixed.text_xxh3;
  header_.tokens = static_cast<int64_t>(fixed.tokens);
  header_.context = static_cast<int64_t>(fixed.context);
  return ReadDirectory(directory, sizeof(fixed) + names.size() + directory.size());
}

absl::Status CalibrationFile::ReadDirectory(absl::Span<const uint8_t> directory, uint64_t data_offset) {
  Xxh3Stream measured;
  const uint64_t model[] = {header_.model.arch_xxh3, header_.model.tokenizer_xxh3};
  measured.Update({reinterpret_cast<const uint8_t*>(model), sizeof(model)});
  uint64_t end = data_offset;
  for (size_t r = 0; r * sizeof(DirectoryRow) < directory.size(); ++r) {
    DirectoryRow entry;
    std::memcpy(&entry, directory.data() + r * sizeof(DirectoryRow), sizeof(entry));
    const auto* const role_end = std::find(std::begin(entry.role), std::end(entry.role), '\0');
    const absl::string_view name(entry.role, static_cast<size_t>(role_end - entry.role));
    const absl::StatusOr<TensorRole> role = RoleFromName(name);
    if (!role.ok()) return CorruptError("input ", r, ": ", role.status().message());
    CalibrationRow row{.role = *role,
                       .layer = entry.layer,
                       .expert = entry.expert,
                       .width = entry.width,
                       .tokens = static_cast<int64_t>(std::min(entry.tokens, ~uint64_t{0} >> 1)),
                       .has_matrix = (entry.flags & kHasMatrix) != 0};
    if (!IsPossible(row) || (entry.flags & ~kHasMatrix) != 0 || (!row.has_matrix && entry.matrix_xxh3 != 0) ||
        std::any_of(role_end, static_cast<const char*>(std::end(entry.role)), [](char c) { return c != '\0'; })) {
      return CorruptError("input ", r, " (", name, "): its fields contradict each other");
    }
    // RowBytes is below 2^55: no sum of a file's worth of them overflows before it is compared.
    if (entry.offset != end || RowBytes(row) > bytes_ - end) {
      return CorruptError("input ", r, " (", NameOf(row), "): expected its data at ", end, " within ", bytes_,
                          " bytes, found ", RowBytes(row), " bytes at ", entry.offset);
    }
    end += RowBytes(row);
    if (!index_.emplace(std::tuple(row.role, row.layer, row.expert), static_cast<int64_t>(r)).second) {
      return CorruptError("input ", r, ": ", NameOf(row), " is there twice");
    }
    has_matrices_ = has_matrices_ || row.has_matrix;
    places_.push_back({entry.offset, entry.means_xxh3, entry.matrix_xxh3});
    rows_.push_back(row);
    entry.offset = 0;  // depends on the names, which are for people
    measured.Update({reinterpret_cast<const uint8_t*>(&entry), sizeof(entry)});
  }
  if (end != bytes_) return CorruptError("expected ", end, " bytes for ", rows_.size(), " inputs, found ", bytes_);
  xxh3_ = std::max<uint64_t>(1, measured.Digest());
  return absl::OkStatus();
}

int64_t CalibrationFile::Find(TensorRole role, int64_t layer, int64_t expert) const {
  const auto at = index_.find(std::tuple(role, layer, expert));
  return at == index_.end() ? -1 : at->second;
}

int64_t CalibrationFile::FindMatrix(const ArchSpec& arch, const TensorInfo& tensor) const {
  TensorRole role = tensor.role;
  int64_t expert = tensor.expert;
  if (!LinearInputOf(arch, tensor.role, &role)) return -1;
  MatrixPlace(arch.moe().n_shared_experts() > 0, &role, &expert);
  const int64_t row = Find(role, role == TensorRole::kLmHead ? -1 : tensor.layer, expert);
  return row >= 0 && rows_[static_cast<size_t>(row)].has_matrix ? row : -1;
}

absl::Status CalibrationFile::CheckModel(const ModelSchema& schema, const ModelAssets& assets) const {
  const CalibrationModel model = CalibrationModel::Of(schema.arch(), assets);
  if (model.arch_xxh3 != header_.model.arch_xxh3) {
    return absl::FailedPreconditionError(absl::StrCat(path_, ": made for another model (", header_.model_name,
                                                      ", hyper-parameters of XXH3 ", HexOf(header_.model.arch_xxh3),
                                                      "); those of this one have ", HexOf(model.arch_xxh3)));
  }
  if (model.tokenizer_xxh3 != header_.model.tokenizer_xxh3) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": made for a model with another tokenizer (", header_.model_name, ", tokenizer of XXH3 ",
                     HexOf(header_.model.tokenizer_xxh3), "); that of this one has ", HexOf(model.tokenizer_xxh3)));
  }
  for (const CalibrationRow& expected : CalibrationRows(schema, false)) {
    const int64_t row = Find(expected.role, expected.layer, expected.expert);
    // Without them MTP layers are converted without calibration.
    if (row < 0 && IsMtpLayer(schema.arch(), expected.layer)) continue;
    if (row >= 0 && rows_[static_cast<size_t>(row)].width == expected.width) continue;
    return absl::FailedPreconditionError(absl::StrCat(path_, ": expected ", expected.width, " channels of ",
                                                      NameOf(expected), ", found ",
                                                      row < 0 ? 0 : rows_[static_cast<size_t>(row)].width));
  }
  return absl::OkStatus();
}

absl::Status CalibrationFile::ReadFloats(int64_t row, uint64_t offset, uint64_t xxh3, absl::Span<float> out) const {
  const std::string where = absl::StrCat(path_, ": ", NameOf(rows_[static_cast<size_t>(row)]));
  const absl::Status read =
      file_->ReadAt(offset, absl::MakeSpan(reinterpret_cast<uint8_t*>(out.data()), out.size() * sizeof(float)));
  if (!read.ok()) return WithContext(read, where);
  if (const uint64_t found = Xxh3(BytesOf(out)); found != xxh3) {
    return CorruptError(where, ": expected XXH3 ", HexOf(xxh3), ", found ", HexOf(found));
  }
  return absl::OkStatus();
}

absl::Status CalibrationFile::ReadMeans(int64_t row, absl::Span<float> out) const {
  const Place& place = places_[static_cast<size_t>(row)];
  if (std::ssize(out) != rows_[static_cast<size_t>(row)].width) {
    return absl::InternalError(absl::StrCat(path_, ": room for ", out.size(), " means"));
  }
  return ReadFloats(row, place.offset, place.means_xxh3, out);
}

absl::Status CalibrationFile::ReadMatrix(int64_t row, std::vector<float>* triangle) const {
  const CalibrationRow& info = rows_[static_cast<size_t>(row)];
  const Place& place = places_[static_cast<size_t>(row)];
  if (!info.has_matrix) return absl::InternalError(absl::StrCat(path_, ": ", NameOf(info), " has no second moments"));
  triangle->resize(static_cast<size_t>(TriangleSize(info.width)));
  const uint64_t offset = place.offset + static_cast<uint64_t>(info.width) * sizeof(float);
  KOMPAKT_RETURN_IF_ERROR(ReadFloats(row, offset, place.matrix_xxh3, absl::MakeSpan(*triangle)));
  for (const float value : *triangle) {
    if (std::isfinite(value)) continue;
    return CorruptError(path_, ": ", NameOf(info), ": expected finite second moments, found ", value);
  }
  return absl::OkStatus();
}

}  // namespace kompakt
