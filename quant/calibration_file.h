// A calibration: what goes into the matrices of a model on some text, in a file (docs/calibration.md). Per linear input
// the mean square of every channel and how many tokens it was taken over, with --hessian also second moments.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/file_system.h"
#include "format/manifest.pb.h"
#include "format/model_schema.h"

namespace kompakt {

// What a calibration may be applied to: any set of weights of the same architecture that cuts a text into the same
// tokens. MTP layers that are kept or not make no difference.
struct CalibrationModel {
  uint64_t arch_xxh3 = 0;       // of the serialized ArchSpec with mtp_layers 0
  uint64_t tokenizer_xxh3 = 0;  // of tokenizer.json, else of tiktoken.model, else of all tokenizer files

  static CalibrationModel Of(const ArchSpec& arch, const ModelAssets& assets);
};

struct CalibrationHeader {
  std::string model_name;  // for people; at most 4096 bytes
  std::string text_name;   // likewise
  CalibrationModel model;
  uint64_t weights_xxh3 = 0;  // of the model that ran, for people
  uint64_t text_xxh3 = 0;     // of the text's bytes
  int64_t tokens = 0;         // that ran through the model, BOS included
  int64_t context = 0;        // tokens per chunk
};

// One linear input: role as LinearInputOf gives it.
struct CalibrationRow {
  TensorRole role;
  int32_t layer = -1;
  int32_t expert = -1;
  int64_t width = 0;        // channels
  int64_t tokens = 0;       // that were seen
  bool has_matrix = false;  // second moments follow
};

// Every input of a model, in the order of the file: that of ModelSchema.
//
// With `matrices` those that get second moments are marked: every input but those of the routed experts' gate and up,
// which take their layer's (of the shared experts; where there are none, of a row of mlp.experts.gate_proj with expert
// -1). Those of the experts' down projections have one each where the layer's take at most kMostExpertMatrixBytes, else
// none.
std::vector<CalibrationRow> CalibrationRows(const ModelSchema& schema, bool matrices);
inline constexpr uint64_t kMostExpertMatrixBytes = uint64_t{1} << 30;
// Floats of an upper triangle.
constexpr int64_t TriangleSize(int64_t width) { return width * (width + 1) / 2; }
uint64_t CalibrationFileBytes(const CalibrationHeader& header, absl::Span<const CalibrationRow> rows);

// Writes path.partial, and renames it when it is whole. Memory: the directory.
class CalibrationWriter {
 public:
  // `rows`: tokens are ignored, they come with the data. kInvalidArgument for what no file can hold.
  static absl::StatusOr<std::unique_ptr<CalibrationWriter>> Create(FileSystem& fs, const std::string& path,
                                                                   const CalibrationHeader& header,
                                                                   std::vector<CalibrationRow> rows);
  ~CalibrationWriter();  // removes what was not finished

  absl::Span<const CalibrationRow> rows() const { return rows_; }
  // The data of the next row: means of squares, and where it has a matrix the upper triangle by rows. kDataLoss naming
  // the input where a value is not finite.
  absl::Status Add(int64_t tokens, absl::Span<const float> means, absl::Span<const float> triangle);
  // kInternal when rows are missing.
  absl::Status Finish();
  uint64_t bytes() const { return end_; }

 private:
  CalibrationWriter(FileSystem& fs, std::string path) : fs_(fs), path_(std::move(path)) {}

  FileSystem& fs_;
  std::string path_;
  CalibrationHeader header_;
  std::vector<CalibrationRow> rows_;
  std::unique_ptr<File> file_;
  std::vector<uint8_t> directory_;
  size_t next_ = 0;
  uint64_t end_ = 0;
  bool finished_ = false;
};

class CalibrationFile {
 public:
  // Checks everything but the matrices, which are checked as they are read. kFailedPrecondition: not a calibration.
  // kUnimplemented: of another version. kDataLoss: damaged or cut short.
  static absl::StatusOr<std::shared_ptr<const CalibrationFile>> Open(FileSystem& fs, const std::string& path);

  const std::string& path() const { return path_; }
  const CalibrationHeader& header() const { return header_; }
  absl::Span<const CalibrationRow> rows() const { return rows_; }
  uint64_t bytes() const { return bytes_; }
  bool has_matrices() const { return has_matrices_; }
  // Changes with anything that was measured; never 0. What a packed file's provenance keeps.
  uint64_t xxh3() const { return xxh3_; }
  // Index into rows(), or -1.
  int64_t Find(TensorRole role, int64_t layer, int64_t expert) const;
  // Index of the row with the second moments that hold for a tensor, or -1.
  int64_t FindMatrix(const ArchSpec& arch, const TensorInfo& tensor) const;

  // kFailedPrecondition naming what differs, or which input of the model the file lacks.
  absl::Status CheckModel(const ModelSchema& schema, const ModelAssets& assets) const;
  // out: [width].
  absl::Status ReadMeans(int64_t row, absl::Span<float> out) const;
  // The upper triangle by rows, [TriangleSize(width)]: E[x_i x_j] for j >= i.
  absl::Status ReadMatrix(int64_t row, std::vector<float>* triangle) const;

 private:
  struct Place {
    uint64_t offset;
    uint64_t means_xxh3;
    uint64_t matrix_xxh3;
  };
  explicit CalibrationFile(std::string path) : path_(std::move(path)) {}
  absl::Status ReadHeader();
  absl::Status ReadDirectory(absl::Span<const uint8_t> directory, uint64_t data_offset);
  absl::Status ReadFloats(int64_t row, uint64_t offset, uint64_t xxh3, absl::Span<float> out) const;

  std::string path_;
  std::unique_ptr<File> file_;
  CalibrationHeader header_;
  std::vector<CalibrationRow> rows_;
  std::vector<Place> places_;
  std::map<std::tuple<TensorRole, int64_t, int64_t>, int64_t> index_;
  uint64_t bytes_ = 0;
  uint64_t xxh3_ = 0;
  bool has_matrices_ = false;
};

// "mlp.experts.down_proj of layer 3, expert 17": for messages.
std::string NameOf(const CalibrationRow& row);

}  // namespace kompakt
