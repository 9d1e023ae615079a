// A disk in memory behind the real server and the real reactor, for trying it with real clients:
//
//   nbd_memory_server ENDPOINT SIZE_MIB [CPU]      for example unix:/tmp/nbd.sock 1024
//
// Offers it as "disk" and, read-only, as "disk-ro"; prints "listening on ENDPOINT"; ends at SIGINT
// or SIGTERM with what it has counted.
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "io/uring_loop.h"
#include "io/uring_network.h"
#include "nbd/nbd_server.h"
#include "tests/nbd/memory_backend.h"

namespace {

using namespace blockd;

void pin(std::thread& thread, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(cpu), &set);
  (void)pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
}

void print(const nbd::NbdStats& stats, const io::UringLoopStats& loop) {
  std::printf("connections %llu requests %llu read %llu written %llu errors %llu\n",
              static_cast<unsigned long long>(stats.connections_accepted),
              static_cast<unsigned long long>(stats.requests),
              static_cast<unsigned long long>(stats.bytes_read),
              static_cast<unsigned long long>(stats.bytes_written),
              static_cast<unsigned long long>(stats.errors));
  std::printf("iterations %llu system calls %llu\n",
              static_cast<unsigned long long>(loop.iterations),
              static_cast<unsigned long long>(loop.system_calls));
}

int serve(const std::string& endpoint, std::uint64_t size_bytes, int cpu) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  io::UringLoop loop;
  io::UringNetwork network(loop);
  Buffers buffers(8192, 1024, 600);
  nbd::MemoryBackend backend(loop, size_bytes);
  nbd::NbdServer server(loop, buffers, network);
  if (server.add_export("disk", "a disk in memory", backend) != Error::Ok ||
      server.add_export("disk-ro", "the same, read-only", backend, {.read_only = true}) !=
          Error::Ok) {
    return 1;
  }
  std::printf("listening on %s\n", server.listen(endpoint).c_str());
  std::fflush(stdout);
  std::thread reactor([&] { loop.run(); });
  if (cpu >= 0) pin(reactor, cpu);
  int signal = 0;
  (void)sigwait(&signals, &signal);
  loop.post([&] {
    const nbd::NbdStats stats = server.stats();
    print(stats, loop.stats());
    server.close([&] { loop.stop(); });
  });
  reactor.join();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s ENDPOINT SIZE_MIB [CPU]\n", argv[0]);
    return 2;
  }
  try {
    return serve(argv[1], std::strtoull(argv[2], nullptr, 10) << 20,
                 argc > 3 ? std::atoi(argv[3]) : -1);
  } catch (const Fault& fault) {
    std::fprintf(stderr, "%s: %s\n", argv[0], fault.what());
    return 1;
  }
}
