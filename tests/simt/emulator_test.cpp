// The emulator's own rules: meetings of lanes, order of memory, guards, copies, streams, counters, errors.
#include <tessera/kernels/matmul.cuh>
#include <tessera/simt/machine.hpp>

#include "simt/emulator_kernels.cuh"
#include "support/catch.hpp"
#include "support/kernels.hpp"

using namespace tessera;
using namespace tessera_test;
using kernels::launch;

namespace {
using Ints = Tensor<int, 1, Simt>;
using Floats = Tensor<float, 1, Simt>;

/// The fault that running `kernel` with these arguments ends in; empty where there is none.
template <class Kernel, class... Argument>
std::string fault_of(Context<Simt>& ctx, Kernel* kernel, unsigned grid, unsigned block, size_t shared_bytes,
                     const Argument&... arguments) {
  try {
    launch("rule", kernel, grid, block, shared_bytes, ctx, arguments...);
    ctx.synchronize();
  } catch (const simt::Fault& fault) {
    return fault.what();
  }
  return "";
}
}  // namespace

TEST_CASE("emulator: lanes meet in the groups that their masks name", "[simt]") {
  Context<Simt> ctx;
  for (simt::Order order : simt::all_orders) {
    const InOrder setting(order);
    Ints out(ctx, {32});
    launch("groups", rules::groups_kernel, 1u, 32u, 0, ctx, out.data);
    const auto values = to_host(out);
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane / 8;
      int expected = 8 * (8 * group) + 28;  // the sum over the group, then 8 times that for each further round
      for (int round = 0; round < group; ++round) expected *= 8;
      CHECK(values[size_t(lane)] == expected);
    }
  }
}

TEST_CASE("emulator: what __syncwarp and __syncthreads order, and what not", "[simt]") {
  Context<Simt> ctx;
  Ints out = Ints::zeros(ctx, {64});
  for (simt::Order order : simt::all_orders) {
    const InOrder setting(order);
    CHECK(fault_of(ctx, rules::partial_sync_kernel<0xffffffffu>, 1, 32, 0, out.data) == "");
    CHECK(fault_of(ctx, rules::partial_sync_kernel<0xffu>, 1, 32, 0, out.data) == "");
    CHECK(fault_of(ctx, rules::chain_kernel<true>, 1, 32, 0, out.data) == "");
    CHECK(fault_of(ctx, rules::write_after_reads_kernel<false>, 1, 32, 0, out.data) == "");
    CHECK(fault_of(ctx, rules::exchange_kernel<true>, 1, 64, 0, out.data) == "");
    CHECK(fault_of(ctx, rules::own_part_kernel, 3, 1, 0, out.data + 1, out.data) == "");
    CHECK(fault_of(ctx, rules::bytes_kernel, 1, 64, 0, reinterpret_cast<uint8_t*>(out.data)) == "");
    CHECK(fault_of(ctx, rules::atomic_then_read_kernel<true>, 1, 32, 0, out.data) == "");
    CHECK(fault_of(ctx, rules::atomics_of_blocks_kernel, 3, 32, 0, out.data, out.data + 1, false) == "");
    if (!simt::checked()) continue;
    CHECK_THAT(fault_of(ctx, rules::partial_sync_kernel<0x3fu>, 1, 32, 0, out.data), contains(": race: "));
    CHECK_THAT(fault_of(ctx, rules::chain_kernel<false>, 1, 32, 0, out.data), contains(": race: "));
    CHECK_THAT(fault_of(ctx, rules::write_after_reads_kernel<true>, 1, 32, 0, out.data), contains(": race: "));
    CHECK_THAT(fault_of(ctx, rules::exchange_kernel<false>, 1, 64, 0, out.data), contains("with no barrier between"));
    CHECK_THAT(fault_of(ctx, rules::neighbours_part_kernel, 3, 1, 0, out.data), contains("blocks are not ordered"));
    CHECK_THAT(fault_of(ctx, rules::read_then_written_kernel, 3, 1, 0, out.data), contains("blocks are not ordered"));
    CHECK_THAT(fault_of(ctx, rules::atomic_then_read_kernel<false>, 1, 32, 0, out.data), contains(": race: "));
    CHECK_THAT(fault_of(ctx, rules::atomics_of_blocks_kernel, 3, 32, 0, out.data, out.data + 1, true),
               contains("blocks are not ordered"));
  }
}

