#include "experiments/task.h"

#include <atomic>
#include <map>
#include <nlohmann/json.hpp>

namespace fp4lab {

namespace {
std::atomic<bool> g_interrupt{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // set from a signal handler
}  // namespace

bool interrupt_requested() { return g_interrupt.load(std::memory_order_relaxed); }
void request_interrupt() { g_interrupt.store(true, std::memory_order_relaxed); }
void check_interrupt() {
  if (interrupt_requested()) throw Interrupted();
}

struct SourceCache::State {
  struct Entry {
    std::shared_ptr<const Source> source;
    Json resolved;
  };
  std::map<std::string, Entry> entries;
};
SourceCache::SourceCache() : state_(std::make_unique<State>()) {}
SourceCache::~SourceCache() = default;

SourceCache::Opened SourceCache::open(const Json& object, const Place& place, const SourceContext& context) {
  const auto text = [](const Json* j) { return j ? j->dump() : ""; };
  const std::string key = str(context.seed, " ", context.base_dir, " ", object.dump(), " ",
                              text(context.model), " ", text(context.calibration));
  auto at = state_->entries.find(key);
  if (at == state_->entries.end()) {
    State::Entry entry;
    entry.source = open_source(object, place, context, entry.resolved);
    at = state_->entries.emplace(key, std::move(entry)).first;
  }
  return {at->second.source, &at->second.resolved};
}

}  // namespace fp4lab
