// CUDA's words for a C++ compiler: the kernels' own source runs on the CPU, block after block.
// Kernels that wait for each other get real threads, few of them; the others run thread after thread, the last first.
// Compile with -ffp-contract=off: as with nvcc -fmad=false, a product is rounded before it is added.
#include <barrier>
#include <cmath>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline

struct Index {
  unsigned x;
};
static thread_local Index blockIdx, threadIdx;
static Index blockDim;
static std::barrier<>* all_threads;

static void __syncthreads() { all_threads->arrive_and_wait(); }

static int atomicAdd(int* sum, int value) { return __atomic_fetch_add(sum, value, __ATOMIC_SEQ_CST); }

static float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }

static unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

static double __longlong_as_double(long long bits) {
  double x;
  std::memcpy(&x, &bits, 8);
  return x;
}

template <class... A, std::size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<A*>(arguments[I])...);
}

template <class... A>
static void launch(void (*kernel)(A...), bool waits, void** arguments, unsigned blocks, unsigned threads) {
  auto run = [&](unsigned block, unsigned thread) {
    blockIdx.x = block, threadIdx.x = thread;
    call(kernel, arguments, std::index_sequence_for<A...>{});
  };
  blockDim.x = waits && threads > 3 ? 3 : threads;
  for (unsigned block = blocks; block--;) {
    if (!waits) {
      for (unsigned thread = threads; thread--;) run(block, thread);
      continue;
    }
    std::barrier<> barrier(blockDim.x);
    all_threads = &barrier;
    std::vector<std::thread> team;
    for (unsigned thread = 0; thread < blockDim.x; ++thread) team.emplace_back(run, block, thread);
    for (auto& member : team) member.join();
  }
}