TEST_CASE("emulator: bounds, alignment, uninitialised memory, stacks", "[simt]") {
  Context<Simt> ctx;
  Floats in = Floats::from_host(ctx, {61}, std::vector<float>(61, 1.0f)), out(ctx, {64});
  CHECK(fault_of(ctx, rules::read_kernel, 1, 61, 0, out.data, in.data, 0) == "");
  const auto far = fault_of(ctx, rules::read_kernel, 1, 61, 0, out.data, in.data, 4);  // past the 16-byte slack
  CHECK_THAT(far, contains("access out of bounds"));
  CHECK_THAT(far, contains("of a buffer of 244 bytes"));
  CHECK_THAT(fault_of(ctx, rules::read_kernel, 1, 61, 0, out.data, in.data, -4000),
             contains("below a buffer of 244 bytes"));
  CHECK_THAT(fault_of(ctx, rules::misaligned_pack_kernel, 1, 1, 0, out.data, out.data), contains("no multiple of 16"));
  CHECK_THAT(fault_of(ctx, rules::deep_kernel, 1, 1, 0, out.data), contains("overflow"));
  CHECK(fault_of(ctx, rules::arena_kernel, 1, 32, 128, out.data, 32) == "");
  CHECK_THAT(fault_of(ctx, rules::arena_kernel, 1, 32, 128, out.data, 33),
             contains("takes 132 bytes of shared memory, but the launch gave 128"));
  CHECK(fault_of(ctx, rules::static_array_kernel, 1, 1, 163 * 1024 - 4096, out.data) == "");
  CHECK(to_host(out)[0] == 16);
  CHECK_THAT(fault_of(ctx, rules::changed_source_kernel, 1, 1, 0, out.data, Floats::zeros(ctx, {8}).data),
             contains("byte 0 of a buffer of 32 bytes, was changed before the copy was waited for"));
  CHECK_THAT(fault_of(ctx, rules::static_array_kernel, 1, 1, 163 * 1024 - 4095, out.data),
             contains("4096 bytes beside the 162817 that the launch asks for"));
  if (!simt::checked()) return;
  CHECK_THAT(fault_of(ctx, rules::wrong_group_count_kernel, 1, 1, 0, out.data, Floats::zeros(ctx, {8}).data),
             contains("a copy is not waited for"));
  Ints numbers(ctx, {4});
  CHECK(fault_of(ctx, rules::reads_constant_kernel, 1, 4, 0, numbers.data) == "");
  CHECK_THAT(fault_of(ctx, rules::reads_variable_kernel, 1, 4, 0, numbers.data),
             contains("reads 4 bytes of a variable of the host's program"));
  CHECK_THAT(fault_of(ctx, rules::writes_variable_kernel, 1, 4, 0, numbers.data),
             contains("writes 4 bytes of a variable of the host's program"));
  CHECK_THAT(fault_of(ctx, rules::read_kernel, 1, 1, 0, out.data, in.data, 61),
             contains("byte 244 of a buffer of 244"));
  Floats fresh(ctx, {64});
  CHECK_THAT(fault_of(ctx, rules::read_kernel, 1, 64, 0, out.data, fresh.data, 0), contains("uninitialised"));
  float* gone = nullptr;
  {
    Floats short_lived = Floats::zeros(ctx, {64});
    gone = short_lived.data;
    ctx.synchronize();
  }
  CHECK_THAT(fault_of(ctx, rules::read_kernel, 1, 64, 0, out.data, gone, 0), contains("no longer"));
}

TEST_CASE("emulator: a barrier in a function is another one for every caller", "[simt]") {
  Context<Simt> ctx;
  Floats out(ctx, {64});
  for (simt::Order order : simt::all_orders) {
    const InOrder setting(order);
    const auto sentence = fault_of(ctx, rules::two_calls_kernel, 1, 64, 0, out.data);
    CHECK_THAT(sentence, contains("wait at different barriers: 32 threads wait at __syncthreads (reduce.cuh:"));
    CHECK_THAT(sentence, contains(", called at line "));
  }
}

