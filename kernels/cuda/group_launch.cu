#include "kernels/cuda/group_launch.h"

#include "kernels/cuda/stream_groups.h"

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 256;

template <int kOwn, class Codec>
void launch(Gpu& gpu, const GroupProblem& p, const Codec& codec) {
  const unsigned blocks = blocks_for(p.X.rows * p.groups, kThreads / kLanes, 64 * gpu.multiprocessors());
  group_kernel<Codec, kOwn><<<blocks, kThreads, 0, gpu.stream()>>>(p, codec);
  FP4LAB_CUDA_LAUNCHED("coding ", p.X.rows, " x ", p.X.cols, " in groups of ", p.g);
}

template <class Codec>
void with_group(Gpu& gpu, const GroupProblem& p, const Codec& codec) {
  switch (p.g) {
    case 16: return launch<1>(gpu, p, codec);
    case 32: return launch<2>(gpu, p, codec);
    case 64: return launch<4>(gpu, p, codec);
    case 128: return launch<8>(gpu, p, codec);
    default: return launch<0>(gpu, p, codec);
  }
}

}  // namespace

void code_groups(Gpu& gpu, const GroupProblem& p) {
  if (p.X.rows * p.groups == 0) return;
  if (can_stream_groups(p)) return stream_groups(gpu, p);
  FP4LAB_CHECK(!p.packed || p.g % kLanes == 0, "packing groups of ", p.g);
  const Element& e = p.element;
  switch (e.kind) {
    case ElementKind::minifloat:
      return e == kE2M1 ? with_group(gpu, p, E2M1Codec{}) : with_group(gpu, p, minifloat_codec(e));
    case ElementKind::int_sym:
    case ElementKind::int_full: return with_group(gpu, p, int_codec(e));
    case ElementKind::int_asym: return with_group(gpu, p, asym_codec(e));
    case ElementKind::table: return with_group(gpu, p, Nf4Codec{});
  }
}

}  // namespace fp4lab::cuda
