#include "core/io/hdf5.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/errors.h"
#include "core/io/files.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

template <class T>
std::span<const T> span(const std::vector<T>& v) {
  return v;
}

/// A fill that deflate can shrink a little, of any type.
template <class T>
std::vector<T> ramp(size_t n) {
  std::vector<T> v(n);
  for (size_t i = 0; i < n; ++i) v[i] = T(i * 7 % 251);
  return v;
}

}  // namespace

TEST_CASE("hdf5: every kind of value comes back, from memory and from disk", "[core][hdf5]") {
  const TempFolder folder;
  constexpr double inf = std::numeric_limits<double>::infinity(),
                   nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> doubles = {0.0, -0.0, 0.1, 1e308, 5e-324, inf, -inf, nan};
  const std::vector<int64_t> integers = {
      0, -1, INT64_MAX, INT64_MIN, int64_t(1) << 53, (int64_t(1) << 53) + 1};
  const std::vector<uint8_t> bytes = ramp<uint8_t>(256);
  const std::vector<std::string> texts = {"", "a", "gr\u00f6\u00dfe \u2264 4 bit", std::string(70000, 'x'),
                                          " "};
  const auto fill = [&](h5::File& f) {
    f.write("/doubles", span(doubles), {2, 4});
    f.write("/deep/er/integers", span(integers));
    f.write("/bytes", span(bytes), {16, 16});
    f.write("/texts", span(texts));
    f.write_text("/long", std::string(200000, 'y'));
    f.write_text("/nothing", "");
    f.write("/none", std::span<const double>());
    f.write("/no_texts", std::span<const std::string>());
    f.write("/flat", std::span<const double>(), {3, 0});
  };
  h5::File memory = h5::File::in_memory(), disk = h5::File::create(folder / "disk.h5");
  fill(memory), fill(disk);
  disk.close();
  write_file_atomic(folder / "memory.h5", memory.image());
  for (const char* name : {"memory.h5", "disk.h5"}) DYNAMIC_SECTION(name) {
      const h5::File f = h5::File::open_readonly(folder / name);
      const std::vector<double> found = f.read_doubles("/doubles");
      REQUIRE(found.size() == doubles.size());
      for (size_t i = 0; i < found.size(); ++i)
        CHECK(std::memcmp(&found[i], &doubles[i], sizeof(double)) == 0);  // the sign of zero and NaN too
      CHECK(f.shape("/doubles") == std::vector<int64_t>{2, 4});
      CHECK(f.read_integers("/deep/er/integers") == integers);
      CHECK(f.shape("/deep/er/integers") == std::vector<int64_t>{6});
      CHECK(f.read_bytes("/bytes") == bytes);
      CHECK(f.shape("/bytes") == std::vector<int64_t>{16, 16});
      CHECK(f.read_doubles("/bytes").at(40) == double(40 * 7 % 251));  // converts
      CHECK(f.read_strings("/texts") == texts);
      CHECK(f.read_strings("/long") == std::vector<std::string>{std::string(200000, 'y')});
      CHECK(f.shape("/long").empty());
      CHECK(f.read_strings("/nothing") == std::vector<std::string>{""});
      CHECK(f.read_doubles("/none").empty());
      CHECK(f.read_strings("/no_texts").empty());
      CHECK(f.shape("/flat") == std::vector<int64_t>{3, 0});
      CHECK(f.is_text("/texts"));
      CHECK(f.is_text("/no_texts"));
      CHECK_FALSE(f.is_text("/doubles"));
    }
}

