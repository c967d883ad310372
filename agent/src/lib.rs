//! The load engine of adsum: shards, sockets, TLS, timers, schedule, recorder, and the gRPC link
