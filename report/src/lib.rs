//! Histograms and counters of adsum as files: write, read, derive, verify, render
