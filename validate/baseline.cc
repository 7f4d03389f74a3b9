#include "validate/baseline.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "format/checksum.h"
#include "format/status.h"
#include "runtime/session.h"

namespace kompakt {
namespace {

constexpr char kMagic[8] = {'K', 'P', 'K', 'B', 'A', 'S', 'E', '\n'};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kFixedBytes = 112;
constexpr uint64_t kNamesAlign = 8;
constexpr uint64_t kMostNameBytes = 4096;
// What keeps every product below 2^63: far above any model and any text.
constexpr int64_t kMostVocab = int64_t{1} << 30;
constexpr int64_t kMostContext = int64_t{1} << 30;
constexpr int64_t kMostChunks = int64_t{1} << 40;
// Tokens that are run at once while a baseline is made.
constexpr int64_t kPieceTokens = 64;

// The fixed part of the header, as it lies in the file (docs/baseline.md, "Header").
struct FixedHeader {
  char magic[8];
  uint32_t version;
  uint32_t names_bytes;  // of both names and their padding
  uint64_t header_xxh3;  // of the fixed part with 0 here, then the names and their padding
  uint32_t model_bytes;
  uint32_t text_bytes;
  uint32_t vocab;
  uint32_t top;
  uint32_t id_bits;
  uint32_t context;
  uint64_t chunks;
  uint64_t model_xxh3;
  uint64_t tokenizer_xxh3;
  uint64_t text_xxh3;
  uint64_t ids_xxh3;
  uint64_t tensor_bytes;
  uint64_t parameters;
  uint64_t reserved;  // 0
};
static_assert(sizeof(FixedHeader) == kFixedBytes, "as docs/baseline.md says");

uint64_t PaddedNames(uint64_t bytes) { return (bytes + kNamesAlign - 1) / kNamesAlign * kNamesAlign; }

uint64_t HeaderXxh3(FixedHeader fixed, absl::Span<const uint8_t> names) {
  fixed.header_xxh3 = 0;
  Xxh3Stream stream;
  stream.Update(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&fixed), sizeof(fixed)));
  stream.Update(names);
  return stream.Digest();
}

// A chunk that was moved to another place is found too.
uint64_t ChunkXxh3(int64_t chunk, absl::Span<const uint8_t> records) {
  uint8_t number[sizeof(chunk)];
  std::memcpy(number, &chunk, sizeof(chunk));
  Xxh3Stream stream;
  stream.Update(absl::MakeConstSpan(number));
  stream.Update(records);
  return stream.Digest();
}

uint64_t RecordBytesPerChunk(const BaselineHeader& header) {
  return static_cast<uint64_t>(header.records_per_chunk()) * header.shape().bytes();
}

