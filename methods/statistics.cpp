#include "methods/statistics.h"

#include <algorithm>
#include <optional>

#include "core/random.h"
#include "kernels/forward/forward.h"
#include "kernels/forward/hidden_states.h"

namespace fp4lab {

namespace {

int64_t inputs_of(const ModelWeights& checkpoint, SiteKind site) {
  return checkpoint.shape(linears_of(site)[0])[1];
}

}  // namespace

StatsGatherer::StatsGatherer(Ops& ops, int64_t inputs, const StatsNeeds& needs, std::span<const int64_t> rows)
    : ops_(ops), rows_(rows), sums_(size_t(inputs)) {
  stats_.amax.assign(size_t(inputs), 0);
  if (needs.hessian || needs.cross) H_ = ops.zeros_double(inputs, inputs);
  if (needs.cross) D_ = ops.zeros_double(inputs, inputs);
  if (needs.sample) stats_.sample = Matrix(int64_t(rows.size()), inputs);
}

void StatsGatherer::add(MatrixView<const float> X, MatrixView<const float> full) {
  ops_.column_stats(X, stats_.amax, sums_);
  if (!H_.empty()) ops_.syrk(X, H_.view());
  if (!D_.empty()) {
    FP4LAB_CHECK(full.rows == X.rows && full.cols == X.cols, full.rows, " rows beside ", X.rows);
    ops_.cross(full, X, D_.view());
  }
  for (; stats_.sample.size() && taken_ < rows_.size() && rows_[taken_] < stats_.tokens + X.rows; ++taken_)
    ops_.download(X.middle_rows(rows_[taken_] - stats_.tokens, 1),
                  stats_.sample.view().middle_rows(int64_t(taken_), 1));
  stats_.tokens += X.rows;
}

SiteStats StatsGatherer::finish() {
  stats_.H_on_gpu = std::move(H_);
  if (ops_.on_host() || !D_.empty()) stats_.to_host(ops_);
  if (!D_.empty()) {
    stats_.D = MatrixD(D_.rows(), D_.cols());
    ops_.download(D_.view(), stats_.D);
    D_ = {};
  }
  // So far X_fp^T X; where both inputs are the same, the sums are too, and nothing is left.
  for (int64_t i = 0; i < stats_.D.rows(); ++i)
    for (int64_t j = 0; j < stats_.D.cols(); ++j) stats_.D(i, j) -= stats_.H(std::min(i, j), std::max(i, j));
  for (const double s : sums_) stats_.mean_abs.push_back(s / double(stats_.tokens));
  return std::move(stats_);
}

std::vector<int64_t> sample_rows(uint64_t seed, int64_t tokens, int64_t rows) {
  return sample_without_replacement(Stream(seed, "activation rows"), tokens, rows == 0 ? tokens : rows);
}

void collect_statistics(Ops& ops, const ModelWeights& checkpoint, std::span<const int32_t> ids,
                        int64_t length, const StatsRequest& request, const std::function<void()>& step,
                        const std::function<void(int64_t layer, SiteKind site, SiteStats&& stats)>& done) {
  const int64_t layers = checkpoint.config().layers;
  int64_t last = -1;
  for (int64_t layer = 0; layer < layers; ++layer)
    for (int s = 0; s < kSites; ++s)
      if (request.wanted(layer, SiteKind(s))) last = layer;
  std::vector<int64_t> rows;
  if (request.sample) rows = sample_rows(request.seed, int64_t(ids.size()), request.rows);
  Forward forward(ops, checkpoint.config(), default_chunk(ops, length), length);
  HiddenStates states(ops, int64_t(ids.size()), checkpoint.config().hidden_size, request.spill);
  const MatrixView<float> hidden = states.view();
  states.fill(ops, [&](int64_t begin, MatrixView<float> part) {
    checkpoint.embed(ids.subspan(size_t(begin), size_t(part.rows)), part);
  });
  for (int64_t layer = 0; layer <= last; ++layer) {
    step();
    std::array<std::optional<StatsGatherer>, kSites> sites;
    for (int s = 0; s < kSites; ++s)
      if (request.wanted(layer, SiteKind(s)))
        sites[size_t(s)].emplace(ops, inputs_of(checkpoint, SiteKind(s)),
                                 StatsNeeds{.hessian = request.hessians, .sample = request.sample}, rows);
    run_layer(ops, forward, load_block(ops, checkpoint, layer), hidden, step,
              [&](SiteKind kind, MatrixView<const float> X) {
                if (sites[size_t(kind)]) sites[size_t(kind)]->add(X);
              });
    for (int s = 0; s < kSites; ++s)
      if (sites[size_t(s)]) {
        SiteStats stats = sites[size_t(s)]->finish();
        stats.to_host(ops);
        done(layer, SiteKind(s), std::move(stats));
      }
  }
}

}  // namespace fp4lab
