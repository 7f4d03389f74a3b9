// A baseline: what an original model predicts for a text, in a file, so that packed models can be judged where the
// original cannot be run. The bytes are specified in docs/baseline.md: a header with the identity of model, tokenizer
// and text, then one record per scored token (validate/baseline_token.h), a checksum behind every chunk.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/file_system.h"
#include "runtime/model.h"
#include "validate/baseline_token.h"
#include "validate/chunks.h"
#include "validate/compare.h"

namespace kompakt {

struct BaselineHeader {
  std::string model;            // what the user called it, for people; at most 4096 bytes
  std::string text;             // likewise
  uint64_t model_xxh3 = 0;      // of the model that ran
  uint64_t tokenizer_xxh3 = 0;  // of its tokenizer file
  uint64_t text_xxh3 = 0;       // of the text's bytes
  uint64_t ids_xxh3 = 0;        // of all chunks' token ids, as 32-bit numbers
  uint64_t tensor_bytes = 0;    // of the model that ran
  int64_t parameters = 0;       // of it
  int64_t vocab = 0;
  int64_t context = 0;
  int64_t chunks = 0;

  RecordShape shape() const { return {vocab}; }
  int64_t records_per_chunk() const { return context - context / 2 - 1; }
};

// The ids_xxh3 of a header.
uint64_t IdsXxh3(const ScoredChunks& chunks);

// Writes path.partial, and renames it when it is whole. Memory: one chunk's records.
class BaselineWriter {
 public:
  // `header`: vocab, context, chunks and identities filled in. kInvalidArgument for what no file can hold.
  static absl::StatusOr<std::unique_ptr<BaselineWriter>> Create(FileSystem& fs, const std::string& path,
                                                                const BaselineHeader& header);
  ~BaselineWriter();  // removes what was not finished

  // The next scored token: [vocab] logits of its predecessor's position.
  absl::Status Add(absl::Span<const float> logits, int32_t next);
  // kInternal when tokens are missing.
  absl::Status Finish();
  uint64_t bytes() const { return end_; }

 private:
  BaselineWriter(FileSystem& fs, std::string path, const BaselineHeader& header, std::unique_ptr<File> file);
  absl::Status EndChunk();

  FileSystem& fs_;
  std::string path_;
  BaselineHeader header_;
  std::unique_ptr<File> file_;
  std::vector<uint8_t> chunk_;  // its records
  int64_t records_ = 0;         // in chunk_
  int64_t chunks_ = 0;          // written
  uint64_t end_ = 0;            // of what is written
  bool finished_ = false;
};

class BaselineReader {
 public:
  // kFailedPrecondition: not a baseline. kUnimplemented: of another version. kDataLoss: damaged or cut short.
  static absl::StatusOr<std::unique_ptr<BaselineReader>> Open(FileSystem& fs, const std::string& path);
  // Whether the file begins like a baseline; false where it cannot be read.
  static bool IsBaseline(FileSystem& fs, const std::string& path);

  const std::string& path() const { return path_; }
  const BaselineHeader& header() const { return header_; }
  // kFailedPrecondition naming what differs: vocabulary, text, or how it is cut into tokens.
  absl::Status CheckSameText(int64_t vocab, uint64_t tokenizer_xxh3, uint64_t text_xxh3,
                             const ScoredChunks& chunks) const;
  // Reads the records of one chunk and checks them; kDataLoss naming the chunk.
  absl::Status ReadChunk(int64_t chunk, std::vector<BaselineToken>* tokens) const;

 private:
  BaselineReader(std::string path, std::unique_ptr<File> file) : path_(std::move(path)), file_(std::move(file)) {}
  absl::Status ReadHeader();

  std::string path_;
  std::unique_ptr<File> file_;
  BaselineHeader header_;
  uint64_t header_bytes_ = 0;
};

// Runs the model over the chunks and hands every scored token to `writer`. Errors as Compare's.
absl::Status SaveBaseline(std::shared_ptr<const Model> model, const ScoredChunks& chunks, BaselineWriter& writer,
                          const std::function<bool(int64_t chunk, int64_t chunks)>& progress);

// Compare against a baseline: `layers` stays empty, since a baseline knows neither hidden states nor routing, and
// `baseline_rest` is set. The text must have passed CheckSameText.
absl::StatusOr<Comparison> CompareWithBaseline(const BaselineReader& p, std::shared_ptr<const Model> q,
                                               const ScoredChunks& chunks,
                                               const std::function<bool(int64_t chunk, int64_t chunks)>& progress);

}  // namespace kompakt
