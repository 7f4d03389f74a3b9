// CudaKernels: what a device offers, as host functions that queue kernels. There is one table per backend, from the
// same sources: kernels/cuda/kernels.cu.
//
// Every function takes a plain structure of device pointers and counts (shapes beside them, as in kernel_set.h), and
// the stream (DeviceStream of kernels/device.h). It checks nothing but what it needs to launch, and returns 0 or a code
// for Device::LaunchStatus. This header is read by nvcc: no Abseil here, nor in what it includes.
#pragma once

#include <cstdint>

#include "kernels/cuda/elementwise_params.h"
#include "kernels/cuda/ffn_params.h"
#include "kernels/cuda/index_params.h"
#include "kernels/cuda/linear_params.h"
#include "kernels/cuda/mla_params.h"
#include "kernels/cuda/probe_params.h"
#include "kernels/cuda/router_params.h"

namespace kompakt {

struct CudaKernels {
  int (*add)(const cuda::AddParams& p, void* stream);
  int (*quantize)(const cuda::QuantizeParams& p, void* stream);
  int (*embed)(const cuda::EmbedParams& p, void* stream);
  int (*linear)(const cuda::LinearParams& p, void* stream);
  int (*route)(const cuda::RouteParams& p, void* stream);
  int (*ffn)(const cuda::FfnParams& p, void* stream);
  int (*expert_ffn)(const cuda::ExpertFfnParams& p, void* stream);
  int (*head)(const cuda::HeadParams& p, void* stream);

  int (*mla_append)(const cuda::MlaAppendParams& p, void* stream);
  int (*mla_absorb)(const cuda::MlaAbsorbParams& p, void* stream);
  int (*mla_decode)(const cuda::MlaDecodeParams& p, void* stream);
  int (*mla_combine)(const cuda::MlaCombineParams& p, void* stream);
  int (*mla_decompress)(const cuda::MlaDecompressParams& p, void* stream);
  int (*mla_prefill)(const cuda::MlaPrefillParams& p, void* stream);

  int (*index_append)(const cuda::IndexAppendParams& p, void* stream);
  int (*index_scores)(const cuda::IndexScoresParams& p, void* stream);
  int (*index_select)(const cuda::IndexSelectParams& p, void* stream);

  int (*read)(const cuda::ReadParams& p, void* stream);
};

}  // namespace kompakt
