// Memory requests as a GPU would make them: what the lanes of a warp do at one instruction, for the k-th time each, is
// one request. Global memory moves in sectors of 32 bytes; shared memory has 32 banks of 4 bytes, and two different
// words of one bank cost a wavefront each. Loads of 8 and 16 bytes go out in parts of 16 and 8 lanes.
#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <set>

#include <tessera/simt/machine.hpp>
#include <tessera/simt/shadow.hpp>

namespace tessera::simt {
namespace {

struct LaneAccess {
  uint8_t lane, bytes;
  uintptr_t address;
};
struct Key {
  uint32_t place;
  bool shared;
  auto operator<=>(const Key&) const = default;
};
struct Totals {
  uint64_t requests = 0, transactions = 0, ideal = 0;
};

// Of the block that runs: how often each thread came to an instruction, and the requests.
std::map<std::pair<int, Key>, uint32_t> visits;
std::map<std::tuple<Key, int, uint32_t>, std::vector<LaneAccess>> requests;
// Of all launches since the last reset.
std::map<std::pair<std::string, Key>, Totals> totals;

uint64_t sectors(const std::vector<LaneAccess>& accesses) {
  std::set<uintptr_t> touched;
  for (const LaneAccess& a : accesses)
    for (uintptr_t sector = a.address / 32; sector <= (a.address + a.bytes - 1) / 32; ++sector) touched.insert(sector);
  return touched.size();
}

uint64_t wavefronts(const std::vector<LaneAccess>& accesses) {
  uint64_t count = 0;
  const int lanes_at_once = std::min(lanes, 128 / accesses.front().bytes);
  for (int first = 0; first < lanes; first += lanes_at_once) {
    std::array<std::set<uintptr_t>, 32> words_of_bank;
    for (const LaneAccess& a : accesses) {
      if (a.lane < first || a.lane >= first + lanes_at_once) continue;
      for (uintptr_t word = a.address / 4; word <= (a.address + a.bytes - 1) / 4; ++word)
        words_of_bank[word % 32].insert(word);
    }
    size_t most = 0;
    for (const auto& words : words_of_bank) most = std::max(most, words.size());
    count += most;
  }
  return count;
}

// The bytes themselves, each counted once.
uint64_t different_bytes(const std::vector<LaneAccess>& accesses) {
  std::set<std::pair<uintptr_t, uint8_t>> parts;
  uint64_t bytes = 0;
  for (const LaneAccess& a : accesses)
    if (parts.insert({a.address, a.bytes}).second) bytes += a.bytes;
  return bytes;
}

}  // namespace

void count_request(const Thread& thread, const void* address, size_t bytes, uint32_t place, bool shared) {
  const Key key{place, shared};
  const uint32_t visit = visits[{thread.number, key}]++;
  requests[{key, thread.warp->number, visit}].push_back(
      {uint8_t(thread.lane), uint8_t(bytes), reinterpret_cast<uintptr_t>(address)});
}

void end_requests() {
  if (requests.empty()) return;
  for (const auto& [id, accesses] : requests) {
    const Key& key = std::get<0>(id);
    Totals& sum = totals[{machine.launch->name, key}];
    const uint64_t unit = key.shared ? 128 : 32;
    ++sum.requests;
    sum.transactions += key.shared ? wavefronts(accesses) : sectors(accesses);
    sum.ideal += (different_bytes(accesses) + unit - 1) / unit;
  }
  requests.clear();
  visits.clear();
}

std::vector<LineCounter> counters() {
  // Several instructions of one line are one row.
  std::map<std::tuple<std::string, std::string, unsigned, bool>, Totals> rows;
  for (const auto& [id, sum] : totals) {
    const SourceLine where = source_line(id.second.place);
    Totals& row = rows[{id.first, where.file, where.line, id.second.shared}];
    row.requests += sum.requests;
    row.transactions += sum.transactions;
    row.ideal += sum.ideal;
  }
  std::vector<LineCounter> list;
  for (const auto& [id, sum] : rows) {
    const auto& [kernel, file, line, shared] = id;
    list.push_back({kernel, file, line, shared, sum.requests, sum.transactions, sum.ideal});
  }
  return list;
}

void reset_counters() {
  totals.clear();
  requests.clear();
  visits.clear();
}

std::string counter_table() {
  std::string table =
      "kernel                   line                           memory   requests transactions      ideal  ratio\n";
  for (const LineCounter& row : counters()) {
    char text[320];
    std::snprintf(text, sizeof text, "%-24s %-30s %-6s %10llu %12llu %10llu %6.2f\n", row.kernel.c_str(),
                  sentence(row.file, ":", row.line).c_str(), row.shared ? "shared" : "global",
                  static_cast<unsigned long long>(row.requests), static_cast<unsigned long long>(row.transactions),
                  static_cast<unsigned long long>(row.ideal), double(row.transactions) / double(row.ideal));
    table += text;
  }
  return table;
}

}  // namespace tessera::simt
