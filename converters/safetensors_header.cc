#include <algorithm>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "converters/json.h"
#include "converters/safetensors.h"
#include "format/status.h"

namespace kompakt {
namespace {

using Json = nlohmann::json;

// No tensor has more dimensions; a header of 100 MB could otherwise spell one with tens of millions.
constexpr size_t kMaxRank = 64;

absl::StatusOr<Dtype> DtypeFromName(absl::string_view name, absl::string_view file, absl::string_view tensor) {
  std::string known;
  for (const DtypeInfo& info : AllDtypes()) {
    if (info.name == name) return info.dtype;
    absl::StrAppend(&known, known.empty() ? "" : " ", info.name);
  }
  return UnsupportedError(file, ": tensor ", tensor, ": unknown dtype \"", name, "\" (known: ", known, ")");
}

// Reads the header as it streams by, so that memory stays in proportion to the tensors and not to the JSON.
class HeaderHandler : public nlohmann::json_sax<Json> {
 public:
  HeaderHandler(absl::string_view file, SafetensorsHeader* out) : file_(file), out_(*out) {}

  bool null() override { return Scalar("null"); }
  bool boolean(bool) override { return Scalar("a boolean"); }
  bool number_integer(number_integer_t value) override { return Scalar(absl::StrCat("the number ", value)); }
  bool number_unsigned(number_unsigned_t value) override {
    if (skip_depth_ == 0 && where_ == Where::kShape) {
      if (entry_.shape.size() >= kMaxRank) return Fail("tensor ", entry_.name, ": more than ", kMaxRank, " dimensions");
      entry_.shape.push_back(value);
      return true;
    }
    if (skip_depth_ == 0 && where_ == Where::kOffsets) {
      if (offsets_seen_ == 2) return Fail("tensor ", entry_.name, ": data_offsets: expected 2 numbers, found more");
      (offsets_seen_++ == 0 ? entry_.begin : entry_.end) = value;
      return true;
    }
    return Scalar(absl::StrCat("the number ", value));
  }
  bool number_float(number_float_t value, const string_t&) override {
    return Scalar(absl::StrCat("the number ", value));
  }
  bool binary(binary_t&) override { return false; }  // not in JSON text

  bool string(string_t& value) override {
    if (skip_depth_ == 0 && where_ == Where::kMetadata) {
      out_.metadata.emplace_back(metadata_key_, std::move(value));
      return true;
    }
    if (skip_depth_ == 0 && where_ == Where::kTensor && field_ == Field::kDtype) {
      absl::StatusOr<Dtype> dtype = DtypeFromName(value, file_, entry_.name);
      if (!dtype.ok()) {
        status_ = dtype.status();
        return false;
      }
      entry_.dtype = *dtype;
      return true;
    }
    return Scalar(absl::StrCat("the string \"", value, "\""));
  }

  bool start_object(std::size_t) override {
    if (skip_depth_ > 0 || (where_ == Where::kTensor && field_ == Field::kOther)) return Skip();
    if (where_ == Where::kStart) {
      where_ = Where::kTop;
      return true;
    }
    if (where_ == Where::kTop) {
      where_ = in_metadata_ ? Where::kMetadata : Where::kTensor;
      return true;
    }
    return Scalar("an object");
  }

  bool start_array(std::size_t) override {
    if (skip_depth_ > 0 || (where_ == Where::kTensor && field_ == Field::kOther)) return Skip();
    if (where_ == Where::kTensor && field_ == Field::kShape) {
      where_ = Where::kShape;
      return true;
    }
    if (where_ == Where::kTensor && field_ == Field::kOffsets) {
      where_ = Where::kOffsets;
      return true;
    }
    return Scalar("an array");
  }

  bool end_array() override {
    if (skip_depth_ > 0) return Unskip();
    if (where_ == Where::kOffsets && offsets_seen_ != 2) {
      return Fail("tensor ", entry_.name, ": data_offsets: expected 2 numbers, found ", offsets_seen_);
    }
    where_ = Where::kTensor;
    return true;
  }

