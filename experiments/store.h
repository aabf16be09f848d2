// experiments/store.h - results on disk: one atomic HDF5 part per cell, and the one file they consolidate to.
//   <dir>/<name>/parts/<key>.h5        one finished cell
//   <dir>/<name>/parts/<key>.error.h5  one failed cell; a finished part of the same key wins
//   <dir>/<name>/parts/.lock           open-file-description locks: one byte per cell (claims, so that
//   several
//                                      processes share a sweep and a killed one lets go by itself), and two
//                                      more for "a store is open here" and "consolidating"
//   <dir>/<name>.h5                    the consolidation; its layout is in results/README.md
// A kill at any instant loses at most the cell in flight. Temporary files of dead processes are swept away
// when a store is opened.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "experiments/record.h"

namespace fp4lab {

/// An axis value of a cell: text, and its number when it is one (the column is float64 if all cells' values
/// are).
struct AxisValue {
  std::string axis, text;
  std::optional<double> number;
};

/// One cell as the store sees it.
struct StoredCell {
  std::string key;              // 64 hex digits
  std::string resolved;         // the cell's resolved JSON
  std::vector<AxisValue> axes;  // in sweep order
};

/// One row of /provenance: who computed. All text; columns are the union of the names.
using Provenance = std::vector<std::pair<std::string, std::string>>;  // ("host", "..."), ("cpu", "..."), ...

/// What the consolidated file says of the sweep as a whole.
struct SweepHeader {
  std::string name;
  std::string written, resolved;  // the JSON as written and as resolved
  std::string created_utc, fp4lab_version, git_commit;
  bool git_dirty = false;
};

enum class CellState { absent, done, failed };

class Store {
 public:
  /// Creates <dir>/<name>/parts if needed. DataError when it cannot.
  Store(std::string dir, std::string name);
  ~Store();

  /// A part that is damaged, foreign or of another schema version does not count, here as in `consolidate`.
  /// Reads a finished part to check its hash: 0.04 ms for the usual 23 kB.
  CellState state(const std::string& key) const;
  /// Tells one result of a cell from a later one: its stamp changes with every `put` and `put_error`; "" when
  /// the cell has none.
  std::string stamp(const std::string& key) const;
  /// Exclusive right to compute a cell, or nothing when another process holds it. Released by the destructor
  /// and by the process's death. After a claim, ask `state` again: another may have finished it just before.
  /// DataError when the file system cannot lock.
  class Claim {
   public:
    explicit Claim(int lock) : lock_(lock) {}
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;
    ~Claim();

   private:
    int lock_;  // a description of its own: OFD locks belong to it, and its closing releases them
  };
  std::unique_ptr<Claim> try_claim(const std::string& key);

  /// Stores a finished cell atomically (over an older part of the same key). DataError when the disk is full.
  void put(const StoredCell& cell, const Record& record, double seconds, const Provenance& who);
  /// Stores a failed cell: its message, no numbers.
  void put_error(const StoredCell& cell, const std::string& message, double seconds, const Provenance& who);

  struct Summary {
    int64_t cells = 0, done = 0, failed = 0;
  };
  /// Writes <dir>/<name>.h5 from the parts of `cells`, rows in that order, through a temporary file; parts of
  /// other keys are ignored. A part that cannot be read counts as absent. Waits for another process that
  /// consolidates. DataError when the disk is full: an existing file stays as it is and the parts stay too.
  Summary consolidate(const SweepHeader& header, const std::vector<StoredCell>& cells);

  std::string file() const;  // <dir>/<name>.h5
  std::string parts_dir() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fp4lab
