// Operations of a warp's lanes together: shuffles, votes, __syncwarp, ldmatrix, mma.
//
// The lanes that a mask names meet: each waits until all of them have come to the same operation, with the same mask,
// at the same place of the source. The last one to come computes the results of all and lets them go on. Lanes outside
// the mask go their own way meanwhile.
#include <algorithm>
#include <cstring>

#include <tessera/simt/machine.hpp>
#include <tessera/simt/matrices.hpp>
#include <tessera/simt/shadow.hpp>

namespace tessera::simt {
namespace {

std::string hexadecimal(uint32_t mask) {
  char digits[16];
  std::snprintf(digits, sizeof digits, "%08x", mask);
  return digits;
}

template <class F>
void for_each_lane(const Warp& warp, uint32_t mask, F&& visit) {
  for (uint32_t rest = mask; rest; rest &= rest - 1) visit(*warp.lane[__builtin_ctz(rest)]);
}

/// Whether all lanes of the mask wait for the same; throws where two of them wait for each other at different things.
bool all_agree(const Thread& me) {
  bool agree = true;
  for_each_lane(*me.warp, me.mask, [&](const Thread& other) {
    if (other.operation == me.operation && other.mask == me.mask && same_place(other.site, me.site)) return;
    agree = false;
    if (!(other.mask >> me.lane & 1u)) return;  // it waits for others, and may come here afterwards
    fault(sentence("lanes ", me.lane, " and ", other.lane, " of a warp wait for each other at different operations: ",
                   name_of(me.operation), " with mask ", hexadecimal(me.mask), " at ", place(me.site), ", and ",
                   name_of(other.operation), " with mask ", hexadecimal(other.mask), " at ", place(other.site)));
  });
  return agree;
}

void finish_shuffle(const Warp& warp, uint32_t mask) {
  for_each_lane(warp, mask, [&](Thread& me) {
    const int first = me.lane & ~(me.width - 1), end = first + me.width;
    int source = me.lane;
    switch (me.operation) {
      case WarpOperation::shuffle:
        source = first + (me.argument & (me.width - 1));
        break;
      case WarpOperation::shuffle_up:
        if (me.lane - me.argument >= first) source = me.lane - me.argument;
        break;
      case WarpOperation::shuffle_down:
        if (me.lane + me.argument < end) source = me.lane + me.argument;
        break;
      default:  // xor; a source in a later segment is the lane itself
        if ((me.lane ^ me.argument) < end) source = me.lane ^ me.argument;
    }
    if (!(mask >> source & 1u))
      fault(sentence(name_of(me.operation), " at ", place(me.site), ": lane ", me.lane, " reads from lane ", source,
                     ", which is not in the mask ", hexadecimal(mask)));
    me.result = warp.lane[source]->value;
  });
}

void finish_vote(const Warp& warp, uint32_t mask) {
  uint32_t ballot = 0;
  for_each_lane(warp, mask, [&](const Thread& me) { ballot |= uint32_t(me.value) << me.lane; });
  for_each_lane(warp, mask, [&](Thread& me) { me.result = ballot; });
}

// Each lane of the mask now knows all that any of them knew.
void finish_sync(Warp& warp, uint32_t mask) {
  ++warp.clock;
  uint32_t known[lanes] = {};
  for_each_lane(warp, mask, [&](const Thread& me) {
    for (int j = 0; j < lanes; ++j) known[j] = std::max(known[j], warp.seen[me.lane][j]);
  });
  for_each_lane(warp, mask, [&](const Thread& me) { known[me.lane] = warp.clock; });
  for_each_lane(warp, mask, [&](const Thread& me) { std::memcpy(warp.seen[me.lane], known, sizeof known); });
}

/// The current thread meets the lanes of `mask` at an operation whose operands it has set.
void meet(WarpOperation operation, uint32_t mask, Site caller) {
  Thread& me = *machine.current;
  Warp& warp = *me.warp;
  me.operation = operation;
  me.mask = mask;
  me.site = caller;
  if (!(mask >> me.lane & 1u))
    fault(sentence(name_of(operation), " at ", place(caller), ": lane ", me.lane, " calls it with mask ",
                   hexadecimal(mask), ", in which it is not itself"));
  if (mask & ~warp.live)
    fault(sentence(name_of(operation), " at ", place(caller), ": mask ", hexadecimal(mask), " names lanes ",
                   hexadecimal(mask & ~warp.live), ", which have exited or do not exist"));
  me.state = ThreadState::at_warp_operation;
  warp.arrived |= 1u << me.lane;
  if ((warp.arrived & mask) != mask || !all_agree(me)) {
    wait_for_others();
    return;
  }
  switch (operation) {
    case WarpOperation::sync:
      finish_sync(warp, mask);
      break;
    case WarpOperation::load_matrices:
      finish_load_matrices(warp);
      break;
    case WarpOperation::multiply:
      finish_multiply(warp);
      break;
    case WarpOperation::ballot:
    case WarpOperation::any:
    case WarpOperation::all:
      finish_vote(warp, mask);
      break;
    default:
      finish_shuffle(warp, mask);
  }
  for_each_lane(warp, mask, [&](Thread& other) {
    other.state = ThreadState::ready;
    warp.ready |= 1u << other.position;
  });
  warp.arrived &= ~mask;
}

}  // namespace

uint64_t warp_shuffle(WarpOperation operation, uint32_t mask, uint64_t value, int argument, int width, Site caller) {
  const Entered entered;
  Thread& me = *machine.current;
  if (width < 1 || width > lanes || (width & (width - 1)) != 0)
    fault(sentence(name_of(operation), " at ", place(caller), ": width ", width, " is no power of two up to 32"));
  if (operation != WarpOperation::shuffle && (argument < 0 || argument >= lanes))
    fault(sentence(name_of(operation), " at ", place(caller), ": a distance of ", argument, " is not in 0..31"));
  me.value = value;
  me.argument = argument;
  me.width = width;
  meet(operation, mask, caller);
  return me.result;
}

uint32_t warp_vote(WarpOperation operation, uint32_t mask, bool predicate, Site caller) {
  const Entered entered;
  Thread& me = *machine.current;
  me.value = predicate;
  meet(operation, mask, caller);
  return uint32_t(me.result);
}

void warp_sync(uint32_t mask, Site caller) {
  const Entered entered;
  meet(WarpOperation::sync, mask, caller);
}

void warp_load_matrices(uint32_t* registers, const void* row, int count, bool transposed, Site caller) {
  const Entered entered;
  Thread& me = *machine.current;
  me.registers = registers;
  me.row = row;
  me.argument = count;
  me.value = transposed;
  meet(WarpOperation::load_matrices, ~0u, caller);
}

void warp_multiply(Multiply kind, float* d, const uint32_t* a, const uint32_t* b, Site caller) {
  const Entered entered;
  Thread& me = *machine.current;
  me.value = uint64_t(kind);
  me.accumulator = d;
  me.a = a;
  me.b = b;
  meet(WarpOperation::multiply, ~0u, caller);
}

}  // namespace tessera::simt