  bool end_object() override {
    if (skip_depth_ > 0) return Unskip();
    if (where_ == Where::kTensor) {
      if (!seen_dtype_) return Fail("tensor ", entry_.name, ": no \"dtype\"");
      if (!seen_shape_) return Fail("tensor ", entry_.name, ": no \"shape\"");
      if (!seen_offsets_) return Fail("tensor ", entry_.name, ": no \"data_offsets\"");
      out_.entries.push_back(std::move(entry_));
    }
    where_ = where_ == Where::kTop ? Where::kStart : Where::kTop;
    return true;
  }

  bool key(string_t& name) override {
    if (skip_depth_ > 0) return true;
    if (where_ == Where::kTop) return TopKey(name);
    if (where_ == Where::kMetadata) {
      if (!metadata_keys_.insert(name).second) return FailDuplicate(absl::StrCat("__metadata__.", name));
      metadata_key_ = std::move(name);
      return true;
    }
    field_ = Field::kOther;
    if (name == "dtype") return TensorKey(Field::kDtype, name, &seen_dtype_);
    if (name == "shape") return TensorKey(Field::kShape, name, &seen_shape_);
    if (name == "data_offsets") return TensorKey(Field::kOffsets, name, &seen_offsets_);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const Json::exception&) override {
    // The text is valid UTF-8 here, so this is a syntax error or a number out of range.
    return Fail("not JSON at byte ", 8 + position, " of the file");
  }

  const absl::Status& status() const { return status_; }

 private:
  enum class Where { kStart, kTop, kMetadata, kTensor, kShape, kOffsets };
  enum class Field { kOther, kDtype, kShape, kOffsets };

  template <typename... Args>
  bool Fail(const Args&... args) {
    status_ = CorruptError(file_, ": header: ", args..., " (InvalidHeaderDeserialization)");
    return false;
  }

  bool FailDuplicate(absl::string_view key) {
    status_ = CorruptError(file_, ": header: the key \"", key, "\" appears twice");
    return false;
  }

  bool TopKey(string_t& name) {
    if (!top_keys_.insert(name).second) return FailDuplicate(name);
    in_metadata_ = name == "__metadata__";
    entry_ = {};
    entry_.name = std::move(name);
    seen_dtype_ = seen_shape_ = seen_offsets_ = false;
    offsets_seen_ = 0;
    field_ = Field::kOther;
    return true;
  }

  bool TensorKey(Field field, absl::string_view name, bool* seen) {
    if (*seen) return FailDuplicate(absl::StrCat(entry_.name, ".", name));
    *seen = true;
    field_ = field;
    return true;
  }

  // A value that is not of the expected kind, or one that nobody asked for.
  bool Scalar(absl::string_view found) {
    if (skip_depth_ > 0) return true;
    switch (where_) {
      case Where::kStart:
        return Fail("expected an object of tensors, found ", found);
      case Where::kTop:
        return Fail(in_metadata_ ? "" : "tensor ", entry_.name, ": expected an object, found ", found);
      case Where::kMetadata:
        return Fail("__metadata__.", metadata_key_, ": expected a string, found ", found);
      case Where::kShape:
        return Fail("tensor ", entry_.name, ": shape: expected non-negative integers, found ", found);
      case Where::kOffsets:
        return Fail("tensor ", entry_.name, ": data_offsets: expected non-negative integers, found ", found);
      case Where::kTensor:
        break;
    }
    switch (field_) {
      case Field::kDtype:
        return Fail("tensor ", entry_.name, ": dtype: expected a string, found ", found);
      case Field::kShape:
        return Fail("tensor ", entry_.name, ": shape: expected an array, found ", found);
      case Field::kOffsets:
        return Fail("tensor ", entry_.name, ": data_offsets: expected an array, found ", found);
      case Field::kOther:
        return true;
    }
    return true;
  }

