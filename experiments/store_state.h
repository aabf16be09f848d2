// experiments/store_state.h - what store.cpp and store_consolidate.cpp share; private to them.
#pragma once
#include <cstdint>
#include <string>
#include <utility>

#include "experiments/store.h"

namespace fp4lab {

// Bytes of parts/.lock: claims take 0 .. 2^60 - 1.
inline constexpr int64_t kStoreOpen = int64_t(1) << 60;  // shared by every open store
inline constexpr int64_t kConsolidating = kStoreOpen + 1;

/// A new description of parts/.lock, for the caller to close. DataError.
int open_lock_file(const std::string& parts);

/// Sets an open-file-description lock (F_RDLCK, F_WRLCK) on one byte; `wait`: until it is free. Returns 0 or
/// errno.
int lock_byte(int fd, int64_t offset, short type, bool wait);

struct Store::State {
  const std::string dir, name;
  int lock = -1;  // holds kStoreOpen

  State(std::string dir_, std::string name_) : dir(std::move(dir_)), name(std::move(name_)) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State();
  std::string done_path(const std::string& key) const;
  std::string error_path(const std::string& key) const;
  /// Builds the consolidated file at `path` (store_consolidate.cpp).
  Summary write_consolidated(const std::string& path, const SweepHeader& header,
                             const std::vector<StoredCell>& cells) const;
};

}  // namespace fp4lab
