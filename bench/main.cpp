// The benchmark program. Google Benchmark's options, and
//   --dump FOLDER   runs every row that --benchmark_filter selects once and writes its inputs ("in.x") and outputs
//                   ("out.y") to FOLDER/<row, / as _>.safetensors: what peers check their results against.
//   --list          the rows' names.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <limits>
#include <memory>
#include <regex>

#include "row.hpp"

namespace bench {
namespace {

struct NamedRow {
  std::string name;
  Prepare prepare;
};
std::vector<NamedRow>& rows() {
  static std::vector<NamedRow> all;
  return all;
}

/// The row, prepared. Google Benchmark calls a row several times to find the number of iterations; the last one is
/// kept.
Row& prepared(const NamedRow& named) {
  static std::unique_ptr<Row> row;
  static std::string name;
  if (name != named.name) {
    row.reset();
    row = std::make_unique<Row>();
    named.prepare(*row);
    const size_t before = row->ctx.pool->bytes_in_use();
    row->ctx.pool->reset_peak();
    row->work();  // first use: code and memory become warm
    row->work_megabytes = 1e-6 * double(row->ctx.pool->peak_bytes() - before);
    name = named.name;
  }
  return *row;
}

void measure(benchmark::State& state, const NamedRow& named) {
  using Clock = std::chrono::steady_clock;
  Row& row = prepared(named);
  // The fastest iteration: what other programs on the machine disturb least.
  double best = std::numeric_limits<double>::infinity();
  for (auto _ : state) {
    const auto started = Clock::now();
    row.work();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - started).count());
  }
  state.counters["best_ms"] = 1e3 * best;
  state.counters["work_MB"] = row.work_megabytes;
  state.counters["GB/s"] = 1e-9 * row.bytes() / best;
  if (row.flops > 0) state.counters["GFLOP/s"] = 1e-9 * row.flops / best;
}

void dump(const NamedRow& named, const std::filesystem::path& folder) {
  Row row;
  named.prepare(row);
  std::vector<io::NamedTensor> tensors;
  if (row.more_inputs)
    for (io::NamedTensor& input : row.more_inputs()) tensors.push_back({"in." + input.name, std::move(input.tensor)});
  for (const io::NamedTensor& input : row.inputs) {
    // A copy: some work changes its inputs.
    auto copy = std::make_shared<std::vector<char>>(input.tensor.bytes());
    std::memcpy(copy->data(), input.tensor.storage.get(), copy->size());
    tensors.push_back({"in." + input.name, {input.tensor.dtype, input.tensor.shape, {copy, copy->data()}}});
  }
  row.work();
  for (const auto& [name, read] : row.outputs) tensors.push_back({"out." + name, read()});
  std::string file = named.name;
  std::replace(file.begin(), file.end(), '/', '_');
  std::filesystem::create_directories(folder);
  io::write_safetensors(folder / (file + ".safetensors"), tensors);
}

/// Takes `--name value` (or `--name` alone) out of the arguments.
bool take_option(std::vector<char*>& arguments, std::string_view name, std::string* value) {
  for (size_t i = 1; i < arguments.size(); ++i) {
    if (arguments[i] != name) continue;
    const size_t count = value ? 2 : 1;
    require(i + count <= arguments.size(), name, " needs a value");
    if (value) *value = arguments[i + 1];
    arguments.erase(arguments.begin() + ptrdiff_t(i), arguments.begin() + ptrdiff_t(i + count));
    return true;
  }
  return false;
}

int run(std::vector<char*> arguments) {
  add_elementwise_rows();
  add_normalisation_rows();
  add_product_rows();
  add_token_rows();
  add_loss_rows();
  add_assignment_rows();
  add_map_rows();
  add_optimiser_rows();
  add_tower_rows();
  add_training_rows();
  if (take_option(arguments, "--list", nullptr)) {
    for (const NamedRow& named : rows()) std::printf("%s\n", named.name.c_str());
    return 0;
  }
  std::string folder;
  if (take_option(arguments, "--dump", &folder)) {
    std::string filter;
    take_option(arguments, "--benchmark_filter", &filter);
    const std::regex pattern(filter);
    for (const NamedRow& named : rows())
      if (std::regex_search(named.name, pattern)) dump(named, folder);
    return 0;
  }
  for (const NamedRow& named : rows())
    benchmark::RegisterBenchmark(named.name.c_str(), [&named](benchmark::State& state) { measure(state, named); })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  benchmark::AddCustomContext("threads", std::to_string(omp_get_max_threads()));
  int count = int(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace

void add_row(const std::string& name, Prepare prepare) { rows().push_back({name, std::move(prepare)}); }

}  // namespace bench

int main(int argc, char** argv) {
  try {
    return bench::run({argv, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench: %s\n", error.what());
    return 1;
  }
}