TEST_CASE("emulator: addresses are used again, in other sizes, as late as can be", "[simt]") {
  Context<Simt> ctx;
  const RandomStream random{1, 0, 0};
  // Far more than there are addresses for at once; a few hundred live at a time, and end in no order.
  std::vector<std::shared_ptr<void>> live(300);
  for (uint64_t i = 0; i < 200000; ++i) {
    const size_t large = i % 40000 == 0 ? (1 + i / 40000) << 20 : 0;  // ever larger
    live[random.below(1000000 + i, live.size())] = ctx.pool->allocate(random.below(i, 64) + large);
  }
  live.clear();
  // An address is not given again at once.
  const void* before = ctx.pool->allocate(64).get();
  for (int i = 0; i < 1000; ++i) CHECK(ctx.pool->allocate(64).get() != before);
  if (simt::checked()) return;  // the shadow would take its memory
  for (int round = 0; round < 3; ++round) {
    const size_t large = size_t(1) << 35;
    const auto first = ctx.pool->allocate(large), second = ctx.pool->allocate(large);
    REQUIRE_ERROR(ctx.pool->allocate(large), Error, "bytes of device memory are more than is left");
    const auto third = ctx.pool->allocate(large / 8);
  }
}

TEST_CASE("emulator: mma and ldmatrix multiply matrices of integers exactly", "[simt]") {
  Context<Simt> ctx;
  const RandomStream random{1, 0, 0};
  const auto small = [&](uint64_t i) { return float(int(random.below(i, 17)) - 8); };
  std::vector<bfloat16> a, b(128), b_transposed(128);
  for (uint64_t i = 0; i < 256; ++i) a.push_back(narrow<bfloat16>(small(i)));
  for (size_t k = 0; k < 16; ++k)
    for (size_t j = 0; j < 8; ++j) b[k * 8 + j] = b_transposed[j * 16 + k] = narrow<bfloat16>(small(1000 + k * 8 + j));
  const auto device = [&](const auto& values) {
    using T = typename std::decay_t<decltype(values)>::value_type;
    return Tensor<T, 1, Simt>::from_host(ctx, {int64_t(values.size())}, values);
  };
  Floats d(ctx, {128});
  const auto a_device = device(a), b_device = device(b), bt_device = device(b_transposed);
  launch("product_bf16", rules::product_bf16_kernel, 1u, 32u, 0, ctx, d.data, a_device.data, bt_device.data,
         b_device.data);
  const auto values = to_host(d);
  for (size_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < 8; ++j) {
      float sum = 0;
      for (size_t k = 0; k < 16; ++k) sum += widen(a[i * 16 + k]) * widen(b[k * 8 + j]);
      CHECK(values[i * 8 + j] == 2 * sum);
    }
  std::vector<float> x, y;
  for (uint64_t i = 0; i < 128; ++i) x.push_back(small(2000 + i));
  for (uint64_t i = 0; i < 64; ++i) y.push_back(small(3000 + i));
  const auto x_device = device(x), y_device = device(y);
  launch("product_tf32", rules::product_tf32_kernel, 1u, 32u, 0, ctx, d.data, x_device.data, y_device.data);
  const auto tf32 = to_host(d);
  for (size_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < 8; ++j) {
      float sum = 0;
      for (size_t k = 0; k < 8; ++k) sum += x[i * 8 + k] * y[k * 8 + j];
      CHECK(tf32[i * 8 + j] == sum);
    }
}