// For each chunk, every scored position's token and the one that follows.
template <typename Visit>
absl::Status ForEachScored(absl::Span<const int32_t> chunk, int64_t first_scored, Session& session,
                           const Visit& visit) {
  KOMPAKT_RETURN_IF_ERROR(session.Rewind(0));
  const int64_t tokens = std::ssize(chunk);
  const auto vocab = static_cast<size_t>(session.model().arch().vocab_size());
  for (int64_t begin = 0; begin < tokens;) {
    const int64_t stop = begin < first_scored ? first_scored : tokens;
    const int64_t end = std::min(begin + kPieceTokens, stop);
    const bool scored = begin >= first_scored;
    KOMPAKT_ASSIGN_OR_RETURN(
        const Session::Output out,
        session.Forward(chunk.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
                        scored ? Session::Logits::kAll : Session::Logits::kNone));
    for (int64_t t = begin; scored && t < std::min(end, tokens - 1); ++t) {
      KOMPAKT_RETURN_IF_ERROR(
          visit(t, absl::MakeConstSpan(out.logits).subspan(static_cast<size_t>(t - begin) * vocab, vocab),
                chunk[static_cast<size_t>(t + 1)]));
    }
    begin = end;
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t IdsXxh3(const ScoredChunks& chunks) {
  Xxh3Stream stream;
  for (int64_t i = 0; i < chunks.count(); ++i) {
    const absl::Span<const int32_t> ids = chunks.chunk(i);
    stream.Update(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(ids.data()), ids.size() * sizeof(int32_t)));
  }
  return stream.Digest();
}

BaselineWriter::BaselineWriter(FileSystem& fs, std::string path, const BaselineHeader& header,
                               std::unique_ptr<File> file)
    : fs_(fs), path_(std::move(path)), header_(header), file_(std::move(file)) {}

absl::StatusOr<std::unique_ptr<BaselineWriter>> BaselineWriter::Create(FileSystem& fs, const std::string& path,
                                                                       const BaselineHeader& header) {
  if (header.vocab < 1 || header.vocab > kMostVocab || header.context < 4 || header.context > kMostContext ||
      header.chunks < 1 || header.chunks > kMostChunks) {
    return UsageError(path, ": no baseline holds a vocabulary of ", header.vocab, ", chunks of ", header.context, ", ",
                      header.chunks, " of them");
  }
  FixedHeader fixed = {};
  std::memcpy(fixed.magic, kMagic, sizeof(kMagic));
  const std::string model = header.model.substr(0, kMostNameBytes);
  const std::string text = header.text.substr(0, kMostNameBytes);
  std::vector<uint8_t> names(PaddedNames(model.size() + text.size()), 0);
  std::copy(model.begin(), model.end(), names.begin());
  std::copy(text.begin(), text.end(), names.begin() + static_cast<ptrdiff_t>(model.size()));
  fixed.version = kVersion;
  fixed.names_bytes = static_cast<uint32_t>(names.size());
  fixed.model_bytes = static_cast<uint32_t>(model.size());
  fixed.text_bytes = static_cast<uint32_t>(text.size());
  fixed.vocab = static_cast<uint32_t>(header.vocab);
  fixed.top = static_cast<uint32_t>(header.shape().top());
  fixed.id_bits = static_cast<uint32_t>(header.shape().id_bits());
  fixed.context = static_cast<uint32_t>(header.context);
  fixed.chunks = static_cast<uint64_t>(header.chunks);
  fixed.model_xxh3 = header.model_xxh3;
  fixed.tokenizer_xxh3 = header.tokenizer_xxh3;
  fixed.text_xxh3 = header.text_xxh3;
  fixed.ids_xxh3 = header.ids_xxh3;
  fixed.tensor_bytes = header.tensor_bytes;
  fixed.parameters = static_cast<uint64_t>(header.parameters);
  fixed.header_xxh3 = HeaderXxh3(fixed, names);

  const std::string partial = path + ".partial";
  KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<File> file, fs.OpenForWrite(partial));
  std::unique_ptr<BaselineWriter> writer(new BaselineWriter(fs, path, header, std::move(file)));
  KOMPAKT_RETURN_IF_ERROR(writer->file_->Lock());
  KOMPAKT_RETURN_IF_ERROR(writer->file_->Truncate(0));
  KOMPAKT_RETURN_IF_ERROR(
      writer->file_->WriteAt(0, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&fixed), sizeof(fixed))));
  KOMPAKT_RETURN_IF_ERROR(writer->file_->WriteAt(kFixedBytes, names));
  writer->end_ = kFixedBytes + names.size();
  writer->chunk_.resize(RecordBytesPerChunk(header));
  return writer;
}

BaselineWriter::~BaselineWriter() {
  if (finished_) return;
  file_.reset();
  fs_.Remove(path_ + ".partial").IgnoreError();
}

absl::Status BaselineWriter::Add(absl::Span<const float> logits, int32_t next) {
  if (chunks_ == header_.chunks || std::ssize(logits) != header_.vocab) {
    return absl::InternalError(absl::StrCat(path_, ": a scored token that the header did not announce"));
  }
  if (const auto bad = std::find_if_not(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); });
      bad != logits.end()) {
    return CorruptError(header_.model, ": expected finite logits, found ", *bad, " for token ", bad - logits.begin());
  }
  const uint64_t bytes = header_.shape().bytes();
  WriteRecord(header_.shape(), logits, next,
              absl::MakeSpan(chunk_).subspan(static_cast<uint64_t>(records_) * bytes, bytes));
  if (++records_ < header_.records_per_chunk()) return absl::OkStatus();
  return EndChunk();
}

absl::Status BaselineWriter::EndChunk() {
  const uint64_t xxh3 = ChunkXxh3(chunks_, chunk_);
  KOMPAKT_RETURN_IF_ERROR(file_->WriteAt(end_, chunk_));
  end_ += chunk_.size();
  KOMPAKT_RETURN_IF_ERROR(
      file_->WriteAt(end_, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&xxh3), sizeof(xxh3))));
  end_ += sizeof(xxh3);
  records_ = 0;
  ++chunks_;
  return absl::OkStatus();
}

absl::Status BaselineWriter::Finish() {
  if (chunks_ != header_.chunks) {
    return absl::InternalError(absl::StrCat(path_, ": expected ", header_.chunks, " chunks, got ", chunks_));
  }
  KOMPAKT_RETURN_IF_ERROR(file_->Sync());
  KOMPAKT_RETURN_IF_ERROR(fs_.Rename(path_ + ".partial", path_));
  finished_ = true;
  return absl::OkStatus();
}

