//! What adsum itself costs: micro benchmarks and comparisons