TEST_CASE("emulator: streams interleave as events allow", "[simt]") {
  // (1 + 1) * 2 or 1 * 2 + 1: without an event both happen, with one only the first.
  const auto result = [](bool with_event, uint64_t seed) {
    const InOrder setting(simt::Order::random, seed);
    auto first = std::make_shared<simt::Stream>(), second = std::make_shared<simt::Stream>();
    Context<Simt> one({}, first), two({}, second);
    Floats data = Floats::from_host(one, {1}, std::vector<float>{1});
    launch("add_one", rules::add_one_kernel, 1u, 1u, 0, one, data.data);
    if (with_event) {
      simt::Event event;
      event.record(*first);
      second->wait(event);
    }
    launch("double", rules::double_kernel, 1u, 1u, 0, two, data.data);
    return to_host(data)[0];
  };
  for (uint64_t seed = 0; seed < 10; ++seed) CHECK(result(true, seed) == 4);
  if (simt::checked()) {
    REQUIRE_THROWS_WITH(result(false, 1), contains("no event or synchronisation between"));
  } else {
    std::vector<float> results;
    for (uint64_t seed = 0; seed < 20; ++seed) results.push_back(result(false, seed));
    const auto fours = std::count(results.begin(), results.end(), 4.0f);
    CHECK(fours + std::count(results.begin(), results.end(), 3.0f) == 20);
    CHECK(fours > 0);
    CHECK(fours < 20);
    for (uint64_t seed = 0; seed < 20; ++seed) CHECK(result(false, seed) == results[size_t(seed)]);  // each repeats
  }
  // A copy comes after all that was queued before it; waiting for one stream orders what comes after.
  auto stream = std::make_shared<simt::Stream>();
  Context<Simt> own({}, stream), usual;
  Floats data = Floats::zeros(usual, {4});
  launch("add_one", rules::add_one_kernel, 1u, 4u, 0, own, data.data);
  CHECK(to_host(data) == std::vector<float>(4, 1.0f));
  launch("add_one", rules::add_one_kernel, 1u, 4u, 0, own, data.data);
  own.synchronize();
  launch("double", rules::double_kernel, 1u, 4u, 0, usual, data.data);
  CHECK(to_host(data) == std::vector<float>(4, 4.0f));
}

TEST_CASE("emulator: a library's call is work of its stream, and its reads and writes are checked", "[simt]") {
  // c = 2 x, x + 1 before and c * 2 after it, on other streams: the events order them, or nothing does.
  const auto result = [](bool event_before, bool event_after, simt::Order order, uint64_t seed) {
    const InOrder setting(order, seed);
    auto first = std::make_shared<simt::Stream>(), second = std::make_shared<simt::Stream>();
    Context<Simt> one({}, first), two({}, second);
    auto x = Floats::from_host(one, {1}, std::vector<float>{1}), c = Floats::zeros(one, {1});
    const auto scale = Floats::from_host(one, {1}, std::vector<float>{2});
    const auto order_by_event = [](bool wanted, simt::Stream& from, simt::Stream& to) {
      simt::Event event;
      event.record(from);
      if (wanted) to.wait(event);
    };
    launch("add_one", rules::add_one_kernel, 1u, 1u, 0, one, x.data);
    order_by_event(event_before, *first, *second);
    matmul_forward(two, c.reshape(Shape<2>{1, 1}), {}, x.reshape(Shape<2>{1, 1}), scale.reshape(Shape<2>{1, 1}), {});
    order_by_event(event_after, *second, *first);
    launch("double", rules::double_kernel, 1u, 1u, 0, one, c.data);
    return to_host(c)[0];
  };
  for (uint64_t seed = 0; seed < 5; ++seed) CHECK(result(true, true, simt::Order::random, seed) == 8);
  if (simt::checked()) {
    for (simt::Order order : simt::all_orders) {
      REQUIRE_THROWS_WITH(result(false, true, order, 1), contains("no event or synchronisation between"));
      REQUIRE_THROWS_WITH(result(true, false, order, 1), contains("no event or synchronisation between"));
    }
    REQUIRE_THROWS_WITH(
        result(false, true, simt::Order::ascending, 1),
        contains("matmul: race: the library's call reads 1 byte at matmul.hpp") &&
            contains("byte 0 of a buffer of 4 bytes, which the unordered launch of add_one wrote at emulator_kernels"));
    REQUIRE_THROWS_WITH(
        result(true, false, simt::Order::ascending, 1),
        contains("kernel double: race") && contains("which the unordered launch of matmul wrote at matmul.hpp"));
    Context<Simt> ctx;
    Tensor<float, 2, Simt> fresh(ctx, {3, 3});
    const auto product = matmul(ctx, fresh, fresh);
    REQUIRE_THROWS_WITH(ctx.synchronize(), contains("matmul: read of uninitialised memory"));
  } else {
    CHECK(result(false, true, simt::Order::descending, 1) == 4);  // x before it was added to
    int early = 0;                                                // c was doubled before it was written
    for (uint64_t seed = 0; seed < 20; ++seed) early += result(true, false, simt::Order::random, seed) != 8;
    CHECK(early > 0);
  }
  // Much that waits runs early; what it does wrong is thrown by the next synchronisation all the same.
  {
    Context<Simt> busy;
    launch("early", rules::misaligned_pack_kernel, 1u, 1u, 0, busy, Floats(busy, {4}).data, Floats(busy, {8}).data);
    for (int i = 0; i < 34; ++i) Floats(busy, {1 << 18});
    REQUIRE_THROWS_WITH(busy.synchronize(), contains("kernel early: load_pack"));
  }
  // In place, into strided rows, and views that go too far.
  Context<Simt> ctx;
  auto data = Tensor<float, 2, Simt>::from_host(ctx, {2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6});
  const auto doubled = [&](const TensorView<float, 2, Simt>& view) {
    simt::LibraryCall call("doubled");
    call.reads(view);
    call.writes(view);
    call.queue(ctx, [=] {
      Context<Cpu> host;
      auto values = simt::fetch(host, view);
      for (int64_t i = 0; i < values.size(); ++i) values.data[i] *= 2;
      simt::put(view, values);
    });
  };
  doubled(data.slice(1, 1, 3));
  launch("add_one", rules::add_one_kernel, 1u, 6u, 0, ctx, data.data);
  doubled(data.slice(1, 0, 1));
  CHECK(to_host(data) == std::vector<float>{4, 5, 7, 10, 11, 13});
  auto too_far = data.slice(1, 0, 1);
  too_far.shape[0] = 3;
  REQUIRE_ERROR(doubled(too_far), simt::Fault, "doubled: simt: a read of 4 bytes from byte 24 of a buffer of 24 bytes");
}