TEST_CASE("hdf5: arrays on both sides of the chunking limit keep values, shape and order", "[core][hdf5]") {
  const TempFolder folder;
  const std::vector<std::vector<int64_t>> shapes = {{4096},     {4097},      {3, 70000},
                                                    {70000, 3}, {5, 41, 37}, {1, 4100}};
  h5::File out = h5::File::create(folder / "a.h5");
  for (const auto& s : shapes) {
    const auto n = size_t(std::accumulate(s.begin(), s.end(), int64_t(1), std::multiplies<>()));
    const std::string name = str("/", s.front(), "-", s.back());
    out.write(name + "d", span(ramp<double>(n)), s);
    out.write(name + "i", span(ramp<int64_t>(n)), s);
    out.write(name + "b", span(ramp<uint8_t>(n)), s);
  }
  out.close();
  const h5::File f = h5::File::open_readonly(folder / "a.h5");
  for (const auto& s : shapes) {
    const auto n = size_t(std::accumulate(s.begin(), s.end(), int64_t(1), std::multiplies<>()));
    const std::string name = str("/", s.front(), "-", s.back());
    CAPTURE(name);
    CHECK(f.shape(name + "d") == s);
    CHECK(f.read_doubles(name + "d") == ramp<double>(n));
    CHECK(f.read_integers(name + "i") == ramp<int64_t>(n));
    CHECK(f.read_bytes(name + "b") == ramp<uint8_t>(n));
  }
  h5::File plain = h5::File::in_memory(), packed = h5::File::in_memory();
  plain.write("/x", span(std::vector<double>(4096)));
  packed.write("/x", span(std::vector<double>(100000)));
  CHECK(plain.image().size() > 4096 * 8);
  CHECK(packed.image().size() < 20000);  // zeros deflate; 800 kB otherwise
}

TEST_CASE("hdf5: groups, names and existence", "[core][hdf5]") {
  h5::File f = h5::File::in_memory();
  f.group("/b");
  f.group("/b");  // twice is fine
  f.group("/a/c");
  f.write("/b/calibration.windows", span(std::vector<double>{1}));
  f.write("/b/Z", span(std::vector<double>{1}));
  f.write_text("/b/\u00fcber", "x");
  CHECK(f.children("/") == std::vector<std::string>{"a", "b"});
  CHECK(f.children("/b") == std::vector<std::string>{"Z", "calibration.windows", "\u00fcber"});
  CHECK(f.children("/a/c").empty());
  for (const char* there : {"/", "/a", "/a/c", "a/c", "/b/calibration.windows", "/b/\u00fcber"}) {
    CAPTURE(there);
    CHECK(f.exists(there));
  }
  for (const char* absent : {"/x", "/a/x", "/a/x/y/z", "/b/calibration", "c"}) {
    CAPTURE(absent);
    CHECK_FALSE(f.exists(absent));
  }
  CHECK(f.is_group("/a"));
  CHECK(f.is_group("/"));
  CHECK_FALSE(f.is_group("/b/Z"));
}

TEST_CASE("hdf5: attributes of the root, groups and datasets", "[core][hdf5]") {
  const TempFolder folder;
  {
    h5::File f = h5::File::create(folder / "a.h5");
    f.group("/g");
    f.write("/g/d", span(std::vector<double>{1}));
    for (const char* object : {"/", "/g", "/g/d"}) {
      f.attribute(object, "units", std::string("dB"));
      f.attribute(object, "count", int64_t(3));
      f.attribute(object, "ratio", 0.25);
      f.attribute(object, "empty", std::string());
      f.attribute(object, "long", std::string(64000, 'l'));
      f.attribute(object, "ratio", 0.5);  // replaces
    }
    f.close();
  }
  const h5::File f = h5::File::open_readonly(folder / "a.h5");
  for (const char* object : {"/", "/g", "/g/d"}) {
    CAPTURE(object);
    CHECK(f.attribute_text(object, "units") == "dB");
    CHECK(f.attribute_text(object, "empty").empty());
    CHECK(f.attribute_text(object, "long") == std::string(64000, 'l'));
    CHECK(f.attribute_number(object, "count") == 3);
    CHECK(f.attribute_number(object, "ratio") == 0.5);
    CHECK(f.has_attribute(object, "units"));
    CHECK_FALSE(f.has_attribute(object, "unit"));
    CHECK(f.attribute_names(object) == std::vector<std::string>{"count", "empty", "long", "ratio", "units"});
  }
  CHECK(has(message_of<DataError>([&] { f.attribute_text("/g", "unit"); }),
            folder / "a.h5 at /g@unit: cannot open"));
  CHECK(has(message_of<DataError>([&] { f.attribute_text("/g", "count"); }), "/g@count"));
  CHECK(has(message_of<DataError>([&] { f.attribute_number("/g", "units"); }), "/g@units"));
}

