// Which machine an Ops is for.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "kernels/codec_digest.h"
#include "kernels/ops.h"

namespace fp4lab {

namespace {
int given_gpu = 0;
}

#if defined(FP4LAB_WITH_CUDA)
namespace cuda {
std::unique_ptr<Ops> make_cuda_ops(int gpu, Machine::Compute compute);
}
bool built_with_cuda() { return true; }
#else
bool built_with_cuda() { return false; }
#endif

void give_gpu(int index) { given_gpu = index; }

std::unique_ptr<Ops> make_ops(const Machine& machine) {
  if (!machine.cuda) return make_cpu_ops();
#if defined(FP4LAB_WITH_CUDA)
  return cuda::make_cuda_ops(machine.gpu >= 0 ? machine.gpu : given_gpu, machine.compute);
#else
  throw ConfigError("device cuda: this program was built without CUDA");
#endif
}

int visible_gpus() {
  if (!built_with_cuda()) return 0;
  static const int count = [] {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(std::min(cuda_devices(), 255));
    int status = 0;
    if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 0;
    return WEXITSTATUS(status);
  }();
  return count;
}

}  // namespace fp4lab
