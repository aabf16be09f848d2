// core/schema.h - declared keys as JSON Schema, for editors (`fp4lab schema`).
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "core/params.h"

namespace fp4lab {

/// A JSON Schema (draft 2020-12) for an object that holds these keys and no others: type, description,
/// default, enum, minimum and maximum of each, and the list of required ones. The keys stay in the order
/// declared only in "required": a JSON object has none.
Json schema_of(const std::vector<KeyInfo>& keys);

}  // namespace fp4lab
