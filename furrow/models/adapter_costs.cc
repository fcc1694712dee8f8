#include "furrow/models/adapter_costs.h"

#include <algorithm>

#include "furrow/models/unit_builder.h"

namespace furrow::models {
namespace {

// Of one product of each kind, by the wide sides of the thin matrices.
double flops_of(const AdapterSizes& s, int64_t wide) {
  return 2.0 * static_cast<double>(s.rows) * static_cast<double>(s.rank) * static_cast<double>(wide);
}

void add_flops(double flops, plan::Flops* to) {
  to->forward += flops;
  to->backward_input += flops;
  to->backward_weight += flops;
}

// Recurrent layers (tensor/recurrent.cc, tensor/adapter.cc): the sum with W is formed for as long as a call,
// once for all samples; only backward of weights has thin products.  What they read and the gradient are kept
// for W too; of 16 bits, blocks of so many rows are converted.
void add_recurrent_costs(const AdapterSizes& s, const AdapterSurroundings& where, plan::Adapter* adapter,
                         plan::Unit* unit) {
  const int64_t bytes = number_bytes(*unit), thin = s.rows * s.rank * kFloatBytes;
  const bool narrow = bytes < kFloatBytes;
  unit->flops.backward_weight += 2 * flops_of(s, s.in + s.out);
  // B times the scale and, of 16 bits, A and B and rows of what they read; behind A, twice.
  const int64_t widened = narrow ? (s.in + s.out) * (s.rank + kWidenedRows) : 0;
  unit->weight_scratch.fixed_bytes += (s.rank * s.out + widened) * kFloatBytes;
  if (!narrow) unit->weight_scratch.sample_bytes += 3 * thin;
  const int64_t read = where.read_already ? 0 : s.rows * s.in * bytes, dz = s.rows * s.out * bytes;
  adapter->deferred_bytes = adapter->kept_saved_bytes = read + dz;
}

// Over a tensor axis (adapt()): of outputs that are cut, every rank does A's product and keeps what it reads
// and says, of inputs, or rows of a table, B's, and the gradient behind it.
void add_whole_costs(const AdapterSizes& s, const AdapterSurroundings& where, int64_t copy,
                     plan::Adapter* adapter, plan::Unit* unit) {
  if (!where.cuts_outputs() && !where.cuts_inputs()) return;
  const int64_t bytes = number_bytes(*unit), thin = s.rows * s.rank * bytes, dy = s.rows * s.out * bytes;
  const bool outputs = where.cuts_outputs();
  add_flops(flops_of(s, outputs ? s.in : s.out), &unit->tensor.whole_flops);
  unit->tensor.whole_saved_bytes += thin + (outputs ? copy : 0);
  unit->tensor.whole_deferred_bytes += 2 * thin + (outputs ? copy : 0);
  adapter->whole_deferred_bytes = outputs ? adapter->deferred_bytes - dy : 2 * thin + dy;
}

}  // namespace

void add_adapter_costs(const AdapterSizes& s, const AdapterSurroundings& where, plan::Adapter* adapter,
                       plan::Unit* unit) {
  if (where.form == AdapterForm::kRecurrent) return add_recurrent_costs(s, where, adapter, unit);
  add_flops(flops_of(s, where.looks_up() ? s.out : s.in + s.out), &unit->flops);
  const int64_t bytes = number_bytes(*unit), thin = s.rows * s.rank * bytes, dy = s.rows * s.out * bytes;
  if (where.looks_up())  // its vectors, until they are added
    unit->forward_scratch.sample_bytes = std::max(unit->forward_scratch.sample_bytes, dy);
  const int64_t copy = adapter->dropout > 0 ? s.read * bytes : 0;
  unit->saved_bytes += thin + copy;
  const bool shared = where.reads_input || where.read_already;
  const int64_t read = copy > 0 ? copy : (shared ? 0 : s.read * bytes);
  const bool one_gradient = where.looks_up() && where.read_already;  // of both tables
  const bool undone =
      where.form == AdapterForm::kConvolution && unit->kind != "conv";  // a norm, a pool, codes
  const bool as_it_came = where.last && !undone && dy == unit->kept_grad_bytes;
  adapter->kept_saved_bytes = thin + read;
  adapter->kept_grad_bytes = as_it_came && !one_gradient ? dy : 0;
  adapter->deferred_bytes = 2 * thin + read + (one_gradient ? 0 : dy);
  unit->deferred_bytes += 2 * thin + copy;
  unit->kept_saved_bytes += thin + copy;
  add_whole_costs(s, where, copy, adapter, unit);
}

}  // namespace furrow::models
