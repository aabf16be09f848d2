#include "experiments/store_part.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include "core/errors.h"
#include "core/hash.h"
#include "core/io/files.h"
#include "experiments/provenance.h"

namespace fp4lab {

namespace {

std::string last_line(const std::string& key, std::string_view image) {
  return str("\nfp4lab part ", kStoreSchemaVersion, " ", key, " ", sha256_hex(image), "\n");
}

/// One dataset of a group with one element per item.
template <class Items, class Get>
void write_field(h5::File& file, const std::string& path, const Items& items, Get get) {
  std::vector<std::decay_t<decltype(get(items[0]))>> values;
  for (const auto& item : items) values.push_back(get(item));
  file.write(path, std::span<const typename decltype(values)::value_type>(values));
}

template <class T>
void write_array(h5::File& file, const std::string& name, const std::vector<T>& values,
                 const std::vector<int64_t>& shape, const std::string& shape_of, const Meaning& meaning) {
  const std::string path = "/cell/" + dataset_name(name);
  file.write(path, std::span<const T>(values), shape);
  write_meaning(file, path, meaning, shape_of);
}

}  // namespace

std::string dataset_name(std::string name) {
  std::replace(name.begin(), name.end(), '/', '.');
  return name.empty() || name == "." ? "_" : name;  // "." is HDF5's name for the group itself
}

void write_meaning(h5::File& file, const std::string& dataset, const Meaning& meaning,
                   const std::string& shape_of) {
  file.attribute(dataset, "units", meaning.units);
  file.attribute(dataset, "shape_of", shape_of);
  file.attribute(dataset, "source_equation", meaning.source_equation);
}

std::string part_image(const StoredCell& cell, const Record* record, const std::string& message,
                       double seconds, const Provenance& who) {
  static const Record nothing;
  const Record& r = record ? *record : nothing;
  h5::File file = h5::File::in_memory();
  file.attribute("/", "schema_version", kStoreSchemaVersion);
  file.attribute("/", "key", cell.key);
  file.attribute("/", "status", std::string(record ? "done" : "failed"));
  file.attribute("/", "seconds", seconds);
  file.attribute("/", "created_utc", utc_now());
  file.write_text("/resolved", cell.resolved);
  file.write_text("/message", message);
  static constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  write_field(file, "/axes/name", cell.axes, [](const AxisValue& a) { return a.axis; });
  write_field(file, "/axes/text", cell.axes, [](const AxisValue& a) { return a.text; });
  write_field(file, "/axes/number", cell.axes, [](const AxisValue& a) { return a.number.value_or(nan); });
  write_field(file, "/scalars/name", r.scalars, [](const Record::Scalar& s) { return s.name; });
  write_field(file, "/scalars/value", r.scalars, [](const Record::Scalar& s) { return s.value; });
  write_field(file, "/scalars/units", r.scalars, [](const Record::Scalar& s) { return s.meaning.units; });
  write_field(file, "/scalars/source_equation", r.scalars,
              [](const Record::Scalar& s) { return s.meaning.source_equation; });
  write_field(file, "/texts/name", r.texts, [](const Record::Text& t) { return t.name; });
  write_field(file, "/texts/value", r.texts, [](const Record::Text& t) { return t.value; });
  write_field(file, "/provenance/name", who, [](const auto& field) { return field.first; });
  write_field(file, "/provenance/value", who, [](const auto& field) { return field.second; });
  file.group("/cell");
  for (const Record::Array& a : r.arrays) write_array(file, a.name, a.values, a.shape, a.shape_of, a.meaning);
  for (const Record::TextArray& a : r.text_arrays)
    write_array(file, a.name, a.values, {}, a.shape_of, {.units = "text", .source_equation = ""});
  for (const Record::Bytes& a : r.bytes)
    write_array(file, a.name, a.values, a.shape, a.shape_of, {.units = "code", .source_equation = ""});
  std::string bytes = file.image();
  bytes += last_line(cell.key, bytes);
  return bytes;
}

void check_part(const std::string& path, const std::string& key) {
  const std::string bytes = read_file(path);
  const std::string_view all = bytes;
  const size_t length = last_line(key, "").size();
  if (all.size() < length ||
      all.substr(all.size() - length) != last_line(key, all.substr(0, all.size() - length)))
    throw DataError(str(path, ": damaged, or no part (schema ", kStoreSchemaVersion, ") of the cell ", key));
}

h5::File open_part(const std::string& path, const std::string& key) {
  check_part(path, key);
  return h5::File::open_readonly(path);
}

Part read_part(const h5::File& file) {
  Part part;
  const auto texts = [&](const std::string& path, size_t expected) {
    std::vector<std::string> values = file.read_strings(path);
    if (values.size() != expected)
      throw DataError(str(path, " has ", values.size(), " elements, not ", expected));
    return values;
  };
  part.message = texts("/message", 1).front();
  part.seconds = file.attribute_number("/", "seconds");
  const std::vector<double> value = file.read_doubles("/scalars/value");
  const std::vector<std::string> name = texts("/scalars/name", value.size()),
                                 units = texts("/scalars/units", value.size()),
                                 equation = texts("/scalars/source_equation", value.size());
  for (size_t i = 0; i < value.size(); ++i)
    part.scalars.push_back({name[i], value[i], {units[i], equation[i]}});
  const std::vector<std::string> text = file.read_strings("/texts/name"),
                                 text_value = texts("/texts/value", text.size());
  for (size_t i = 0; i < text.size(); ++i) part.texts.push_back({text[i], text_value[i]});
  const std::vector<std::string> field = file.read_strings("/provenance/name"),
                                 field_value = texts("/provenance/value", field.size());
  for (size_t i = 0; i < field.size(); ++i) part.who.emplace_back(field[i], field_value[i]);
  return part;
}

}  // namespace fp4lab
