//! The command line of adsum.
fn main() {}