TEST_CASE("hdf5: a copied group brings everything below it", "[core][hdf5]") {
  const TempFolder folder;
  h5::File from = h5::File::create(folder / "from.h5");
  from.write("/cell/big", span(ramp<double>(10000)), {100, 100});
  from.write("/cell/texts", span(std::vector<std::string>{"a", "", "ccc"}));
  from.attribute("/cell/big", "units", std::string("1"));
  from.group("/cell/sub/empty");
  from.close();
  const h5::File source = h5::File::open_readonly(folder / "from.h5");
  h5::File to = h5::File::in_memory();
  to.copy_from(source, "/cell", "/cells/key");
  CHECK(to.read_doubles("/cells/key/big") == ramp<double>(10000));
  CHECK(to.shape("/cells/key/big") == std::vector<int64_t>{100, 100});
  CHECK(to.read_strings("/cells/key/texts") == std::vector<std::string>{"a", "", "ccc"});
  CHECK(to.attribute_text("/cells/key/big", "units") == "1");
  CHECK(to.is_group("/cells/key/sub/empty"));
  CHECK(has(message_of<DataError>([&] { to.copy_from(source, "/nope", "/x"); }),
            "from.h5 at /nope: cannot copy to /x"));
  CHECK(has(message_of<DataError>([&] { to.copy_from(source, "/cell", "/cells/key"); }), "exists"));
}

TEST_CASE("hdf5: equal content gives equal bytes, whenever it is written", "[core][hdf5]") {
  const auto image = [] {
    h5::File f = h5::File::in_memory();
    f.write("/g/x", span(ramp<double>(5000)));
    f.write("/g/t", span(std::vector<std::string>{"a", "b"}));
    f.attribute("/g", "units", std::string("1"));
    return f.image();
  };
  const std::string first = image();
  sleep(1);  // HDF5's own timestamps count seconds
  CHECK(image() == first);
}

TEST_CASE("hdf5: errors name the file, the object and the cause", "[core][hdf5]") {
  const TempFolder folder;
  h5::File f = h5::File::in_memory();
  f.write("/d", span(std::vector<double>{1, 2}));
  f.write("/t", span(std::vector<std::string>{"x"}));
  CHECK(has(message_of<DataError>([&] { f.read_doubles("/nope"); }),
            "(HDF5 in memory) at /nope: cannot open the dataset: "));
  CHECK(has(message_of<DataError>([&] { f.read_doubles("/t"); }), "at /t: cannot read numbers"));
  CHECK(has(message_of<DataError>([&] { f.read_strings("/d"); }), "at /d: cannot read texts"));
  CHECK(has(message_of<DataError>([&] { f.children("/d"); }), "at /d: cannot open the group"));
  CHECK(has(message_of<DataError>([&] { f.write("/d", span(std::vector<double>{1})); }),
            "at /d: cannot create the dataset"));
  CHECK(has(message_of<DataError>([&] { f.attribute("/nope", "a", 1.0); }), "at /nope: cannot open"));
  const std::string nul("a\0b", 3);
  CHECK(has(message_of<DataError>([&] { f.write_text("/n", nul); }), "at /n: text with a NUL byte"));
  CHECK(has(message_of<DataError>([&] { f.write("/n", span(std::vector<std::string>{nul})); }), "NUL"));
  CHECK(has(message_of<DataError>([&] { f.attribute("/", "n", nul); }), "NUL"));
  CHECK_THROWS_AS(f.write("/m", span(std::vector<double>{1, 2, 3}), {2, 2}), Fault);  // ours, not the user's

  CHECK(has(message_of<DataError>([&] { h5::File::open_readonly(folder / "no.h5"); }),
            "no.h5: cannot open as HDF5: No such file"));
  std::ofstream(folder / "text.h5") << "not HDF5 at all, but long enough to look at";
  CHECK(has(message_of<DataError>([&] { h5::File::open_readonly(folder / "text.h5"); }),
            "text.h5: cannot open as HDF5: "));
  std::ofstream(folder / "empty.h5").close();
  CHECK(has(message_of<DataError>([&] { h5::File::open_readonly(folder / "empty.h5"); }),
            "empty.h5: cannot open as HDF5: "));
  CHECK(has(message_of<DataError>([&] { h5::File::open_readonly(folder.path().string()); }),
            "cannot open as HDF5: "));
  CHECK(has(message_of<DataError>([&] { h5::File::create(folder / "no/where.h5"); }),
            "where.h5: cannot create: No such file"));
  const std::string whole = f.image();
  for (size_t size = 0; size < whole.size(); size += 97) {
    write_file_atomic(folder / "cut.h5", std::string_view(whole).substr(0, size));
    CAPTURE(size);
    CHECK(has(message_of<DataError>([&] { h5::File::open_readonly(folder / "cut.h5"); }),
              "cannot open as HDF5"));
  }
}

