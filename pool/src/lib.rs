//! The embedded presence pool of adsum: a reference server with fault knobs
