// experiments/model/statistics_store.h - statistics of a model's inputs on disk, by the hash of what they are
// made from, so that no sweep gathers them twice.
//   <results>/cache/<hash>-layers.3.qkv.safetensors: tokens I64 (1), amax F32 (K), mean_abs F64 (K), hessian
//   F64 (K (K + 1) / 2: rows of the upper triangle), sample F32 (rows, K), sha256 U8 (64) of all of them.
//   Deleting the folder costs only time.
#pragma once
#include <string>

#include "experiments/model/shared_model.h"
#include "methods/statistics.h"

namespace fp4lab {

class StatisticsStore {
 public:
  /// `windows` is what the model reads; `dir` is made when something is written. `spill`: of the hidden
  /// states while gathering; `arithmetic`: "" or what else than float32 the model is run in.
  StatisticsStore(std::string dir, std::shared_ptr<const SharedModel> model, ChosenWindows windows,
                  bool hessians, bool sample, int64_t rows, uint64_t seed, SpillPolicy spill = {},
                  const std::string& arithmetic = "");

  /// Gathers those sites that are not there yet, or whose file is damaged, in one walk; one process at a
  /// time, the others wait for its files; a site gathered by another process meanwhile is written over with
  /// the same bytes. DataError when the disk is full.
  using Site = std::pair<int64_t, SiteKind>;
  void gather(Ops& ops, const std::vector<Site>& sites, const std::function<void()>& step) const;
  /// What gathering those that are not there yet takes; nothing when all are.
  Source::Cost gather_cost(const std::vector<Site>& sites) const;
  /// Gathers `sites` as far as needed and loads one of them; a file that turns out damaged is gathered again.
  SiteStats gathered(Ops& ops, const std::vector<Site>& sites, const Site& site,
                     const std::function<void()>& step) const;
  /// A gathered site. DataError naming the file when it cannot be read or holds NaN.
  SiteStats load(const Site& site) const;
  /// Rows of the samples.
  int64_t sample_rows() const;

 private:
  std::string file(const Site& site) const;
  bool has(const Site& site) const;
  std::vector<Site> missing_of(const std::vector<Site>& sites) const;
  void write(const Site& site, const SiteStats& stats) const;

  std::string dir_;
  std::shared_ptr<const SharedModel> model_;
  ChosenWindows windows_;
  StatsRequest request_;
  std::string hash_;
  mutable bool gathered_ = false;  // all of them, once; a file that vanishes later is gathered again
};

}  // namespace fp4lab