  bool Skip() {
    if (++skip_depth_ > kMaxJsonDepth) return Fail("nested deeper than ", kMaxJsonDepth, " levels");
    return true;
  }
  bool Unskip() {
    --skip_depth_;
    return true;
  }

  absl::string_view file_;
  SafetensorsHeader& out_;
  absl::Status status_;
  Where where_ = Where::kStart;
  Field field_ = Field::kOther;
  bool in_metadata_ = false;
  int skip_depth_ = 0;  // open containers inside a field that nobody asked for
  SafetensorsEntry entry_;
  bool seen_dtype_ = false;
  bool seen_shape_ = false;
  bool seen_offsets_ = false;
  int offsets_seen_ = 0;
  std::string metadata_key_;
  absl::flat_hash_set<std::string> top_keys_;
  absl::flat_hash_set<std::string> metadata_keys_;
};

// Rules 5 and 6 for one tensor; `expected_begin` is where the one before it ended.
absl::Status CheckEntry(const SafetensorsEntry& entry, uint64_t expected_begin, absl::string_view file) {
  const auto fail = [&](const auto&... args) { return CorruptError(file, ": tensor ", entry.name, ": ", args...); };
  if (entry.begin != expected_begin || entry.end < entry.begin) {
    return fail("expected data_offsets to begin at ", expected_begin, " and to ascend, found [", entry.begin, ", ",
                entry.end, "] (InvalidOffset)");
  }
  uint64_t elements = 1;
  for (const uint64_t n : entry.shape) {
    if (__builtin_mul_overflow(elements, n, &elements)) {
      return fail("the number of elements of shape ", ShapeText(entry.shape), " overflows (ValidationOverflow)");
    }
  }
  const DtypeInfo& dtype = InfoOf(entry.dtype);
  uint64_t bits = 0;
  if (__builtin_mul_overflow(elements, dtype.bits, &bits)) {
    return fail("the size of ", dtype.name, " ", ShapeText(entry.shape), " overflows (ValidationOverflow)");
  }
  if (bits % 8 != 0) {
    return fail(dtype.name, " ", ShapeText(entry.shape), " does not fill whole bytes: ", bits,
                " bits (MisalignedSlice)");
  }
  if (entry.bytes() != bits / 8) {
    return fail("expected ", bits / 8, " bytes for ", dtype.name, " ", ShapeText(entry.shape), ", found ",
                entry.bytes(), " in data_offsets [", entry.begin, ", ", entry.end, "] (TensorInvalidInfo)");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view json, uint64_t file_bytes,
                                                         absl::string_view file) {
  const int64_t ill_formed = FirstIllFormedUtf8(json);
  if (ill_formed >= 0) {
    return CorruptError(file, ": header: expected UTF-8, found an ill-formed sequence at byte ", 8 + ill_formed,
                        " of the file (InvalidHeader)");
  }
  SafetensorsHeader header;
  header.data_begin = 8 + static_cast<uint64_t>(json.size());
  HeaderHandler handler(file, &header);
  if (!ParseJsonEvents(json, handler)) {
    if (!handler.status().ok()) return handler.status();
    return CorruptError(file, ": header: not JSON (InvalidHeaderDeserialization)");
  }
  std::sort(header.entries.begin(), header.entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::make_pair(a.begin, a.end) < std::make_pair(b.begin, b.end);
  });
  uint64_t end = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    KOMPAKT_RETURN_IF_ERROR(CheckEntry(entry, end, file));
    end = entry.end;
  }
  uint64_t expected_bytes = 0;
  if (__builtin_add_overflow(header.data_begin, end, &expected_bytes) || expected_bytes != file_bytes) {
    const bool truncated = file_bytes < expected_bytes;
    return CorruptError(file, ": ", truncated ? "truncated" : "bytes follow the last tensor", ": expected ",
                        expected_bytes, " bytes (", header.data_begin, " of header, ", end, " of tensors), found ",
                        file_bytes, " (MetadataIncompleteBuffer)");
  }
  return header;
}

}  // namespace kompakt
