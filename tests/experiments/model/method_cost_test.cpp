#include "experiments/model/method_cost.h"

#include <nlohmann/json.hpp>

#include "tests/catch.h"
#include "tests/core/model/models.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

/// The cost of a method on the shipped model, NVFP4 weights and activations, windows of 64 tokens.
MethodCost cost_of(const std::string& method, int64_t windows, int64_t limit, const std::string& more = "") {
  const Checkpoint model = Checkpoint::open(shipped_model());
  const Json cell = parse_json(R"({"format": "nvfp4", "method": )" + method + more + "}", "test");
  Params p(cell, {}, "a cell");
  const ModelPlan plan = read_model_plan(p, &model.config(), 1);
  TokenWindows tokens;
  tokens.windows = windows, tokens.length = 64, tokens.ids.resize(size_t(windows * 64));
  return method_cost(plan, model.config(), &tokens, {limit, ""});
}
constexpr int64_t kNone = int64_t(1) << 62;

}  // namespace

TEST_CASE("method cost: calibration states count up to the limit", "[experiments][model]") {
  const double hidden = double(Checkpoint::open(shipped_model()).config().hidden_size);
  const int64_t bytes = int64_t(100 * 64 * 4 * hidden);  // of one set of states
  const double states = double(bytes);
  CHECK(cost_of("\"gptq\"", 100, kNone).states == states);
  CHECK(cost_of("\"gptq\"", 100, bytes).states == states);
  CHECK(cost_of("\"gptq\"", 100, bytes - 1).states == 0);
  CHECK(cost_of("\"gptq\"", 100, 0).states == 0);
  CHECK(cost_of("\"gptaq\"", 100, bytes).states == 2 * states);  // the original model's beside them
  CHECK(cost_of("\"gptaq\"", 100, bytes - 1).states == 0);
  CHECK(cost_of("\"rtn\"", 100, kNone).states == 0);  // nothing is walked
  CHECK(cost_of("\"rtn\"", 100, kNone, R"(, "activation_scale": "static")").states == states);
  // The original model's statistics come from the store, whose gathering counts its own.
  CHECK(cost_of(R"({"base": "gptq", "hessian_inputs": "full_precision"})", 100, kNone).states == 0);
}

TEST_CASE("method cost: Hessians, Cholesky and GPTQ's work count where there are some",
          "[experiments][model]") {
  const ModelConfig c = Checkpoint::open(shipped_model()).config();
  const double h = double(c.hidden_size), m = double(c.intermediate_size), q = double(c.heads * c.head_dim);
  const double hessians = 8 * (h * h + q * q + h * h + m * m);
  const MethodCost rtn = cost_of("\"rtn\"", 8, kNone), gptq = cost_of("\"gptq\"", 8, kNone),
                   gptaq = cost_of("\"gptaq\"", 8, kNone);
  CHECK((rtn.site == 0 && rtn.workspace == 0));
  // At least the Hessians with the largest site's Cholesky, at most four times as much.
  const double largest = 12 * m * m + 4 * h * m;
  CHECK(gptq.site > hessians + largest);
  CHECK(gptq.site < 4 * (hessians + largest));
  CHECK(gptaq.site > gptq.site + hessians);
  CHECK(gptq.workspace > 0);
  CHECK((rtn.seconds < gptq.seconds && gptq.seconds < gptaq.seconds));
  CHECK(cost_of("\"gptq\"", 80, kNone).seconds > gptq.seconds);
  CHECK(cost_of("\"gptq\"", 80, kNone).site == gptq.site);  // whatever the number of windows
  // Parts quantized one by one keep the site's statistics for the others.
  CHECK(cost_of("\"gptq\"", 8, kNone, R"(, "fuse": false)").site > hessians);
}
