// A device as a KernelSet, for the op list: every op uploads what it is given, queues the kernels that the runtime
// queues for it (runtime/device_layer.h), and downloads what they leave. Ops for which a device has no kernels are
// null.
//
// What differs from a set of the CPU, because the device fuses more:
//   rms_norm     x times the weight and the sums of squares come from `quantize`; the factor, which a product applies
//   at
//                its end, is taken from the product with a unit vector
//   mla_*        queries are rotated on the device: they are turned back before
//   all_finite   of the sums of squares, as a session does it
//   caches       BF16 and int8 alone; a row has the device's padding
#pragma once

#include <string>

#include "kernels/kernel_set.h"

namespace kompakt {

// `device`: a name for OpenDevice. One device at a time: a second call redirects the ops of the first one's set.
const KernelSet& DeviceKernelSet(const std::string& device);

}  // namespace kompakt
