"""The wire: protobuf messages and gRPC services, with their generated stubs. No logic."""
