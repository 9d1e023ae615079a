// What clients saw of a volume, and whether one disk could have shown it: linearizability per
// sector.
//
// Every write carries a tag of its own, so a read names the write it saw. For each 512-byte sector:
// a value's zone runs from the first answer to the last call among its write and its reads; the
// history has a linear order if and only if no two zones that run forward overlap and none that
// runs backward lies inside one (Gibbons and Korach, 1997). Zeros are not unique: for those only
// the direct rule is checked (a read returns no value that was certainly overwritten). A write
// without an answer, or with an error, may take effect at any later time, or never; once the engine
// that was asked has been replaced, it has taken effect by then, or never will.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace blockd::sim {

inline constexpr std::uint32_t kSectorBytes = 512;
inline constexpr std::uint64_t kNever = ~std::uint64_t{0};

class History {
 public:
  explicit History(std::uint64_t sectors) : sectors_(sectors) {}

  // A tag: 0 for zeros, else unique. `epoch`: the attachment that was asked, `era`: the one it was
  // in. Returns the call's number.
  std::size_t write_called(std::uint64_t first, std::uint64_t count, std::uint64_t tag,
                           std::uint64_t epoch = 0, std::uint32_t era = 0);
  void write_answered(std::size_t call) { writes_[call].answered = ++clock_; }
  // An engine under this epoch has answered: what those of lower epochs were asked is settled.
  void served_under(std::uint64_t epoch);
  [[nodiscard]] std::uint64_t serving() const { return serving_; }  // the highest such epoch
  std::uint64_t read_called() { return ++clock_; }
  void read_answered(std::uint64_t called, std::uint64_t first,
                     const std::vector<std::uint64_t>& tags);

  // Empty: all is well; else the first contradiction, in words.
  [[nodiscard]] std::string check() const;
  // Snapshot `era`, asked for at `asked`, shows `tags`. It holds every write that was answered
  // before it was asked for, or before any write in it was called; none that was called in a later
  // era.
  [[nodiscard]] std::string check_snapshot(std::uint32_t era, std::uint64_t asked,
                                           const std::vector<std::uint64_t>& tags) const;
  // After a power loss: each sector holds what a flush had covered, or something later. Begins a
  // new history from what `tags` shows.
  // A flush covers what its own attachment had answered before it was called: what an earlier one
  // left unflushed may have been lost with its power by then.
  void flush_answered(std::uint64_t called, std::uint64_t epoch = 0);
  // A flush failed because something of before is gone: nothing says any more that the rest is not.
  void loss_told(std::uint64_t called, std::uint64_t epoch);
  void write_flushed(std::size_t call) { writes_[call].flushed = true; }
  [[nodiscard]] std::string restart(const std::vector<std::uint64_t>& tags);
  [[nodiscard]] std::uint64_t clock() const { return clock_; }
  std::uint64_t tick() { return ++clock_; }
  [[nodiscard]] std::size_t sectors() const { return sectors_.size(); }

 private:
  struct Write {
    std::uint64_t first, count, tag, epoch;
    std::uint32_t era;
    std::uint64_t called, answered = kNever, settled = kNever;
    bool flushed = false;
    bool doubtful = false;  // acknowledged, and a flush has failed since
    [[nodiscard]] std::uint64_t effective_by() const { return std::min(answered, settled); }
  };
  struct Read {
    std::uint64_t called, answered, tag;
  };
  struct Sector {
    std::uint64_t initial = 0;
    std::vector<std::size_t> writes;
    std::vector<Read> reads;
  };
  [[nodiscard]] static std::string told(const Write* write);
  [[nodiscard]] std::string check_sector(std::uint64_t number, const Sector& sector) const;

  std::uint64_t clock_ = 0;
  std::uint64_t serving_ = 0, serving_since_ = 0;
  std::vector<Write> writes_;
  std::vector<std::size_t> unsettled_;
  std::vector<Sector> sectors_;
};

}  // namespace blockd::sim