TEST_CASE("emulator: a buffer is not freed while another stream may use it", "[simt]") {
  const auto fault = [](bool with_event, bool reads, simt::Order order) -> std::string {
    const InOrder setting(order, 3);
    auto first = std::make_shared<simt::Stream>(), second = std::make_shared<simt::Stream>();
    Context<Simt> one({}, first), two({}, second);
    auto out = Floats::zeros(one, {4});
    try {
      {
        auto data = Floats::zeros(one, {4});
        if (reads)
          launch("reader", rules::read_kernel, 1u, 4u, 0, two, out.data, data.data, 0);
        else
          launch("writer", rules::add_one_kernel, 1u, 4u, 0, two, data.data);
        simt::Event event;
        event.record(*second);
        if (with_event) first->wait(event);
      }
      simt::synchronize();
    } catch (const simt::Fault& found) {
      return found.what();
    }
    return "";
  };
  for (simt::Order order : simt::all_orders)
    for (bool reads : {false, true}) {
      CHECK(fault(true, reads, order) == "");
      if (simt::checked()) CHECK(fault(false, reads, order) != "");
    }
  if (simt::checked())
    CHECK_THAT(fault(false, true, simt::Order::ascending),
               contains("a buffer of 16 bytes is freed while reader may still use it, which read its byte 0 at "
                        "emulator_kernels.cuh:"));
  // The host waits for an event; then what the event recorded is done, and the buffer's owner may go.
  auto first = std::make_shared<simt::Stream>(), second = std::make_shared<simt::Stream>();
  Context<Simt> one({}, first), two({}, second);
  {
    auto data = Floats::zeros(one, {4});
    launch("writer", rules::add_one_kernel, 1u, 4u, 0, two, data.data);
    simt::Event event;
    event.synchronize();
    event.record(*second);
    event.synchronize();
    launch("writer", rules::add_one_kernel, 1u, 4u, 0, one, data.data);
    CHECK(to_host(data) == std::vector<float>(4, 2.0f));
  }
  simt::synchronize();
}

