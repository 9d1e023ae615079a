// An intrusive doubly linked list: no allocation, O(1) removal, an element in at most one list per
// link.
#pragma once

#include <cstddef>

#include "base/assert.h"

namespace blockd::peer {

template <class T>
struct ListLink {
  T* next = nullptr;
  T* prev = nullptr;
  bool linked = false;
};

template <class T, ListLink<T> T::*kLink = &T::link>
class List {
 public:
  [[nodiscard]] bool empty() const noexcept { return head_ == nullptr; }
  [[nodiscard]] T* front() const noexcept { return head_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] static T* next(const T& item) noexcept { return (item.*kLink).next; }

  void push_back(T& item) noexcept {
    ListLink<T>& link = item.*kLink;
    BLOCKD_ASSERT(!link.linked);
    link.linked = true;
    link.next = nullptr;
    link.prev = tail_;
    (tail_ ? (tail_->*kLink).next : head_) = &item;
    tail_ = &item;
    ++size_;
  }

  void push_front(T& item) noexcept {
    ListLink<T>& link = item.*kLink;
    BLOCKD_ASSERT(!link.linked);
    link.linked = true;
    link.prev = nullptr;
    link.next = head_;
    (head_ ? (head_->*kLink).prev : tail_) = &item;
    head_ = &item;
    ++size_;
  }

  void erase(T& item) noexcept {
    ListLink<T>& link = item.*kLink;
    BLOCKD_ASSERT(link.linked);
    (link.prev ? (link.prev->*kLink).next : head_) = link.next;
    (link.next ? (link.next->*kLink).prev : tail_) = link.prev;
    link = {};
    --size_;
  }

  T* pop_front() noexcept {
    T* item = head_;
    if (item) erase(*item);
    return item;
  }

 private:
  T* head_ = nullptr;
  T* tail_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace blockd::peer