bool BaselineReader::IsBaseline(FileSystem& fs, const std::string& path) {
  const absl::StatusOr<std::unique_ptr<File>> file = fs.OpenForRead(path);
  uint8_t magic[sizeof(kMagic)] = {};
  return file.ok() && (*file)->ReadAt(0, absl::MakeSpan(magic)).ok() && std::memcmp(magic, kMagic, sizeof(kMagic)) == 0;
}

absl::StatusOr<std::unique_ptr<BaselineReader>> BaselineReader::Open(FileSystem& fs, const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<File> file, fs.OpenForRead(path));
  std::unique_ptr<BaselineReader> reader(new BaselineReader(path, std::move(file)));
  if (const absl::Status read = reader->ReadHeader(); !read.ok()) return WithContext(read, path);
  return reader;
}

absl::Status BaselineReader::ReadHeader() {
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t file_bytes, file_->Size());
  FixedHeader fixed = {};
  if (file_bytes < sizeof(fixed)) {
    return CorruptError("expected a baseline of at least ", sizeof(fixed), " bytes, found ", file_bytes);
  }
  KOMPAKT_RETURN_IF_ERROR(file_->ReadAt(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(&fixed), sizeof(fixed))));
  if (std::memcmp(fixed.magic, kMagic, sizeof(kMagic)) != 0) {
    return absl::FailedPreconditionError("expected a baseline, found another kind of file");
  }
  if (fixed.version != kVersion) {
    return UnsupportedError("a baseline of version ", fixed.version, "; this program knows version ", kVersion);
  }
  if (fixed.names_bytes > PaddedNames(2 * kMostNameBytes) || fixed.names_bytes > file_bytes - sizeof(fixed)) {
    return CorruptError("header: expected names of at most ", 2 * kMostNameBytes, " bytes inside of the file, found ",
                        fixed.names_bytes);
  }
  std::vector<uint8_t> names(fixed.names_bytes);
  KOMPAKT_RETURN_IF_ERROR(file_->ReadAt(kFixedBytes, absl::MakeSpan(names)));
  if (const uint64_t found = HeaderXxh3(fixed, names); found != fixed.header_xxh3) {
    return CorruptError("header: expected XXH3 ", HexOf(fixed.header_xxh3), ", found ", HexOf(found));
  }
  header_.vocab = fixed.vocab;
  header_.context = fixed.context;
  header_.parameters = static_cast<int64_t>(fixed.parameters);
  if (uint64_t{fixed.model_bytes} + fixed.text_bytes > names.size() ||
      PaddedNames(uint64_t{fixed.model_bytes} + fixed.text_bytes) != names.size() || fixed.vocab < 1 ||
      header_.vocab > kMostVocab || fixed.top != header_.shape().top() || fixed.id_bits != header_.shape().id_bits() ||
      fixed.context < 4 || header_.context > kMostContext || fixed.chunks < 1 ||
      fixed.chunks > static_cast<uint64_t>(kMostChunks) || header_.parameters < 0 || fixed.reserved != 0) {
    return CorruptError("header: its fields contradict each other");
  }
  header_.chunks = static_cast<int64_t>(fixed.chunks);
  header_.model.assign(names.begin(), names.begin() + fixed.model_bytes);
  header_.text.assign(names.begin() + fixed.model_bytes, names.begin() + fixed.model_bytes + fixed.text_bytes);
  header_.model_xxh3 = fixed.model_xxh3;
  header_.tokenizer_xxh3 = fixed.tokenizer_xxh3;
  header_.text_xxh3 = fixed.text_xxh3;
  header_.ids_xxh3 = fixed.ids_xxh3;
  header_.tensor_bytes = fixed.tensor_bytes;
  header_bytes_ = kFixedBytes + names.size();

  uint64_t expected = RecordBytesPerChunk(header_) + sizeof(uint64_t);
  if (__builtin_mul_overflow(expected, fixed.chunks, &expected) ||
      __builtin_add_overflow(expected, header_bytes_, &expected) || expected != file_bytes) {
    return CorruptError("expected ", expected, " bytes for ", header_.chunks, " chunks of ", header_.context,
                        " tokens, found ", file_bytes);
  }
  return absl::OkStatus();
}

