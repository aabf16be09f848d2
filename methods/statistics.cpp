#include "methods/statistics.h"

#include <algorithm>
#include <optional>

#include "core/random.h"
#include "kernels/forward/forward.h"

namespace fp4lab {

namespace {

int64_t inputs_of(const Checkpoint& checkpoint, SiteKind site) {
  return checkpoint.shape(linears_of(site)[0])[1];
}

/// Gathers one site over chunks of rows.
class Gatherer {
 public:
  Gatherer(int64_t inputs, bool hessian, std::span<const int64_t> rows) : rows_(rows), sums_(size_t(inputs)) {
    stats_.amax.assign(size_t(inputs), 0);
    if (hessian) stats_.H = MatrixD::zeros(inputs, inputs);
    if (!rows.empty()) stats_.sample = Matrix(int64_t(rows.size()), inputs);
  }
  void add(Ops& ops, MatrixView<const float> X) {
    ops.column_stats(X, stats_.amax, sums_);
    if (stats_.H.size()) ops.syrk(X, stats_.H);
    for (; taken_ < rows_.size() && rows_[taken_] < stats_.tokens + X.rows; ++taken_)
      ops.download(X.middle_rows(rows_[taken_] - stats_.tokens, 1),
                   stats_.sample.view().middle_rows(int64_t(taken_), 1));
    stats_.tokens += X.rows;
  }
  SiteStats finish() {
    for (const double s : sums_) stats_.mean_abs.push_back(s / double(stats_.tokens));
    return std::move(stats_);
  }

 private:
  SiteStats stats_;
  std::span<const int64_t> rows_;
  size_t taken_ = 0;
  std::vector<double> sums_;
};

}  // namespace

void collect_statistics(Ops& ops, const Checkpoint& checkpoint, std::span<const int32_t> ids, int64_t length,
                        const StatsRequest& request, const std::function<void()>& step,
                        const std::function<void(int64_t layer, SiteKind site, SiteStats&& stats)>& done) {
  const int64_t layers = checkpoint.config().layers;
  int64_t last = -1;
  for (int64_t layer = 0; layer < layers; ++layer)
    for (int s = 0; s < kSites; ++s)
      if (request.wanted(layer, SiteKind(s))) last = layer;
  std::vector<int64_t> rows;
  if (request.sample)
    rows = sample_without_replacement(Stream(request.seed, "activation rows"), int64_t(ids.size()),
                                      request.rows == 0 ? int64_t(ids.size()) : request.rows);
  Forward forward(ops, checkpoint.config(), default_chunk(length), length);
  Matrix hidden(int64_t(ids.size()), checkpoint.config().hidden_size);
  checkpoint.embed(ids, hidden);
  for (int64_t layer = 0; layer <= last; ++layer) {
    step();
    std::array<std::optional<Gatherer>, kSites> sites;
    for (int s = 0; s < kSites; ++s)
      if (request.wanted(layer, SiteKind(s)))
        sites[size_t(s)].emplace(inputs_of(checkpoint, SiteKind(s)), request.hessians, rows);
    run_layer(ops, forward, load_block(ops, checkpoint, layer), hidden, step,
              [&](SiteKind kind, MatrixView<const float> X) {
                if (sites[size_t(kind)]) sites[size_t(kind)]->add(ops, X);
              });
    for (int s = 0; s < kSites; ++s)
      if (sites[size_t(s)]) done(layer, SiteKind(s), sites[size_t(s)]->finish());
  }
}

}  // namespace fp4lab