TEST_CASE("emulator: after a fault, and after very much work, streams are ordered as ever", "[simt]") {
  auto first = std::make_shared<simt::Stream>(), second = std::make_shared<simt::Stream>();
  Context<Simt> one({}, first), two({}, second);
  auto data = Floats::zeros(one, {4});
  // What ran before a fault of another stream is over with it.
  launch("writer", rules::add_one_kernel, 1u, 4u, 0, one, data.data);
  CHECK_THAT(fault_of(two, rules::misaligned_pack_kernel, 1, 1, 0, data.data, data.data), contains("no multiple"));
  CHECK(fault_of(two, rules::add_one_kernel, 1, 4, 0, data.data) == "");
  simt::synchronize();
  // Epochs are about to be used up: they begin anew where nothing is left to be ordered.
  simt::machine.epoch = 0x90000000u;
  auto large = Floats::zeros(one, {4}), fresh = Floats(one, {4});
  launch("writer", rules::add_one_kernel, 1u, 4u, 0, one, large.data);
  simt::synchronize();
  CHECK(simt::machine.epoch < 0x1000);
  CHECK(fault_of(two, rules::add_one_kernel, 1, 4, 0, large.data) == "");
  CHECK(to_host(large) == std::vector<float>(4, 2.0f));
  if (simt::checked()) CHECK_THAT(fault_of(two, rules::add_one_kernel, 1, 4, 0, fresh.data), contains("uninitialised"));
}

TEST_CASE("emulator: launches that CUDA refuses, and messages that repeat a run", "[simt]") {
  Context<Simt> ctx;
  Floats out(ctx, {1});
  const auto start = [&](kernels::dim3 grid, kernels::dim3 block, size_t shared_bytes) {
    launch("refused", rules::add_one_kernel, grid, block, shared_bytes, ctx, out.data);
  };
  REQUIRE_ERROR(start(0, 32, 0), simt::Fault, "kernel refused: a grid of 0 blocks (x)");
  REQUIRE_ERROR(start(1, 2048, 0), simt::Fault, "a block of 2048 threads (x)");
  REQUIRE_ERROR(start(1, {64, 32}, 0), simt::Fault, "a block of 2048 threads, but at most 1024");
  REQUIRE_ERROR(start({1, 70000}, 32, 0), simt::Fault, "a grid of 70000 blocks (y)");
  REQUIRE_ERROR(start(1, 32, 170000), simt::Fault, "at most 166912 (settings().shared_bytes)");  // an A100's
  const InOrder setting(simt::Order::random, 17);
  simt::settings().shared_bytes = 99 * 1024;
  REQUIRE_ERROR(start(1, 32, 110000), simt::Fault, "110000 bytes of shared memory asked for");
  CHECK_THAT(fault_of(ctx, rules::misaligned_pack_kernel, 1, 1, 0, out.data, out.data),
             contains("again with TESSERA_SIMT_ORDER=random TESSERA_SIMT_SEED=17"));
}

TEST_CASE("emulator: counters tell sectors and bank conflicts", "[simt]") {
  Context<Simt> ctx;
  const auto transactions = [&](bool shared, auto&& run) {
    simt::reset_counters();
    simt::settings().counters = true;
    run();
    ctx.synchronize();
    simt::settings().counters = false;
    uint64_t most = 0;
    for (const auto& row : simt::counters())
      if (row.shared == shared) most = std::max(most, row.transactions / row.requests);
    return most;
  };
  Floats in = Floats::zeros(ctx, {1024}), out(ctx, {1024});
  CHECK(transactions(false, [&] { launch("packs", rules::packs_kernel, 1u, 32u, 0, ctx, out.data, in.data); }) ==
        16);  // 512 bytes
  CHECK_THAT(simt::counter_table(), contains("emulator_kernels.cuh:"));
  if (!simt::checked()) return;  // plain loads and stores are seen by the checked flavour alone
  const auto column = [&](auto* kernel) {
    return [&ctx, &in, &out, kernel] { launch("column", kernel, 1u, 32u, 0, ctx, out.data, in.data); };
  };
  CHECK(transactions(true, column(rules::column_kernel<32>)) == 32);
  CHECK(transactions(true, column(rules::column_kernel<33>)) == 1);
  CHECK(transactions(false, column(rules::column_kernel<33>)) == 32);  // one sector for every lane of the last store
}