absl::Status BaselineReader::CheckSameText(int64_t vocab, uint64_t tokenizer_xxh3, uint64_t text_xxh3,
                                           const ScoredChunks& chunks) const {
  if (vocab != header_.vocab) {
    return absl::FailedPreconditionError(absl::StrCat(path_, ": made by a model with a vocabulary of ", header_.vocab,
                                                      "; the packed model has ", vocab));
  }
  if (text_xxh3 != header_.text_xxh3) {
    return absl::FailedPreconditionError(absl::StrCat(path_, ": made from another text: expected the one of XXH3 ",
                                                      HexOf(header_.text_xxh3), " (", header_.text, "), found ",
                                                      HexOf(text_xxh3)));
  }
  if (chunks.context() != header_.context || chunks.count() != header_.chunks) {
    return absl::FailedPreconditionError(absl::StrCat(path_, ": expected ", header_.chunks, " chunks of ",
                                                      header_.context, " tokens, found ", chunks.count(), " of ",
                                                      chunks.context()));
  }
  if (IdsXxh3(chunks) != header_.ids_xxh3) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": made with another tokenizer: the text is cut into other tokens (tokenizer of XXH3 ",
                     HexOf(header_.tokenizer_xxh3), ", the packed model's is ", HexOf(tokenizer_xxh3), ")"));
  }
  return absl::OkStatus();
}

absl::Status BaselineReader::ReadChunk(int64_t chunk, std::vector<BaselineToken>* tokens) const {
  const uint64_t bytes = RecordBytesPerChunk(header_);
  std::vector<uint8_t> records(bytes + sizeof(uint64_t));
  const std::string where = absl::StrCat(path_, ": chunk ", chunk);
  if (const absl::Status read =
          file_->ReadAt(header_bytes_ + static_cast<uint64_t>(chunk) * records.size(), absl::MakeSpan(records));
      !read.ok()) {
    return WithContext(read, where);
  }
  uint64_t expected = 0;
  std::memcpy(&expected, records.data() + bytes, sizeof(expected));
  records.resize(bytes);
  if (const uint64_t found = ChunkXxh3(chunk, records); found != expected) {
    return CorruptError(where, ": expected XXH3 ", HexOf(expected), ", found ", HexOf(found));
  }
  tokens->resize(static_cast<size_t>(header_.records_per_chunk()));
  const uint64_t record_bytes = header_.shape().bytes();
  for (size_t t = 0; t < tokens->size(); ++t) {
    const absl::Status read = ReadRecord(
        header_.shape(), absl::MakeConstSpan(records).subspan(t * record_bytes, record_bytes), &(*tokens)[t]);
    if (!read.ok()) return WithContext(read, absl::StrCat(where, ", record ", t));
  }
  return absl::OkStatus();
}

absl::Status SaveBaseline(std::shared_ptr<const Model> model, const ScoredChunks& chunks, BaselineWriter& writer,
                          const std::function<bool(int64_t chunk, int64_t chunks)>& progress) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::Create(std::move(model), chunks.context()));
  for (int64_t i = 0; i < chunks.count(); ++i) {
    KOMPAKT_RETURN_IF_ERROR(
        ForEachScored(chunks.chunk(i), chunks.first_scored(), *session,
                      [&](int64_t, absl::Span<const float> logits, int32_t next) { return writer.Add(logits, next); }));
    if (progress && !progress(i + 1, chunks.count())) return absl::CancelledError("the baseline was stopped");
  }
  return writer.Finish();
}

absl::StatusOr<Comparison> CompareWithBaseline(const BaselineReader& p, std::shared_ptr<const Model> q,
                                               const ScoredChunks& chunks,
                                               const std::function<bool(int64_t chunk, int64_t chunks)>& progress) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::Create(std::move(q), chunks.context()));
  Comparison result;
  result.context = chunks.context();
  result.chunks = chunks.count();
  result.kl_by_position.resize(static_cast<size_t>(kPositionBins));
  result.baseline_rest.emplace();
  std::vector<BaselineToken> tokens;
  for (int64_t i = 0; i < chunks.count(); ++i) {
    KOMPAKT_RETURN_IF_ERROR(p.ReadChunk(i, &tokens));
    KOMPAKT_RETURN_IF_ERROR(ForEachScored(
        chunks.chunk(i), chunks.first_scored(), *session, [&](int64_t t, absl::Span<const float> logits, int32_t next) {
          const BaselineToken& token = tokens[static_cast<size_t>(t - chunks.first_scored())];
          result.AddToken(t, chunks.first_scored(), DivergeFromBaseline(token, logits, next));
          result.baseline_rest->Add(std::exp(token.log_rest));
          return absl::OkStatus();
        }));
    if (progress && !progress(i + 1, chunks.count())) return absl::CancelledError("the comparison was stopped");
  }
  return result;
}

}  // namespace kompakt
