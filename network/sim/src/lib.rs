//! Simulated links that lose, delay, reorder and duplicate packets, from a seed.