TEST_CASE("hdf5: a size that the bytes cannot hold is refused before it is allocated", "[core][hdf5]") {
  const TempFolder folder;
  h5::File f = h5::File::in_memory();
  f.write("/x", span(std::vector<double>(77)));
  std::string image = f.image();
  // The extent, 77, stands once as a 64-bit little-endian number in the dataspace message.
  const std::string extent("\x4d\0\0\0\0\0\0\0", 8), huge("\0\0\0\0\0\0\0\x10", 8);
  const size_t at = image.find(extent);
  REQUIRE(at != std::string::npos);
  for (size_t i = at; i != std::string::npos; i = image.find(extent, i + 8)) image.replace(i, 8, huge);
  write_file_atomic(folder / "huge.h5", image);
  const std::string message =
      message_of<DataError>([&] { h5::File::open_readonly(folder / "huge.h5").read_doubles("/x"); });
  CHECK(has(message, "/x"));
  // Ours, or the refusal of a newer HDF5 (1.14), which looks for itself.
  CHECK((has(message, "claims") || has(message, "cannot ")));
}

TEST_CASE("hdf5: a full disk is a DataError of close, and silence afterwards", "[core][hdf5]") {
  const TempFolder folder;
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    // Everything printed from here on is evidence, up to the end of exit(), where HDF5 cleans up.
    const int fd = open((folder / "printed").c_str(), O_WRONLY | O_CREAT, 0600);
    dup2(fd, 1), dup2(fd, 2);
    const rlimit limit{8192, 8192};
    setrlimit(RLIMIT_FSIZE, &limit);
    int wrong = 0;
    {
      h5::File closed = h5::File::create(folder / "closed.h5"),
               dropped = h5::File::create(folder / "dropped.h5");
      for (h5::File* f : {&closed, &dropped}) {
        std::vector<double> noise(100000);
        for (size_t i = 0; i < noise.size(); ++i) noise[i] = std::sin(double(i));
        f->write("/noise", span(noise));
        f->write("/texts", span(std::vector<std::string>(1000, "text")));
      }
      const std::string message = message_of<DataError>([&] { closed.close(); });
      wrong |= has(message, "closed.h5: cannot write: File too large") ? 0 : 1;
      wrong |= message_of<DataError>([&] { closed.close(); }) == "(nothing thrown)" ? 0 : 2;  // it is closed
    }
    h5::File after = h5::File::in_memory();  // and HDF5 still works
    after.write("/x", span(std::vector<double>{1}));
    wrong |= after.image().empty() ? 4 : 0;
    std::exit(wrong);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(read_file(folder / "printed").empty());
}

TEST_CASE("hdf5: the version of the library", "[core][hdf5]") { CHECK(has(h5::library_version(), "1.")); }
