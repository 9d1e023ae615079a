"""The metadata service: gRPC in front, etcd behind, nothing kept in between."""
