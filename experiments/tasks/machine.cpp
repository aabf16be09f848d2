#include "experiments/tasks/machine.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>

namespace fp4lab {

namespace {

/// The number in "cuda:1", -1 for "cuda"; nothing for other texts.
std::optional<int> gpu_number(const std::string& device) {
  if (device == "cuda") return -1;
  if (!device.starts_with("cuda:")) return {};
  int number = -1;
  const char *begin = device.data() + 5, *end = device.data() + device.size();
  const auto [rest, error] = std::from_chars(begin, end, number);
  if (error != std::errc{} || rest != end || number < 0) return {};
  return number;
}

}  // namespace

Machine read_machine(Params& p, bool products) {
  Machine machine;
  const std::string device =
      p.text("device", "cpu", {"where it runs: cpu, cuda, or cuda:1 for one GPU of several"});
  if (products &&
      p.choice("compute", "float32", {"float32", "bfloat16"},
               {"arithmetic of products and attention; bfloat16 (cuda): operands rounded, sums in "
                "float32"}) == "bfloat16")
    machine.compute = Machine::bfloat16;
  if (p.is_declaring()) return machine;
  if (device != "cpu") {
    const std::optional<int> gpu = gpu_number(device);
    if (!gpu) p.fail("device", str("unknown device \"", device, "\"; known: cpu, cuda, cuda:0, cuda:1, ..."));
    if (!built_with_cuda())
      p.fail("device",
             str("\"", device,
                 "\": this program was built without CUDA (./lab builds with it where nvcc and a GPU are)"));
    const int count = visible_gpus();
    if (count == 0) p.fail("device", str("\"", device, "\": no CUDA device is visible"));
    if (*gpu >= count) p.fail("device", str("\"", device, "\": visible are cuda:0 to cuda:", count - 1));
    machine.cuda = true, machine.gpu = *gpu;
    p.set_resolved("device", "cuda");
  }
  if (machine.compute == Machine::bfloat16 && !machine.cuda)
    p.fail("compute", "\"bfloat16\" is for device cuda; the cpu computes in float32");
  return machine;
}

std::string arithmetic(const Machine& machine) {
  return machine.compute == Machine::bfloat16 ? "bfloat16" : "";
}

}  // namespace fp4lab
