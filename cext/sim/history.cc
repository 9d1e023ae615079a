#include "sim/history.h"

#include <algorithm>
#include <map>

namespace blockd::sim {

std::size_t History::write_called(std::uint64_t first, std::uint64_t count, std::uint64_t tag,
                                  std::uint64_t epoch, std::uint32_t era) {
  writes_.push_back({first, count, tag, epoch, era, ++clock_});
  if (epoch < serving_) {
    writes_.back().settled = serving_since_;
  } else {
    unsettled_.push_back(writes_.size() - 1);
  }
  for (std::uint64_t sector = first; sector < first + count; ++sector) {
    sectors_[sector].writes.push_back(writes_.size() - 1);
  }
  return writes_.size() - 1;
}

void History::served_under(std::uint64_t epoch) {
  if (epoch <= serving_) return;
  serving_ = epoch;
  serving_since_ = ++clock_;
  std::erase_if(unsettled_, [&](std::size_t call) {
    if (writes_[call].epoch >= epoch) return false;
    writes_[call].settled = serving_since_;
    return true;
  });
}

void History::read_answered(std::uint64_t called, std::uint64_t first,
                            const std::vector<std::uint64_t>& tags) {
  const std::uint64_t answered = ++clock_;
  for (std::size_t i = 0; i < tags.size(); ++i)
    sectors_[first + i].reads.push_back({called, answered, tags[i]});
}

std::string History::check() const {
  for (std::uint64_t number = 0; number < sectors_.size(); ++number) {
    std::string wrong = check_sector(number, sectors_[number]);
    if (!wrong.empty()) return wrong;
  }
  return {};
}

std::string History::check_sector(std::uint64_t number, const Sector& sector) const {
  struct Zone {
    std::uint64_t first_answer = kNever, last_call = 0, tag = 0;
    [[nodiscard]] bool forward() const { return first_answer < last_call; }
  };
  const auto where = [&] { return "sector " + std::to_string(number) + ": "; };
  std::map<std::uint64_t, Zone> zones;
  std::map<std::uint64_t, const Write*> by_tag;
  std::vector<const Write*> zeros;
  std::vector<std::pair<std::uint64_t, std::uint64_t>>
      certain;  // (answered, called), then the latest call so far
  for (const std::size_t index : sector.writes) {
    const Write& write = writes_[index];
    if (write.answered != kNever) certain.emplace_back(write.answered, write.called);
    if (write.tag == 0) {
      zeros.push_back(&write);
      continue;
    }
    by_tag[write.tag] = &write;
    if (write.answered != kNever)
      zones[write.tag] = {write.effective_by(), write.called, write.tag};
  }
  std::sort(certain.begin(), certain.end());
  for (std::size_t i = 1; i < certain.size(); ++i) {
    certain[i].second = std::max(certain[i].second, certain[i - 1].second);
  }
  if (sector.initial != 0) zones[sector.initial] = {0, 0, sector.initial};
  for (const Read& read : sector.reads) {
    // The direct rule: did every write of this value end before another was called that ended
    // before the read was called?
    const auto after =
        std::lower_bound(certain.begin(), certain.end(), std::pair{read.called, std::uint64_t{0}});
    const std::uint64_t latest_certain_call =
        after == certain.begin() ? 0 : std::prev(after)->second;
    const auto may_be = [&](const Write& write) {
      return write.called < read.answered && write.called < write.settled &&
             write.effective_by() > latest_certain_call;
    };
    bool possible = sector.initial == read.tag && latest_certain_call == 0;
    if (read.tag == 0) {
      possible = possible || std::any_of(zeros.begin(), zeros.end(),
                                         [&](const Write* write) { return may_be(*write); });
    } else if (const auto found = by_tag.find(read.tag); found != by_tag.end()) {
      possible = possible || may_be(*found->second);
    }
    if (!possible) {
      const auto found = by_tag.find(read.tag);
      const bool known = found != by_tag.end() || read.tag == 0 || read.tag == sector.initial;
      const bool late = found != by_tag.end() && found->second->called >= found->second->settled;
      return where() + "a read called at " + std::to_string(read.called) + ", answered at " +
             std::to_string(read.answered) + " saw " + std::to_string(read.tag) + ", which " +
             (!known ? "nobody wrote here"
              : late ? "was written through an engine that had been replaced"
                     : "was overwritten");
    }
    if (read.tag == 0) continue;
    auto [it, fresh] = zones.try_emplace(read.tag);
    Zone& zone = it->second;
    if (fresh) {  // written, never answered
      const Write& write = *by_tag.at(read.tag);
      zone = {write.settled, write.called, read.tag};
    }
    zone.first_answer = std::min(zone.first_answer, read.answered);
    zone.last_call = std::max(zone.last_call, read.called);
  }
  std::vector<Zone> forward;
  for (const auto& [tag, zone] : zones) {
    if (zone.forward()) forward.push_back(zone);
  }
  std::sort(forward.begin(), forward.end(),
            [](const Zone& a, const Zone& b) { return a.first_answer < b.first_answer; });
  for (std::size_t i = 1; i < forward.size(); ++i) {
    if (forward[i].first_answer < forward[i - 1].last_call) {
      return where() + "values " + std::to_string(forward[i - 1].tag) + " and " +
             std::to_string(forward[i].tag) + " were each seen after the other";
    }
  }
  for (const auto& [tag, zone] : zones) {
    if (zone.forward()) continue;
    for (const Zone& around : forward) {
      if (around.first_answer < zone.last_call && zone.first_answer < around.last_call) {
        return where() + "value " + std::to_string(tag) + " came between two sights of " +
               std::to_string(around.tag);
      }
    }
  }
  return {};
}

std::string History::check_snapshot(std::uint32_t era, std::uint64_t asked,
                                    const std::vector<std::uint64_t>& tags) const {
  std::uint64_t cut = asked;
  for (std::uint64_t number = 0; number < tags.size(); ++number) {
    if (tags[number] == 0) continue;
    for (const std::size_t index : sectors_[number].writes) {
      if (writes_[index].tag == tags[number]) cut = std::max(cut, writes_[index].called);
    }
  }
  for (std::uint64_t number = 0; number < tags.size(); ++number) {
    const Sector& sector = sectors_[number];
    std::uint64_t certain = 0;
    for (const std::size_t index : sector.writes) {
      if (writes_[index].answered < cut) certain = std::max(certain, writes_[index].called);
    }
    bool possible = sector.initial == tags[number] && certain == 0;
    for (const std::size_t index : sector.writes) {
      const Write& write = writes_[index];
      if (write.tag == tags[number] && write.era <= era && write.answered > certain)
        possible = true;
    }
    if (!possible) {
      return "sector " + std::to_string(number) + " shows " + std::to_string(tags[number]) +
             ", which does not belong there (asked for at " + std::to_string(asked) + ", cut at " +
             std::to_string(cut) + ", certain from " + std::to_string(certain) + ")";
    }
  }
  return {};
}

void History::flush_answered(std::uint64_t called, std::uint64_t epoch) {
  for (Write& write : writes_) {
    if (write.answered < called && write.epoch == epoch && !write.doubtful) write.flushed = true;
  }
}

void History::loss_told(std::uint64_t called, std::uint64_t epoch) {
  for (Write& write : writes_) {
    if (write.called < called && write.epoch == epoch && !write.flushed) write.doubtful = true;
  }
}

// In words, for a report.
std::string History::told(const Write* write) {
  if (write == nullptr) return "written by nobody since";
  const std::string answered = write->answered == kNever
                                   ? "never answered"
                                   : "answered at " + std::to_string(write->answered);
  return "tag " + std::to_string(write->tag) + ", epoch " + std::to_string(write->epoch) +
         ", called at " + std::to_string(write->called) + ", " + answered;
}

std::string History::restart(const std::vector<std::uint64_t>& tags) {
  for (std::uint64_t number = 0; number < sectors_.size(); ++number) {
    Sector& sector = sectors_[number];
    std::uint64_t certain = 0;
    const Write* flushed = nullptr;
    const Write* shown = nullptr;  // the latest of those that it may be
    for (const std::size_t index : sector.writes) {
      const Write& write = writes_[index];
      const bool later = shown == nullptr || write.answered > shown->answered;
      if (write.tag == tags[number] && later) shown = &write;
      if (!write.flushed || write.called <= certain) continue;
      certain = write.called;
      flushed = &write;
    }
    const bool possible = (sector.initial == tags[number] && certain == 0) ||
                          (shown != nullptr && shown->answered >= certain);
    if (!possible) {
      return "sector " + std::to_string(number) + ": after the power loss " +
             std::to_string(tags[number]) + " is there (" + told(shown) +
             "), older than what was flushed: " + told(flushed);
    }
    sector.initial = tags[number];
    sector.writes.clear();
    sector.reads.clear();
  }
  writes_.clear();
  unsettled_.clear();
  return {};
}

}  // namespace blockd::sim
