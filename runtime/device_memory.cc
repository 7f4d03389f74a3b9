#include "runtime/device_memory.h"

#include <algorithm>
#include <cstring>

#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kAlign = 256;
constexpr uint64_t kStagingBytes = uint64_t{8} << 20;

}  // namespace

absl::StatusOr<PinnedBuffer> PinnedBuffer::Create(Device& device, uint64_t bytes, absl::string_view what) {
  PinnedBuffer buffer;
  KOMPAKT_ASSIGN_OR_RETURN(buffer.data_, device.AllocatePinned(bytes, what));
  buffer.device_ = &device;
  return buffer;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) device_->FreePinned(data_);
}

absl::StatusOr<OwnedStream> CreateOwnedStream(Device& device) {
  KOMPAKT_ASSIGN_OR_RETURN(const DeviceStream stream, device.CreateStream());
  return OwnedStream(device, stream);
}

absl::StatusOr<OwnedEvent> CreateOwnedEvent(Device& device) {
  KOMPAKT_ASSIGN_OR_RETURN(const DeviceEvent event, device.CreateEvent());
  return OwnedEvent(device, event);
}

absl::StatusOr<DeviceArena> DeviceArena::Create(Device& device, uint64_t bytes, absl::string_view what) {
  DeviceArena arena;
  KOMPAKT_ASSIGN_OR_RETURN(arena.memory_, DeviceBuffer::Create(device, bytes, what));
  return arena;
}

absl::StatusOr<uint8_t*> DeviceArena::Take(uint64_t bytes) {
  const uint64_t aligned = (bytes + kAlign - 1) / kAlign * kAlign;
  if (aligned > memory_.bytes() - used_) {
    return absl::InternalError(absl::StrCat("device arena of ", memory_.bytes(), " bytes: ", used_, " are taken, ",
                                            aligned, " more are asked for"));
  }
  uint8_t* const p = memory_.as<uint8_t>() + used_;
  used_ += aligned;
  return p;
}

absl::StatusOr<Uploader> Uploader::Create(Device& device) {
  Uploader uploader;
  uploader.device_ = &device;
  for (Lane& lane : uploader.lanes_) {
    KOMPAKT_ASSIGN_OR_RETURN(lane.staging, PinnedBuffer::Create(device, kStagingBytes, "staging of weights"));
    KOMPAKT_ASSIGN_OR_RETURN(lane.stream, CreateOwnedStream(device));
  }
  return uploader;
}

absl::Status Uploader::Copy(void* to, const void* from, uint64_t bytes) {
  for (uint64_t done = 0; done < bytes; done += kStagingBytes) {
    const uint64_t piece = std::min(kStagingBytes, bytes - done);
    Lane& lane = lanes_[next_];
    next_ = 1 - next_;
    KOMPAKT_RETURN_IF_ERROR(device_->Synchronize(lane.stream.get()));
    std::memcpy(lane.staging.as<uint8_t>(), static_cast<const uint8_t*>(from) + done, piece);
    KOMPAKT_RETURN_IF_ERROR(
        device_->Copy(static_cast<uint8_t*>(to) + done, lane.staging.as<uint8_t>(), piece, lane.stream.get()));
  }
  return absl::OkStatus();
}

absl::Status Uploader::Finish() {
  for (const Lane& lane : lanes_) KOMPAKT_RETURN_IF_ERROR(device_->Synchronize(lane.stream.get()));
  return absl::OkStatus();
}

}  // namespace kompakt
