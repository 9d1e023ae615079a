#include "sim/recording.h"

#include <algorithm>
#include <sstream>
#include <vector>

#include "sim/history.h"

namespace blockd::sim {
namespace {

struct Operation {
  bool write = false;
  std::uint64_t attachment = 0, first = 0, count = 0;
  std::vector<std::uint64_t> tags;  // of a write: one
  std::uint64_t called = 0, answered = kNever;
  std::uint64_t call = 0;  // its number in the history, or a read's clock there
};

// "7*2,9" is 7, 7, 9. False: it is not like that, or not `count` tags.
bool parse_tags(const std::string& text, std::uint64_t count, std::vector<std::uint64_t>& tags) {
  std::istringstream in(text);
  std::uint64_t tag = 0;
  while (in >> tag) {
    std::uint64_t times = 1;
    if (in.peek() == '*' && !(in.ignore() >> times)) return false;
    if (times == 0 || times > count - tags.size()) return false;
    tags.insert(tags.end(), times, tag);
    if (in.peek() == ',') in.ignore();
  }
  return in.eof() && tags.size() == count;
}

bool parse(const std::string& line, std::uint64_t sectors, Operation& operation) {
  std::istringstream in(line);
  std::string kind, tags, answered;
  if (!(in >> kind >> operation.attachment >> operation.first >> operation.count >> tags >>
        operation.called >> answered)) {
    return false;
  }
  operation.write = kind == "W";
  const bool known = answered != "-";
  if (known && !(std::istringstream(answered) >> operation.answered)) return false;
  if (kind != "W" && (kind != "R" || !known)) return false;
  if (operation.count == 0 || operation.first > sectors ||
      operation.count > sectors - operation.first || operation.answered < operation.called) {
    return false;
  }
  return parse_tags(tags, operation.write ? 1 : operation.count, operation.tags);
}

struct Event {
  std::uint64_t time;
  bool answer;
  Operation* operation;
};

// Calls before answers of the same moment: what may have been concurrent was.
std::vector<Event> in_order(std::vector<Operation>& operations) {
  std::vector<Event> events;
  for (Operation& operation : operations) {
    events.push_back({operation.called, false, &operation});
    if (operation.answered != kNever) events.push_back({operation.answered, true, &operation});
  }
  std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return a.time != b.time ? a.time < b.time : a.answer < b.answer;
  });
  return events;
}

// Plays the operations into a history.
class Replay {
 public:
  explicit Replay(std::uint64_t sectors) : history_(sectors) {}

  void called(Operation& operation) {
    const bool replaced = operation.attachment < history_.serving();
    if (replaced && operation.answered != kNever) late_ = &operation;
    operation.call = operation.write
                         ? history_.write_called(operation.first, operation.count,
                                                 operation.tags[0], operation.attachment)
                         : history_.read_called();
  }

  void answered(const Operation& operation) {
    if (operation.write) {
      history_.write_answered(operation.call);
    } else {
      history_.read_answered(operation.call, operation.first, operation.tags);
    }
    history_.served_under(operation.attachment);
  }

  [[nodiscard]] std::string check() const {
    std::string wrong = history_.check();
    if (wrong.empty() && late_ != nullptr) {
      wrong = "attachment " + std::to_string(late_->attachment) + " answered what was called at " +
              std::to_string(late_->called) + ", when another had taken over";
    }
    return wrong;
  }

 private:
  History history_;
  const Operation* late_ = nullptr;
};

}  // namespace

Verdict check_recording(std::istream& lines) {
  Verdict verdict;
  std::string line, word;
  std::uint64_t sectors = 0;
  std::getline(lines, line);
  if (!(std::istringstream(line) >> word >> sectors) || word != "sectors" || sectors == 0) {
    verdict.wrong = "no recording: its first line is \"" + line + "\"";
    return verdict;
  }
  std::vector<Operation> operations;
  while (std::getline(lines, line)) {
    if (!parse(line, sectors, operations.emplace_back())) {
      verdict.wrong = "line " + std::to_string(operations.size() + 1) + " is no operation: " + line;
      return verdict;
    }
    const Operation& operation = operations.back();
    ++(operation.write ? verdict.writes : verdict.reads);
    if (operation.answered == kNever) ++verdict.unknown;
  }
  Replay replay(sectors);
  for (const Event& event : in_order(operations)) {
    if (event.answer) {
      replay.answered(*event.operation);
    } else {
      replay.called(*event.operation);
    }
  }
  verdict.wrong = replay.check();
  return verdict;
}

}  // namespace blockd::sim
