#include "methods/statistics.h"

#include <algorithm>
#include <optional>

#include "core/random.h"
#include "kernels/forward/forward.h"

namespace fp4lab {

namespace {

int64_t inputs_of(const ModelWeights& checkpoint, SiteKind site) {
  return checkpoint.shape(linears_of(site)[0])[1];
}

}  // namespace

StatsGatherer::StatsGatherer(int64_t inputs, const StatsNeeds& needs, std::span<const int64_t> rows)
    : rows_(rows), sums_(size_t(inputs)) {
  stats_.amax.assign(size_t(inputs), 0);
  if (needs.hessian || needs.cross) stats_.H = MatrixD::zeros(inputs, inputs);
  if (needs.cross) stats_.D = MatrixD::zeros(inputs, inputs);
  if (needs.sample) stats_.sample = Matrix(int64_t(rows.size()), inputs);
}

void StatsGatherer::add(Ops& ops, MatrixView<const float> X, MatrixView<const float> full) {
  ops.column_stats(X, stats_.amax, sums_);
  if (stats_.H.size()) ops.syrk(X, stats_.H);
  if (stats_.D.size()) {
    FP4LAB_CHECK(full.rows == X.rows && full.cols == X.cols, full.rows, " rows beside ", X.rows);
    ops.cross(full, X, stats_.D);
  }
  for (; stats_.sample.size() && taken_ < rows_.size() && rows_[taken_] < stats_.tokens + X.rows; ++taken_)
    ops.download(X.middle_rows(rows_[taken_] - stats_.tokens, 1),
                 stats_.sample.view().middle_rows(int64_t(taken_), 1));
  stats_.tokens += X.rows;
}

SiteStats StatsGatherer::finish() {
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
  Forward forward(ops, checkpoint.config(), default_chunk(length), length);
  SpilledMatrix states = make_spilled(int64_t(ids.size()), checkpoint.config().hidden_size, request.spill);
  const MatrixView<float> hidden = states.view();
  checkpoint.embed(ids, hidden);
  for (int64_t layer = 0; layer <= last; ++layer) {
    step();
    std::array<std::optional<StatsGatherer>, kSites> sites;
    for (int s = 0; s < kSites; ++s)
      if (request.wanted(layer, SiteKind(s)))
        sites[size_t(s)].emplace(inputs_of(checkpoint, SiteKind(s)),
                                 StatsNeeds{.hessian = request.hessians, .sample = request.sample}, rows);
    run_layer(ops, forward, load_block(ops, checkpoint, layer), hidden, step,
              [&](SiteKind kind, MatrixView<const float> X) {
                if (sites[size_t(kind)]) sites[size_t(kind)]->add(ops, X);
              });
    for (int s = 0; s < kSites; ++s)
      if (sites[size_t(s)]) done(layer, SiteKind(s), sites[size_t(s)]->finish());
  }
}

}  // namespace fp4lab
