// experiments/store_part.h - one cell's part file. Its layout is private to the store:
//   /            attrs: schema_version, key, status (done | failed), seconds, created_utc
//   /resolved, /message        texts
//   /axes        name, text, number (NaN where it is none)
//   /scalars     name, value, units, source_equation        (one element per scalar)
//   /texts, /provenance        name, value
//   /cell        the arrays, each with units, shape_of, source_equation; becomes /cells/<key>
// After the HDF5 image, which does not mind, stands one line: "fp4lab part <schema> <key> <SHA-256 of all
// before>". HDF5 itself notices little: of 3000 parts with 1 to 4 random bytes replaced it read 2086 as if
// nothing had happened and crashed on 116.
#pragma once
#include <string>
#include <vector>

#include "core/io/hdf5.h"
#include "experiments/store.h"

namespace fp4lab {

/// Raised when the layout of parts or of the consolidated file changes; older parts then count as absent.
inline constexpr int64_t kStoreSchemaVersion = 1;

/// What the table needs of a part.
struct Part {
  std::string message;
  double seconds = 0;
  std::vector<Record::Scalar> scalars;
  std::vector<Record::Text> texts;
  Provenance who;
};

/// The bytes of a part file. `record` is null for a failed cell.
std::string part_image(const StoredCell& cell, const Record* record, const std::string& message,
                       double seconds, const Provenance& who);

/// Reads the file and throws a DataError unless it is a part of `key` and this schema, as it was written.
void check_part(const std::string& path, const std::string& key);

/// The part of `key` at `path`, checked.
h5::File open_part(const std::string& path, const std::string& key);

Part read_part(const h5::File& file);

/// A name as HDF5 takes it: '/' would be a path.
std::string dataset_name(std::string name);

/// The three attributes every number carries.
void write_meaning(h5::File& file, const std::string& dataset, const Meaning& meaning,
                   const std::string& shape_of);

}  // namespace fp4lab
