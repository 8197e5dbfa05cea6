// Several ranks in one process, a thread each, for what is trained on several machines.
#pragma once
#include <barrier>
#include <thread>
#include <vector>

#include <tessera/core/communicator.hpp>

namespace tessera_test {

namespace detail {

/// What the ranks share: where each one's memory lies while all are inside an operation.
struct Meeting {
  explicit Meeting(int64_t size) : pointers(size_t(size)), gate(size) {}
  std::vector<const char*> pointers;
  std::barrier<> gate;
};

class ThreadRank : public tessera::Communicator<tessera::Cpu> {
 public:
  ThreadRank(Meeting& meeting, int64_t rank) : meeting_(meeting), rank_(rank) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return int64_t(meeting_.pointers.size()); }

  void all_gather(tessera::Context<tessera::Cpu>&, const void* mine, void* all, int64_t bytes) override {
    exchange(mine, [&] {
      for (int64_t r = 0; r < size(); ++r)
        std::memcpy(static_cast<char*>(all) + r * bytes, meeting_.pointers[size_t(r)], size_t(bytes));
    });
  }
  void reduce_scatter_sum(tessera::Context<tessera::Cpu>&, const void* all, void* mine, int64_t count,
                          tessera::Dtype dtype) override {
    const auto add = [&]<class A>(A* sum) {
      std::fill_n(sum, count, A(0));
      for (const char* other : meeting_.pointers) {
        const A* theirs = reinterpret_cast<const A*>(other) + rank_ * count;
        for (int64_t i = 0; i < count; ++i) sum[i] += theirs[i];
      }
    };
    exchange(all,
             [&] { dtype == tessera::Dtype::f64 ? add(static_cast<double*>(mine)) : add(static_cast<float*>(mine)); });
  }

 private:
  template <class Body>
  void exchange(const void* mine, Body&& body) {
    meeting_.pointers[size_t(rank_)] = static_cast<const char*>(mine);
    meeting_.gate.arrive_and_wait();
    body();
    meeting_.gate.arrive_and_wait();  // nobody's memory changes before all have read it
  }
  Meeting& meeting_;
  int64_t rank_;
};

}  // namespace detail

/// Calls body(communicator) in `ranks` threads at once.
template <class Body>
void run_ranks(int64_t ranks, Body&& body) {
  detail::Meeting meeting(ranks);
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      detail::ThreadRank communicator(meeting, rank);
      body(communicator);
    });
  for (auto& thread : threads) thread.join();
}

}  // namespace tessera_test
