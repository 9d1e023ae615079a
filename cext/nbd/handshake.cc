#include "nbd/handshake.h"

namespace blockd::nbd {
namespace {

void put_reply_header(ByteWriter& out, Option option, OptionReply reply,
                      std::size_t data_bytes) noexcept {
  out.put(kOptionReplyMagic);
  out.put(static_cast<std::uint32_t>(option));
  out.put(static_cast<std::uint32_t>(reply));
  out.put(static_cast<std::uint32_t>(data_bytes));
}

// `text` is for the human at the other end; errors only.
void put_reply(ByteWriter& out, Option option, OptionReply reply,
               std::string_view text = {}) noexcept {
  put_reply_header(out, option, reply, text.size());
  out.put_text(text);
}

void put_server(ByteWriter& out, const ExportInfo& info) noexcept {
  put_reply_header(out, Option::list, OptionReply::server,
                   4 + info.name.size() + info.description.size());
  out.put(static_cast<std::uint32_t>(info.name.size()));
  out.put_text(info.name);
  out.put_text(info.description);
}

void put_info_text(ByteWriter& out, Option option, InfoType type, std::string_view text) noexcept {
  put_reply_header(out, option, OptionReply::info, 2 + text.size());
  out.put(static_cast<std::uint16_t>(type));
  out.put_text(text);
}

void put_info_export(ByteWriter& out, Option option, const ExportInfo& info) noexcept {
  put_reply_header(out, option, OptionReply::info, 12);
  out.put(static_cast<std::uint16_t>(InfoType::export_info));
  out.put(info.size_bytes);
  out.put(info.transmission_flags);
}

void put_info_block_size(ByteWriter& out, Option option, const ExportInfo& info) noexcept {
  put_reply_header(out, option, OptionReply::info, 14);
  out.put(static_cast<std::uint16_t>(InfoType::block_size));
  out.put(std::uint32_t{1});
  out.put(std::uint32_t{4096});
  out.put(info.request_bytes_max);
}

struct InfoQuery {
  std::string_view name;
  bool wants_name = false;
  bool wants_description = false;
  bool wants_block_size = false;
};

// False: the data does not have the form that INFO and GO share.
bool parse_info_query(std::span<const std::byte> data, InfoQuery& query) noexcept {
  ByteReader in(data);
  if (in.left() < 4 + 2) return false;
  const std::uint32_t name_bytes = in.take<std::uint32_t>();
  if (name_bytes > in.left() - 2 || name_bytes > kStringBytesMax) return false;
  query.name = in.take_text(name_bytes);
  const std::uint16_t info_count = in.take<std::uint16_t>();
  if (in.left() != std::size_t{info_count} * 2) return false;
  for (std::uint16_t i = 0; i < info_count; ++i) {
    switch (static_cast<InfoType>(in.take<std::uint16_t>())) {
      case InfoType::export_info:
        break;  // always sent
      case InfoType::name:
        query.wants_name = true;
        break;
      case InfoType::description:
        query.wants_description = true;
        break;
      case InfoType::block_size:
        query.wants_block_size = true;
        break;
      default:
        break;  // "MUST ignore any information requests it does not understand"
    }
  }
  return true;
}

}  // namespace

void Handshake::greet(ByteWriter& out) noexcept {
  out.put(kInitMagic);
  out.put(kOptionMagic);
  out.put(static_cast<std::uint16_t>(kFlagFixedNewstyle | kFlagNoZeroes));
}

Handshake::Step Handshake::advance(std::span<const std::byte> in, ByteWriter& out) noexcept {
  BLOCKD_ASSERT(out.room() >= kOutputBytesMax);
  switch (state_) {
    case State::client_flags:
      return take_client_flags(in);
    case State::option:
      return take_option(in, out);
    case State::skip:
      return skip(in, out);
    case State::list:
      return {0, continue_list(out)};
  }
  return {0, Next::close};
}

Handshake::Step Handshake::take_client_flags(std::span<const std::byte> in) noexcept {
  if (in.size() < kClientFlagsBytes) return {0, Next::input};
  const auto flags = load_be<std::uint32_t>(in.data());
  // "the server MUST drop the TCP connection if the client sets an unknown flag"
  if ((flags & ~(kClientFixedNewstyle | kClientNoZeroes)) != 0)
    return {kClientFlagsBytes, Next::close};
  no_zeroes_ = (flags & kClientNoZeroes) != 0;
  state_ = State::option;
  return {kClientFlagsBytes, Next::output};  // nothing written: go on at once
}

Handshake::Step Handshake::take_option(std::span<const std::byte> in, ByteWriter& out) noexcept {
  if (in.size() >= 8 && load_be<std::uint64_t>(in.data()) != kOptionMagic) return {8, Next::close};
  if (in.size() < kOptionHeaderBytes) return {0, Next::input};
  const auto option = static_cast<Option>(load_be<std::uint32_t>(in.data() + 8));
  const auto data_bytes = load_be<std::uint32_t>(in.data() + 12);
  if (data_bytes > kOptionBytesMax - kOptionHeaderBytes) {
    if (option == Option::export_name)
      return {kOptionHeaderBytes, Next::close};  // has no error reply
    skipped_option_ = option;
    skip_bytes_ = data_bytes;
    state_ = State::skip;
    return {kOptionHeaderBytes, Next::output};
  }
  if (in.size() < kOptionHeaderBytes + data_bytes) return {0, Next::input};
  const Next next = handle_option(option, in.subspan(kOptionHeaderBytes, data_bytes), out);
  return {kOptionHeaderBytes + data_bytes, next};
}

Handshake::Next Handshake::handle_option(Option option, std::span<const std::byte> data,
                                         ByteWriter& out) noexcept {
  if (option == Option::abort) {
    aborted_ = true;
    put_reply(out, option, OptionReply::ack);
    return Next::close;
  }
  if (option == Option::export_name) return handle_export_name(data, out);
  if (directory_.shutting_down()) {
    put_reply(out, option, OptionReply::err_shutdown, "the server is stopping");
    return Next::output;
  }
  switch (option) {
    case Option::list:
      if (!data.empty()) {
        put_reply(out, option, OptionReply::err_invalid, "LIST takes no data");
        return Next::output;
      }
      list_index_ = 0;
      state_ = State::list;
      return continue_list(out);
    case Option::info:
    case Option::go:
      return handle_info(option, data, out);
    default:
      put_reply(out, option, OptionReply::err_unsup);
      return Next::output;
  }
}

Handshake::Next Handshake::handle_export_name(std::span<const std::byte> data,
                                              ByteWriter& out) noexcept {
  ByteReader in(data);
  const ExportInfo* info =
      directory_.shutting_down() ? nullptr : directory_.find(in.take_text(data.size()));
  if (!info) return Next::close;  // "the server MUST terminate the session"
  out.put(info->size_bytes);
  out.put(info->transmission_flags);
  if (!no_zeroes_) out.put_zeroes(kExportNameZeroes);
  negotiated_.export_info = info;
  return Next::transmission;
}

Handshake::Next Handshake::handle_info(Option option, std::span<const std::byte> data,
                                       ByteWriter& out) noexcept {
  InfoQuery query;
  if (!parse_info_query(data, query)) {
    put_reply(out, option, OptionReply::err_invalid, "malformed option data");
    return Next::output;
  }
  const ExportInfo* info = directory_.find(query.name);
  if (!info) {
    put_reply(out, option, OptionReply::err_unknown, "no export has this name");
    return Next::output;
  }
  put_info_export(out, option, *info);
  if (query.wants_name) put_info_text(out, option, InfoType::name, info->name);
  if (query.wants_description) put_info_text(out, option, InfoType::description, info->description);
  if (query.wants_block_size) put_info_block_size(out, option, *info);
  put_reply(out, option, OptionReply::ack);
  if (option == Option::info) return Next::output;
  negotiated_.export_info = info;
  return Next::transmission;
}

// One export a step: the list may be longer than any buffer.
Handshake::Next Handshake::continue_list(ByteWriter& out) noexcept {
  if (const ExportInfo* info = directory_.at(list_index_)) {
    put_server(out, *info);
    ++list_index_;
  } else {
    put_reply(out, Option::list, OptionReply::ack);
    state_ = State::option;
  }
  return Next::output;
}

Handshake::Step Handshake::skip(std::span<const std::byte> in, ByteWriter& out) noexcept {
  const auto bytes = static_cast<std::uint32_t>(in.size() < skip_bytes_ ? in.size() : skip_bytes_);
  skip_bytes_ -= bytes;
  if (skip_bytes_ > 0) return {bytes, Next::input};
  state_ = State::option;
  if (skipped_option_ == Option::abort) {
    aborted_ = true;
    put_reply(out, skipped_option_, OptionReply::ack);
    return {bytes, Next::close};
  }
  const bool known = skipped_option_ == Option::list || skipped_option_ == Option::info ||
                     skipped_option_ == Option::go;
  put_reply(out, skipped_option_, known ? OptionReply::err_too_big : OptionReply::err_unsup);
  return {bytes, Next::output};
}

}  // namespace blockd::nbd
