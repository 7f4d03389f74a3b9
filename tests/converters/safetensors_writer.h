// Writes safetensors files for tests, in the order and with the padding of the reference library: widest dtype first,
// then by name; compact JSON padded with spaces so that the data begins at a multiple of 8.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "converters/safetensors.h"
#include "format/float_formats.h"

namespace kompakt {

struct TestTensor {
  Dtype dtype = Dtype::kF32;
  std::vector<uint64_t> shape;
  std::string data;
};

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

inline TestTensor F32Tensor(std::vector<uint64_t> shape, const std::vector<float>& values) {
  return {Dtype::kF32, std::move(shape), BytesOf(values)};
}
inline TestTensor Bf16Tensor(std::vector<uint64_t> shape, const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float v : values) bits.push_back(F32ToBf16(v));
  return {Dtype::kBf16, std::move(shape), BytesOf(bits)};
}
inline TestTensor F16Tensor(std::vector<uint64_t> shape, const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float v : values) bits.push_back(F32ToF16(v));
  return {Dtype::kF16, std::move(shape), BytesOf(bits)};
}

// By name; a test changes, removes or adds tensors before it writes them.
using TestTensors = std::map<std::string, TestTensor>;

// u64 length, JSON, data: a file from its two halves, whatever they say.
inline std::string SafetensorsBytes(const std::string& json, const std::string& data) {
  const uint64_t length = json.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + json + data;
}

inline std::string SafetensorsBytes(const TestTensors& tensors) {
  std::vector<const TestTensors::value_type*> order;
  for (const auto& item : tensors) order.push_back(&item);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return static_cast<int>(a->second.dtype) > static_cast<int>(b->second.dtype);
  });
  std::string json = "{\"__metadata__\":{\"format\":\"pt\"}";
  std::string data;
  for (const auto* item : order) {
    const TestTensor& tensor = item->second;
    absl::StrAppend(&json, ",\"", item->first, "\":{\"dtype\":\"", InfoOf(tensor.dtype).name, "\",\"shape\":[",
                    absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", data.size(), ",",
                    data.size() + tensor.data.size(), "]}");
    data += tensor.data;
  }
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  return SafetensorsBytes(json, data);
}

inline void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

}  // namespace kompakt
