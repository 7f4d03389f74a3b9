// Owners of what a Device gives besides DeviceBuffer, and the way of weights to it.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/device.h"

namespace kompakt {

// Pinned host memory. Freed with its owner; the device must still be there.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  static absl::StatusOr<PinnedBuffer> Create(Device& device, uint64_t bytes, absl::string_view what);
  PinnedBuffer(PinnedBuffer&& other) noexcept { *this = std::move(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~PinnedBuffer();

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
};

// A stream, an event, a graph. Destroyed with its owner.
template <typename Handle, void (Device::*kDestroy)(Handle)>
class DeviceHandle {
 public:
  DeviceHandle() = default;
  DeviceHandle(Device& device, Handle handle) : device_(&device), handle_(handle) {}
  DeviceHandle(DeviceHandle&& other) noexcept { *this = std::move(other); }
  DeviceHandle& operator=(DeviceHandle&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~DeviceHandle() {
    if (handle_ != nullptr) (device_->*kDestroy)(handle_);
  }

  Handle get() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  Device* device_ = nullptr;
  Handle handle_ = nullptr;
};
using OwnedStream = DeviceHandle<DeviceStream, &Device::DestroyStream>;
using OwnedEvent = DeviceHandle<DeviceEvent, &Device::DestroyEvent>;
using OwnedGraph = DeviceHandle<DeviceGraph, &Device::DestroyGraph>;

absl::StatusOr<OwnedStream> CreateOwnedStream(Device& device);
absl::StatusOr<OwnedEvent> CreateOwnedEvent(Device& device);

// Gives device memory away piece by piece, each at a boundary of 256 bytes.
class DeviceArena {
 public:
  static absl::StatusOr<DeviceArena> Create(Device& device, uint64_t bytes, absl::string_view what);
  // kInternal when the arena was made too small.
  absl::StatusOr<uint8_t*> Take(uint64_t bytes);
  uint64_t bytes() const { return memory_.bytes(); }

 private:
  DeviceBuffer memory_;
  uint64_t used_ = 0;
};

// Copies any host memory to the device through two pinned buffers in turn: while one is on its way, the CPU fills the
// other. The source is free when Copy returns; the bytes are there after Finish.
class Uploader {
 public:
  static absl::StatusOr<Uploader> Create(Device& device);
  absl::Status Copy(void* to, const void* from, uint64_t bytes);
  absl::Status Finish();

 private:
  struct Lane {
    PinnedBuffer staging;
    OwnedStream stream;
  };
  Device* device_ = nullptr;
  std::array<Lane, 2> lanes_;
  size_t next_ = 0;
};

}  // namespace kompakt
