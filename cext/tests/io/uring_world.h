// A real loop on a thread of its own, for tests: work is done on it by on_loop(), waited for by
// until().
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "io/uring_loop.h"

namespace blockd::io::testing {

class RunningLoop {
 public:
  explicit RunningLoop(UringLoopOptions options = {})
      : loop(options), thread_([this] { loop.run(); }) {}
  ~RunningLoop() { stop(); }
  RunningLoop(const RunningLoop&) = delete;
  RunningLoop& operator=(const RunningLoop&) = delete;

  void stop() {
    if (!thread_.joinable()) return;
    loop.stop();
    thread_.join();
  }
  void on_loop(const std::function<void()>& action) {
    // Shared: the loop's thread may still be inside set_value() when the wait is over.
    const auto done = std::make_shared<std::promise<void>>();
    auto finished = done->get_future();
    loop.post([&action, done] {
      action();
      done->set_value();
    });
    finished.wait();
  }
  // Whether `condition`, asked on the loop's thread, comes true within `seconds`.
  bool until(const std::function<bool()>& condition, double seconds = 20) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (std::chrono::steady_clock::now() < end) {
      bool holds = false;
      on_loop([&] { holds = condition(); });
      if (holds) return true;
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
    return false;
  }

  UringLoop loop;

 private:
  std::thread thread_;
};

// A directory that goes with the test. Not in /dev/shm: O_DIRECT is wanted.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "blockd-io-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace blockd::io::testing
