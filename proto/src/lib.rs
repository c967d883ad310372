//! The gRPC contract between coordinator and agents of adsum
