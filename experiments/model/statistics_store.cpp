#include "experiments/model/statistics_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/hash.h"
#include "core/io/files.h"
#include "experiments/sweep.h"

namespace fp4lab {

namespace fs = std::filesystem;

namespace {

/// Holds the folder's lock; waiting asks `step` every tenth of a second whether to go on. Where the file
/// system cannot lock, everybody gathers.
class Turn {
 public:
  Turn(const std::string& dir, const std::function<void()>& step)
      : fd_(::open((dir + "/.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    while (fd_ >= 0 && ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      try {
        step();
      } catch (...) {
        ::close(fd_);
        throw;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() {
    if (fd_ >= 0) ::close(fd_);
  }

 private:
  int fd_;
};

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& v) {
  return std::as_bytes(std::span<const T>(v));
}

/// SHA-256 over the tensors' names and bytes, in this order.
constexpr const char* kTensors[] = {"amax", "mean_abs", "tokens", "hessian", "sample"};
template <class BytesOf>
std::string digest_of(const BytesOf& bytes) {
  Sha256 hash;
  for (const char* name : kTensors) hash.update(std::string_view(name)).update(bytes(name));
  return hash.hex();
}

template <class T>
std::vector<T> read_vector(const TensorFile& file, std::string_view name, DType dtype) {
  const TensorInfo& t = file.at(name);
  if (t.dtype != dtype)
    throw DataError(str(file.path_of(t), ": tensor \"", name, "\" is ", fp4lab::name(t.dtype), ", not ",
                        fp4lab::name(dtype)));
  std::vector<T> values(static_cast<size_t>(t.elements));
  const auto bytes = file.bytes(t);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace

StatisticsStore::StatisticsStore(std::string dir, std::shared_ptr<const SharedModel> model,
                                 ChosenWindows windows, bool hessians, bool sample, int64_t rows,
                                 uint64_t seed, SpillPolicy spill, const std::string& arithmetic)
    : dir_(std::move(dir)), model_(std::move(model)), windows_(std::move(windows)) {
  request_.hessians = hessians;
  request_.sample = sample;
  request_.rows = rows;
  request_.seed = seed;
  request_.spill = std::move(spill);
  Json from = {{"model", model_->hash},
               {"windows", Json::parse(windows_.resolved)},
               {"hessians", hessians},
               {"sample", sample},
               {"numerics", kNumericsVersion}};
  if (!arithmetic.empty()) from["compute"] = arithmetic;
  if (sample) {
    from["rows"] = sample_rows();
    if (sample_rows() < int64_t(windows_.tokens.ids.size())) from["seed"] = seed;
  }
  hash_ = sha256_hex(from.dump()).substr(0, 32);
}

int64_t StatisticsStore::sample_rows() const {
  const auto all = int64_t(windows_.tokens.ids.size());
  return request_.rows == 0 ? all : std::min(all, request_.rows);
}

std::string StatisticsStore::file(const Site& site) const {
  return (fs::path(dir_) / (hash_ + "-" + site_name(site.first, site.second) + ".safetensors")).string();
}

/// Whether a whole file of this site is there. A damaged one does not count: it is gathered again.
bool StatisticsStore::has(const Site& site) const {
  const int64_t K = model_->weights->shape(linears_of(site.second)[0])[1];
  try {
    const TensorFile file = TensorFile::open(this->file(site));
    const auto holds = [&](std::string_view name, std::vector<int64_t> shape) {
      const TensorInfo* t = file.find(name);
      return t && t->shape == shape;
    };
    return holds("amax", {K}) && holds("mean_abs", {K}) && holds("tokens", {1}) &&
           (!request_.sample || holds("sample", {sample_rows(), K})) &&
           (!request_.hessians || holds("hessian", {K * (K + 1) / 2}));
  } catch (const DataError&) {
    return false;
  }
}

std::vector<StatisticsStore::Site> StatisticsStore::missing_of(const std::vector<Site>& sites) const {
  std::vector<Site> missing;
  std::copy_if(sites.begin(), sites.end(), std::back_inserter(missing),
               [&](const Site& s) { return !has(s); });
  return missing;
}

Source::Cost StatisticsStore::gather_cost(const std::vector<Site>& sites) const {
  const std::vector<Site> missing = missing_of(sites);
  if (missing.empty()) return {};
  const ModelConfig& config = model_->weights->config();
  const WalkCost walk = walk_cost(config, double(windows_.tokens.ids.size()), double(windows_.tokens.length));
  std::map<int64_t, double> held;  // a block's sites are gathered together
  for (const auto& [layer, kind] : missing) {
    const double K = double(linear_shape(config, linears_of(kind)[0])[1]);
    held[layer] +=
        (request_.sample ? double(sample_rows()) * K * 4 : 0) + (request_.hessians ? K * K * 12 : 0);
  }
  double most = 0;
  for (const auto& [layer, bytes] : held) most = std::max(most, bytes);
  const double states = walk.states > double(request_.spill.limit) ? 0 : walk.states;
  return {walk.seconds, states + walk.block + walk.workspace + most};
}

void StatisticsStore::gather(Ops& ops, const std::vector<Site>& sites,
                             const std::function<void()>& step) const {
  if (missing_of(sites).empty()) return;
  std::error_code error;
  fs::create_directories(dir_, error);
  if (error) throw DataError(str(dir_, ": cannot make this folder: ", error.message()));
  const Turn turn(dir_, step);
  const std::vector<Site> missing = missing_of(sites);  // another process may have gathered them meanwhile
  if (missing.empty()) return;
  // Captures of other processes may be under way beside this one: only old leftovers go, and those of this
  // host.
  sweep_temporaries(dir_, "." + hash_, false);
  StatsRequest request = request_;
  request.wanted = [&](int64_t layer, SiteKind kind) {
    return std::find(missing.begin(), missing.end(), Site{layer, kind}) != missing.end();
  };
  collect_statistics(ops, *model_->weights, windows_.tokens.ids, windows_.tokens.length, request, step,
                     [&](int64_t layer, SiteKind kind, SiteStats&& stats) {
                       write({layer, kind}, stats);
                     });
}

void StatisticsStore::write(const Site& site, const SiteStats& stats) const {
  const auto K = int64_t(stats.amax.size());
  const std::vector<int64_t> tokens = {stats.tokens};
  std::vector<double> upper;
  for (int64_t i = 0; i < stats.H.rows(); ++i)
    upper.insert(upper.end(), stats.H.row(i) + i, stats.H.row(i) + K);
  std::vector<TensorToWrite> tensors = {{"amax", DType::F32, {K}, bytes_of(stats.amax)},
                                        {"mean_abs", DType::F64, {K}, bytes_of(stats.mean_abs)},
                                        {"tokens", DType::I64, {1}, bytes_of(tokens)}};
  if (request_.hessians) tensors.push_back({"hessian", DType::F64, {K * (K + 1) / 2}, bytes_of(upper)});
  if (request_.sample)
    tensors.push_back(
        {"sample",
         DType::F32,
         {stats.sample.rows(), K},
         std::as_bytes(std::span<const float>(stats.sample.data(), size_t(stats.sample.size())))});
  const std::string digest = digest_of([&](std::string_view name) -> std::span<const std::byte> {
    const auto t =
        std::find_if(tensors.begin(), tensors.end(), [&](const auto& x) { return x.name == name; });
    return t == tensors.end() ? std::span<const std::byte>{} : t->bytes;
  });
  tensors.push_back({"sha256", DType::U8, {int64_t(digest.size())}, std::as_bytes(std::span(digest))});
  write_safetensors(file(site), tensors);
}

SiteStats StatisticsStore::gathered(Ops& ops, const std::vector<Site>& sites, const Site& site,
                                    const std::function<void()>& step) const {
  if (!gathered_) gather(ops, sites, step);
  gathered_ = true;
  try {
    return load(site);
  } catch (const DataError&) {  // damaged where its header does not show it
    std::error_code ignored;
    fs::remove(file(site), ignored);
    gather(ops, {site}, step);
    return load(site);
  }
}

SiteStats StatisticsStore::load(const Site& site) const {
  const TensorFile file = TensorFile::open(this->file(site));
  const std::vector<char> written = read_vector<char>(file, "sha256", DType::U8);
  const std::string found = digest_of([&](std::string_view name) -> std::span<const std::byte> {
    const TensorInfo* t = file.find(name);
    return t ? file.bytes(*t) : std::span<const std::byte>{};
  });
  if (std::string_view(written.data(), written.size()) != found)
    throw DataError(this->file(site) + ": its bytes are not those that were written");
  SiteStats stats;
  stats.amax = read_vector<float>(file, "amax", DType::F32);
  stats.mean_abs = read_vector<double>(file, "mean_abs", DType::F64);
  stats.tokens = read_vector<int64_t>(file, "tokens", DType::I64).at(0);
  if (request_.sample) stats.sample = load_matrix(file, file.at("sample"));
  if (request_.hessians) {
    const auto K = int64_t(stats.amax.size());
    const std::vector<double> upper = read_vector<double>(file, "hessian", DType::F64);
    FP4LAB_CHECK(int64_t(upper.size()) == K * (K + 1) / 2, upper.size(), " of ", K);
    stats.H = MatrixD::zeros(K, K);
    const double* from = upper.data();
    for (int64_t i = 0; i < K; from += K - i, ++i) std::copy_n(from, K - i, stats.H.row(i) + i);
  }
  return stats;
}

}  // namespace fp4lab
