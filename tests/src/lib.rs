//! What several crates' tests share, the judges, and the architecture test.
