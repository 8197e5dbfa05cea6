// The GPU's benchmark as a server: a driver (peers.py) sends lines on standard input, so that our rows and PyTorch's
// take turns on the same GPU.
//   list              one line of JSON: [{"name", "bytes", "flops"}, …]
//   time ROW COUNT    one line of JSON: {"microseconds": [COUNT numbers]} or {"error": "…"}
// The L2 cache is flushed before each run, and while that goes on the run's launches are queued: what is timed is the
// GPU's work. A row's tensors are kept until another row is asked for.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <optional>
#include <sstream>

#include "row.cuh"

namespace {

using namespace gpu_bench;

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c < ' ' ? ' ' : c;
  }
  return result + '"';
}

class Server {
 public:
  Server() {
    add_layer_rows(rows_);
    add_attention_rows(rows_);
    add_loss_rows(rows_);
    add_assignment_rows(rows_);
    add_step_rows(rows_);
  }
  std::string list() const {
    std::string line = "[";
    for (const Row& row : rows_)
      line += sentence(line.size() > 1 ? ", " : "", "{\"name\": ", quoted(row.name),
                       ", \"bytes\": ", std::llround(row.bytes), ", \"flops\": ", std::llround(row.flops), "}");
    return line + "]";
  }
  std::string time(const std::string& name, int count) {
    const auto row = std::find_if(rows_.begin(), rows_.end(), [&](const Row& r) { return r.name == name; });
    require(row != rows_.end(), "there is no row ", name);
    require(count >= 1 && count <= 10000, "a row is run 1 to 10000 times, not ", count);
    if (prepared_ != name) {
      work_ = nullptr;
      prepared_.clear();
      ctx_.reset();  // a new one: the memory of the row before goes back to the system
      ctx_.emplace();
      flush_ = Tensor<uint8_t, 1, Cuda>(*ctx_, {int64_t(256) << 20});
      work_ = row->prepare(*ctx_);
      prepared_ = name;
      for (int i = 0; i < 3; ++i) work_();
    }
    std::string line = "{\"microseconds\": [";
    for (int i = 0; i < count; ++i) {
      cuda::check(cudaMemsetAsync(flush_.data, i, size_t(flush_.size()), ctx_->stream->handle()), "flushing the cache");
      begun_.record(*ctx_->stream);
      work_();
      done_.record(*ctx_->stream);
      ctx_->synchronize();
      line += sentence(i > 0 ? ", " : "", double(cuda::milliseconds_between(begun_, done_)) * 1000);
    }
    return line + "]}";
  }

 private:
  Rows rows_;
  std::optional<Context<Cuda>> ctx_;
  Tensor<uint8_t, 1, Cuda> flush_;
  std::function<void()> work_;
  std::string prepared_;
  cuda::Event begun_, done_;
};

}  // namespace

int main() {
  if (const std::string reason = cuda::why_unavailable(); !reason.empty()) {
    std::printf("SKIPPED: %s\n", reason.c_str());
    return 77;
  }
  Server server;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command, name;
    int count = 0;
    words >> command >> name >> count;
    std::string answer;
    try {
      if (command == "list")
        answer = server.list();
      else if (command == "time")
        answer = server.time(name, count);
      else
        answer = "{\"error\": \"list, or time ROW COUNT\"}";
    } catch (const std::exception& error) {
      answer = "{\"error\": " + quoted(error.what()) + "}";
    }
    std::cout << answer << std::endl;
  }
}
