// experiments/provenance.h - who computed: host, processor, GPU, compiler, library versions, threads, commit.
#pragma once
#include "experiments/store.h"

namespace fp4lab {

/// The row of this process. Never fails: what cannot be found out is "unknown" ("none" for a GPU).
Provenance provenance(int threads);

std::string version_text();  // "0.1.0"
std::string git_commit();    // 40 hex digits, or "unknown"
bool git_dirty();
std::string utc_now();  // "2026-11-23T12:00:00Z"

}  // namespace fp4lab
